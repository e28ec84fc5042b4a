//! What goes wrong: workers, sessions, the network, Postgres. And what follows from it without anybody's doing.

use crate::model::{Kind, Model, Next};
use crate::state::{Activation, Claim, Lock, Marker, NOBODY, Pc, Phase, RUNS, Session, State, WORKERS};

impl Model {
    pub fn faults(&self, state: &State, next: &mut Next) {
        for w in 0..WORKERS {
            Self::returns(state, w, next);
            if state.faults > 0 {
                self.faults_of(state, w, next);
            }
        }
        self.server(state, next);
        if state.faults > 0 {
            for (what, marker, done) in [
                ("postgres is restarted", Marker::Stale, false),
                ("postgres is restarted, and what was sent had been written", Marker::Stale, true),
                ("a backend crashes, or a standby takes over", Marker::None, false),
                ("a backend crashes, or a standby takes over, and what was sent had been written", Marker::None, true),
            ] {
                let mut s = *state;
                s.faults -= 1;
                if s.loses_all_sessions(self, marker, done) {
                    next.add(Kind::Chance, what, None, None, s);
                }
            }
        }
    }

    fn faults_of(&self, state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        let id = me.registration;
        let mut fault = |what, change: &dyn Fn(&mut State)| {
            let mut s = *state;
            s.faults -= 1;
            change(&mut s);
            next.add(Kind::Chance, what, Some(w), None, s);
        };
        if matches!(me.phase, Phase::Dead | Phase::Absent) {
            return;
        }
        fault("is killed", &|s| s.dies(self, w));
        if me.phase == Phase::Running {
            // For so long that its gate has shut by itself; a shorter one is no more than a slow worker.
            fault("is stopped", &|s| {
                let me = &mut s.workers[w];
                (me.phase, me.doubtful, me.note) = (Phase::Stopped, true, None);
                me.gate = me.gate && self.is(crate::mutants::Mutant::NoGate);
            });
        }
        // A worker that is cut off in the very moment in which the server ends its session cannot know of it: its gate stays open for up
        // to GATE_SPAN, and for so long its steps may start beside its heir's. See `docs/protocol.md`, what the model leaves out.
        if !me.linked || me.session == Session::Lost {
            return;
        }
        fault("is cut off", &|s| {
            s.leaves_ghosts(self, w);
            s.unhears(w);
            let me = &mut s.workers[w];
            (me.linked, me.doubtful, me.note) = (false, true, None);
        });
        if matches!(me.session, Session::Up | Session::Locked | Session::Looking { .. }) {
            fault("loses its session", &|s| {
                s.workers[w].session = Session::Lost;
                s.frees(id);
            });
        }
        let sent = |a: &Option<Activation>| matches!(a, Some(Activation { pc: Pc::Write(_) | Pc::Working { .. }, .. }));
        if me.runs.iter().any(sent) || state.registration(id).claim == Claim::Sent {
            fault("hears no answer", &|s| {
                s.leaves_ghosts(self, w);
                s.unhears(w);
            });
        }
    }

    /// A worker comes back.
    fn returns(state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        let mut s = *state;
        let what = match me.phase {
            Phase::Dead => {
                s.workers[w].phase = Phase::Running;
                "is started again"
            }
            Phase::Stopped => {
                s.workers[w].phase = Phase::Running;
                "is continued"
            }
            Phase::Running if !me.linked => {
                s.workers[w].linked = true;
                "reaches postgres again"
            }
            Phase::Running | Phase::Absent => return,
        };
        let me = &mut s.workers[w];
        me.slow |= matches!(me.session, Session::None | Session::Lost);
        next.add(Kind::Return, what, Some(w), None, s);
    }

    /// What the server does about sessions and statements whose clients are gone or silent.
    fn server(&self, state: &State, next: &mut Next) {
        for w in 0..WORKERS {
            let me = &state.workers[w];
            if me.registration == NOBODY {
                continue;
            }
            let lock = state.registration(me.registration).lock;
            // `idle_session_timeout`. It is longer than the gate stays open without a tick: GATE_SPAN.
            if lock == Lock::Held && me.phase == Phase::Stopped && me.session != Session::Lost {
                let mut s = *state;
                s.frees(me.registration);
                s.workers[w].session = Session::Lost;
                next.add(Kind::Progress, "has its silent session ended by the server", Some(w), None, s);
            }
        }
        for (id, r) in (0u8..).zip(&state.registrations) {
            if r.lock == Lock::Old {
                let mut s = *state;
                s.registration_mut(id).lock = Lock::Free;
                next.add(Kind::Progress, "an old session is ended by the server", None, None, s);
            }
            if r.claim == Claim::Unheard {
                let queued =
                    (0u8..).zip(&state.runs).map(|(n, r)| u8::from(r.state == crate::state::RunState::Queued) << n);
                let queued: u8 = queued.sum();
                let mut s = *state;
                s.registration_mut(id).claim = Claim::None;
                next.add(Kind::Progress, "a claim that nobody listens to is not done", None, None, s);
                s.claim(self, id, queued);
                next.add(Kind::Chance, "a claim that nobody listens to is done", None, None, s);
            }
        }
        for (n, run) in state.runs.iter().enumerate() {
            let Some(ghost) = run.ghost else { continue };
            let mut s = *state;
            s.runs[n].ghost = None;
            next.add(Kind::Chance, "a statement that nobody listens to is not done", None, Some(n), s);
            s.haunt(self, n, ghost);
            next.add(Kind::Chance, "a statement that nobody listens to is done", None, Some(n), s);
        }
    }
}

impl State {
    fn frees(&mut self, id: crate::state::Id) {
        if id != NOBODY {
            self.registration_mut(id).lock = Lock::Free;
        }
    }

    fn dies(&mut self, m: &Model, w: usize) {
        self.leaves_ghosts(m, w);
        self.forgets(w);
        let before = self.workers[w].registration;
        let me = &mut self.workers[w];
        if m.is(crate::mutants::Mutant::ReusedId) {
            me.before = before;
        }
        (me.phase, me.session, me.gate, me.linked) = (Phase::Dead, Session::None, false, true);
        (me.registration, me.doubtful, me.slow) = (NOBODY, false, false);
        (me.note, me.suspect) = (None, None);
    }

    /// Every session ends at once, and with it every lock. Statements that were on their way are done (`done`) or gone. False: nothing
    /// was on its way that could have been done.
    fn loses_all_sessions(&mut self, m: &Model, marker: Marker, done: bool) -> bool {
        let mut haunted = false;
        for w in 0..WORKERS {
            self.leaves_ghosts(m, w);
            self.unhears(w);
            let me = &mut self.workers[w];
            me.note = None;
            if matches!(me.phase, Phase::Running | Phase::Stopped) && me.session != Session::None {
                me.session = Session::Lost;
            }
            me.slow = matches!(me.phase, Phase::Running | Phase::Stopped);
        }
        for n in 0..RUNS {
            let ghost = self.runs[n].ghost.take();
            if let Some(ghost) = ghost.filter(|_| done) {
                haunted = true;
                self.haunt(m, n, ghost);
            }
        }
        for r in &mut self.registrations {
            (r.lock, r.claim) = (Lock::Free, Claim::None);
            r.marker = if r.marker == Marker::None { Marker::None } else { marker };
        }
        haunted || !done
    }
}

//! A worker's place among the others: registration, session lock, marker, heartbeat; and its look at them (`services::presence`,
//! `rules::sweep`, `services::sweeper`).

use crate::model::{Model, Next};
use crate::mutants::Mutant;
use crate::state::{Claim, Id, Lock, Marker, NOBODY, Note, Registration, RunState, Session, State, Suspect, Worker};

impl Model {
    /// What the presence thread of worker `w` does next.
    pub fn presence(&self, state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        if me.phase != crate::state::Phase::Running {
            return;
        }
        let registered = state.registration(me.registration);
        match me.session {
            Session::Lost => {
                let mut s = *state;
                s.loses_session(w);
                if s.is_undisturbed(w) && me.registration != NOBODY {
                    s.comes_up(self, w);
                }
                next.progress("notices that its session is gone", w, s);
            }
            _ if !me.linked => {
                // `Keeper::tick`: no answer within TICK_ANSWERS. The server ends the session later (`idle_session_timeout`).
                if me.session != Session::None {
                    let mut s = *state;
                    s.loses_session(w);
                    if registered.lock == Lock::Held {
                        s.registration_mut(me.registration).lock = Lock::Old;
                    }
                    next.progress("gives up a session that does not answer", w, s);
                }
            }
            Session::None if me.registration == NOBODY => {
                // `register.sql`.
                let mut s = *state;
                s.registers(self, w);
                if s.is_undisturbed(w) {
                    s.comes_up(self, w);
                }
                next.progress("registers", w, s);
            }
            Session::None => {
                let mut s = *state;
                match state.is_undisturbed(w) {
                    true => s.comes_up(self, w),
                    false => s.locks(self, w),
                }
                next.progress("has a new session, and locks", w, s);
            }
            Session::Locked => {
                next.progress("looks", w, state.looks(self, w));
            }
            Session::Looking { saw } => {
                let mut s = *state;
                s.has_looked(self, w, saw);
                next.progress("has its look's answer", w, s);
            }
            Session::Up => {
                // `Keeper::tick`. Where nothing has changed a tick changes nothing: a living worker's beats are not counted.
                if me.doubtful || !registered.row {
                    next.progress("ticks", w, state.looks(self, w));
                }
                if registered.row && registered.lock == Lock::Free {
                    let mut s = *state;
                    s.takes_lock(me.registration);
                    next.progress("ticks, and locks again", w, s);
                }
            }
        }
    }

    /// What worker `w` sees of the others, and does about it.
    pub fn sweep(&self, state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        if !me.is_connected() || me.registration == NOBODY {
            return;
        }
        if me.session == Session::Up {
            self.watches(state, w, next);
        }
        if let Some(suspect) = me.suspect {
            // `Sweeper::take_over`, as late as you like: the channel, the pool and the process may all be slow.
            let mut s = *state;
            match s.take_over(self, suspect) {
                true => s.workers[w].suspect = None,
                false => s.workers[w].suspect = Some(Suspect { runs: u8::MAX, ..suspect }),
            }
            next.progress("takes over, or finds that it must not", w, s);
        }
    }

    /// `rules::sweep::Watch`. An observer of the model has one worker in its eye at a time.
    fn watches(&self, state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        let free = |id: Id| {
            let r = state.registration(id);
            let marked = match r.marker {
                Marker::Valid => true,
                Marker::Stale => self.is(Mutant::MarkerWithoutStart) || self.is(Mutant::NoMarker),
                Marker::None => self.is(Mutant::NoMarker),
            };
            r.row && marked && r.lock == Lock::Free
        };
        if let Some(note) = me.note {
            let mut s = *state;
            let beat = state.registration(note.victim).beat;
            let same = note.beat == beat || self.is(Mutant::LooksIgnoreBeat);
            if !free(note.victim) {
                s.workers[w].note = None;
                next.progress("finds the lock held again", w, s);
            } else if !same {
                s.workers[w].note = Some(Note { beat, relocked: false, ..note });
                next.progress("finds the lock free again, with another beat", w, s);
            } else if me.suspect.is_none() && !state.is_locked_again_in_time(note) {
                s.workers[w].note = None;
                s.workers[w].suspect = Some(s.suspicion(self, note.victim, true));
                next.progress("finds the lock free twice", w, s);
            }
            return;
        }
        for id in (0u8..).zip(&state.registrations).filter(|(_, r)| r.row).map(|(id, _)| id) {
            if id == me.registration {
                continue;
            }
            let mut s = *state;
            if free(id) && me.suspect.is_none() {
                if self.is(Mutant::OneLook) {
                    s.workers[w].suspect = Some(s.suspicion(self, id, true));
                } else {
                    s.workers[w].note = Some(Note { victim: id, beat: state.registration(id).beat, relocked: false });
                }
                next.progress("finds a lock free", w, s);
            } else if !free(id) && me.suspect.is_none() && !self.is(Mutant::NoLease) && self.lease_ends(state, id) {
                s.workers[w].suspect = Some(s.suspicion(self, id, false));
                next.progress("has seen no beat for the whole lease", w, s);
            }
        }
    }

    /// A worker that runs and reaches Postgres beats several times within a lease: nobody sees its counter stand still for so long.
    /// And its gate has shut by itself before: a tick that opens it for GATE_SPAN (2.5 s) comes less than a third of the lease after a
    /// heartbeat, or is one, and no lease is shorter than 3 s.
    fn lease_ends(&self, state: &State, id: Id) -> bool {
        let beats = |o: &Worker| o.is_connected() || o.gate && !self.is(Mutant::NoGate);
        self.is(Mutant::WorkersClock) || !state.workers.iter().any(|o| o.registration == id && beats(o))
    }
}

impl State {
    fn suspicion(&self, m: &Model, victim: Id, by_lock: bool) -> Suspect {
        let runs = if m.is(Mutant::SweepByIds) { self.runs_of(victim) } else { 0 };
        Suspect { victim, by_lock, beat: self.registration(victim).beat, runs }
    }

    /// The time between two looks (`presence::CONFIRM`) is enough for a running worker that has lost a session to lock again; unless
    /// Postgres itself was away, or the worker was.
    fn is_locked_again_in_time(&self, note: Note) -> bool {
        let owner = self.workers.iter().find(|o| o.registration == note.victim);
        owner.is_some_and(|o| o.is_connected() && !o.slow && !note.relocked)
    }

    pub fn loses_session(&mut self, w: usize) {
        let me = &mut self.workers[w];
        me.session = Session::None;
        me.gate = false;
    }

    /// `register.sql`: a fresh id.
    fn registers(&mut self, m: &Model, w: usize) {
        let before = self.workers[w].before;
        let id = if m.is(Mutant::ReusedId) && before != NOBODY { before } else { self.fresh_id() };
        if !self.registration(id).row {
            *self.registration_mut(id) = Registration { row: true, ..Registration::default() };
        }
        self.workers[w].registration = id;
    }

    /// The heartbeat, then `lock.sql` and `mark.sql`. Between lock and marker the worker is safe: by lease only, or by the marker of
    /// an earlier session, whose lock this one holds now.
    fn locks(&mut self, m: &Model, w: usize) {
        let id = self.workers[w].registration;
        let me = &mut self.workers[w];
        (me.session, me.slow) = (Session::Locked, false);
        let r = self.registration_mut(id);
        if r.row && !m.is(Mutant::LockBeforeBeat) {
            r.beat += 1;
        }
        match r.lock {
            Lock::Free => self.takes_lock(id),
            Lock::Held => {}
            // `unmark.sql`: another session has it.
            Lock::Old if m.is(Mutant::MarkerOutlivesLock) => {}
            Lock::Old => r.marker = Marker::None,
        }
    }

    pub fn takes_lock(&mut self, id: Id) {
        let r = self.registration_mut(id);
        r.lock = Lock::Held;
        if r.row {
            r.marker = Marker::Valid;
        }
        for note in self.workers.iter_mut().filter_map(|o| o.note.as_mut()).filter(|n| n.victim == id) {
            note.relocked = true;
        }
    }

    /// What was seen of a worker that is gone, or has beaten since, leads to nothing: `take_over` and `Watch` compare the beat, and
    /// whoever locks has beaten before. Forgetting it at once spares states. (Some mutants do not compare.)
    pub fn forgets_the_inert(&mut self, m: &Model) {
        if m.mutant.is_some_and(Mutant::reads_old_sightings) {
            return;
        }
        for w in 0..self.workers.len() {
            let Worker { note, suspect, .. } = self.workers[w];
            let stands = |id: Id, beat: u8| self.registration(id).row && self.registration(id).beat == beat;
            let free = |id: Id| self.registration(id).lock == Lock::Free;
            let (note, suspect) = (
                note.filter(|n| stands(n.victim, n.beat) && free(n.victim)),
                suspect.filter(|s| stands(s.victim, s.beat)),
            );
            (self.workers[w].note, self.workers[w].suspect) = (note, suspect);
        }
    }

    /// Does nobody suspect this worker? Then no take-over comes between two of its statements.
    pub fn is_unsuspected(&self, w: usize) -> bool {
        let id = self.workers[w].registration;
        self.workers.iter().all(|o| o.suspect.is_none_or(|s| s.victim != id))
    }

    /// … and can nothing go wrong any more? Then nothing comes between two of its statements that would not do as well before or
    /// after both: the two are taken together, which spares most of the states.
    pub fn is_undisturbed(&self, w: usize) -> bool {
        self.faults == 0 && self.workers[w].is_connected() && self.is_unsuspected(w)
    }

    fn comes_up(&mut self, m: &Model, w: usize) {
        self.locks(m, w);
        let row = self.registration(self.workers[w].registration).row;
        self.has_looked(m, w, row);
    }

    /// `tick.sql`, in two where a take-over may come between its snapshot and its update.
    fn looks(&self, m: &Model, w: usize) -> Self {
        let mut s = *self;
        let saw = self.registration(self.workers[w].registration).row;
        match saw && !self.is_unsuspected(w) {
            true => s.workers[w].session = Session::Looking { saw },
            false => s.has_looked(m, w, saw),
        }
        s
    }

    /// The answer of `tick.sql`: the worker's own row, from the statement's snapshot; and the heartbeat, which waits for a take-over.
    fn has_looked(&mut self, m: &Model, w: usize, saw: bool) {
        let id = self.workers[w].registration;
        let row = self.registration(id).row;
        if !(saw && (row || m.is(Mutant::TickBelievesSnapshot))) {
            return self.is_taken_over(m, w);
        }
        let after_stop = self.workers[w].doubtful;
        if row && (after_stop || m.is(Mutant::LockBeforeBeat)) && !m.is(Mutant::LateBeat) {
            self.registration_mut(id).beat += 1;
        }
        let me = &mut self.workers[w];
        (me.session, me.gate, me.doubtful, me.slow) = (Session::Up, true, false, false);
    }

    /// `Ended::TakenOver`: every lease under the registration is gone (`Runs::lose`); the session ends, and another begins.
    fn is_taken_over(&mut self, m: &Model, w: usize) {
        let id = self.workers[w].registration;
        self.forgets(w);
        if m.is(Mutant::ReusedId) {
            self.workers[w].before = id;
        }
        let me: &mut Worker = &mut self.workers[w];
        (me.session, me.gate, me.registration) = (Session::None, false, NOBODY);
    }

    /// The process has nothing to do with its registration any more.
    pub fn forgets(&mut self, w: usize) {
        let id = self.workers[w].registration;
        self.workers[w].runs = Default::default();
        if id == NOBODY {
            return;
        }
        let r = self.registration_mut(id);
        if r.lock == Lock::Held {
            r.lock = Lock::Free;
        }
        if r.claim == Claim::Sent {
            r.claim = Claim::Unheard;
        }
    }

    fn runs_of(&self, id: Id) -> u8 {
        (0u8..)
            .zip(&self.runs)
            .filter(|(_, r)| r.state == RunState::Running && r.worker == id)
            .map(|(n, _)| 1 << n)
            .sum()
    }
}

//! Claims, and a claimed run's way to its end (`services::claimer`, `engine::run`, `services::writer`, `services::sql_effect`).

use crate::database::Lease;
use crate::model::{Kind, Model, Next};
use crate::mutants::Mutant;
use crate::state::{
    ATTEMPTS, Activation, Broken, Claim, Ghost, Item, NOBODY, Pc, Phase, RUNS, Record, RunState, STEPS, State,
};

impl Model {
    /// `Claimer::turn`: the gate is open, the claim is sent; the answer comes, or is done by a server whose client has gone.
    pub fn claims(&self, state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        if me.registration == NOBODY || !me.linked {
            return;
        }
        let queued: u8 = (0u8..).zip(&state.runs).map(|(n, r)| u8::from(r.state == RunState::Queued) << n).sum();
        match state.registration(me.registration).claim {
            Claim::None if me.phase == Phase::Running && me.gate && queued != 0 => {
                if state.is_undisturbed(w) {
                    self.claimed(state, w, queued, next);
                } else {
                    let mut s = *state;
                    s.registration_mut(me.registration).claim = Claim::Sent;
                    next.progress("sends a claim", w, s);
                }
            }
            Claim::Sent => self.claimed(state, w, queued, next),
            Claim::None | Claim::Unheard => {}
        }
        if me.is_connected() && me.gate && !self.is(Mutant::NoOrphanCheck) {
            self.orphans(state, w, next);
        }
    }

    /// A batch: whatever is queued and not locked by another claim, as many as there is room for.
    fn claimed(&self, state: &State, w: usize, queued: u8, next: &mut Next) {
        let id = state.workers[w].registration;
        for wanted in (1..1u8 << RUNS).filter(|wanted| wanted & queued == *wanted || queued == 0 && *wanted == 1) {
            let mut s = *state;
            let claimed = s.claim(self, id, wanted);
            s.registration_mut(id).claim = Claim::None;
            s.accepts(self, w, claimed);
            next.progress("claims", w, s);
        }
    }

    /// `orphans.sql` and `Runs::give_back_unknown`: what the database gives to this worker, and it does not have, goes back.
    fn orphans(&self, state: &State, w: usize, next: &mut Next) {
        let me = &state.workers[w];
        for (n, run) in state.runs.iter().enumerate() {
            let heard = state.registration(me.registration).claim != Claim::Sent;
            if run.state == RunState::Running && run.worker == me.registration && me.runs[n].is_none() && heard {
                let mut s = *state;
                s.workers[w].runs[n] = Some(Activation { epoch: run.epoch, pc: Pc::Write(Item::Release) });
                next.progress_of("finds a run that it does not have", w, n, s);
            }
        }
    }

    /// The next step of run `n` in worker `w`.
    pub fn activation(&self, state: &State, w: usize, n: usize, next: &mut Next) {
        let me = &state.workers[w];
        let Some(Activation { epoch, pc }) = me.runs[n] else { return };
        let lease = Lease { by: me.registration, epoch };
        let (running, connected) = (me.phase == Phase::Running, me.is_connected());
        if running && state.runs[n].cancel && connected && state.fits_requests(n, lease) {
            self.hears_of_cancel(state, w, n, pc, next);
        }
        match pc {
            // `load_records.sql`, a statement of its own after the claim.
            Pc::Load if connected => {
                let mut s = *state;
                s.loads(self, w, n);
                next.progress_of("loads what is recorded", w, n, s);
            }
            // `Ctx::settled`: all acknowledgements are there, the gate is open, nothing says stop.
            Pc::Before { step, attempt } if running && (me.gate || self.is(Mutant::NoGate)) => {
                let mut s = *state;
                s.starts(w, n, step, attempt);
                next.progress_of("starts a step", w, n, s);
            }
            Pc::Working { step, attempt } => self.working(state, w, n, (step, attempt), next),
            // A stopped process may have sent it before.
            Pc::Write(item) if me.linked => {
                let mut s = *state;
                let lost = !s.write(self, n, lease, item);
                s.answered(w, n, item, lost);
                next.progress_of("writes", w, n, s);
            }
            Pc::Unknown(item) if connected => {
                let mut s = *state;
                if self.is(Mutant::SentAgainBlindly) {
                    s.stands(w, n, Pc::Write(item));
                } else {
                    match state.read_back(n, lease, item) {
                        Ok(()) => s.answered(w, n, item, false),
                        Err(true) => s.stands(w, n, Pc::Write(item)),
                        Err(false) => s.workers[w].runs[n] = None,
                    }
                }
                next.progress_of("reads back", w, n, s);
            }
            // `OwnDatabase::recorded`.
            Pc::SqlUnknown { step, attempt } if connected => {
                let mut s = *state;
                match state.runs[n].done & (1 << step) != 0 {
                    true => s.answered(w, n, Item::Sql(step), false),
                    false if self.is(Mutant::LostCommitCounts) => s.stands(w, n, Pc::failed(attempt)),
                    false => s.stands(w, n, Pc::Working { step, attempt }),
                }
                next.progress_of("asks whether the transaction was committed", w, n, s);
            }
            _ => {}
        }
    }

    /// A step at work: it ends well, or fails; and that it began may have been recorded.
    fn working(&self, state: &State, w: usize, n: usize, (step, attempt): (u8, u8), next: &mut Next) {
        let me = &state.workers[w];
        let Some(Activation { epoch, .. }) = me.runs[n] else { return };
        let lease = Lease { by: me.registration, epoch };
        // Only attempts are told by it.
        let counted = self.bounds.failures > 0;
        if counted && me.linked && state.fits(self, n, lease) && state.runs[n].record != Record::Running(attempt) {
            let mut s = *state;
            s.started(self, n, lease, attempt);
            next.progress_of("records that a step is at work", w, n, s);
        }
        if Self::is_sql(n, step) {
            if me.linked {
                let mut s = *state;
                let lost = !s.write(self, n, lease, Item::Sql(step));
                s.answered(w, n, Item::Sql(step), lost);
                next.progress_of("commits a sql step", w, n, s);
            }
        } else if me.linked {
            let item = Item::of(step);
            let mut s = *state;
            let lost = !s.write(self, n, lease, item);
            s.answered(w, n, item, lost);
            next.progress_of("has done a step, and writes", w, n, s);
        }
        if state.failures > 0 && me.phase == Phase::Running {
            let mut s = *state;
            s.failures -= 1;
            s.runs[n].failures[usize::from(step)] += 1;
            s.stands(w, n, Pc::failed(attempt));
            next.add(Kind::Chance, "sees a step fail", Some(w), Some(n), s);
        }
    }

    /// `services::requests`, `engine::runner::stopped`.
    fn hears_of_cancel(&self, state: &State, w: usize, n: usize, pc: Pc, next: &mut Next) {
        if matches!(pc, Pc::Before { .. } | Pc::Working { .. }) {
            let mut s = *state;
            s.stands(w, n, Pc::Write(Item::Cancel));
            next.progress_of("hears of the cancel", w, n, s);
        }
    }
}

impl Item {
    /// What a finished step wants recorded: the last one's checkpoint rides along with the run's end.
    fn of(step: u8) -> Self {
        if step + 1 == STEPS { Self::Complete(Some(step)) } else { Self::Checkpoint(step) }
    }
}

impl Pc {
    fn failed(attempt: u8) -> Self {
        Self::Write(if attempt < ATTEMPTS { Item::AttemptFailed } else { Item::Fail })
    }

    /// Where a run goes on whose first steps are done.
    fn at(step: u8, attempt: u8) -> Self {
        match () {
            () if step == STEPS => Self::Write(Item::Complete(None)),
            () if attempt > ATTEMPTS => Self::Write(Item::Fail),
            () => Self::Before { step, attempt },
        }
    }
}

impl State {
    /// `Runs::accept`. A run that has been claimed before is loaded first (`engine::runner::take_up`).
    fn accepts(&mut self, m: &Model, w: usize, claimed: [Option<u8>; RUNS]) {
        for (n, epoch) in claimed.into_iter().enumerate() {
            let Some(epoch) = epoch else { continue };
            let fresh = epoch == 1;
            let pc = if fresh { Pc::Before { step: 0, attempt: 1 } } else { Pc::Load };
            self.workers[w].runs[n] = Some(Activation { epoch, pc });
            if !fresh && self.is_undisturbed(w) && self.runs[n].ghost.is_none() {
                self.loads(m, w, n);
            }
        }
    }

    fn stands(&mut self, w: usize, n: usize, pc: Pc) {
        if let Some(activation) = &mut self.workers[w].runs[n] {
            activation.pc = pc;
        }
    }

    fn fits_requests(&self, n: usize, lease: Lease) -> bool {
        self.runs[n].state == RunState::Running && self.runs[n].worker == lease.by
    }

    fn loads(&mut self, m: &Model, w: usize, n: usize) {
        let run = &mut self.runs[n];
        run.told |= run.done;
        let step = (0..STEPS).find(|step| run.done & (1 << step) == 0).unwrap_or(STEPS);
        let attempt = match run.record {
            Record::None => 1,
            // `Ctx::take_up`: an interrupted attempt is repeated under its own number.
            Record::Running(attempt) => attempt + u8::from(m.is(Mutant::InterruptionCounts)),
            Record::Failed(attempt) => attempt + 1,
        };
        self.stands(w, n, Pc::at(step, attempt));
    }

    fn starts(&mut self, w: usize, n: usize, step: u8, attempt: u8) {
        if self.runs[n].told & (1 << step) != 0 {
            self.break_promise(Broken::StartedAgain);
        }
        if self.runs[n].state == RunState::Cancelled {
            self.break_promise(Broken::StartedAfterCancel);
        }
        self.stands(w, n, Pc::Working { step, attempt });
    }

    /// The writer's answer to what was written.
    fn answered(&mut self, w: usize, n: usize, item: Item, lost: bool) {
        let next = match item {
            _ if lost => None,
            Item::Checkpoint(step) | Item::Sql(step) => {
                self.runs[n].told |= 1 << step;
                Some(Pc::at(step + 1, 1))
            }
            Item::AttemptFailed => {
                let step = (0..STEPS).find(|step| self.runs[n].done & (1 << step) == 0).unwrap_or(STEPS);
                Some(Pc::at(step, 2))
            }
            Item::Complete(last) => {
                last.into_iter().for_each(|step| self.runs[n].told |= 1 << step);
                None
            }
            Item::Fail | Item::Cancel | Item::Release => None,
        };
        let Some(activation) = &mut self.workers[w].runs[n] else { return };
        match next {
            Some(pc) => activation.pc = pc,
            None => self.workers[w].runs[n] = None,
        }
    }

    /// Connections are gone: what is at work has no answer.
    pub fn unhears(&mut self, w: usize) {
        for n in 0..RUNS {
            let Some(activation) = &mut self.workers[w].runs[n] else { continue };
            activation.pc = match activation.pc {
                Pc::Write(item) => Pc::Unknown(item),
                Pc::Working { step, attempt } if Model::is_sql(n, step) => Pc::SqlUnknown { step, attempt },
                Pc::Working { step, .. } => Pc::Unknown(Item::of(step)),
                pc => pc,
            };
        }
        let id = self.workers[w].registration;
        if id != NOBODY && self.registration(id).claim == Claim::Sent {
            self.registration_mut(id).claim = Claim::Unheard;
        }
    }

    /// What of worker `w` may be on its way to the server, as statements without a client.
    pub fn leaves_ghosts(&mut self, m: &Model, w: usize) {
        let by = self.workers[w].registration;
        for n in 0..RUNS {
            let Some(Activation { epoch, pc }) = self.workers[w].runs[n] else { continue };
            let item = match pc {
                Pc::Write(item) => item,
                Pc::Working { step, .. } if Model::is_sql(n, step) => Item::Sql(step),
                Pc::Working { step, .. } => Item::of(step),
                _ => continue,
            };
            let passed = m.is(Mutant::NoKeyShareInBatch) && self.fits(m, n, Lease { by, epoch });
            self.runs[n].ghost.get_or_insert(Ghost { by, epoch, item, passed });
        }
    }
}

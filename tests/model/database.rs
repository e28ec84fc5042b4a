//! What Postgres does: each function is one statement, or one transaction whose parts nobody sees.

use crate::model::Model;
use crate::mutants::Mutant;
use crate::state::{
    ATTEMPTS, Broken, Ghost, Id, Item, Lock, Marker, NOBODY, RUNS, Record, RunState, STEPS, State, Suspect,
};

/// Who writes, and under which claim.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub by: Id,
    pub epoch: u8,
}

impl State {
    /// The fence of `write_batch.sql` (`me`, `lease`), `write_plain.sql` (`me`, `held`) and `stepd_engine.commit_step`.
    pub fn fits(&self, m: &Model, run: usize, lease: Lease) -> bool {
        let r = &self.runs[run];
        self.registration(lease.by).row
            && r.state == RunState::Running
            && r.worker == lease.by
            && (r.epoch == lease.epoch || m.is(Mutant::NoEpochInFence))
    }

    /// `write_batch.sql`, `write_plain.sql`, or the transaction of a sql step. False: the lease is lost, nothing was written.
    pub fn write(&mut self, m: &Model, run: usize, lease: Lease, item: Item) -> bool {
        let unfenced = m.is(Mutant::NoFence) && matches!(item, Item::Checkpoint(_));
        if !self.fits(m, run, lease) && !unfenced {
            return false;
        }
        self.written(m, run, lease, item)
    }

    /// Behind the fence.
    pub fn written(&mut self, m: &Model, run: usize, lease: Lease, item: Item) -> bool {
        let r = self.runs[run];
        if (r.epoch, r.worker) != (lease.epoch, lease.by) {
            self.break_promise(Broken::StaleWrite);
        }
        match item {
            Item::Checkpoint(step) => self.checkpoint(m, run, step),
            Item::Sql(step) => {
                // `commit_step` inserts ON CONFLICT … WHERE NOT checkpoint; without a row of it the caller rolls back.
                if r.done & (1 << step) != 0 {
                    return false;
                }
                self.checkpoint(m, run, step);
            }
            Item::AttemptFailed => {
                let next = match r.record {
                    Record::Running(attempt) => Record::Failed(attempt),
                    Record::None | Record::Failed(_) => Record::Failed(1),
                };
                self.runs[run].record = next;
            }
            Item::Complete(last) => {
                last.into_iter().for_each(|step| self.checkpoint(m, run, step));
                self.moves(run, RunState::Completed);
            }
            Item::Fail => {
                if r.failures.iter().all(|n| *n < ATTEMPTS) {
                    self.break_promise(Broken::AttemptUsedUp);
                }
                self.moves(run, RunState::Failed);
            }
            Item::Cancel => self.moves(run, RunState::Cancelled),
            Item::Release => self.moves(run, RunState::Queued),
        }
        true
    }

    fn checkpoint(&mut self, m: &Model, run: usize, step: u8) {
        let r = &mut self.runs[run];
        let again = r.done & (1 << step) != 0;
        r.done |= 1 << step;
        if !again {
            r.record = Record::None;
        } else if m.is(Mutant::SentAgainBlindly) {
            self.break_promise(Broken::CommittedTwice);
        }
        // ON CONFLICT (run, key) DO UPDATE … WHERE NOT c.checkpoint: the same once more changes nothing.
    }

    /// The run leaves its worker.
    pub fn moves(&mut self, run: usize, to: RunState) {
        if self.runs[run].state.is_final() {
            self.break_promise(Broken::FinalStateChanged);
        }
        let r = &mut self.runs[run];
        r.state = to;
        r.worker = NOBODY;
        if to.is_final() {
            // The rows of a run that ended hold nothing that a later claim would go by, but its checkpoints.
            r.record = Record::None;
            r.cancel = false;
        }
    }

    /// `note_start` through `write_batch.sql`: that an attempt is at work. Nothing waits for it.
    pub fn started(&mut self, m: &Model, run: usize, lease: Lease, attempt: u8) {
        if self.fits(m, run, lease) {
            self.runs[run].record = Record::Running(attempt);
        }
    }

    /// `claim.sql`, for the runs in `wanted`. The epochs of those that were claimed.
    pub fn claim(&mut self, m: &Model, by: Id, wanted: u8) -> [Option<u8>; RUNS] {
        let mut claimed = [None; RUNS];
        if !self.registration(by).row && !m.is(Mutant::NoClaimGuard) {
            return claimed;
        }
        for (n, r) in self.runs.iter_mut().enumerate() {
            if wanted & (1 << n) != 0 && r.state == RunState::Queued {
                r.state = RunState::Running;
                r.worker = by;
                r.epoch += 1;
                claimed[n] = Some(r.epoch);
            }
        }
        claimed
    }

    /// A statement that nobody listens to is done after all: its fence decides now.
    pub fn haunt(&mut self, m: &Model, run: usize, ghost: Ghost) {
        let lease = Lease { by: ghost.by, epoch: ghost.epoch };
        match ghost.passed {
            true => self.written(m, run, lease, ghost.item),
            false => self.write(m, run, lease, ghost.item),
        };
    }

    /// `stepd_engine.take_over`: one transaction, and the victim's row is locked from its first statement to its end, so that no
    /// claim and no batch of the victim comes between the deletion of the row and the requeue. True: the suspect is dealt with.
    pub fn take_over(&mut self, m: &Model, suspect: Suspect) -> bool {
        let Suspect { victim, by_lock, beat, runs } = suspect;
        let w = self.registration(victim);
        if !w.row {
            return true;
        }
        let marked = match w.marker {
            Marker::Valid => true,
            Marker::Stale => m.is(Mutant::MarkerWithoutStart) || m.is(Mutant::NoMarker),
            Marker::None => m.is(Mutant::NoMarker),
        };
        let may = match by_lock {
            true => marked && w.lock == Lock::Free && (w.beat == beat || m.is(Mutant::TakeOverIgnoresBeat)),
            false => w.beat == beat || m.is(Mutant::WorkersClock),
        };
        if !may {
            return true;
        }
        if self.workers.iter().any(|o| o.registration == victim && o.is_connected() && !o.doubtful) {
            self.break_promise(Broken::TakenAlive);
        }
        if m.is(Mutant::RequeueBeforeRow) && runs != u8::MAX {
            self.requeue(victim);
            return false;
        }
        let w = self.registration_mut(victim);
        w.row = false;
        w.marker = Marker::None;
        match (m.is(Mutant::SweepByIds), m.is(Mutant::RequeueBeforeRow)) {
            (true, _) => self.requeue_listed(runs),
            (_, false) => self.requeue(victim),
            (_, true) => {}
        }
        true
    }

    /// `stepd_engine.requeue`.
    fn requeue(&mut self, victim: Id) {
        for n in 0..RUNS {
            if self.runs[n].state == RunState::Running && self.runs[n].worker == victim {
                self.moves(n, RunState::Queued);
                self.runs[n].epoch += 1;
            }
        }
    }

    fn requeue_listed(&mut self, runs: u8) {
        for n in (0..RUNS).filter(|n| runs & (1 << n) != 0) {
            self.moves(n, RunState::Queued);
            self.runs[n].epoch += 1;
        }
    }

    /// `stepd.cancel`: at once where no worker has the run, else a request.
    pub fn cancel(&mut self, m: &Model, run: usize) {
        match self.runs[run].state {
            RunState::Running if !m.is(Mutant::CancelAtOnce) => self.runs[run].cancel = true,
            _ => self.moves(run, RunState::Cancelled),
        }
    }

    /// `stepd.retry`: fresh attempts, the old epoch, no request of before.
    pub fn retry(&mut self, run: usize) {
        let r = &mut self.runs[run];
        r.state = RunState::Queued;
        r.cancel = false;
        r.record = Record::None;
        r.failures = [0; STEPS as usize];
    }

    /// What `read_back.sql` says of a write of unknown outcome: `Ok` it stands, `Err(true)` the lease does, `Err(false)` neither.
    pub fn read_back(&self, run: usize, lease: Lease, item: Item) -> Result<(), bool> {
        let r = &self.runs[run];
        let arrived = r.epoch == lease.epoch
            && match item {
                Item::Complete(_) | Item::Fail | Item::Cancel => r.state.is_final(),
                Item::Release => r.state == RunState::Queued,
                Item::Checkpoint(_) | Item::AttemptFailed | Item::Sql(_) => false,
            };
        if arrived {
            return Ok(());
        }
        // `mine` does not lock the worker's row; whatever is sent again will.
        Err(r.state == RunState::Running && (r.worker, r.epoch) == (lease.by, lease.epoch))
    }
}

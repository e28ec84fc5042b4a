//! Is a run at work, or does everything in it wait? Only then may it be suspended.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Failure, StepKey, code};
use crate::steps::CHILD;

use super::super::halt::Halt;
use super::Ctx;

/// A run counts as busy while this lives.
pub(in crate::engine) struct Busy<'a>(&'a Ctx);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

/// While this lives, an operation is not counted as busy: it only waits for another one.
pub(in crate::engine) struct Aside<'a>(&'a Ctx);

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.state().busy += 1;
    }
}

/// Is the run quiet, that is: does everything in it wait?
pub(in crate::engine) enum Quiet {
    No,
    /// Yes, and the earliest wait is due in this long (`None`: only an answer wakes it).
    For(Option<Duration>),
}

impl Ctx {
    /// Marks the run as busy, unless it must stop.
    pub(in crate::engine) fn busy(&self) -> Result<Busy<'_>, Halt> {
        if self.must_stop() {
            return Err(Halt::Stopped);
        }
        self.state().busy += 1;
        Ok(Busy(self))
    }

    /// Begins an operation on a key that this activation has not used before.
    pub(in crate::engine) fn begin(&self, key: &StepKey) -> Result<Busy<'_>, Halt> {
        let busy = self.busy()?;
        if self.state().used.insert(key.clone()) {
            return Ok(busy);
        }
        Err(self.failed(
            Some(key.clone()),
            Failure::permanent(
                code::DUPLICATE_KEY,
                format!("two steps of this run have the key `{key}`; every step needs its own"),
            ),
        ))
    }

    /// Marks a busy stretch as over for the time of a wait.
    pub(in crate::engine) fn pause_busy(&self, key: &StepKey, due: Option<Instant>, answerable: bool) {
        let mut state = self.state();
        state.busy -= 1;
        state.waits.insert(key.clone(), due);
        drop(state);
        if answerable {
            self.inbox.begin_wait(key.clone());
        }
    }

    /// An operation leaves it to a nested one to be busy.
    pub(in crate::engine) fn step_aside(&self) -> Aside<'_> {
        self.state().busy -= 1;
        Aside(self)
    }

    /// The wait is over, the run is busy again.
    pub(in crate::engine) fn resume_busy(&self, key: &StepKey) {
        let mut state = self.state();
        state.busy += 1;
        state.waits.remove(key);
        state.kept_until = None;
        drop(state);
        self.inbox.end_wait(key);
    }

    pub(in crate::engine) fn quiet(&self) -> Quiet {
        let state = self.state();
        if state.busy > 0 || state.waits.is_empty() {
            return Quiet::No;
        }
        let now = Instant::now();
        Quiet::For(state.waits.values().flatten().min().map(|due| due.saturating_duration_since(now)))
    }

    /// Is one of the waits for a child?
    pub(in crate::engine) fn waits_for_child(&self) -> bool {
        let state = self.state();
        state.waits.keys().any(|key| state.open.get(key).is_some_and(|row| row.record.kind == CHILD))
    }

    /// Everything waits, and the run is kept until then; or until one of the waits is over.
    pub(in crate::engine) fn keep(&self, until: Instant) {
        self.state().kept_until = Some(until);
    }

    /// Until when it is kept.
    pub(in crate::engine) fn kept_until(&self) -> Option<Instant> {
        self.state().kept_until
    }

    /// How many records the run has, here and in the journal.
    pub(in crate::engine) fn records_so_far(&self) -> u32 {
        self.state().seq.unsigned_abs()
    }

    pub(in crate::engine) fn waiting_keys(&self) -> Vec<StepKey> {
        self.state().waits.keys().cloned().collect()
    }
}

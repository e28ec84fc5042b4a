//! The right to write to a run.

use super::ids::{RunId, WorkerId};

/// Proof that this process holds one epoch of one run.
///
/// Made only by the claim, not `Clone`, and consumed by the transition that ends it: whoever has a
/// `Lease` in hand is the only task of this process that may move the run.
#[derive(Debug)]
pub struct Lease {
    run: RunId,
    worker: WorkerId,
    epoch: i32,
}

impl Lease {
    /// Only claims make leases; and whoever has a journal of their own.
    #[must_use]
    pub fn new(run: RunId, worker: WorkerId, epoch: i32) -> Self {
        Self { run, worker, epoch }
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The registration under which the run was claimed.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The claim's number within the run, from 1.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        self.epoch
    }
}

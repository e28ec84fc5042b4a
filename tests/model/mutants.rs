//! The protocol with one thing left out. Each must break a promise; else the model could not tell that the thing is needed.

use crate::state::{Bounds, Broken};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The fence names the worker, not the epoch.
    NoEpochInFence,
    /// A claim does not key-share-lock the worker's row.
    NoClaimGuard,
    /// A take-over by lock believes a marker of an earlier start of Postgres.
    MarkerWithoutStart,
    /// A take-over by lock asks for no marker.
    NoMarker,
    /// The sweep requeues the runs that it saw when it suspected their worker, by their ids.
    SweepByIds,
    /// The lease is told from the time that the worker wrote, by its own clock.
    WorkersClock,
    /// A process keeps its id (its host's name, say) when it registers anew.
    ReusedId,
    /// A checkpoint is inserted without asking for the lease.
    NoFence,
    /// The fence is read, and the batch written later: no key share between.
    NoKeyShareInBatch,
    /// The runs are requeued, then the worker's row is deleted.
    RequeueBeforeRow,
    /// A batch of unknown outcome is sent again without looking, and inserts.
    SentAgainBlindly,
    /// A lock found free once is a death.
    OneLook,
    /// Two looks at a free lock count, whatever the heartbeat did between them.
    LooksIgnoreBeat,
    /// A take-over by lock does not ask whether the worker has beaten since it was suspected.
    TakeOverIgnoresBeat,
    /// The first tick after a stop does not beat.
    LateBeat,
    /// A session locks first and beats later.
    LockBeforeBeat,
    /// A beat that waited for a take-over believes its own snapshot.
    TickBelievesSnapshot,
    /// A session that cannot have the lock leaves the marker of an earlier one standing.
    MarkerOutlivesLock,
    /// The gate stays open through a stop.
    NoGate,
    /// An attempt that was interrupted counts as one that failed.
    InterruptionCounts,
    /// A COMMIT of a sql step that had no answer, and was not done, counts as an attempt that failed.
    LostCommitCounts,
    /// A cancel ends a run at once, whoever has it.
    CancelAtOnce,
    /// Nobody asks what a claim without an answer took.
    NoOrphanCheck,
    /// Only locks tell of deaths.
    NoLease,
}

impl Mutant {
    /// Does it go by what was seen before a heartbeat, or before the registration ended?
    pub fn reads_old_sightings(self) -> bool {
        matches!(
            self,
            Self::LooksIgnoreBeat
                | Self::TakeOverIgnoresBeat
                | Self::LockBeforeBeat
                | Self::LateBeat
                | Self::WorkersClock
                | Self::ReusedId
                | Self::SweepByIds
                | Self::RequeueBeforeRow
        )
    }
}

/// Each of them with bounds in which it does harm, and the promise that it breaks first.
pub fn all() -> Vec<(Mutant, Bounds, Broken)> {
    use Broken::{
        AttemptUsedUp, CommittedTwice, StaleWrite, StartedAfterCancel, StartedAgain, Stranded, Stuck, TakenAlive,
    };
    let one = Bounds { workers: 2, runs: 1, faults: 1, requests: 0, failures: 0 };
    let two = Bounds { faults: 2, ..one };
    let failing = Bounds { failures: 2, ..one };
    vec![
        (Mutant::NoEpochInFence, two, StaleWrite),
        (Mutant::NoClaimGuard, one, Stranded),
        (Mutant::MarkerWithoutStart, one, TakenAlive),
        (Mutant::NoMarker, one, TakenAlive),
        (Mutant::SweepByIds, one, Stranded),
        (Mutant::WorkersClock, one, TakenAlive),
        (Mutant::ReusedId, one, TakenAlive),
        (Mutant::NoFence, one, StaleWrite),
        (Mutant::NoKeyShareInBatch, one, StaleWrite),
        (Mutant::RequeueBeforeRow, one, Stranded),
        (Mutant::SentAgainBlindly, one, CommittedTwice),
        (Mutant::OneLook, one, TakenAlive),
        (Mutant::LooksIgnoreBeat, two, TakenAlive),
        (Mutant::TakeOverIgnoresBeat, two, TakenAlive),
        (Mutant::LateBeat, one, TakenAlive),
        (Mutant::LockBeforeBeat, two, TakenAlive),
        (Mutant::TickBelievesSnapshot, one, StartedAgain),
        (Mutant::MarkerOutlivesLock, two, StartedAgain),
        (Mutant::NoGate, one, StartedAgain),
        (Mutant::InterruptionCounts, failing, AttemptUsedUp),
        (Mutant::LostCommitCounts, two, AttemptUsedUp),
        (Mutant::CancelAtOnce, Bounds { requests: 1, faults: 0, ..one }, StartedAfterCancel),
        (Mutant::NoOrphanCheck, one, Stuck),
        (Mutant::NoLease, two, Stuck),
    ]
}

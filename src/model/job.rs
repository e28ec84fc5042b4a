//! A job's row, and what a claim brings home.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::ids::WorkerId;
use super::lease::Lease;
use super::payload::Payload;

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// `run_at` lies ahead.
    Scheduled,
    /// Ready to be claimed.
    Queued,
    /// Kept back by a limit, a paused queue, or an unknown workflow.
    Held,
    /// A worker holds the lease.
    Running,
    /// Waits for time, an event, or an approval; holds no slot.
    Waiting,
    /// Stopped by an operator.
    Paused,
    /// Failed; the next automatic resume is due.
    Resuming,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Ended by wish.
    Cancelled,
}

impl RunState {
    /// Every state, in the order of the Postgres enum.
    pub const ALL: [Self; 10] = [
        Self::Scheduled,
        Self::Queued,
        Self::Held,
        Self::Running,
        Self::Waiting,
        Self::Paused,
        Self::Resuming,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word used in SQL, CLI and docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// `completed`, `failed` and `cancelled` are final.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Which of the two claim indexes a row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// In the ready index, behind the watermark: new jobs, and the runs claimed from there.
    Fresh,
    /// In the small index of runs that come back (woken, resumed, taken over); claimed first.
    Returned,
    /// Running, after it came back.
    Away,
    /// Nothing that a claim could take.
    Parked,
    /// Held, new.
    Held,
    /// Held, after it came back; admitted first.
    HeldBack,
}

impl Lane {
    /// Every lane, in the order of the numbers in the table.
    pub const ALL: [Self; 6] = [Self::Fresh, Self::Returned, Self::Away, Self::Parked, Self::Held, Self::HeldBack];

    /// The lane of a number in the table.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What the state machine of `rules::state` knows of a job's row. An ended run has one too: it stands in no lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Where the run stands.
    pub state: RunState,
    /// Which claim index it is in.
    pub lane: Lane,
    /// Claims and take-overs so far.
    pub epoch: i32,
    /// The lease's holder; on a queued row, the worker that empties itself to run it alone; on an ended one, the last holder.
    pub worker: Option<WorkerId>,
    /// Has the present claim been recorded as started?
    pub started: bool,
    /// Was it last taken from a dead worker? Its next claimer records the start before anything else.
    pub taken: bool,
    /// Deaths of workers that had started this run.
    pub crashes: i16,
    /// Such deaths in a row without a new checkpoint between them.
    pub streak: i16,
    /// Automatic resumes after failures.
    pub resumes: i16,
    /// Does the stager look at it at some time (`run_at`, the next wake-up, the next resume)?
    pub due: bool,
}

/// A run that this worker has just claimed. What the journal holds of its steps is loaded later, by the run's own task.
#[derive(Debug)]
pub struct Claimed {
    /// The right to write to it.
    pub lease: Lease,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The pinned definition, or the one this worker pinned with the claim.
    pub definition: Option<i32>,
    /// The input, unparsed. `None`: it is large, did not come with the claim, and is loaded by the run's own task, too.
    pub input: Option<Payload>,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// Its `run_at`.
    pub scheduled_for: DateTime<Utc>,
    /// The first claim's time: the run's start.
    pub started_at: DateTime<Utc>,
    /// Automatic resumes so far; a resumed run's failed step has one attempt.
    pub resumes: i16,
    /// Deaths of workers so far.
    pub crashes: i16,
    /// Deaths in a row without a new checkpoint.
    pub streak: i16,
    /// Was it taken from a dead worker before this claim?
    pub taken: bool,
    /// Did it fail before, and is this an automatic resume?
    pub after_failure: bool,
    /// The enqueuer's trace context.
    pub traceparent: Option<String>,
    /// What it belongs to together with other runs, as the enqueuer says.
    pub session_id: Option<Arc<str>>,
    /// Does another run wait for its end?
    pub is_child: bool,
    /// Does its unique key outlive it?
    pub keeps_key: bool,
}

impl Claimed {
    /// One for tests: enqueued in 1970 and claimed at once, by a worker without a name.
    #[cfg(test)]
    pub(crate) fn of(run: super::RunId, epoch: i32, workflow: &str, input: Payload) -> Self {
        Self {
            lease: Lease::new(run, super::WorkerId(uuid::Uuid::nil()), epoch),
            workflow: workflow.into(),
            definition: None,
            input: Some(input),
            queue: "default".into(),
            scheduled_for: DateTime::UNIX_EPOCH,
            started_at: DateTime::UNIX_EPOCH,
            resumes: 0,
            crashes: 0,
            streak: 0,
            taken: false,
            after_failure: false,
            traceparent: None,
            session_id: None,
            is_child: false,
            keeps_key: false,
        }
    }

    /// Has it been claimed before, so that the journal may hold records of its steps?
    #[must_use]
    pub fn came_back(&self) -> bool {
        self.lease.epoch() > 1
    }
}

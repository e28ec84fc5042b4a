//! The engine's whole view of storage: entries go in, and an acknowledgement means durable.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::{Failure, Payload, RunId, StepKey, StepRecord, Wait, WorkerId, code};
use crate::steps::BoxFuture;

use super::inbox::Answer;

/// Where a run's records go.
pub trait Journal: Send + Sync {
    /// Hands over an entry. Never blocks: what waits is bounded by the runs in flight and their parallel
    /// steps. The entry's ticket is answered after the commit; entries of one run are committed in the order of their submission.
    fn submit(&self, entry: Entry);

    /// What is recorded of a run's steps, from earlier claims. In a task of its own: dropping the future drops only the answer.
    ///
    /// # Errors
    /// The records cannot be read, and trying again would not help.
    fn load(&self, run: RunId) -> BoxFuture<'static, Result<Vec<StepRecord>, Failure>>;

    /// The input of a run that was claimed without it. In a task of its own, as [`Journal::load`].
    ///
    /// # Errors
    /// As for [`Journal::load`].
    fn load_input(&self, _run: RunId) -> BoxFuture<'static, Result<Payload, Failure>> {
        let why = "this journal holds no inputs: they come with the claim";
        Box::pin(std::future::ready(Err(Failure::transient(code::INTERNAL, why))))
    }

    /// After the run has been let go: looks whether one of the waits was answered in the meantime, and if so brings the run back; and
    /// whether a cancel or a pause has come, or a pause was withdrawn.
    /// Returns at once: nothing is held meanwhile.
    fn settle(&self, run: RunId, keys: Vec<StepKey>);

    /// Ends a wait whose time is up, unless it has been answered in the meantime: then the answer comes back instead.
    fn expire(
        &self,
        run: RunId,
        lease: (WorkerId, i32),
        key: StepKey,
        failure: Failure,
    ) -> BoxFuture<'static, Option<Answer>>;

    /// After a run has ended that another one waits for: tells that one. As [`Journal::settle`], returns at once.
    fn tell_parent(&self, _run: RunId) {}

    /// After it is known that a run ends without the children that it waited for: cancels them. As [`Journal::settle`], returns at once.
    fn abandon(&self, _run: RunId) {}

    /// Can a suspended run be woken by others later? If not, runs wait in memory.
    fn suspends(&self) -> bool {
        true
    }
}

/// What one run wants recorded, all or nothing.
#[derive(Debug)]
pub struct Entry {
    /// The run.
    pub run: RunId,
    /// The lease's worker.
    pub worker: WorkerId,
    /// The lease's epoch.
    pub epoch: i32,
    /// Its unique key outlives the run: what ends is kept as a tombstone.
    pub keeps_key: bool,
    /// Rows of steps.
    pub steps: Vec<StepRow>,
    /// Rows of the audit trail.
    pub notes: Vec<Note>,
    /// What becomes of the run.
    pub transition: Option<Transition>,
    /// Who wants to know; `None` for records that nothing depends on (a step's start).
    pub ticket: Option<Ticket>,
}

/// A step's record on its way into the journal.
#[derive(Clone, Debug)]
pub struct StepRow {
    /// The record.
    pub record: StepRecord,
    /// For a waiting step, what it waits for.
    pub wait: Option<Wait>,
    /// For a waiting step, how long until the stager must look (the pause of a retry has no [`Wait`]).
    pub due_in: Option<Duration>,
    /// The step has no row yet: an insert will do. Only a hint: the journal must cope where it is wrong.
    pub fresh: bool,
}

/// A line of the audit trail that no other row can tell.
#[derive(Clone, Debug)]
pub struct Note {
    /// Its number within the claim, from 1: however often it is sent, it is one line.
    pub n: i32,
    /// What happened.
    pub kind: NoteKind,
    /// To which step.
    pub key: Option<StepKey>,
    /// In which attempt.
    pub attempt: Option<u32>,
    /// What else is known.
    pub data: Payload,
}

/// The kinds of line that the engine itself writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NoteKind {
    AttemptFailed,
    ResumeScheduled,
    Resumed,
    Released,
    Paused,
    Called,
}

impl NoteKind {
    /// The word in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptFailed => "attempt_failed",
            Self::ResumeScheduled => "resume_scheduled",
            Self::Resumed => "resumed",
            Self::Released => "released",
            Self::Paused => "paused",
            Self::Called => "called",
        }
    }
}

/// What becomes of a run.
#[derive(Clone, Debug)]
pub enum Transition {
    /// Nothing but the mark that this claim has begun to work: the next death counts.
    Start,
    /// It waits; `due_in` is the earliest time at which it must be looked at.
    Suspend {
        /// `None`: only an answer can wake it.
        due_in: Option<Duration>,
    },
    /// It ended well. The last step's record may ride along.
    Complete {
        /// The workflow's output.
        output: Payload,
        /// The checkpoint that is stored with the ended row.
        last: Option<Box<StepRow>>,
    },
    /// It failed for good.
    Fail {
        /// Why.
        failure: Failure,
    },
    /// It failed and will be resumed.
    Resume {
        /// In how long.
        after: Duration,
        /// Why it failed.
        failure: Failure,
    },
    /// It was cancelled; `cancelled` is the acknowledgement.
    Cancel {
        /// By whose wish, for what reason.
        failure: Failure,
    },
    /// It is given back unharmed: nothing counts.
    Release,
    /// It stands still until an operator lets it go on.
    Pause,
}

impl Transition {
    /// Is the run over then?
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Complete { .. } | Self::Fail { .. } | Self::Cancel { .. })
    }
}

/// Why an entry was not recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitError {
    /// Another worker has, or will have, the run. Write nothing more, and stop.
    LeaseLost,
    /// Postgres refuses the values, and would refuse them again.
    Refused(String),
}

/// The acknowledgements of one run, counted: entries are committed in order, so a number is enough.
#[derive(Debug, Default)]
pub struct Acks {
    done: AtomicU64,
    error: Mutex<Option<CommitError>>,
    moved: Notify,
}

impl Acks {
    /// Waits until entry `n` (from 1) and all before it are durable.
    ///
    /// # Errors
    /// The first error of any entry of the run.
    pub async fn reached(&self, n: u64) -> Result<(), CommitError> {
        loop {
            if self.done.load(Ordering::Acquire) >= n {
                return match &*self.error.lock().unwrap_or_else(PoisonError::into_inner) {
                    None => Ok(()),
                    Some(error) => Err(error.clone()),
                };
            }
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.done.load(Ordering::Acquire) < n {
                moved.await;
            }
        }
    }
}

impl Acks {
    /// A refusal has been told, and the run is about to record how it fails: what follows is judged by itself.
    pub(super) fn forgive_refusal(&self) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take_if(|e| matches!(e, CommitError::Refused(_)));
    }
}

/// The claim to an acknowledgement. Dropped unanswered (the journal is gone), it counts as a lost lease.
#[derive(Debug)]
pub struct Ticket {
    acks: Arc<Acks>,
    n: u64,
    answered: bool,
}

impl Ticket {
    pub(super) fn new(acks: Arc<Acks>, n: u64) -> Self {
        Self { acks, n, answered: false }
    }

    /// Answers.
    pub fn answer(mut self, result: Result<(), CommitError>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Result<(), CommitError>) {
        self.answered = true;
        if let Err(e) = result {
            self.acks.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
        self.acks.done.fetch_max(self.n, Ordering::AcqRel);
        self.acks.moved.notify_waiters();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.settle(Err(CommitError::LeaseLost));
        }
    }
}

//! The end of a run whose workflow has something to do then: `undo`, `on_failure`, `finally`.
//!
//! ```text
//! failed for good ┐
//! cancelled       ├─► (end) recorded ─► undo, newest first ─► on_failure ─► finally ─► completed, failed, cancelled
//! timed out       │   {state, error}    of what has started   of a failure   always
//! completed       ┘
//! ```
//!
//! How a run ends is decided once: the decision is a checkpoint of its own, `(end)`, durable before anything is done because of it. From
//! then on nothing changes it: not a cancel, not the workflow's `timeout`, not what comes of the handlers. Each of them is a step like any
//! other, with its retries, its waits and its checkpoint; one that fails is recorded as failed, and the others go on. A worker that
//! takes the run up and finds `(end)` goes straight on with them, from the records alone. Automatic resumes come before: what
//! may still be mended is not undone.
//!
//! A run that no worker has is cancelled by SQL, which records `(end)` the same way and hands the run to a worker
//! (`stepd_engine.begin_end`). A run without handlers has no `(end)`: it ends in the one transition, as ever.

use serde_json::json;

use crate::model::{Failure, Payload, RunState, StepKey, StepRecord, StepState};

use super::ctx::Ctx;
use super::halt::Halt;
use super::journal::{StepRow, Transition};

/// The key of the record, which no step of a workflow can have.
pub(super) const KEY: &str = "(end)";

/// Its kind.
const KIND: &str = "end";

/// How a run ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Well, with this output.
    Completed(Payload),
    /// It failed for good.
    Failed(Failure),
    /// It was cancelled.
    Cancelled(Failure),
}

impl End {
    /// The state that the run will have.
    #[must_use]
    pub fn state(&self) -> RunState {
        match self {
            Self::Completed(_) => RunState::Completed,
            Self::Failed(_) => RunState::Failed,
            Self::Cancelled(_) => RunState::Cancelled,
        }
    }

    /// Why, where it did not end well.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Completed(_) => None,
            Self::Failed(failure) | Self::Cancelled(failure) => Some(failure),
        }
    }

    /// The run was cancelled.
    pub(super) fn cancelled() -> Self {
        Self::Cancelled(Failure::permanent("cancelled", "the run was cancelled"))
    }

    /// The last transition of the run.
    pub(super) fn transition(self) -> Transition {
        match self {
            Self::Completed(output) => Transition::Complete { output, last: None },
            Self::Failed(failure) => Transition::Fail { failure },
            Self::Cancelled(failure) => Transition::Cancel { failure },
        }
    }

    /// The record of an earlier claim, if it made one.
    pub(super) fn recorded(ctx: &Ctx) -> Option<Self> {
        let record = ctx.loaded(&StepKey::from(KEY))?;
        let decision = record.decision.as_ref()?.value().ok()?;
        let failure = || serde_json::from_value::<Failure>(decision.get("error")?.clone()).ok();
        let unknown = || Failure::permanent("internal", "why the run ended cannot be read any more");
        Some(match decision.get("state")?.as_str()? {
            "completed" => Self::Completed(record.output.clone().unwrap_or_else(Payload::null)),
            "failed" => Self::Failed(failure().unwrap_or_else(unknown)),
            _ => Self::Cancelled(failure().unwrap_or_else(unknown)),
        })
    }
}

impl Ctx {
    /// Records how the run ends, and closes what was under way. Durable when this returns.
    pub(super) async fn begin_end(&mut self, end: &End) -> Result<(), Halt> {
        self.inbox.begin_end();
        self.go_on();
        self.close_open_steps();
        let now = self.ports.clock.now();
        let decision = json!({"state": end.state().as_str(), "error": end.failure()});
        let record = StepRecord {
            checkpoint: true,
            ended_at: Some(now),
            decision: Some(Payload::from_value(&decision)),
            output: match end {
                End::Completed(output) => Some(output.clone()),
                End::Failed(_) | End::Cancelled(_) => None,
            },
            ..self.record(StepKey::from(KEY), KIND, StepState::Completed, now)
        };
        self.defer(StepRow { record, wait: None, due_in: None, fresh: false });
        self.acks.forgive_refusal();
        self.settled().await
    }
}

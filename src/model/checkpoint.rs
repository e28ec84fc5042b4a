//! What is recorded of a step.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::failure::Failure;
use super::ids::{RunId, StepKey};
use super::payload::Payload;
use super::usage::Usage;

/// The state of a step. Only `Completed`, `Skipped`, and `Failed` under `on_error: continue` are
/// checkpoints: such a step never runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum StepState {
    Running,
    Waiting,
    Completed,
    Failed,
    Skipped,
    Cancelled,
}

impl StepState {
    /// Every state, in the order of the Postgres enum.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Waiting, Self::Completed, Self::Failed, Self::Skipped, Self::Cancelled];

    /// The word used in SQL, CLI and docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// What a waiting step waits for. Times are given as spans and become instants in the database,
/// whose clock alone decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Wait {
    /// A durable sleep.
    Sleep {
        /// How long, from the moment the wait is recorded.
        span: Duration,
    },
    /// An event or a signal by its name.
    Event {
        /// The event's name.
        name: String,
        /// The payload must contain this (jsonb containment); `{}` matches every object.
        matches: Value,
        /// Fail with `timeout` after this long; `None` waits for ever.
        timeout: Option<Duration>,
    },
    /// The end of another run.
    Child {
        /// The run.
        run: RunId,
        /// Its workflow.
        workflow: String,
        /// Fail with `timeout` after this long; `None` waits for ever.
        timeout: Option<Duration>,
    },
    /// A person's yes or no.
    Approval {
        /// The question shown to them.
        prompt: String,
        /// What they must say with their yes: an object that matches this JSON Schema.
        schema: Option<Value>,
        /// Fail with `timeout` after this long; `None` waits for ever.
        timeout: Option<Duration>,
    },
}

/// One row of a run's journal: what is durably known of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// The step's name in its run.
    pub key: StepKey,
    /// The step's kind; with the key, the fingerprint that a resume is checked against.
    pub kind: String,
    /// Where the step stands.
    pub state: StepState,
    /// Is it a checkpoint? Decides between two rows of state `Failed`.
    pub checkpoint: bool,
    /// Attempts so far, the first included.
    pub attempts: u32,
    /// The order in which the run's steps started, from 1.
    pub seq: i32,
    /// The claim that wrote the row.
    pub epoch: i32,
    /// When the first attempt started.
    pub started_at: DateTime<Utc>,
    /// When the step ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The output, where completed.
    pub output: Option<Payload>,
    /// The failure, where failed.
    pub error: Option<Failure>,
    /// A decision that a resume must not take anew: the item list of a `map`, the due time of a retry.
    pub decision: Option<Payload>,
    /// For a waiting step: milliseconds until it is due by the database's clock, at the time of
    /// loading; zero or less means due now.
    pub due_in_ms: Option<i64>,
    /// What its attempts have used up of models, all together; `None` where it has called none.
    pub usage: Option<Box<Usage>>,
    /// What people call it; never loaded, the definition says it again.
    pub label: Option<Arc<str>>,
}

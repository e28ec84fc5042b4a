//! What a run's trace is made of: its rows, and what its steps have asked of others.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::checkpoint::StepState;
use super::failure::Failure;
use super::job::RunState;
use super::usage::Usage;

/// A request to somebody else, as an attempt has made it: noted beside the step's record while traces are switched on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Call {
    /// Its number within the claim, from 1.
    pub n: u32,
    /// The span's name: `GET`, `tools/call add`, `chat gpt-5`.
    pub name: String,
    /// Does it leave this machine's stepd (`CLIENT`), or is it its own (`INTERNAL`)?
    pub client: bool,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was over.
    pub ended_at: DateTime<Utc>,
    /// By the semantic conventions.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// What was asked; only where contents are captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// What was answered; only where contents are captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Its failure: a code, and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<(String, String)>,
}

/// The calls of one attempt, and the claim under which they were made.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TracedCalls {
    pub key: String,
    pub attempt: u32,
    pub epoch: i32,
    pub calls: Vec<Call>,
}

/// A run, as its row says.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TracedRun {
    pub id: Uuid,
    pub workflow: String,
    pub state: RunState,
    pub queue: String,
    pub priority: i16,
    pub epoch: i32,
    pub resumes: i16,
    pub crashes: i16,
    /// By its id.
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Of its steps; a step is dated by its worker, which may be a moment beside the database.
    pub first_at: Option<DateTime<Utc>>,
    pub last_at: Option<DateTime<Utc>>,
    pub steps: i64,
    pub worker: Option<Uuid>,
    /// What several runs belong to.
    pub session: Option<String>,
    pub labels: Value,
    pub input: Option<String>,
    pub output: Option<String>,
    pub error: Option<Failure>,
    /// The enqueuer's.
    pub traceparent: Option<String>,
    /// The run and the step that started it.
    pub parent: Option<(Uuid, String)>,
    /// The step that its end has brought along.
    pub last: Option<TracedStep>,
}

/// A step, as its row says.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TracedStep {
    pub run: Uuid,
    pub seq: i32,
    pub key: String,
    pub label: Option<String>,
    pub kind: String,
    pub state: StepState,
    pub attempts: u32,
    pub epoch: i32,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub output: Option<String>,
    pub error: Option<Failure>,
    pub usage: Option<Usage>,
    /// The run that it has started, and that one's workflow.
    pub child: Option<(Uuid, Option<String>)>,
}

/// A line of the audit trail.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TracedEvent {
    pub at: DateTime<Utc>,
    pub kind: String,
    pub key: Option<String>,
    pub attempt: Option<u32>,
    pub epoch: Option<i32>,
    pub data: Value,
}

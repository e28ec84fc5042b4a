//! The shapes of the answers: some in camelCase, some as rows in snake_case, as the older system had them.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::older::{ADHOC, Line};

/// Milliseconds, as JavaScript writes a time.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub(super) struct Time(pub DateTime<Utc>);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Where an execution stands, in the older system's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
    Paused,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
        }
    }
}

/// How a run's state is called there. What waits for anything but a person at a guard, and what will be resumed by itself, goes on
/// without a hand: it is running.
pub(super) fn status(state: &str, on_hold: bool, begun: bool) -> Status {
    match state {
        "completed" => Status::Completed,
        "failed" => Status::Failed,
        "cancelled" => Status::Cancelled,
        "paused" => Status::Paused,
        "waiting" if on_hold => Status::Paused,
        "scheduled" | "queued" | "held" if !begun => Status::Pending,
        _ => Status::Running,
    }
}

/// Where a step stands, in the older system's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StepStatus {
    Running,
    Completed,
    Failed,
    Skipped,
}

/// How a step's state is called there.
pub(super) fn step_status(state: &str) -> StepStatus {
    match state {
        "completed" => StepStatus::Completed,
        "skipped" => StepStatus::Skipped,
        "failed" | "cancelled" => StepStatus::Failed,
        _ => StepStatus::Running,
    }
}

/// JSON as it stands in the database.
pub(super) type Json = Box<RawValue>;

/// JSON text as JSON; what is nested deeper than a reader may go as text.
pub(super) fn json(text: &str) -> Json {
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| {
        let quoted = serde_json::Value::from(text).to_string();
        RawValue::from_string(quoted).unwrap_or_default()
    })
}

/// A line of the list of executions.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    id: Uuid,
    /// The workflow's name; null where a request brought the document along.
    workflow_id: Option<String>,
    status: Status,
    started_at: Time,
    completed_at: Option<Time>,
    error: Option<String>,
    triggered_by: Option<String>,
    github_run_id: Option<String>,
}

/// The workflow's id: a document that came with a request has none.
pub(super) fn workflow_id(line: &Line) -> Option<String> {
    (line.workflow != ADHOC).then(|| line.workflow.clone())
}

/// Where a run stands.
pub(super) fn standing(line: &Line) -> Status {
    status(&line.state, line.on_hold, line.started_at.is_some())
}

impl From<Line> for Summary {
    fn from(line: Line) -> Self {
        Self {
            id: line.id,
            workflow_id: workflow_id(&line),
            status: standing(&line),
            started_at: Time(line.started_at.unwrap_or(line.created_at)),
            completed_at: line.ended_at.map(Time),
            error: line.error_message,
            triggered_by: line.triggered_by,
            github_run_id: line.github_run_id,
        }
    }
}

/// An execution with its steps.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Detail {
    pub execution: Execution,
    pub steps: Vec<Step>,
    pub metadata: Counts,
}

/// An execution.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OlderExecution)]
pub(super) struct Execution {
    pub id: Uuid,
    pub workflow_id: Option<String>,
    pub status: Status,
    #[schema(value_type = Value)]
    pub input: Json,
    #[schema(value_type = Option<Value>)]
    pub output: Option<Json>,
    #[schema(value_type = Value)]
    pub context: Json,
    pub started_at: Time,
    pub completed_at: Option<Time>,
    pub error: Option<String>,
    pub triggered_by: Option<String>,
    pub github_run_id: Option<String>,
}

/// A step.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OlderStep)]
pub(super) struct Step {
    pub id: String,
    pub name: String,
    pub index: usize,
    pub status: StepStatus,
    #[schema(value_type = Option<Value>)]
    pub input: Option<Json>,
    #[schema(value_type = Option<Value>)]
    pub output: Option<Json>,
    pub started_at: Time,
    pub completed_at: Option<Time>,
    pub duration_ms: Option<i64>,
    pub error: Option<String>,
    pub retry_count: i32,
}

/// How an execution's steps stand.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    total_steps: usize,
    completed_steps: usize,
    failed_steps: usize,
    skipped_steps: usize,
}

impl Counts {
    pub(super) fn of(steps: &[Step]) -> Self {
        let count = |status| steps.iter().filter(|step| step.status == status).count();
        Self {
            total_steps: steps.len(),
            completed_steps: count(StepStatus::Completed),
            failed_steps: count(StepStatus::Failed),
            skipped_steps: count(StepStatus::Skipped),
        }
    }
}

/// An execution as a row.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OlderExecutionRow)]
pub(super) struct Row {
    pub id: Uuid,
    pub workflow_id: Option<String>,
    pub status: Status,
    #[schema(value_type = Value)]
    pub input: Json,
    #[schema(value_type = Option<Value>)]
    pub output: Option<Json>,
    #[schema(value_type = Value)]
    pub context: Json,
    pub started_at: Time,
    pub completed_at: Option<Time>,
    pub error: Option<String>,
    pub triggered_by: Option<String>,
    pub github_run_id: Option<String>,
    pub pause_metadata: Option<Pause>,
    pub created_at: Time,
    pub updated_at: Time,
    pub workflow_name: Option<String>,
    pub workflow_description: Option<String>,
    pub steps: Vec<StepRow>,
}

/// A step as a row.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OlderStepRow)]
pub(super) struct StepRow {
    id: String,
    execution_id: Uuid,
    step_name: String,
    step_index: usize,
    status: StepStatus,
    #[schema(value_type = Option<Value>)]
    input: Option<Json>,
    #[schema(value_type = Option<Value>)]
    output: Option<Json>,
    started_at: Time,
    completed_at: Option<Time>,
    duration_ms: Option<i64>,
    error: Option<String>,
    retry_count: i32,
    created_at: Time,
    updated_at: Time,
}

impl StepRow {
    pub(super) fn of(execution: Uuid, step: Step) -> Self {
        Self {
            id: step.id,
            execution_id: execution,
            step_name: step.name,
            step_index: step.index,
            status: step.status,
            input: step.input,
            output: step.output,
            started_at: step.started_at,
            completed_at: step.completed_at,
            duration_ms: step.duration_ms,
            error: step.error,
            retry_count: step.retry_count,
            created_at: step.started_at,
            updated_at: step.completed_at.unwrap_or(step.started_at),
        }
    }
}

/// Who has stopped an execution, and who has let it go on.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pause {
    pub paused_at: Time,
    pub paused_by: String,
    pub reason: String,
    /// Where a guard of the document has stopped it: the step before which it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_at_step_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_by: Option<String>,
}

/// An execution that waits for a person.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PausedExecution {
    pub id: Uuid,
    pub workflow_id: Option<String>,
    pub status: Status,
    pub started_at: Time,
    pub pause_metadata: Option<Pause>,
    #[schema(value_type = Value)]
    pub context: Json,
    #[schema(value_type = Value)]
    pub input: Json,
}

/// A workflow as a row.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OlderWorkflow)]
pub(super) struct Workflow {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    /// What its file says, as JSON; null where it is Rust code.
    #[schema(value_type = Option<Value>)]
    pub definition: Option<serde_json::Value>,
    pub version: i32,
    pub enabled: bool,
    pub created_at: Time,
    pub updated_at: Time,
    pub last_run: Option<LastRun>,
}

/// A workflow's newest execution.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LastRun {
    pub id: Uuid,
    pub status: Status,
    pub started_at: Time,
    pub completed_at: Option<Time>,
    pub triggered_by: Option<String>,
}

/// An execution of a workflow as a row, with the number of its steps.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OlderHistoryRow)]
pub(super) struct HistoryRow {
    pub id: Uuid,
    pub workflow_id: Option<String>,
    pub status: Status,
    #[schema(value_type = Value)]
    pub input: Json,
    #[schema(value_type = Option<Value>)]
    pub output: Option<Json>,
    pub started_at: Time,
    pub completed_at: Option<Time>,
    pub error: Option<String>,
    pub triggered_by: Option<String>,
    pub github_run_id: Option<String>,
    /// Steps that it has begun.
    pub total_steps: i64,
    pub completed_steps: i64,
}

/// How the configured servers of tools are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy`, or `degraded` where a server does not answer.
    pub status: &'static str,
    pub servers: BTreeMap<String, ServerHealth>,
    pub timestamp: Time,
}

/// How one of them is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServerHealth {
    /// `ok` or `error`.
    pub status: &'static str,
    pub server: String,
    pub timestamp: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

//! What operators look at and set: queues, workers, workflows, the size of it all.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;
use super::json;

/// A queue with what stands in it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct QueueLine {
    pub name: String,
    pub paused: bool,
    pub paused_by: Option<String>,
    pub paused_at: Option<DateTime<Utc>>,
    pub max_running: Option<i32>,
    pub exclusive: bool,
    pub queued: i64,
    pub held: i64,
    pub running: i64,
    pub scheduled: i64,
    pub waiting: i64,
    pub resuming: i64,
    pub runs_paused: i64,
    pub oldest_ready_at: Option<DateTime<Utc>>,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// All queues, or one by name.
///
/// # Errors
/// Whatever the database says.
pub async fn queues<'c>(
    db: impl Executor<'c, Database = Postgres>,
    name: Option<&str>,
) -> Result<Vec<QueueLine>, DbError> {
    Ok(sqlx::query_file_as!(QueueLine, "src/db/sql/queues_list.sql", name as Option<&str>).fetch_all(db).await?)
}

/// Stops a queue's claims, or lets them go on.
///
/// # Errors
/// Whatever the database says.
pub async fn pause_queue<'c>(
    db: impl Executor<'c, Database = Postgres>,
    name: &str,
    paused: bool,
) -> Result<(), DbError> {
    if paused {
        sqlx::query_file!("src/db/sql/pause_queue.sql", name).fetch_one(db).await?;
    } else {
        sqlx::query_file!("src/db/sql/unpause_queue.sql", name).fetch_one(db).await?;
    }
    Ok(())
}

/// Sets how many runs of a queue may be queued or running at once; `None`: any number.
///
/// # Errors
/// Whatever the database says.
pub async fn limit_queue<'c>(
    db: impl Executor<'c, Database = Postgres>,
    name: &str,
    most: Option<i32>,
) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/limit_queue.sql", name, most as Option<i32>).fetch_one(db).await?;
    Ok(())
}

/// A registered worker.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct WorkerLine {
    pub id: Uuid,
    /// Is its last heartbeat younger than its lease?
    pub alive: bool,
    pub stopping: bool,
    pub host: String,
    pub pid: i32,
    pub started_at: DateTime<Utc>,
    pub beat_at: DateTime<Utc>,
    pub running: i64,
    pub slots: i32,
    /// `None`: all queues that are not exclusive.
    pub queues: Option<Vec<String>>,
    pub version: String,
    pub lease_ms: i64,
    /// What it runs, the first hundred.
    pub runs: Vec<Uuid>,
    /// JSON text.
    #[serde(serialize_with = "json::text")]
    #[schema(value_type = Value)]
    pub facts: String,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// All registered workers, the oldest first.
///
/// # Errors
/// Whatever the database says.
pub async fn workers<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<WorkerLine>, DbError> {
    Ok(sqlx::query_file_as!(WorkerLine, "src/db/sql/workers_list.sql").fetch_all(db).await?)
}

/// A workflow, and how its runs of the last day went.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct WorkflowLine {
    pub name: String,
    /// May new jobs name it?
    pub active: bool,
    pub queue: String,
    pub priority: i32,
    pub source: Option<String>,
    pub loaded_at: DateTime<Utc>,
    pub retired_at: Option<DateTime<Utc>>,
    pub definition: i32,
    pub hash: String,
    /// Unfinished runs.
    pub in_flight: i64,
    /// Runs enqueued in the last day.
    pub runs: i64,
    /// Those of them that have failed.
    pub failed: i64,
    /// How long half of the completed ones took at the most, in seconds from their first claim.
    pub p50: Option<f64>,
    /// … and 95 of a hundred.
    pub p95: Option<f64>,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// All workflows, or one by name.
///
/// # Errors
/// Whatever the database says.
pub async fn workflows<'c>(
    db: impl Executor<'c, Database = Postgres>,
    name: Option<&str>,
) -> Result<Vec<WorkflowLine>, DbError> {
    Ok(sqlx::query_file_as!(WorkflowLine, "src/db/sql/workflows_list.sql", name as Option<&str>).fetch_all(db).await?)
}

/// Unfinished runs of a workflow that have a definition and a state in common.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct InFlight {
    /// `None`: never claimed, so not pinned to a definition yet.
    pub definition: Option<i32>,
    pub hash: Option<String>,
    pub loaded_at: Option<DateTime<Utc>>,
    pub state: String,
    pub n: i64,
}

/// The unfinished runs of a workflow, counted.
///
/// # Errors
/// Whatever the database says.
pub async fn in_flight<'c>(
    db: impl Executor<'c, Database = Postgres>,
    workflow: &str,
) -> Result<Vec<InFlight>, DbError> {
    Ok(sqlx::query_file_as!(InFlight, "src/db/sql/workflow_in_flight.sql", workflow).fetch_all(db).await?)
}

/// Retires a workflow: new jobs may not name it any more. Is it by this call?
///
/// # Errors
/// Whatever the database says.
pub async fn retire<'c>(db: impl Executor<'c, Database = Postgres>, workflow: &str) -> Result<bool, DbError> {
    Ok(sqlx::query_file!("src/db/sql/retire_workflow.sql", workflow, None::<DateTime<Utc>>)
        .fetch_one(db)
        .await?
        .retired)
}

/// One of stepd's tables.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TableSize {
    pub name: String,
    /// As the planner believes.
    pub rows: i64,
    pub bytes: i64,
    pub index_bytes: i64,
    pub live: i64,
    pub dead: i64,
    /// Rows changed since the last ANALYZE.
    pub changed: i64,
    pub vacuumed_at: Option<DateTime<Utc>>,
    pub analyzed_at: Option<DateTime<Utc>>,
    /// Has somebody switched autovacuum off for it?
    pub switched_off: bool,
    /// The server's time.
    pub now: DateTime<Utc>,
}

/// stepd's tables, the largest first.
///
/// # Errors
/// Whatever the database says.
pub async fn tables<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<TableSize>, DbError> {
    Ok(sqlx::query_file_as!(TableSize, "src/db/sql/table_sizes.sql").fetch_all(db).await?)
}

/// Runs in a state.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct StateCount {
    pub state: String,
    pub n: i64,
    /// From the statistics, because there are too many to be counted.
    pub estimated: bool,
}

/// How many runs there are in each state.
///
/// # Errors
/// Whatever the database says.
pub async fn states<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<StateCount>, DbError> {
    Ok(sqlx::query_file_as!(StateCount, "src/db/sql/state_counts.sql").fetch_all(db).await?)
}

/// The server's time.
///
/// # Errors
/// Whatever the database says.
pub async fn now<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<DateTime<Utc>, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/now.sql").fetch_one(db).await?)
}

/// How the history grows.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Growth {
    /// When the oldest ended run was enqueued.
    pub oldest: Option<DateTime<Utc>>,
    /// On each of the last days on which any ended, at most eight.
    pub runs_a_day: i64,
    /// Ended runs that are there.
    pub ended: Option<i64>,
    /// The server's time.
    pub now: DateTime<Utc>,
}

/// How the history grows.
///
/// # Errors
/// Whatever the database says.
pub async fn growth<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Growth, DbError> {
    Ok(sqlx::query_file_as!(Growth, "src/db/sql/growth.sql").fetch_one(db).await?)
}

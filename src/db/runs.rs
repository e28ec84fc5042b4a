//! Runs, as people look at them: by id, by filter, with their steps.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{Executor, Postgres, QueryBuilder, Row};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::model::{Failure, Payload, RunState, code};

use super::error::DbError;
use super::json;

/// What a list of runs is narrowed down by. Empty: all runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Words of run states.
    pub states: Vec<String>,
    /// Names of workflows.
    pub workflows: Vec<String>,
    /// Names of queues.
    pub queues: Vec<String>,
    /// Labels that a run must have, by their text: `1` finds the number and the string.
    pub labels: Vec<(String, String)>,
    /// The session that a run must belong to.
    pub session: Option<String>,
    /// Enqueued at this time or later.
    pub since: Option<DateTime<Utc>>,
}

/// A line of a list of runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct RunLine {
    pub id: Uuid,
    pub state: String,
    pub workflow: String,
    pub queue: String,
    pub priority: i32,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
    pub step: Option<String>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub resumes: i32,
    pub crashes: i32,
    pub unique_key: Option<String>,
    pub session_id: Option<String>,
    /// JSON text.
    #[serde(serialize_with = "json::text")]
    #[schema(value_type = Value)]
    pub labels: String,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

impl Filter {
    /// The conditions, behind `WHERE true`.
    pub(super) fn conditions(&self, sql: &mut QueryBuilder<Postgres>) {
        if !self.states.is_empty() {
            // Written out, so that the planner can leave out the half of the view that has none of them: the words are known ones.
            let known = self.states.iter().filter_map(|word| RunState::from_word(word));
            let words = known.map(|state| format!("'{}'", state.as_str())).collect::<Vec<_>>().join(", ");
            let words = if words.is_empty() { "NULL".to_owned() } else { words };
            sql.push(format_args!(" AND r.state IN ({words})"));
        }
        for (column, words) in [("r.workflow", &self.workflows), ("r.queue", &self.queues)] {
            if !words.is_empty() {
                sql.push(format_args!(" AND {column} = ANY (")).push_bind(words.clone()).push(")");
            }
        }
        if let Some(session) = &self.session {
            sql.push(" AND r.session_id = ").push_bind(session.clone());
        }
        for (key, value) in &self.labels {
            // By containment, which an index knows; a number or a truth is found by its text, too.
            let of = |value: Value| serde_json::json!({ key.as_str(): value }).to_string();
            sql.push(" AND r.labels <> '{}' AND (r.labels @> ").push_bind(of(value.as_str().into())).push("::jsonb");
            if let Ok(other @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(value) {
                sql.push(" OR r.labels @> ").push_bind(of(other)).push("::jsonb");
            }
            sql.push(")");
        }
        if let Some(since) = self.since {
            // Ids grow with time: the primary key answers it.
            sql.push(" AND r.id >= ").push_bind(first_id_at(since));
        }
    }
}

/// The smallest UUIDv7 of an instant.
#[must_use]
pub fn first_id_at(at: DateTime<Utc>) -> Uuid {
    let ms = u128::try_from(at.timestamp_millis().max(0)).unwrap_or(0);
    Uuid::from_u128(ms << 80)
}

/// The newest runs that a filter leaves and that are older than `before`, newest first; planned anew for these very values.
///
/// # Errors
/// Whatever the database says.
pub async fn page<'c>(
    db: impl Executor<'c, Database = Postgres>,
    filter: &Filter,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<RunLine>, DbError> {
    let mut sql = QueryBuilder::new(
        "SELECT r.id, r.state::text AS state, r.workflow, r.queue, r.priority, r.created_at, r.started_at, r.ended_at, r.due_at,
            r.step, r.error_code, r.error_message, r.resumes, r.crashes, r.unique_key, r.session_id, r.labels::text AS labels, statement_timestamp() AS now
        FROM stepd.runs r WHERE true",
    );
    filter.conditions(&mut sql);
    if let Some(before) = before {
        sql.push(" AND r.id < ").push_bind(before);
    }
    sql.push(" ORDER BY r.id DESC LIMIT ").push_bind(limit);
    let rows = sql.build().persistent(false).fetch_all(db).await?;
    rows.into_iter().map(|row| line(&row).map_err(DbError::from)).collect()
}

fn line(row: &sqlx::postgres::PgRow) -> Result<RunLine, sqlx::Error> {
    Ok(RunLine {
        id: row.try_get("id")?,
        state: row.try_get("state")?,
        workflow: row.try_get("workflow")?,
        queue: row.try_get("queue")?,
        priority: row.try_get("priority")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        due_at: row.try_get("due_at")?,
        step: row.try_get("step")?,
        error_code: row.try_get("error_code")?,
        error_message: row.try_get("error_message")?,
        resumes: row.try_get("resumes")?,
        crashes: row.try_get("crashes")?,
        unique_key: row.try_get("unique_key")?,
        session_id: row.try_get("session_id")?,
        labels: row.try_get("labels")?,
        now: row.try_get("now")?,
    })
}

/// The ids of all runs that a filter leaves, oldest first.
///
/// # Errors
/// Whatever the database says.
pub async fn ids<'c>(db: impl Executor<'c, Database = Postgres>, filter: &Filter) -> Result<Vec<Uuid>, DbError> {
    let mut sql = QueryBuilder::new("SELECT r.id FROM stepd.runs r WHERE true");
    filter.conditions(&mut sql);
    sql.push(" ORDER BY r.id");
    Ok(sql.build_query_scalar().persistent(false).fetch_all(db).await?)
}

/// A run that a prefix may mean.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Candidate {
    pub id: Uuid,
    pub workflow: String,
    pub state: String,
    pub created_at: DateTime<Utc>,
}

/// The first runs of an id range, both ends included.
///
/// # Errors
/// Whatever the database says.
pub async fn between<'c>(
    db: impl Executor<'c, Database = Postgres>,
    low: Uuid,
    high: Uuid,
    limit: i64,
) -> Result<Vec<Candidate>, DbError> {
    Ok(sqlx::query_file_as!(Candidate, "src/db/sql/runs_between.sql", low, high, limit).fetch_all(db).await?)
}

/// The newest run.
///
/// # Errors
/// Whatever the database says.
pub async fn last<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Option<Uuid>, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/last_run.sql").fetch_optional(db).await?)
}

/// A run with all that is known of it. Payloads are JSON text.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct RunDetail {
    pub id: Uuid,
    pub state: String,
    pub workflow: String,
    pub queue: String,
    pub priority: i32,
    pub created_at: DateTime<Utc>,
    pub run_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
    pub step: Option<String>,
    pub attempts: Option<i32>,
    pub resumes: i32,
    pub crashes: i32,
    pub unique_key: Option<String>,
    #[serde(serialize_with = "json::text")]
    #[schema(value_type = Value)]
    pub labels: String,
    #[serde(serialize_with = "json::text")]
    #[schema(value_type = Value)]
    pub input: String,
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub output: Option<String>,
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub error: Option<String>,
    pub created_by: Option<String>,
    pub session_id: Option<String>,
    pub epoch: i32,
    /// The run that this one replays …
    pub forked_from: Option<Uuid>,
    /// … from this step on.
    pub from_step: Option<String>,
    /// Calls of models, those included that failed.
    pub calls: Option<i64>,
    pub tokens_in: Option<i64>,
    pub tokens_out: Option<i64>,
    pub cost: Option<f64>,
    /// The run whose step started it.
    pub parent: Option<Uuid>,
    /// The worker that runs it, or that ended it.
    pub worker: Option<Uuid>,
    pub why: String,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// A step of a run. Payloads are JSON text.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct StepLine {
    /// Its place in the order in which the steps of its run started.
    pub seq: i32,
    pub key: String,
    pub kind: String,
    pub state: String,
    pub attempts: i32,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub output: Option<String>,
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub error: Option<String>,
    pub event: Option<String>,
    pub epoch: i32,
    pub label: Option<String>,
    /// Calls of models, those included that failed.
    pub calls: Option<i64>,
    pub tokens_in: Option<i64>,
    pub tokens_out: Option<i64>,
    pub cost: Option<f64>,
    /// The run that it has started.
    pub child: Option<Uuid>,
    /// What was decided: the case of a `switch`, the state in which the run ends.
    pub chosen: Option<String>,
}

/// A line of a run's audit trail.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct HistoryLine {
    /// Its place in the trail, from 1; it may shift when a late record comes in before it. Of a part of the trail: 0.
    #[serde(skip)]
    pub seq: i64,
    pub at: DateTime<Utc>,
    pub event: String,
    pub key: Option<String>,
    pub attempt: Option<i32>,
    pub by_whom: Option<String>,
    pub epoch: Option<i32>,
    /// JSON text.
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub data: Option<String>,
}

/// One run.
///
/// # Errors
/// Whatever the database says.
pub async fn detail<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Option<RunDetail>, DbError> {
    Ok(sqlx::query_file_as!(RunDetail, "src/db/sql/run_detail.sql", run).fetch_optional(db).await?)
}

/// Which steps of a run.
#[derive(Clone, Debug, Default)]
pub struct StepsWanted {
    /// With their outputs.
    pub outputs: bool,
    /// Words of step states; empty: all.
    pub states: Vec<String>,
    /// Those after this one: its number, and its key.
    pub after: Option<(i32, String)>,
    /// At the most; `None`: all.
    pub limit: Option<i64>,
}

/// A run's steps in the order of their start, each with its number.
///
/// # Errors
/// Whatever the database says.
pub async fn steps<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    wanted: &StepsWanted,
) -> Result<Vec<StepLine>, DbError> {
    let states = (!wanted.states.is_empty()).then_some(wanted.states.as_slice());
    let (seq, key) = wanted.after.as_ref().map(|(seq, key)| (*seq, key.as_str())).unzip();
    let rows =
        sqlx::query_file_as!(StepLine, "src/db/sql/run_steps.sql", run, wanted.outputs, states, seq, key, wanted.limit);
    Ok(rows.fetch_all(db).await?)
}

/// A run's audit trail, without its steps' starts and ends.
///
/// # Errors
/// Whatever the database says.
pub async fn history<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Vec<HistoryLine>, DbError> {
    history_page(db, run, None, None, false).await
}

/// What happened to a run, but for its steps' starts and ends, page by page as [`log_page`].
///
/// # Errors
/// Whatever the database says.
pub async fn history_page<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    after: Option<i64>,
    limit: Option<i64>,
    newest: bool,
) -> Result<Vec<HistoryLine>, DbError> {
    let file = sqlx::query_file_as!(HistoryLine, "src/db/sql/run_history.sql", run, after, limit, newest);
    Ok(file.fetch_all(db).await?)
}

/// Everything that happened to a run, in order.
///
/// # Errors
/// Whatever the database says.
pub async fn log<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Vec<HistoryLine>, DbError> {
    log_page(db, run, None, None, false).await
}

/// Everything that happened to a run, in order or the `newest` first: what comes after a line, `limit` lines at the most.
///
/// # Errors
/// Whatever the database says.
pub async fn log_page<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    after: Option<i64>,
    limit: Option<i64>,
    newest: bool,
) -> Result<Vec<HistoryLine>, DbError> {
    Ok(sqlx::query_file_as!(HistoryLine, "src/db/sql/run_log.sql", run, after, limit, newest).fetch_all(db).await?)
}

/// Where a run stands.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Progress {
    pub state: String,
    /// What it waits for; `None` once it has ended.
    pub why: Option<String>,
    /// Checkpoints so far, where they were asked for.
    pub done: i64,
}

/// Where a run stands; counting its checkpoints costs, so say whether anyone looks.
///
/// # Errors
/// Whatever the database says.
pub async fn progress<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    count: bool,
) -> Result<Option<Progress>, DbError> {
    Ok(sqlx::query_file_as!(Progress, "src/db/sql/run_progress.sql", run, count).fetch_optional(db).await?)
}

/// What a run ended with. Payloads are JSON text.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RunResult {
    pub output: Option<String>,
    pub error: Option<String>,
    pub step: Option<String>,
}

/// What a run ended with.
///
/// # Errors
/// Whatever the database says.
pub async fn result<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Option<RunResult>, DbError> {
    Ok(sqlx::query_file_as!(RunResult, "src/db/sql/run_result.sql", run).fetch_optional(db).await?)
}

/// How a run ended, if it has.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum End {
    Unknown,
    /// Not yet.
    Live,
    Completed(Payload),
    Failed(Failure),
    Cancelled,
}

/// How a run ended, if it has.
///
/// # Errors
/// Whatever the database says.
pub async fn end<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<End, DbError> {
    let row = sqlx::query_file!("src/db/sql/run_end.sql", run).fetch_one(db).await?;
    let failure = || {
        let told = row.error.as_deref().and_then(|text| serde_json::from_str(text).ok());
        told.unwrap_or_else(|| Failure::permanent(code::INTERNAL, "the recorded failure cannot be read"))
    };
    Ok(match row.state.as_deref() {
        Some("completed") => End::Completed(row.output.map_or_else(Payload::null, Payload::from_database)),
        Some("failed") => End::Failed(failure()),
        Some(_) => End::Cancelled,
        None if row.known => End::Live,
        None => End::Unknown,
    })
}

/// The approvals that a run waits for: the step's key, the question, and the JSON Schema of the answer where one is asked for.
///
/// # Errors
/// Whatever the database says.
pub async fn approvals<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
) -> Result<Vec<(String, Option<String>, Option<String>)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/run_approvals.sql", run).fetch_all(db).await?;
    Ok(rows.into_iter().map(|r| (r.key, r.prompt, r.schema)).collect())
}

/// The sentence on where a run stands.
///
/// # Errors
/// Whatever the database says.
pub async fn why<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/why.sql", run).fetch_one(db).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_first_id_of_its_millisecond() {
        let at = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
        let id = first_id_at(at);
        assert_eq!(id.to_string(), "018bcfe5-687b-0000-0000-000000000000");
        assert!(id < Uuid::now_v7());
    }
}

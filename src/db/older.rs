//! Runs and workflows as the API of the older system shows them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, Executor, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::model::RunState;

use super::actions::{self, NewJob};
use super::definitions::{self, Given};
use super::error::DbError;
use super::runs::Filter;

/// The workflow that stands for documents which a request brings along. No file can be called so.
pub const ADHOC: &str = "(adhoc)";

/// A line of a list of runs.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Line {
    pub id: Uuid,
    pub workflow: String,
    pub state: String,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error_message: Option<String>,
    pub triggered_by: Option<String>,
    pub github_run_id: Option<String>,
    /// It waits for a person, at a guard of its document.
    pub on_hold: bool,
}

/// A run with its payloads, which are JSON text.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Execution {
    pub line: Line,
    pub input: String,
    pub output: Option<String>,
    pub definition: Option<i32>,
    /// How many steps it has begun, and how many of them have completed, where that was asked for.
    pub steps: Option<(i64, i64)>,
}

macro_rules! line {
    ($row:expr) => {
        Line {
            id: $row.id,
            workflow: $row.workflow,
            state: $row.state,
            created_at: $row.created_at,
            started_at: $row.started_at,
            ended_at: $row.ended_at,
            error_message: $row.error_message,
            triggered_by: $row.triggered_by,
            github_run_id: $row.github_run_id,
            on_hold: $row.on_hold,
        }
    };
}

macro_rules! execution {
    ($row:expr, $steps:expr) => {
        Execution {
            input: $row.input,
            output: $row.output,
            definition: $row.definition,
            steps: $steps,
            line: line!($row),
        }
    };
}

/// The newest runs, newest first. `hold` is what a guard asks a person.
///
/// # Errors
/// Whatever the database says.
pub async fn recent<'c>(
    db: impl Executor<'c, Database = Postgres>,
    limit: i64,
    hold: &str,
) -> Result<Vec<Line>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/older_executions.sql", limit, hold).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| line!(row)).collect())
}

/// One run.
///
/// # Errors
/// Whatever the database says.
pub async fn execution<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    hold: &str,
) -> Result<Option<Execution>, DbError> {
    let row = sqlx::query_file!("src/db/sql/older_execution.sql", run, hold).fetch_optional(db).await?;
    Ok(row.map(|row| execution!(row, None)))
}

/// The newest runs of a workflow, newest first, some left out at the beginning.
///
/// # Errors
/// Whatever the database says.
pub async fn history(
    db: &PgPool,
    workflow: &str,
    (limit, offset): (i64, i64),
    hold: &str,
) -> Result<Vec<Execution>, DbError> {
    let ids = newest(db, &of(workflow), limit, offset).await?;
    let rows = sqlx::query_file!("src/db/sql/older_history.sql", &ids, hold).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| execution!(row, Some((row.steps, row.completed)))).collect())
}

/// The ids of the newest runs that a filter leaves, newest first, some left out at the beginning. Planned anew for these very values.
async fn newest(db: &PgPool, filter: &Filter, limit: i64, offset: i64) -> Result<Vec<Uuid>, DbError> {
    let mut sql = QueryBuilder::new("SELECT r.id FROM stepd.runs r WHERE true");
    filter.conditions(&mut sql);
    sql.push(" ORDER BY r.id DESC LIMIT ").push_bind(limit).push(" OFFSET ").push_bind(offset);
    Ok(sql.build_query_scalar().persistent(false).fetch_all(db).await?)
}

fn of(workflow: &str) -> Filter {
    Filter { workflows: vec![workflow.to_owned()], ..Filter::default() }
}

/// The ended ones.
fn ended(workflow: &str) -> Filter {
    let states = RunState::ALL.into_iter().filter(|state| state.is_final()).map(|state| state.as_str().to_owned());
    Filter { states: states.collect(), ..of(workflow) }
}

/// So many ended runs of a workflow are counted; then the statistics are asked.
const COUNTED: i64 = 1_000;

/// How many runs a workflow has; of one with many, about.
///
/// # Errors
/// Whatever the database says.
pub async fn total(db: &PgPool, workflow: &str) -> Result<i64, DbError> {
    let some = newest(db, &ended(workflow), COUNTED, 0).await?;
    let counted = i64::try_from(some.len()).unwrap_or(COUNTED);
    Ok(sqlx::query_file_scalar!("src/db/sql/older_total.sql", workflow, counted).fetch_one(db).await?)
}

/// Runs that wait for a person to let them go on, oldest first, at most so many.
///
/// # Errors
/// Whatever the database says.
pub async fn paused<'c>(
    db: impl Executor<'c, Database = Postgres>,
    hold: &str,
    limit: i64,
) -> Result<Vec<Execution>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/older_paused.sql", hold, limit).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| execution!(row, None)).collect())
}

/// A step.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Step {
    pub run: Uuid,
    pub key: String,
    pub kind: String,
    pub state: String,
    pub attempts: i32,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error_message: Option<String>,
    /// JSON text.
    pub output: Option<String>,
}

/// The steps of some runs, each run's in the order of their start.
///
/// # Errors
/// Whatever the database says.
pub async fn steps<'c>(db: impl Executor<'c, Database = Postgres>, runs: &[Uuid]) -> Result<Vec<Step>, DbError> {
    Ok(sqlx::query_file_as!(Step, "src/db/sql/older_steps.sql", runs).fetch_all(db).await?)
}

/// A line of the audit trail: somebody has stopped a run, or let it go on.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Pause {
    pub run: Uuid,
    /// `paused`, `unpaused`; `approved` and `rejected` at a guard.
    pub kind: String,
    pub at: DateTime<Utc>,
    pub by_whom: Option<String>,
    pub key: Option<String>,
    pub reason: Option<String>,
}

/// Who has stopped some runs and let them go on, each run's in order.
///
/// # Errors
/// Whatever the database says.
pub async fn pauses<'c>(db: impl Executor<'c, Database = Postgres>, runs: &[Uuid]) -> Result<Vec<Pause>, DbError> {
    Ok(sqlx::query_file_as!(Pause, "src/db/sql/older_pauses.sql", runs).fetch_all(db).await?)
}

/// The texts of definitions, by their ids.
///
/// # Errors
/// Whatever the database says.
pub async fn bodies<'c>(
    db: impl Executor<'c, Database = Postgres>,
    ids: &[i32],
) -> Result<Vec<(i32, String)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/older_bodies.sql", ids).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.body)).collect())
}

/// A workflow.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Workflow {
    pub name: String,
    pub definition: i32,
    pub enabled: bool,
    pub loaded_at: DateTime<Utc>,
    /// `None`: it is Rust code.
    pub body: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// All workflows, or one by name.
///
/// # Errors
/// Whatever the database says.
pub async fn workflows<'c>(
    db: impl Executor<'c, Database = Postgres>,
    name: Option<&str>,
) -> Result<Vec<Workflow>, DbError> {
    let wanted = name as Option<&str>;
    Ok(sqlx::query_file_as!(Workflow, "src/db/sql/older_workflows.sql", wanted, ADHOC).fetch_all(db).await?)
}

/// The newest runs of some workflows, by their names.
///
/// # Errors
/// Whatever the database says.
pub async fn last_runs(db: &PgPool, workflows: &[Workflow], hold: &str) -> Result<HashMap<String, Line>, DbError> {
    let one = match workflows {
        [one] => Some(one.name.as_str()),
        _ => None,
    };
    let mut ids = Vec::new();
    for row in sqlx::query_file!("src/db/sql/older_last_runs.sql", one).fetch_all(db).await? {
        // None has ended for long: an index finds what is rare.
        let ended = if row.whole { Vec::new() } else { newest(db, &ended(&row.workflow), 1, 0).await? };
        ids.extend(ended.into_iter().chain(row.id).max());
    }
    let rows = sqlx::query_file!("src/db/sql/older_lines.sql", &ids, hold).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| (row.workflow.clone(), line!(row))).collect())
}

/// Where a run stands: its state, and whether it waits for a person at a guard.
///
/// # Errors
/// Whatever the database says.
pub async fn standing<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    hold: &str,
) -> Result<Option<(String, bool)>, DbError> {
    let row = sqlx::query_file!("src/db/sql/older_standing.sql", run, hold).fetch_optional(db).await?;
    Ok(row.map(|row| (row.state, row.on_hold)))
}

/// A document that a request has brought along.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Document<'a> {
    pub hash: &'a str,
    pub body: &'a str,
}

fn given<'a>(document: &Document<'a>) -> Given<'a> {
    Given {
        workflow: ADHOC,
        hash: document.hash,
        body: Some(document.body),
        queue: "default",
        priority: 5,
        flow: None,
        source: None,
        handlers: false,
        known: false,
    }
}

/// Enqueues a run of a document, which any worker can then read from the database; gives its id and true, or the id of the run that was
/// enqueued with this key before, and false. `empty` is a document without steps.
///
/// # Errors
/// Whatever the database says.
pub async fn enqueue(
    conn: &mut PgConnection,
    document: &Document<'_>,
    empty: &Document<'_>,
    job: &NewJob,
) -> Result<(Uuid, bool), DbError> {
    let mut tx = conn.begin().await?;
    let definition = definitions::define(&mut tx, given(document)).await?;
    let nothing = definitions::define(&mut tx, given(empty)).await?;
    sqlx::query_file!("src/db/sql/older_adopt.sql", ADHOC, nothing).execute(&mut *tx).await?;
    let (id, created) = actions::enqueue_within(&mut tx, job).await?;
    if created {
        sqlx::query_file!("src/db/sql/older_pin.sql", id, definition).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok((id, created))
}

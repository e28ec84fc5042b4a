//! What `stepd demo` reads and writes: through the public schema `stepd` alone, as any application would, and its
//! own table of effects.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::error::DbError;

/// The job, as an application inserts it.
pub const INSERT: &str =
    "INSERT INTO stepd.jobs (workflow, input) VALUES ('ship_orders', '{\"orders\": 16}') RETURNING id";
/// The same in a queue of the demo's own: that of a database with other workers.
pub const INSERT_QUEUE: &str = "INSERT INTO stepd.jobs (workflow, input, queue)\nVALUES ('ship_orders', '{\"orders\": 16}', 'stepd_demo') RETURNING id";

/// The demo's own schema. The table has no unique key on purpose: a doubled effect must be able to show.
const PREPARE: &str = "DROP SCHEMA IF EXISTS stepd_demo CASCADE;
CREATE SCHEMA stepd_demo;
CREATE TABLE stepd_demo.effects (
    item integer NOT NULL,
    began_at timestamptz NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    shipped_at timestamptz
);";

/// Makes the table of effects anew.
///
/// # Errors
/// Whatever the database says.
pub async fn prepare(db: &PgPool) -> Result<(), DbError> {
    sqlx::raw_sql(PREPARE).execute(db).await?;
    Ok(())
}

/// Removes it.
///
/// # Errors
/// Whatever the database says.
pub async fn clear(db: &PgPool) -> Result<(), DbError> {
    sqlx::raw_sql("DROP SCHEMA IF EXISTS stepd_demo CASCADE").execute(db).await?;
    Ok(())
}

/// The server's version, as it says it.
///
/// # Errors
/// Whatever the database says.
pub async fn version(db: &PgPool) -> Result<String, DbError> {
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(db).await?;
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

/// Process ids of the live workers, and whether the workflow is known: both must be so before a job is inserted.
///
/// # Errors
/// Whatever the database says.
pub async fn workers(db: &PgPool) -> Result<Vec<i32>, DbError> {
    Ok(sqlx::query_scalar("SELECT pid FROM stepd.workers WHERE alive AND NOT stopping").fetch_all(db).await?)
}

/// Executes the job's INSERT as it has been shown, `RETURNING id`.
///
/// # Errors
/// Whatever the database says.
pub async fn insert(db: &PgPool, statement: &'static str) -> Result<Uuid, DbError> {
    Ok(sqlx::query_scalar(statement).fetch_one(db).await?)
}

/// How a run stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its state.
    pub state: String,
    /// Claims and take-overs so far.
    pub epoch: i32,
    /// The process that runs it, if one does.
    pub holder: Option<i32>,
    /// Effects in the table.
    pub effects: i64,
    /// Programs that have ended well.
    pub packed: i64,
    /// `sql` steps under way.
    pub sql_in_flight: i64,
    /// `run` steps under way.
    pub run_in_flight: i64,
    /// The question that it waits with.
    pub question: Option<String>,
}

/// Looks at a run.
///
/// # Errors
/// Whatever the database says.
pub async fn standing(db: &PgPool, run: Uuid) -> Result<Standing, DbError> {
    let row = sqlx::query(
        "SELECT r.state::text, r.epoch, (SELECT w.pid FROM stepd.workers w WHERE w.id = r.worker AND r.state = 'running') AS holder,
            (SELECT count(*) FROM stepd_demo.effects) AS effects, s.packed, s.sql_in_flight, s.run_in_flight,
            (SELECT q.prompt FROM stepd.waiting q WHERE q.run = r.id LIMIT 1) AS question
        FROM stepd.runs r, LATERAL (
            SELECT count(*) FILTER (WHERE kind = 'run' AND state = 'completed') AS packed,
                count(*) FILTER (WHERE kind = 'sql' AND state = 'running') AS sql_in_flight,
                count(*) FILTER (WHERE kind = 'run' AND state = 'running') AS run_in_flight
            FROM stepd.steps WHERE run = r.id) s
        WHERE r.id = $1",
    )
    .bind(run)
    .fetch_one(db)
    .await?;
    Ok(Standing {
        state: row.try_get("state")?,
        epoch: row.try_get("epoch")?,
        holder: row.try_get("holder")?,
        effects: row.try_get("effects")?,
        packed: row.try_get("packed")?,
        sql_in_flight: row.try_get("sql_in_flight")?,
        run_in_flight: row.try_get("run_in_flight")?,
        question: row.try_get("question")?,
    })
}

/// The server's clock.
///
/// # Errors
/// Whatever the database says.
pub async fn clock(db: &PgPool) -> Result<DateTime<Utc>, DbError> {
    Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(db).await?)
}

/// When the first effect after `since` began: the start of its step's transaction. Until it has committed, nothing.
///
/// # Errors
/// Whatever the database says.
pub async fn first_effect_after(db: &PgPool, since: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, DbError> {
    let sql = "SELECT min(began_at) FROM stepd_demo.effects WHERE began_at > $1";
    Ok(sqlx::query_scalar(sql).bind(since).fetch_one(db).await?)
}

/// The steps that were under way when the run was taken from its dead worker.
///
/// # Errors
/// Whatever the database says.
pub async fn interrupted(db: &PgPool, run: Uuid) -> Result<Vec<String>, DbError> {
    let sql = "SELECT s.key FROM stepd.history h, json_array_elements_text(h.data -> 'steps') k(key)
        JOIN stepd.steps s ON s.key = k.key
        WHERE h.run = $1 AND h.event = 'crashed' AND s.run = $1 AND s.kind <> 'map'
        ORDER BY substring(s.key FROM '\\d+')::int, s.seq";
    Ok(sqlx::query_scalar(sql).bind(run).fetch_all(db).await?)
}

/// The answer to the approval, as a person writes it.
#[must_use]
pub fn answer_in_words(run: Uuid, yes: bool) -> String {
    format!("SELECT stepd.{}('{run}')", if yes { "approve" } else { "reject" })
}

/// Answers the approval.
///
/// # Errors
/// Whatever the database says.
pub async fn answer(db: &PgPool, run: Uuid, yes: bool) -> Result<(), DbError> {
    let sql = if yes { "SELECT stepd.approve($1, note => 'demo')" } else { "SELECT stepd.reject($1, note => 'demo')" };
    sqlx::query(sql).bind(run).execute(db).await?;
    Ok(())
}

/// One sentence on what a run waits for.
///
/// # Errors
/// Whatever the database says.
pub async fn why(db: &PgPool, run: Uuid) -> Result<String, DbError> {
    Ok(sqlx::query_scalar("SELECT stepd.why($1)").bind(run).fetch_one(db).await?)
}

/// A step, as `stepd.steps` has it.
#[derive(Clone, Debug)]
pub struct StepSpan {
    /// Its key.
    pub key: String,
    /// Its kind.
    pub kind: String,
    /// Its state.
    pub state: String,
    /// The claim that recorded it.
    pub epoch: i32,
    /// When its first attempt started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The steps of a run, in the order of their starts.
///
/// # Errors
/// Whatever the database says.
pub async fn steps(db: &PgPool, run: Uuid) -> Result<Vec<StepSpan>, DbError> {
    let sql =
        "SELECT key, kind, state::text, epoch, started_at, ended_at FROM stepd.steps WHERE run = $1 ORDER BY seq, key";
    let rows = sqlx::query(sql).bind(run).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            Ok(StepSpan {
                key: row.try_get("key")?,
                kind: row.try_get("kind")?,
                state: row.try_get("state")?,
                epoch: row.try_get("epoch")?,
                started_at: row.try_get("started_at")?,
                ended_at: row.try_get("ended_at")?,
            })
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(DbError::from)
}

/// What the table of effects says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Rows.
    pub effects: i64,
    /// Items without a row.
    pub lost: i64,
    /// Rows beyond the first of an item, and rows of items that were never ordered.
    pub doubled: i64,
}

/// Counts the effects of items 1 to `items`.
///
/// # Errors
/// Whatever the database says.
pub async fn count(db: &PgPool, items: i32) -> Result<Count, DbError> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM stepd_demo.effects) AS effects,
            count(*) FILTER (WHERE n = 0) AS lost,
            (SELECT count(*) FROM stepd_demo.effects) - count(*) FILTER (WHERE n > 0) AS doubled
        FROM (SELECT i, count(e.item) AS n FROM generate_series(1, $1) i LEFT JOIN stepd_demo.effects e ON e.item = i GROUP BY i) c",
    )
    .bind(items)
    .fetch_one(db)
    .await?;
    Ok(Count { effects: row.try_get("effects")?, lost: row.try_get("lost")?, doubled: row.try_get("doubled")? })
}

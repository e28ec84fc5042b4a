//! What the metrics say of the whole database.

use sqlx::PgConnection;

use super::error::DbError;

/// Failed runs that are counted at the most.
const FAILED: i64 = 10_000;

/// Places of concurrency keys that are counted at the most: some 100 ms.
const PLACES: i64 = 100_000;

/// A queue with what stands in it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct QueueFigures {
    pub name: String,
    pub queued: i64,
    pub held: i64,
    pub running: i64,
    pub scheduled: i64,
    pub waiting: i64,
    pub resuming: i64,
    pub paused: i64,
    /// Has an operator stopped its claims?
    pub is_paused: bool,
    /// How long its oldest ready run waits, in seconds.
    pub oldest_ready: f64,
}

/// One figure each; ages in seconds.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Facts {
    /// Runs that have a place of a concurrency key.
    pub places: i64,
    pub oldest_due: f64,
    pub schedule_lag: f64,
    /// Steps whose resumes stand still.
    pub breakers: i64,
    /// Workers.
    pub alive: i64,
    pub dead: i64,
    pub slots: i64,
    pub oldest_transaction: f64,
    /// In transactions.
    pub held_back: i64,
    /// How old the oldest run of the history is.
    pub history: Option<f64>,
}

/// Failed runs of a queue.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Failed {
    pub queue: String,
    pub runs: i64,
}

/// The queues: so many of them, and the others together.
///
/// # Errors
/// Whatever the database says.
pub async fn queues(conn: &mut PgConnection, most: i64) -> Result<Vec<QueueFigures>, DbError> {
    Ok(sqlx::query_file_as!(QueueFigures, "src/db/sql/metrics_queues.sql", most).fetch_all(conn).await?)
}

/// The failed runs of the last day, by queue.
///
/// # Errors
/// Whatever the database says.
pub async fn failed(conn: &mut PgConnection) -> Result<Vec<Failed>, DbError> {
    Ok(sqlx::query_file_as!(Failed, "src/db/sql/metrics_failed.sql", FAILED).fetch_all(conn).await?)
}

/// What is one figure each.
///
/// # Errors
/// Whatever the database says.
pub async fn facts(conn: &mut PgConnection) -> Result<Facts, DbError> {
    Ok(sqlx::query_file_as!(Facts, "src/db/sql/metrics_facts.sql", PLACES).fetch_one(conn).await?)
}

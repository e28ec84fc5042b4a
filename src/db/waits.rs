//! Waits that others answer, and what operators want of running runs.

use sqlx::{Executor, Postgres};
use uuid::Uuid;

use crate::model::{Failure, Payload, RunId, StepKey, WorkerId};

use super::error::DbError;

/// Closes the gap between a wait and its suspend; false when somebody's open transaction is in the way.
///
/// # Errors
/// Whatever the database says.
pub async fn settle<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: RunId,
    keys: &[StepKey],
) -> Result<bool, DbError> {
    let keys: Vec<&str> = keys.iter().map(StepKey::as_str).collect();
    Ok(sqlx::query_file_scalar!("src/db/sql/settle.sql", run.0, &keys as &[&str]).fetch_one(db).await?)
}

/// Ends a wait by failure under its lease, unless it has been answered: true when it has not. `None`: the lease is lost.
///
/// # Errors
/// Whatever the database says.
pub async fn expire<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: RunId,
    key: &StepKey,
    failure: &Failure,
    lease: (WorkerId, i32),
) -> Result<Option<bool>, DbError> {
    let failure = serde_json::to_string(failure).unwrap_or_default();
    let (worker, epoch) = lease;
    Ok(sqlx::query_file_scalar!("src/db/sql/expire.sql", run.0, key.as_str(), failure, worker.0, epoch)
        .fetch_one(db)
        .await?)
}

/// The recorded answer of a step that has ended: its output, or its failure.
///
/// # Errors
/// Whatever the database says.
pub async fn answer_of<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: RunId,
    key: &StepKey,
) -> Result<Option<Result<Payload, Failure>>, DbError> {
    let row = sqlx::query_file!("src/db/sql/answer_of.sql", run.0, key.as_str()).fetch_optional(db).await?;
    Ok(row.map(|r| as_answer(r.output, r.error)))
}

fn as_answer(output: Option<String>, error: Option<String>) -> Result<Payload, Failure> {
    match error.and_then(|e| serde_json::from_str(&e).ok()) {
        Some(failure) => Err(failure),
        None => Ok(output.map_or_else(Payload::null, Payload::from_database)),
    }
}

/// What somebody wants of a running run.
#[derive(Debug)]
pub enum Request {
    /// Stop it.
    Cancel(RunId),
    /// Let it go when the steps that are at work have ended; or, where it says true, break them off.
    Pause(RunId, bool),
    /// One of its waits has been answered.
    Answer(RunId, StepKey, Result<Payload, Failure>),
}

/// Looks for requests to these runs, and for answers to these waits.
///
/// # Errors
/// Whatever the database says.
pub async fn requests<'c>(
    db: impl Executor<'c, Database = Postgres>,
    worker: WorkerId,
    runs: &[Uuid],
    waits: &[(Uuid, StepKey)],
) -> Result<Vec<Request>, DbError> {
    let wait_runs: Vec<Uuid> = waits.iter().map(|w| w.0).collect();
    let wait_keys: Vec<&str> = waits.iter().map(|w| w.1.as_str()).collect();
    let rows = sqlx::query_file!("src/db/sql/requests.sql", worker.0, runs, &wait_runs, &wait_keys as &[&str])
        .fetch_all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|r| match (r.kind.as_str(), r.key) {
            ("pause", _) => Request::Pause(RunId(r.run), false),
            ("pause now", _) => Request::Pause(RunId(r.run), true),
            ("answer", Some(key)) => Request::Answer(RunId(r.run), key.into(), as_answer(r.output, r.error)),
            _ => Request::Cancel(RunId(r.run)),
        })
        .collect())
}

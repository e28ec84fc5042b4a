//! The second half of a `sql` step in stepd's own database: its checkpoint.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// A step whose statement has run in the open transaction.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct FinishedStep<'a> {
    pub run: Uuid,
    pub worker: Uuid,
    pub epoch: i32,
    pub key: &'a str,
    pub seq: i32,
    pub attempts: i32,
    pub started_at: DateTime<Utc>,
    /// JSON, as it is to be recorded.
    pub output: &'a str,
    pub label: Option<&'a str>,
}

/// Writes the checkpoint under the lease. False when the lease is lost or the step is done already: then roll back.
///
/// # Errors
/// Whatever the database says.
pub async fn commit_step(conn: &mut PgConnection, step: &FinishedStep<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_file_scalar!(
        "src/db/sql/commit_step.sql",
        step.run,
        step.worker,
        step.epoch,
        step.key,
        step.seq,
        step.attempts,
        step.started_at,
        step.output,
        step.label,
    )
    .fetch_one(conn)
    .await
}

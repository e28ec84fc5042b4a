//! How runs went: of a day or less counted over the newest of them, of more read from the daily figures. So it costs the same whatever
//! the history holds.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;

/// Runs that are counted, at the most: the newest.
pub const SAMPLE: i64 = 20_000;

/// How some ended runs went.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Went {
    /// Of this workflow; null: of all.
    pub workflow: Option<String>,
    /// Enqueued (of daily figures: ended) in the stretch of time that begins here; null: in all of the span.
    pub stretch: Option<DateTime<Utc>>,
    pub runs: i64,
    pub completed: i64,
    pub failed: i64,
    pub cancelled: i64,
    /// Automatic resumes after failures.
    pub resumes: i64,
    /// Workers that died with a run.
    pub crashes: i64,
    /// How long half of the completed ones took at the most, in seconds from the first claim.
    pub p50: Option<f64>,
    /// … and 95 of a hundred.
    pub p95: Option<f64>,
    /// How long 95 of a hundred stood in line at the most, in seconds; daily figures do not know it.
    pub wait_p95: Option<f64>,
    /// Tokens of prompts; null: no model was called.
    pub tokens_in: Option<i64>,
    /// Tokens of the models' answers.
    pub tokens_out: Option<i64>,
    /// What they cost, by the configured prices.
    pub cost: Option<f64>,
    /// When the oldest of them was enqueued; of daily figures, the first day.
    pub oldest: DateTime<Utc>,
}

/// Failed runs that failed alike.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct FailedAt {
    pub workflow: String,
    /// The step; items of a map are one: `docs[*].text`.
    pub step: Option<String>,
    /// The failure's code.
    pub code: Option<String>,
    pub runs: i64,
    /// The newest of them; null where it ended long ago, or has been removed.
    pub last: Option<Uuid>,
    /// What it failed with.
    pub message: Option<String>,
}

/// How the newest ended runs went that were enqueued since an instant: by workflow and stretch, by each of them, and in all.
///
/// # Errors
/// Whatever the database says.
pub async fn went<'c>(
    db: impl Executor<'c, Database = Postgres>,
    since: DateTime<Utc>,
    stretch_seconds: i32,
) -> Result<Vec<Went>, DbError> {
    let seconds = f64::from(stretch_seconds);
    Ok(sqlx::query_file_as!(Went, "src/db/sql/ended_sample.sql", since, SAMPLE, seconds).fetch_all(db).await?)
}

/// Where they failed, the most frequent first.
///
/// # Errors
/// Whatever the database says.
pub async fn failures<'c>(
    db: impl Executor<'c, Database = Postgres>,
    since: DateTime<Utc>,
) -> Result<Vec<FailedAt>, DbError> {
    Ok(sqlx::query_file_as!(FailedAt, "src/db/sql/failures_sample.sql", since, SAMPLE).fetch_all(db).await?)
}

/// How all runs went that ended since an instant's day: by workflow and day, by each of them, and in all.
///
/// # Errors
/// Whatever the database says.
pub async fn went_by_day<'c>(
    db: impl Executor<'c, Database = Postgres>,
    since: DateTime<Utc>,
) -> Result<Vec<Went>, DbError> {
    Ok(sqlx::query_file_as!(Went, "src/db/sql/ended_days.sql", since).fetch_all(db).await?)
}

/// Where they failed, the most frequent first.
///
/// # Errors
/// Whatever the database says.
pub async fn failures_by_day<'c>(
    db: impl Executor<'c, Database = Postgres>,
    since: DateTime<Utc>,
) -> Result<Vec<FailedAt>, DbError> {
    Ok(sqlx::query_file_as!(FailedAt, "src/db/sql/failures_days.sql", since, SAMPLE).fetch_all(db).await?)
}

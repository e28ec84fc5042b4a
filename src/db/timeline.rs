//! A run over time: all of its steps, few words each.

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres};
use uuid::Uuid;

use crate::model::StepState;
use crate::rules::timeline::{Does, Part};

use super::error::DbError;
use super::runs::HistoryLine;

/// The times of a run.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Times {
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The server's time.
    pub now: DateTime<Utc>,
}

/// When a run was enqueued, claimed first, and ended.
///
/// # Errors
/// Whatever the database says.
pub async fn times<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Option<Times>, DbError> {
    Ok(sqlx::query_file_as!(Times, "src/db/sql/timeline_run.sql", run).fetch_optional(db).await?)
}

/// All steps of a run in the order of their start.
///
/// # Errors
/// Whatever the database says.
pub async fn parts<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Vec<Part>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/timeline_parts.sql", run).fetch_all(db).await?;
    let parts = rows.into_iter().map(|row| Part {
        seq: row.seq,
        key: row.key,
        state: StepState::from_word(&row.state).unwrap_or(StepState::Running),
        does: Does::of_kind(&row.kind),
        from: row.started_at,
        to: row.ended_at,
    });
    let mut parts: Vec<Part> = parts.collect();
    parts.sort_unstable_by(|a, b| (a.seq, &a.key).cmp(&(b.seq, &b.key)));
    Ok(parts)
}

/// When attempts of a run's steps failed.
///
/// # Errors
/// Whatever the database says.
pub async fn tries<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
) -> Result<Vec<(String, DateTime<Utc>)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/timeline_tries.sql", run).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| (row.key, row.at)).collect())
}

/// What happened to a run beside its steps' starts and ends, with the failed attempts of these steps; the newest, in their order.
///
/// # Errors
/// Whatever the database says.
pub async fn events<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    keys: &[String],
    most: i64,
) -> Result<Vec<HistoryLine>, DbError> {
    Ok(sqlx::query_file_as!(HistoryLine, "src/db/sql/timeline_events.sql", run, keys, most).fetch_all(db).await?)
}

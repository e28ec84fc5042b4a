//! Who keeps what from whom: leases of runs, places of concurrency keys.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;

/// A lock.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct LockLine {
    /// `lease`: a worker has a run, and no second one can have it. `key`: a run has a place of a concurrency key.
    pub kind: String,
    /// What is locked: the run's id; the workflow and the key.
    pub name: String,
    pub run: Uuid,
    pub workflow: String,
    pub state: String,
    pub worker: Option<Uuid>,
    /// Who holds it: `host:pid` of the worker (null: it is gone); the run.
    pub holder: Option<String>,
    /// When the run was first claimed.
    pub since: Option<DateTime<Utc>>,
    /// When the lease would end without another heartbeat; a key has no time.
    pub expires_at: Option<DateTime<Utc>>,
    /// The claim that it was given under.
    pub epoch: i32,
    #[serde(skip)]
    pub total: i64,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// The locks that are held, of one kind or of all, the longest first; at most so many of them.
///
/// # Errors
/// Whatever the database says.
pub async fn list<'c>(
    db: impl Executor<'c, Database = Postgres>,
    kind: Option<&str>,
    limit: i64,
) -> Result<Vec<LockLine>, DbError> {
    Ok(sqlx::query_file_as!(LockLine, "src/db/sql/locks.sql", kind as Option<&str>, limit).fetch_all(db).await?)
}

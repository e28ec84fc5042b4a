//! Staging, admission, repair.

use sqlx::{Executor, Postgres};
use uuid::Uuid;

use crate::rules::state::{CRASH_LIMIT, SOLO_AFTER};

use super::error::DbError;

/// What one pass of the stager did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// Runs that became due.
    pub staged: i32,
    /// Is anything held, or a queue closed?
    pub held: bool,
    /// Milliseconds to the next due time; `None`: nothing waits for time.
    pub next_ms: Option<i64>,
}

/// Stages what is due, at most `batch` runs.
///
/// # Errors
/// Whatever the database says.
pub async fn stage<'c>(db: impl Executor<'c, Database = Postgres>, batch: i32) -> Result<Staged, DbError> {
    let row = sqlx::query_file!("src/db/sql/stage.sql", batch).fetch_one(db).await?;
    Ok(Staged { staged: row.staged, held: row.held, next_ms: row.next_ms })
}

/// What one pass of the admission did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Runs that were let go, or turned away; `None`: somebody else is at it.
    pub admitted: Option<i32>,
    /// Milliseconds until a rate that is used up has a place again.
    pub next_ms: Option<i64>,
    /// Where the next pass goes on among the keys; `None`: from the beginning.
    pub last: Option<Vec<String>>,
}

/// Admits what is held, as far as the limits allow, at most `batch` runs of a queue, among the next keys after a place.
///
/// # Errors
/// Whatever the database says.
pub async fn admit<'c>(
    db: impl Executor<'c, Database = Postgres>,
    batch: i32,
    after: Option<&[String]>,
) -> Result<Admitted, DbError> {
    let row = sqlx::query_file!("src/db/sql/admit.sql", batch, after as Option<&[String]>).fetch_one(db).await?;
    Ok(Admitted { admitted: row.admitted, next_ms: row.next_ms, last: row.last })
}

/// Mends lost wake-ups among the next `batch` unfinished runs after an id. Returns how many, and where the next pass
/// goes on (`None`: from the beginning).
///
/// # Errors
/// Whatever the database says.
pub async fn repair<'c>(
    db: impl Executor<'c, Database = Postgres>,
    batch: i32,
    after: Option<Uuid>,
) -> Result<(i32, Option<Uuid>), DbError> {
    let row = sqlx::query_file!(
        "src/db/sql/repair.sql",
        batch,
        after as Option<Uuid>,
        i32::from(SOLO_AFTER),
        i32::from(CRASH_LIMIT)
    )
    .fetch_one(db)
    .await?;
    Ok((row.mended, row.last))
}

//! The daily figures: what is left of the history when its runs are gone.

use sqlx::{Executor, Postgres};

use super::error::DbError;

/// Adds noted ends of runs to the daily figures, at most `batch` lines. Returns how many there were; none while another worker is at it.
///
/// # Errors
/// Whatever the database says; nothing is added then.
pub async fn fold<'c>(db: impl Executor<'c, Database = Postgres>, batch: i32) -> Result<i32, DbError> {
    Ok(sqlx::query_file!("src/db/sql/fold.sql", batch).fetch_one(db).await?.folded)
}

//! The daily figures: what is left of the history when its runs are gone.

use chrono::NaiveDate;
use serde::Serialize;
use sqlx::{Executor, Postgres};

use super::error::DbError;

/// Adds noted ends of runs to the daily figures, at most `batch` lines. Returns how many there were; none while another worker is at it.
///
/// # Errors
/// Whatever the database says; nothing is added then.
pub async fn fold<'c>(db: impl Executor<'c, Database = Postgres>, batch: i32) -> Result<i32, DbError> {
    Ok(sqlx::query_file!("src/db/sql/fold.sql", batch).fetch_one(db).await?.folded)
}

/// A workflow's figures.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Figures {
    pub workflow: String,
    pub runs: i64,
    pub completed: i64,
    pub failed: i64,
    pub cancelled: i64,
    /// Completed of completed and failed, 0 to 1.
    pub success_rate: Option<f64>,
    pub avg_ms: Option<i64>,
    pub p50_ms: Option<i64>,
    pub p95_ms: Option<i64>,
    /// From ready to claimed, on the average.
    pub waited_ms: Option<i64>,
    pub resumes: i64,
    pub crashes: i64,
    pub tokens_in: Option<i64>,
    pub tokens_out: Option<i64>,
    pub cost: Option<f64>,
}

/// The figures of each workflow, or of the one named, over days by UTC; both bounds count. Also of runs that have been pruned.
///
/// # Errors
/// Whatever the database says.
pub async fn stats<'c>(
    db: impl Executor<'c, Database = Postgres>,
    (since, until): (Option<NaiveDate>, Option<NaiveDate>),
    workflow: Option<&str>,
) -> Result<Vec<Figures>, DbError> {
    let name = workflow as Option<&str>;
    Ok(sqlx::query_file_as!(Figures, "src/db/sql/stats.sql", since, until, name).fetch_all(db).await?)
}

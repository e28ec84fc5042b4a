//! The unfinished runs of a workflow, and what is recorded of their steps: what a new definition must fit.

use sqlx::PgConnection;
use uuid::Uuid;

use super::error::DbError;

/// A run that goes by another definition, or has not begun.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct InFlight {
    pub id: Uuid,
    pub state: String,
    /// No worker has had it yet: it will begin with whatever is loaded then.
    pub unpinned: bool,
    /// JSON text.
    pub input: String,
}

/// A page of the unfinished runs of a workflow whose definition has another hash, in the order of their ids, after one.
///
/// # Errors
/// Whatever the database says.
pub async fn runs(
    conn: &mut PgConnection,
    workflow: &str,
    hash: &str,
    after: Uuid,
    limit: i64,
) -> Result<Vec<InFlight>, DbError> {
    let page = sqlx::query_file_as!(InFlight, "src/db/sql/in_flight_runs.sql", workflow, hash, after, limit);
    Ok(page.fetch_all(conn).await?)
}

/// What is recorded of a step.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct StepOf {
    pub run: Uuid,
    pub key: String,
    pub kind: String,
    pub state: String,
}

/// What is recorded of the steps of some runs, by run.
///
/// # Errors
/// Whatever the database says.
pub async fn steps(conn: &mut PgConnection, runs: &[Uuid]) -> Result<Vec<StepOf>, DbError> {
    Ok(sqlx::query_file_as!(StepOf, "src/db/sql/in_flight_steps.sql", runs).fetch_all(conn).await?)
}

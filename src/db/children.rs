//! Runs that steps of other runs have started.

use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use crate::model::{RunId, StepKey, WorkerId};

use super::error::DbError;

/// A child on its way into the database.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Spawn {
    pub run: RunId,
    pub worker: WorkerId,
    pub epoch: i32,
    pub key: StepKey,
    pub workflow: String,
    /// JSON.
    pub input: String,
    /// Does the step wait for it?
    pub attached: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawned {
    /// The child, inserted now or before.
    Child(RunId),
    /// It would stand too deep.
    TooDeep,
    /// The step's lease is lost.
    LeaseLost,
}

/// Inserts the children of steps, unless they are there: all of them, or none. `deepest`: so many runs may stand above one.
///
/// # Errors
/// Whatever the database says; SD001 for an unknown workflow.
pub async fn spawn(conn: &mut PgConnection, children: &[&Spawn], deepest: i32) -> Result<Vec<Spawned>, DbError> {
    let rows = sqlx::query_file!(
        "src/db/sql/spawn.sql",
        &children.iter().map(|c| c.run.0).collect::<Vec<_>>(),
        &children.iter().map(|c| c.worker.0).collect::<Vec<_>>(),
        &children.iter().map(|c| c.epoch).collect::<Vec<_>>(),
        &children.iter().map(|c| c.key.as_str()).collect::<Vec<_>>() as &[&str],
        &children.iter().map(|c| &*c.workflow).collect::<Vec<_>>() as &[&str],
        &children.iter().map(|c| &*c.input).collect::<Vec<_>>() as &[&str],
        &children.iter().map(|c| c.attached).collect::<Vec<_>>(),
        deepest,
    )
    .fetch_all(conn)
    .await?;
    let done = rows.into_iter().map(|row| match (row.spawned, row.depth) {
        (Some(run), _) => Spawned::Child(RunId(run)),
        (None, Some(_)) => Spawned::TooDeep,
        (None, None) => Spawned::LeaseLost,
    });
    Ok(done.collect())
}

/// Tells the runs that wait for these of their ends. Returns those at which somebody is in the way: it must be called again for them.
///
/// # Errors
/// Whatever the database says.
pub async fn tell_parents<'c>(
    db: impl Executor<'c, Database = Postgres>,
    ended: &[Uuid],
) -> Result<Vec<Uuid>, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/tell_parents.sql", ended).fetch_one(db).await?)
}

/// Cancels the children of a run that ends without them. Those of what it does at its end stay.
///
/// # Errors
/// Whatever the database says.
pub async fn abandon<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<(), DbError> {
    sqlx::query_file_scalar!("src/db/sql/abandon.sql", run).fetch_one(db).await?;
    Ok(())
}

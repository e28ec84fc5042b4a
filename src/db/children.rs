//! Runs that steps of other runs have started.

use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use crate::model::{RunId, WorkerId};

use super::error::DbError;

/// A child on its way into the database.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Spawn<'a> {
    pub run: RunId,
    pub worker: WorkerId,
    pub epoch: i32,
    pub key: &'a str,
    pub workflow: &'a str,
    /// JSON.
    pub input: &'a str,
    /// Does the step wait for it?
    pub attached: bool,
    /// So many runs may stand above a child.
    pub deepest: i32,
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

/// Inserts the child of a step, unless it is there.
///
/// # Errors
/// Whatever the database says; SD001 for an unknown workflow.
pub async fn spawn(conn: &mut PgConnection, spawn: &Spawn<'_>) -> Result<Spawned, DbError> {
    let done = sqlx::query_file!(
        "src/db/sql/spawn.sql",
        spawn.run.0,
        spawn.worker.0,
        spawn.epoch,
        spawn.key,
        spawn.workflow,
        spawn.input,
        spawn.attached,
        spawn.deepest,
    )
    .fetch_one(conn)
    .await?;
    Ok(match (done.spawned, done.depth) {
        (Some(run), _) => Spawned::Child(RunId(run)),
        (None, Some(_)) => Spawned::TooDeep,
        (None, None) => Spawned::LeaseLost,
    })
}

/// Tells the run that waits for this one of its end; false when somebody is in the way, and it must be called again.
///
/// # Errors
/// Whatever the database says.
pub async fn tell_parent<'c>(db: impl Executor<'c, Database = Postgres>, child: Uuid) -> Result<bool, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/tell_parent.sql", child).fetch_one(db).await?.is_some())
}

/// Cancels the children of a run that ends without them.
///
/// # Errors
/// Whatever the database says.
pub async fn abandon<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<bool, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/abandon.sql", run).fetch_one(db).await?)
}

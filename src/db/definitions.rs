//! Definitions and workflows.

use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use super::error::DbError;

/// A stored definition.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Stored {
    pub id: i32,
    pub hash: String,
    pub workflow: String,
    /// `None`: the workflow is Rust code.
    pub body: Option<String>,
}

/// A definition on its way into the database.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Given<'a> {
    pub workflow: &'a str,
    pub hash: &'a str,
    /// `None`: the workflow is Rust code.
    pub body: Option<&'a str>,
    pub queue: &'a str,
    pub priority: i16,
    /// `unique`, `concurrency` and `rate`, as JSON text.
    pub flow: Option<&'a str>,
    /// The file, for people.
    pub source: Option<&'a str>,
    /// Is there anything to be done at the end of its runs?
    pub handlers: bool,
    /// Loaded by this worker before, as it is.
    pub known: bool,
}

/// What a load did to a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The id of the definition that was given.
    pub id: i32,
    /// The definition that was present before.
    pub was: Option<i32>,
    /// Is anything of the workflow's row another now?
    pub changed: bool,
}

/// Stores the definitions that are not there yet, in one statement.
async fn store(conn: &mut PgConnection, given: &[Given<'_>]) -> Result<(), DbError> {
    let hashes: Vec<&str> = given.iter().map(|g| g.hash).collect();
    let workflows: Vec<&str> = given.iter().map(|g| g.workflow).collect();
    let bodies: Vec<Option<&str>> = given.iter().map(|g| g.body).collect();
    let handlers: Vec<bool> = given.iter().map(|g| g.handlers).collect();
    sqlx::query_file!(
        "src/db/sql/define.sql",
        &hashes as &[&str],
        &workflows as &[&str],
        &bodies as &[Option<&str>],
        &handlers
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores one definition and nothing else; returns its id.
///
/// # Errors
/// Whatever the database says.
pub async fn define(conn: &mut PgConnection, given: Given<'_>) -> Result<i32, DbError> {
    store(conn, &[given]).await?;
    Ok(sqlx::query_file_scalar!("src/db/sql/definition_id.sql", given.hash).fetch_one(conn).await?)
}

/// Stores definitions and makes them the present ones of their workflows, but for those that are known. Answers in the order given.
///
/// # Errors
/// Whatever the database says; then no workflow has changed.
pub async fn load(conn: &mut PgConnection, given: &[Given<'_>]) -> Result<Vec<Load>, DbError> {
    store(conn, given).await?;
    let names: Vec<&str> = given.iter().map(|g| g.workflow).collect();
    let hashes: Vec<&str> = given.iter().map(|g| g.hash).collect();
    let queues: Vec<&str> = given.iter().map(|g| g.queue).collect();
    let priorities: Vec<i16> = given.iter().map(|g| g.priority).collect();
    let flows: Vec<Option<&str>> = given.iter().map(|g| g.flow).collect();
    let sources: Vec<Option<&str>> = given.iter().map(|g| g.source).collect();
    let known: Vec<bool> = given.iter().map(|g| g.known).collect();
    let rows = sqlx::query_file!(
        "src/db/sql/load_workflow.sql",
        &names as &[&str],
        &hashes as &[&str],
        &queues as &[&str],
        &priorities,
        &sources as &[Option<&str>],
        &known,
        &flows as &[Option<&str>],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|r| Load { id: r.id, was: r.was, changed: r.changed }).collect())
}

/// A definition by id; without an id, the present one of the workflow.
///
/// # Errors
/// Whatever the database says.
pub async fn definition<'c>(
    db: impl Executor<'c, Database = Postgres>,
    id: Option<i32>,
    workflow: &str,
) -> Result<Option<Stored>, DbError> {
    let row = sqlx::query_file!("src/db/sql/definition.sql", id, workflow).fetch_optional(db).await?;
    Ok(row.map(|r| Stored { id: r.id, hash: r.hash, workflow: r.workflow, body: r.body }))
}

/// The definition that a run is pinned to; before its first claim the present one of its workflow.
///
/// # Errors
/// Whatever the database says.
pub async fn of_run<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<Option<Stored>, DbError> {
    Ok(sqlx::query_file_as!(Stored, "src/db/sql/run_definition.sql", run).fetch_optional(db).await?)
}

/// Refuses an unknown workflow as an INSERT would: SD001, with the nearest name.
///
/// # Errors
/// Always, unless the workflow has become known.
pub async fn refuse<'c>(db: impl Executor<'c, Database = Postgres>, workflow: &str) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/refuse_workflow.sql", workflow).execute(db).await?;
    Ok(())
}

/// Makes a queue one that only workers that name it serve.
///
/// # Errors
/// Whatever the database says.
pub async fn exclusive_queue<'c>(db: impl Executor<'c, Database = Postgres>, name: &str) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/exclusive_queue.sql", name).execute(db).await?;
    Ok(())
}

/// Sets what an INSERT with an unknown workflow does: `refuse` or `park`. True where that is a change.
///
/// # Errors
/// Whatever the database says.
pub async fn on_unknown_workflow(db: &sqlx::PgPool, choice: &str) -> Result<bool, DbError> {
    let done = sqlx::query_file!("src/db/sql/on_unknown_workflow.sql", choice).execute(db).await?;
    Ok(done.rows_affected() > 0)
}

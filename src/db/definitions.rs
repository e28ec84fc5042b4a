//! Definitions and workflows.

use sqlx::{Executor, Postgres};

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

/// Registers a definition by its hash; returns its id.
///
/// # Errors
/// Whatever the database says.
pub async fn define<'c>(
    db: impl Executor<'c, Database = Postgres>,
    hash: &str,
    workflow: &str,
    body: Option<&str>,
) -> Result<i32, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/define.sql", hash, workflow, body).fetch_one(db).await?)
}

/// What a load did to a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing: it was like this already.
    Unchanged,
    /// It is new, or has another queue, priority or file.
    Changed,
    /// It has another definition now than this.
    Replaced(i32),
}

/// Makes a definition the workflow's present one.
///
/// # Errors
/// Whatever the database says.
pub async fn load_workflow<'c>(
    db: impl Executor<'c, Database = Postgres>,
    name: &str,
    definition: i32,
    queue: &str,
    priority: i16,
    source: Option<&str>,
) -> Result<Load, DbError> {
    let row = sqlx::query_file!("src/db/sql/load_workflow.sql", name, definition, queue, priority, source)
        .fetch_optional(db)
        .await?;
    Ok(match row.map(|r| r.was) {
        None => Load::Unchanged,
        Some(Some(was)) if was != definition => Load::Replaced(was),
        Some(_) => Load::Changed,
    })
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

/// Makes a queue one that only workers that name it serve.
///
/// # Errors
/// Whatever the database says.
pub async fn exclusive_queue<'c>(db: impl Executor<'c, Database = Postgres>, name: &str) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/exclusive_queue.sql", name).execute(db).await?;
    Ok(())
}

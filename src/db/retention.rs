//! The removal of history: a stretch at a time, each in one short transaction.

use std::future::Future;

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::rules::retention::Retention;

use super::error::DbError;

/// How far one pass goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Ended runs that it looks at.
    pub runs: i64,
    /// Steps that the removed ones have together, the last run's aside.
    pub steps: i64,
}

/// Runs of one workflow and state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Count {
    pub workflow: String,
    pub state: String,
    pub runs: i64,
}

/// What a pass did.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// What it removed.
    pub removed: Vec<Count>,
    /// Steps that went with it.
    pub steps: i64,
    /// Where the next goes on; `None`: the walk is at its end.
    pub last: Option<Uuid>,
    /// Another worker is at it.
    pub busy: bool,
}

impl Pass {
    /// The runs that it removed.
    #[must_use]
    pub fn runs(&self) -> i64 {
        self.removed.iter().map(|c| c.runs).sum()
    }
}

/// The rules in columns; an age beyond all time stands for ever.
fn columns(rules: &Retention) -> (Vec<Option<&str>>, Vec<&'static str>, Vec<Option<i64>>) {
    let rules = rules.rules();
    let ms = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    (
        rules.iter().map(|r| r.workflow.as_deref()).collect(),
        rules.iter().map(|r| r.state.as_str()).collect(),
        rules.iter().map(|r| r.age.map(ms)).collect(),
    )
}

/// One pass over the ended runs after an id: what is older than it is kept is chosen, given to `export` (the day, and a line for
/// each run), removed, committed. An error of the export is given back, and nothing is removed then.
///
/// # Errors
/// Whatever the database says; nothing is removed then.
pub async fn pass<E, Fut>(
    conn: &mut PgConnection,
    rules: &Retention,
    after: Uuid,
    bounds: Bounds,
    export: Option<impl FnOnce(String, Vec<String>) -> Fut>,
) -> Result<Result<Pass, E>, DbError>
where
    Fut: Future<Output = Result<(), E>>,
{
    let mut tx = conn.begin().await?;
    let begun = sqlx::query_file!("src/db/sql/prune_begin.sql").fetch_one(&mut *tx).await?;
    if !begun.alone {
        tx.rollback().await?;
        return Ok(Ok(Pass { busy: true, ..Pass::default() }));
    }
    let (workflows, states, ages) = columns(rules);
    let found = sqlx::query_file!(
        "src/db/sql/prune_choose.sql",
        &workflows as &[Option<&str>],
        &states as &[&str],
        &ages as &[Option<i64>],
        after,
        bounds.runs,
        bounds.steps
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut pass = Pass { last: found.last, ..Pass::default() };
    if found.chosen.is_empty() {
        tx.rollback().await?;
        return Ok(Ok(pass));
    }
    if let Some(export) = export {
        let lines = sqlx::query_file_scalar!("src/db/sql/prune_export.sql", &found.chosen).fetch_all(&mut *tx).await?;
        if let Err(error) = export(begun.day, lines).await {
            tx.rollback().await?;
            return Ok(Err(error));
        }
    }
    let gone = sqlx::query_file!("src/db/sql/prune_remove.sql", &found.chosen).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    pass.steps = gone.first().map_or(0, |g| g.steps);
    pass.removed = gone.into_iter().map(|g| Count { workflow: g.workflow, state: g.state, runs: g.runs }).collect();
    Ok(Ok(pass))
}

/// What passes would remove, by workflow and state.
///
/// # Errors
/// Whatever the database says.
pub async fn count(conn: &mut PgConnection, rules: &Retention) -> Result<Vec<Count>, DbError> {
    let (workflows, states, ages) = columns(rules);
    let rows = sqlx::query_file_as!(
        Count,
        "src/db/sql/prune_count.sql",
        &workflows as &[Option<&str>],
        &states as &[&str],
        &ages as &[Option<i64>]
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Removes definitions that nothing names any more, so many at the most. Returns how many.
///
/// # Errors
/// Whatever the database says.
pub async fn definitions(conn: &mut PgConnection, batch: i64) -> Result<u64, DbError> {
    Ok(sqlx::query_file!("src/db/sql/prune_definitions.sql", batch).execute(conn).await?.rows_affected())
}

/// Says which definitions a worker has.
///
/// # Errors
/// Whatever the database says.
pub async fn in_use(conn: &mut PgConnection, definitions: &[i32]) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/use_definitions.sql", definitions).execute(conn).await?;
    Ok(())
}

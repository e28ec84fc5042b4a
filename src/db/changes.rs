//! What changes: for whoever watches one run, or all of them.

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use crate::model::RunState;

use super::error::DbError;
use super::runs::{Filter, first_id_at};

/// Where a run stands, for whoever watches them all.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Change {
    pub id: Uuid,
    pub state: String,
    pub workflow: String,
    pub step: Option<String>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub queue: String,
    pub labels: serde_json::Value,
    pub epoch: i32,
    /// The server's time.
    pub now: DateTime<Utc>,
}

impl Filter {
    /// Does it leave this one?
    #[must_use]
    pub fn fits(&self, change: &Change) -> bool {
        let names = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
        names(&self.states, &change.state)
            && names(&self.workflows, &change.workflow)
            && names(&self.queues, &change.queue)
            && self.labels.iter().all(|(key, value)| is_text(&change.labels[key.as_str()], value))
            && self.since.is_none_or(|since| change.id >= first_id_at(since))
    }
}

/// As `->>` makes a text of it.
fn is_text(label: &serde_json::Value, text: &str) -> bool {
    match label {
        serde_json::Value::String(label) => label == text,
        serde_json::Value::Null => false,
        other => {
            let written = other.to_string();
            written == text
        }
    }
}

const CHANGE: &str = "SELECT r.id, r.state::text AS state, r.workflow, r.step, r.error_code, r.error_message, r.queue, r.labels, r.epoch, statement_timestamp() AS now
    FROM stepd.runs r WHERE true";

/// Unfinished runs that a watch begins with, changes that are told to who comes back, and new runs that one look gives, at the most.
pub const WATCHED: i64 = 2_000;

async fn watched<'c>(
    db: impl Executor<'c, Database = Postgres>,
    mut sql: QueryBuilder<Postgres>,
) -> Result<Vec<Change>, DbError> {
    let rows = sql.build().fetch_all(db).await?;
    let change = |row: &sqlx::postgres::PgRow| -> Result<Change, sqlx::Error> {
        Ok(Change {
            id: row.try_get("id")?,
            state: row.try_get("state")?,
            workflow: row.try_get("workflow")?,
            step: row.try_get("step")?,
            error_code: row.try_get("error_code")?,
            error_message: row.try_get("error_message")?,
            queue: row.try_get("queue")?,
            labels: row.try_get("labels")?,
            epoch: row.try_get("epoch")?,
            now: row.try_get("now")?,
        })
    };
    rows.iter().map(|row| change(row).map_err(DbError::from)).collect()
}

/// The newest unfinished runs that a filter leaves, oldest first.
///
/// # Errors
/// Whatever the database says.
pub async fn unfinished<'c>(
    db: impl Executor<'c, Database = Postgres>,
    filter: &Filter,
) -> Result<Vec<Change>, DbError> {
    let states = RunState::ALL.into_iter().filter(|s| !s.is_final()).map(|s| s.as_str().to_owned()).collect();
    let mut sql = QueryBuilder::new(CHANGE);
    Filter { states, ..filter.clone() }.conditions(&mut sql);
    sql.push(" ORDER BY r.id DESC LIMIT ").push_bind(WATCHED);
    let mut list = watched(db, sql).await?;
    list.reverse();
    Ok(list)
}

/// Runs that came after `last`, and where the `known` ones stand, oldest first.
///
/// # Errors
/// Whatever the database says.
pub async fn changes<'c>(
    db: impl Executor<'c, Database = Postgres>,
    filter: &Filter,
    last: Uuid,
    known: &[Uuid],
) -> Result<Vec<Change>, DbError> {
    let mut sql = QueryBuilder::new(CHANGE);
    filter.conditions(&mut sql);
    sql.push(" AND (r.id > ").push_bind(last).push(" OR r.id = ANY (").push_bind(known.to_vec()).push("))");
    let most = WATCHED + i64::try_from(known.len()).unwrap_or(0);
    sql.push(" ORDER BY r.id LIMIT ").push_bind(most);
    watched(db, sql).await
}

/// For each run a text that is another one when something about it has changed.
///
/// # Errors
/// Whatever the database says.
pub async fn stamps<'c>(
    db: impl Executor<'c, Database = Postgres>,
    runs: &[Uuid],
) -> Result<Vec<(Uuid, String)>, DbError> {
    let list = sqlx::query_file!("src/db/sql/run_stamps.sql", runs).fetch_all(db).await?;
    Ok(list.into_iter().map(|r| (r.id, r.stamp)).collect())
}

/// A place in the order in which everything is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// A transaction's number: what is not seen yet has this one, or a later one.
    pub floor: String,
    /// The server's time.
    pub at: DateTime<Utc>,
}

/// Where things stand now, to ask later what has changed since.
///
/// # Errors
/// Whatever the database says.
pub async fn mark_here<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Mark, DbError> {
    Ok(sqlx::query_file_as!(Mark, "src/db/sql/mark_here.sql").fetch_one(db).await?)
}

/// Since a longer time what has changed is not told any more: some of it may have been removed by now.
const TOLD: f64 = 3600.0;

/// Can it be told what has changed since a mark? Not since one of another database, or of one that was brought back from a backup.
///
/// # Errors
/// Whatever the database says.
pub async fn can_be_told<'c>(db: impl Executor<'c, Database = Postgres>, since: &Mark) -> Result<bool, DbError> {
    let mark = sqlx::query_file!("src/db/sql/mark_since.sql", since.floor, since.at).fetch_one(db).await?;
    Ok(mark.known && mark.seconds <= TOLD)
}

/// What ended may be written this much later than it says.
const WRITTEN_LATE: chrono::TimeDelta = chrono::TimeDelta::seconds(30);

/// Runs that have changed since a mark, `most` at the most; some more may be among them. Of the `running` ones, ends are found however
/// late they were written.
///
/// # Errors
/// Whatever the database says.
pub async fn changed<'c>(
    db: impl Executor<'c, Database = Postgres>,
    since: &Mark,
    running: &[Uuid],
    most: i64,
) -> Result<Vec<Uuid>, DbError> {
    let late = since.at - WRITTEN_LATE;
    Ok(sqlx::query_file_scalar!("src/db/sql/runs_changed.sql", since.floor, late, running, most).fetch_all(db).await?)
}

/// Where these runs stand, oldest first.
///
/// # Errors
/// Whatever the database says.
pub async fn standing<'c>(db: impl Executor<'c, Database = Postgres>, runs: &[Uuid]) -> Result<Vec<Change>, DbError> {
    let mut sql = QueryBuilder::new(CHANGE);
    sql.push(" AND r.id = ANY (").push_bind(runs.to_vec()).push(") ORDER BY r.id");
    watched(db, sql).await
}

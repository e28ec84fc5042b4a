//! What `stepd doctor` asks the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, Executor, PgConnection, Postgres};
use uuid::Uuid;

use super::connect::Database;
use super::error::DbError;
use super::server;

const SESSION: [(&str, &str); 2] = [("statement_timeout", "20s"), ("lock_timeout", "5s")];

/// A connection for the questions.
///
/// # Errors
/// None comes about in five seconds.
pub async fn connect(db: &Database) -> Result<PgConnection, DbError> {
    db.connect("doctor", &SESSION).await
}

/// What stands between stepd and Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Direct,
    /// A connection pooler.
    Pooled,
    /// A connection pooler, and a way past it.
    Past,
    /// A connection pooler, and a way past it that cannot be gone, and why.
    Blocked(String),
}

/// What stands between?
///
/// # Errors
/// Whatever the database says.
pub async fn way(db: &Database) -> Result<Way, DbError> {
    server::look_between(db).await?;
    match (db.hosts().are_pooled(), db.direct(), server::look_past(db).await) {
        (_, Some(_), Err(error)) => Ok(Way::Blocked(error.to_string())),
        (false, _, _) => Ok(Way::Direct),
        (true, None, _) => Ok(Way::Pooled),
        (true, Some(_), _) => Ok(Way::Past),
    }
}

/// Does a notification arrive that another session sends?
///
/// # Errors
/// Whatever the database says.
pub async fn hears(db: &Database, limit: Duration) -> Result<bool, DbError> {
    let channel = format!("stepd_doctor_{}", Uuid::new_v4().simple());
    let mut line = db.line("doctor", &SESSION).await?;
    if !line.holds() {
        return Ok(false);
    }
    line.listen(&channel).await?;
    let mut conn = connect(db).await?;
    conn.execute(sqlx::AssertSqlSafe(format!("NOTIFY {channel}"))).await?;
    let heard = tokio::time::timeout(limit, line.heard()).await;
    let _ = conn.close().await;
    match heard {
        Ok(heard) => Ok(heard?.is_some()),
        Err(_) => Ok(false),
    }
}

/// What the server says of itself.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Server {
    pub database: String,
    pub version: String,
    pub now: DateTime<Utc>,
    pub autovacuum: bool,
    pub track_counts: bool,
    /// Connections that ordinary roles may have in all.
    pub room: i32,
    pub used: i64,
    /// -1: no limit of its own.
    pub database_room: i32,
    pub database_used: i64,
    /// Sessions that do not show this role what they do.
    pub hidden: i64,
    /// -1: no limit of its own.
    pub role_room: i32,
    pub role_used: i64,
    /// Who asks, which is who the daemon is with the same configuration.
    pub role: String,
    pub superuser: bool,
    /// May it change stepd's schema?
    pub owner: bool,
    pub bytes: i64,
    pub standby: bool,
}

/// The server.
///
/// # Errors
/// Whatever the database says.
pub async fn server<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Server, DbError> {
    Ok(sqlx::query_file_as!(Server, "src/db/sql/server_facts.sql").fetch_one(db).await?)
}

/// A transaction that has been open for a while.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Transaction {
    /// `None`: a prepared one.
    pub pid: Option<i32>,
    pub who: Option<String>,
    pub what: String,
    pub since: DateTime<Utc>,
    /// Of a prepared one.
    pub gid: Option<String>,
    pub now: DateTime<Utc>,
}

/// The transaction that has been open for longest.
///
/// # Errors
/// Whatever the database says.
pub async fn oldest_transaction<'c>(
    db: impl Executor<'c, Database = Postgres>,
) -> Result<Option<Transaction>, DbError> {
    Ok(sqlx::query_file_as!(Transaction, "src/db/sql/old_transactions.sql").fetch_optional(db).await?)
}

/// What keeps dead rows from being removed, and is no transaction of this database.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct HeldBack {
    /// A replication slot, or else a standby.
    pub slot: Option<String>,
    pub standby: Option<String>,
    /// Does anybody read it?
    pub active: bool,
    /// So many have been since.
    pub transactions: i64,
}

/// What holds dead rows back furthest.
///
/// # Errors
/// Whatever the database says.
pub async fn held_back<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Option<HeldBack>, DbError> {
    Ok(sqlx::query_file_as!(HeldBack, "src/db/sql/held_back.sql").fetch_optional(db).await?)
}

/// Where the server keeps its data.
///
/// # Errors
/// This role may not know, or whatever else the database says.
pub async fn data_directory<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/data_directory.sql").fetch_one(db).await?)
}

/// Do inserts wake the workers?
///
/// # Errors
/// Whatever the database says.
pub async fn notifies<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<bool, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/notifies.sql").fetch_one(db).await?)
}

/// Runs that no worker can take.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Unserved {
    /// The queue that nobody serves; `None`: the workflow is what nobody has.
    pub queue: Option<String>,
    pub workflow: Option<String>,
    pub exclusive: bool,
    pub n: i64,
    pub since: DateTime<Utc>,
    pub now: DateTime<Utc>,
}

/// Runs that no worker can take, what has waited for longest first.
///
/// # Errors
/// Whatever the database says.
pub async fn unserved<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<Unserved>, DbError> {
    Ok(sqlx::query_file_as!(Unserved, "src/db/sql/unserved.sql").fetch_all(db).await?)
}

/// A step that keeps failing, so that the resumes of its runs stand still.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Breaker {
    pub workflow: String,
    pub step: String,
    pub opened_at: DateTime<Utc>,
    /// The run that tries it.
    pub probe: Option<Uuid>,
    /// When the next one does.
    pub next_at: DateTime<Utc>,
    /// How many wait.
    pub runs: i64,
    pub now: DateTime<Utc>,
}

/// The steps that keep failing, what has for longest first.
///
/// # Errors
/// Whatever the database says.
pub async fn breakers<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<Breaker>, DbError> {
    Ok(sqlx::query_file_as!(Breaker, "src/db/sql/breakers.sql").fetch_all(db).await?)
}

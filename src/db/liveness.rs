//! Registration, session lock, marker, heartbeat, take-over.

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres};
use uuid::Uuid;

use crate::model::WorkerId;
use crate::rules::state::{CRASH_LIMIT, SOLO_AFTER};

use super::error::{DbError, Trouble};
use super::migrate;

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The host's name.
    pub host: String,
    /// The process.
    pub pid: i32,
    /// stepd's version.
    pub version: &'static str,
    /// The queues served; `None`: all that are not exclusive.
    pub queues: Option<Vec<String>>,
    /// Runs at once.
    pub slots: i32,
    /// After how long without a heartbeat others may take over.
    pub lease_ms: i32,
}

/// A registration as the database gave it.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    /// The fresh id.
    pub worker: WorkerId,
    /// The lock's number.
    pub number: i32,
    /// The server's time.
    pub now: DateTime<Utc>,
}

/// Registers a worker under a fresh id, unless the schema does not serve this program any more.
///
/// # Errors
/// Whatever the database says, or the reason why this program cannot work with its schema.
pub async fn register<'c>(db: impl Executor<'c, Database = Postgres>, r: &Registration) -> Result<Registered, DbError> {
    let row = sqlx::query_file!(
        "src/db/sql/register.sql",
        r.host,
        r.pid,
        r.version,
        r.queues.as_deref() as Option<&[String]>,
        r.slots,
        r.lease_ms,
        migrate::latest()
    )
    .fetch_one(db)
    .await?;
    match (row.id, row.number) {
        (Some(id), Some(number)) => Ok(Registered { worker: WorkerId(id), number, now: row.now }),
        _ => {
            let known = migrate::latest();
            migrate::fits(row.schema, row.serves, known)?;
            Err(migrate::Unfit::Newer { schema: row.schema, serves: row.serves, known }.into())
        }
    }
}

/// Takes the session lock; false when another session has it.
///
/// # Errors
/// Whatever the database says.
pub async fn lock<'c>(db: impl Executor<'c, Database = Postgres>, number: i32) -> Result<bool, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/lock.sql", number).fetch_one(db).await?)
}

/// Waits for the session lock as long as the session's `lock_timeout` allows; false when another session keeps it.
///
/// # Errors
/// Whatever the database says.
pub async fn await_lock<'c>(db: impl Executor<'c, Database = Postgres>, number: i32) -> Result<bool, DbError> {
    match sqlx::query_file!("src/db/sql/await_lock.sql", number).fetch_one(db).await.map_err(DbError::from) {
        Ok(_) => Ok(true),
        Err(error) if error.trouble == Trouble::Busy => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets the marker that the lock is held.
///
/// # Errors
/// Whatever the database says.
pub async fn mark<'c>(db: impl Executor<'c, Database = Postgres>, worker: WorkerId) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/mark.sql", worker.0).execute(db).await?;
    Ok(())
}

/// Takes the marker back: the lock is not held.
///
/// # Errors
/// Whatever the database says.
pub async fn unmark<'c>(db: impl Executor<'c, Database = Postgres>, worker: WorkerId) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/unmark.sql", worker.0).execute(db).await?;
    Ok(())
}

/// A worker as a tick sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Seen {
    pub worker: WorkerId,
    pub number: i32,
    pub beat: i64,
    pub lease_ms: i32,
    /// Somebody holds its lock.
    pub locked: bool,
    /// This session holds its lock.
    pub locked_by_me: bool,
    /// Its marker stands under this start of Postgres.
    pub marked: bool,
    pub now: DateTime<Utc>,
}

/// Ping, heartbeat and look in one statement. Without the worker's own row: it was taken over.
///
/// # Errors
/// Whatever the database says.
pub async fn tick<'c>(
    db: impl Executor<'c, Database = Postgres>,
    worker: WorkerId,
    beat: bool,
    facts: &serde_json::Value,
    stopping: bool,
) -> Result<Vec<Seen>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/tick.sql", worker.0, beat, facts, stopping).fetch_all(db).await?;
    Ok(rows
        .into_iter()
        .map(|r| Seen {
            worker: WorkerId(r.id),
            number: r.number,
            beat: r.beat,
            lease_ms: r.lease_ms,
            locked: r.locked,
            locked_by_me: r.locked_by_me,
            marked: r.marked,
            now: r.now,
        })
        .collect())
}

/// Ends a registration that holds no runs any more.
///
/// # Errors
/// Whatever the database says.
pub async fn deregister<'c>(db: impl Executor<'c, Database = Postgres>, worker: WorkerId) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/deregister.sql", worker.0).execute(db).await?;
    Ok(())
}

/// A worker's process, and what it said of itself with its last heartbeat.
///
/// # Errors
/// Whatever the database says.
pub async fn facts_of<'c>(
    db: impl Executor<'c, Database = Postgres>,
    worker: WorkerId,
) -> Result<Option<(i32, serde_json::Value)>, DbError> {
    let row = sqlx::query_file!("src/db/sql/facts_of.sql", worker.0).fetch_optional(db).await?;
    Ok(row.map(|r| (r.pid, r.facts)))
}

/// Adds what another worker has seen of it.
///
/// # Errors
/// Whatever the database says.
pub async fn witness<'c>(
    db: impl Executor<'c, Database = Postgres>,
    worker: WorkerId,
    seen: &serde_json::Value,
) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/witness.sql", worker.0, seen).execute(db).await?;
    Ok(())
}

/// What a take-over did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Runs that are ready again.
    pub requeued: i32,
    /// Runs that ended as `crash_loop`.
    pub quarantined: i32,
    /// Runs left behind, because somebody has locked them.
    pub locked: i32,
    /// What is known of the death, for the second pass.
    pub evidence: serde_json::Value,
}

macro_rules! taken_over {
    ($row:expr) => {{
        let r = $row;
        r.requeued.map(|requeued| TakenOver {
            requeued,
            quarantined: r.quarantined.unwrap_or(0),
            locked: r.locked.unwrap_or(0),
            evidence: r.evidence.unwrap_or_default(),
        })
    }};
}

/// Takes over a dead worker's runs; `None` when it was not to be taken.
///
/// # Errors
/// Whatever the database says.
pub async fn take_over<'c>(
    db: impl Executor<'c, Database = Postgres>,
    victim: WorkerId,
    by_lock: bool,
    seen_beat: i64,
    sweeper: Uuid,
) -> Result<Option<TakenOver>, DbError> {
    let row = sqlx::query_file!(
        "src/db/sql/take_over.sql",
        victim.0,
        by_lock,
        seen_beat,
        sweeper,
        i32::from(SOLO_AFTER),
        i32::from(CRASH_LIMIT)
    )
    .fetch_one(db)
    .await?;
    Ok(taken_over!(row))
}

/// The second pass: brings back what a take-over has left behind.
///
/// # Errors
/// Whatever the database says.
pub async fn requeue<'c>(
    db: impl Executor<'c, Database = Postgres>,
    victim: WorkerId,
    evidence: &serde_json::Value,
) -> Result<Option<TakenOver>, DbError> {
    let row =
        sqlx::query_file!("src/db/sql/requeue.sql", victim.0, evidence, i32::from(SOLO_AFTER), i32::from(CRASH_LIMIT))
            .fetch_one(db)
            .await?;
    Ok(taken_over!(row))
}

//! The public functions, as the command line calls them, and what `run` needs to try a workflow out.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, Executor, PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::error::DbError;

/// A job to be.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct NewJob {
    pub workflow: String,
    /// JSON text.
    pub input: String,
    pub queue: Option<String>,
    pub priority: Option<i32>,
    pub run_at: Option<DateTime<Utc>>,
    pub unique_key: Option<String>,
    pub session_id: Option<String>,
    pub concurrency_key: Option<String>,
    /// The enqueuer's W3C trace context.
    pub traceparent: Option<String>,
    pub labels: serde_json::Value,
}

/// Enqueues a run; gives its id, or that of the unfinished run which has the unique key.
///
/// # Errors
/// Whatever the database says.
pub async fn enqueue<'c>(db: impl Executor<'c, Database = Postgres>, job: &NewJob) -> Result<Uuid, DbError> {
    Ok(sqlx::query_file_scalar!(
        "src/db/sql/enqueue.sql",
        job.workflow,
        job.input,
        job.queue.as_deref(),
        job.priority,
        job.run_at,
        job.unique_key.as_deref(),
        job.labels,
        job.session_id.as_deref(),
        job.concurrency_key.as_deref(),
        job.traceparent.as_deref()
    )
    .fetch_one(db)
    .await?)
}

/// Enqueues a run; gives its id and true, or the id of the unfinished run which has the unique key, and false.
///
/// # Errors
/// Whatever the database says.
pub async fn enqueue_once(conn: &mut PgConnection, job: &NewJob) -> Result<(Uuid, bool), DbError> {
    let mut tx = conn.begin().await?;
    let told = enqueue_within(&mut tx, job).await?;
    tx.commit().await?;
    Ok(told)
}

/// As [`enqueue_once`], as a part of a transaction.
///
/// # Errors
/// Whatever the database says.
pub async fn enqueue_within(tx: &mut Transaction<'_, Postgres>, job: &NewJob) -> Result<(Uuid, bool), DbError> {
    let id = enqueue(&mut **tx, job).await?;
    let created = sqlx::query_file_scalar!("src/db/sql/is_new.sql", id).fetch_one(&mut **tx).await?;
    Ok((id, created))
}

/// The database's time.
///
/// # Errors
/// Whatever the database says.
pub async fn clock<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<DateTime<Utc>, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/clock.sql").fetch_one(db).await?)
}

/// Cancels a run: `cancelled`, or `requested` where a worker has it.
///
/// # Errors
/// SD010, SD011; whatever else the database says.
pub async fn cancel<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    reason: Option<&str>,
) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/cancel.sql", run, reason).fetch_one(db).await?)
}

/// Takes up a failed run again, with its workflow's present definition where it says `latest`; gives its new state.
///
/// # Errors
/// SD010, SD012, SD013; whatever else the database says.
pub async fn retry<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid, latest: bool) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/retry.sql", run, latest).fetch_one(db).await?)
}

/// Makes a new run of a run, from a step on, perhaps with another input (JSON text), perhaps with its workflow's present definition, perhaps
/// with this step alone running anew; gives its id.
///
/// # Errors
/// SD001, SD010, SD017; whatever else the database says.
pub async fn fork<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    from_step: &str,
    input: Option<&str>,
    latest: bool,
    alone: bool,
) -> Result<Uuid, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/fork.sql", run, from_step, input, latest, alone).fetch_one(db).await?)
}

/// Pauses a run: `paused`, or `requested` where a worker has it, which lets it go when its steps have ended, or breaks them off `now`.
///
/// # Errors
/// SD010, SD011; whatever else the database says.
pub async fn pause<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    reason: Option<&str>,
    now: bool,
) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/pause.sql", run, reason, now).fetch_one(db).await?)
}

/// Ends a run's pause; gives its new state.
///
/// # Errors
/// SD010, SD011, SD012; whatever else the database says.
pub async fn unpause<'c>(db: impl Executor<'c, Database = Postgres>, run: Uuid) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/unpause.sql", run).fetch_one(db).await?)
}

/// Sends a signal with a JSON payload: `delivered`, or `kept` until a step waits for it.
///
/// # Errors
/// SD010, SD011; whatever else the database says.
pub async fn signal<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    name: &str,
    payload: &str,
) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/signal.sql", run, name, payload).fetch_one(db).await?)
}

/// Emits an event with a JSON payload; gives how many runs it has reached.
///
/// # Errors
/// Whatever the database says.
pub async fn emit<'c>(db: impl Executor<'c, Database = Postgres>, name: &str, payload: &str) -> Result<i64, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/emit.sql", name, payload).fetch_one(db).await?)
}

/// A person's answer.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// Yes; with JSON, where a tool has asked for it.
    Yes(Option<&'a str>),
    /// No.
    No,
}

/// Answers an approval; gives the key of the step that waited.
///
/// # Errors
/// SD010, SD011, SD014, SD015, SD018; whatever else the database says.
pub async fn answer<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    step: Option<&str>,
    note: Option<&str>,
    said: Said<'_>,
) -> Result<String, DbError> {
    Ok(match said {
        Said::Yes(answer) => {
            sqlx::query_file_scalar!("src/db/sql/approve.sql", run, step, note, answer).fetch_one(db).await?
        }
        Said::No => sqlx::query_file_scalar!("src/db/sql/reject.sql", run, step, note).fetch_one(db).await?,
    })
}

/// A workflow that is there only to be tried out.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Trial<'a> {
    pub name: &'a str,
    pub definition: i32,
    pub queue: &'a str,
    pub priority: i16,
    pub source: Option<&'a str>,
}

/// Enqueues a run of a workflow that nobody else need know: an unknown one is made known for this one transaction only.
/// One that others have loaded stays as it is.
///
/// # Errors
/// Whatever the database says.
pub async fn enqueue_trial(conn: &mut PgConnection, trial: &Trial<'_>, job: &NewJob) -> Result<Uuid, DbError> {
    let mut tx = conn.begin().await?;
    let adopted = sqlx::query_file_scalar!(
        "src/db/sql/adopt_workflow.sql",
        trial.name,
        trial.definition,
        trial.queue,
        trial.priority,
        trial.source
    )
    .fetch_optional(&mut *tx)
    .await?;
    let id = enqueue(&mut *tx, job).await?;
    if let Some(at) = adopted {
        sqlx::query_file!("src/db/sql/retire_workflow.sql", trial.name, at).fetch_one(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(id)
}

/// Forgets an exclusive queue, where nothing stands in it any more and its one run has not failed: that may be retried.
///
/// # Errors
/// Whatever the database says.
pub async fn drop_queue<'c>(
    db: impl Executor<'c, Database = Postgres>,
    queue: &str,
    run: Option<Uuid>,
) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/drop_queue.sql", queue, run as Option<Uuid>).execute(db).await?;
    Ok(())
}

/// Names who acts on this connection from now on; nobody: `""`.
///
/// # Errors
/// Whatever the database says.
pub async fn act_as<'c>(db: impl Executor<'c, Database = Postgres>, name: &str) -> Result<(), DbError> {
    sqlx::query_file_scalar!("src/db/sql/act_as.sql", name).fetch_one(db).await?;
    Ok(())
}

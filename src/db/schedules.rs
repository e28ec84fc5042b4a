//! Schedules: read, fired, paused.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, PgConnection, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;

/// What a workflow's file says of its times.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Times<'a> {
    pub cron: &'a str,
    pub timezone: &'a str,
    pub overlap: &'a str,
    pub catch_up: &'a str,
}

/// Gives workflows their schedules; `None` takes it away.
///
/// # Errors
/// Whatever the database says.
pub async fn load(conn: &mut PgConnection, given: &[(&str, Option<Times<'_>>)]) -> Result<(), DbError> {
    let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
    let column = |of: fn(&Times<'_>) -> String| -> Vec<Option<String>> {
        given.iter().map(|(_, times)| times.as_ref().map(of)).collect()
    };
    sqlx::query_file!(
        "src/db/sql/load_schedules.sql",
        &names as &[&str],
        &column(|t| t.cron.to_owned()) as &[Option<String>],
        &column(|t| t.timezone.to_owned()) as &[Option<String>],
        &column(|t| t.overlap.to_owned()) as &[Option<String>],
        &column(|t| t.catch_up.to_owned()) as &[Option<String>],
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// A schedule that is not paused.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Schedule {
    pub workflow: String,
    pub cron: String,
    pub timezone: String,
    pub catch_up: String,
    /// Every instant up to here is decided.
    pub seen_at: DateTime<Utc>,
    /// `None`: to be worked out.
    pub next_at: Option<DateTime<Utc>>,
    /// Do instants wait for the last run to end?
    pub pending: bool,
    /// The server's time.
    pub now: DateTime<Utc>,
}

/// The schedules that are not paused.
///
/// # Errors
/// Whatever the database says.
pub async fn schedules<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<Schedule>, DbError> {
    Ok(sqlx::query_file_as!(Schedule, "src/db/sql/schedules_due.sql").fetch_all(db).await?)
}

/// Decides the instants up to the schedule's `now`. How many runs were enqueued; `None`: somebody else has decided.
///
/// # Errors
/// Whatever the database says.
pub async fn fire<'c>(
    db: impl Executor<'c, Database = Postgres>,
    s: &Schedule,
    instants: &[DateTime<Utc>],
    next: Option<DateTime<Utc>>,
) -> Result<Option<i32>, DbError> {
    let done = sqlx::query_file_scalar!(
        "src/db/sql/schedule_fire.sql",
        s.workflow,
        s.cron,
        s.timezone,
        s.seen_at,
        s.now,
        instants,
        next as Option<DateTime<Utc>>,
    );
    Ok(done.fetch_one(db).await?)
}

/// A schedule, for people.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct ScheduleLine {
    pub workflow: String,
    pub active: bool,
    pub next_at: Option<DateTime<Utc>>,
    pub cron: String,
    pub timezone: String,
    pub overlap: String,
    pub catch_up: String,
    pub fired_at: Option<DateTime<Utc>>,
    pub run: Option<Uuid>,
    pub run_state: Option<String>,
    /// Instants that wait for that run to end.
    pub pending: i32,
    pub skipped_at: Option<DateTime<Utc>>,
    pub paused_by: Option<String>,
    pub paused_at: Option<DateTime<Utc>>,
    /// The server's time.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// All schedules, or one by its workflow.
///
/// # Errors
/// Whatever the database says.
pub async fn list<'c>(
    db: impl Executor<'c, Database = Postgres>,
    workflow: Option<&str>,
) -> Result<Vec<ScheduleLine>, DbError> {
    let rows = sqlx::query_file_as!(ScheduleLine, "src/db/sql/schedules_list.sql", workflow as Option<&str>);
    Ok(rows.fetch_all(db).await?)
}

/// Starts a run of a schedule now.
///
/// # Errors
/// The workflow has no schedule (SD030); whatever else the database says.
pub async fn run<'c>(db: impl Executor<'c, Database = Postgres>, workflow: &str) -> Result<Uuid, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/schedule_run.sql", workflow).fetch_one(db).await?)
}

/// Stops a schedule, or lets it go on.
///
/// # Errors
/// The workflow has no schedule (SD030); whatever else the database says.
pub async fn pause<'c>(
    db: impl Executor<'c, Database = Postgres>,
    workflow: &str,
    paused: bool,
) -> Result<(), DbError> {
    match paused {
        true => sqlx::query_file!("src/db/sql/schedule_pause.sql", workflow).fetch_one(db).await.map(|_| ())?,
        false => sqlx::query_file!("src/db/sql/schedule_unpause.sql", workflow).fetch_one(db).await.map(|_| ())?,
    }
    Ok(())
}

//! What is still to be exported as traces, and the rows that traces are made of.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::model::{Call, RunState, StepState, TracedCalls, TracedEvent, TracedRun, TracedStep};
use crate::telemetry::traces::spans::Frame;

use super::error::DbError;

/// A note: runs whose traces a target does not have yet.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TraceNote {
    pub id: i64,
    pub runs: Vec<Uuid>,
    /// The parts that ended from then until then.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Since it was noted.
    pub age: Duration,
}

/// What is still to be sent to a target.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Backlog {
    pub target: String,
    pub runs: i64,
    pub age: Duration,
}

fn ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Says where a daemon sends traces, and how much may be noted for each of them.
///
/// # Errors
/// Whatever the database says.
pub async fn name_targets(conn: &mut PgConnection, names: &[String], keep: Duration, most: i64) -> Result<(), DbError> {
    let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
    sqlx::query_file!("src/db/sql/trace_targets.sql", names, keep, most).execute(conn).await?;
    Ok(())
}

/// Takes the oldest notes of a target, for a while.
///
/// # Errors
/// Whatever the database says.
pub async fn take(conn: &mut PgConnection, target: &str, n: i64, hold: Duration) -> Result<Vec<TraceNote>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_take.sql", target, n, ms(hold)).fetch_all(conn).await?;
    let one = |id, runs, (from, to), age: f64| TraceNote { id, runs, from, to, age: Duration::from_secs_f64(age) };
    Ok(rows.into_iter().map(|r| one(r.id, r.runs, (r.from_at, r.to_at), r.age)).collect())
}

/// Holds notes for longer, or (for no time) gives them back. Returns how many of them there still are.
///
/// # Errors
/// Whatever the database says.
pub async fn hold(conn: &mut PgConnection, target: &str, notes: &[i64], hold: Duration) -> Result<u64, DbError> {
    Ok(sqlx::query_file!("src/db/sql/trace_hold.sql", target, notes, ms(hold)).execute(conn).await?.rows_affected())
}

/// Removes notes whose runs the target has.
///
/// # Errors
/// Whatever the database says.
pub async fn done(conn: &mut PgConnection, target: &str, notes: &[i64]) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/trace_done.sql", target, notes).execute(conn).await?;
    Ok(())
}

/// Drops what is beyond the targets' bounds: how many runs, by target.
///
/// # Errors
/// Whatever the database says.
pub async fn trim(conn: &mut PgConnection) -> Result<Vec<(String, i64)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_trim.sql").fetch_all(conn).await?;
    Ok(rows.into_iter().map(|r| (r.target, r.runs)).collect())
}

/// What is still to be sent.
///
/// # Errors
/// Whatever the database says.
pub async fn backlog(conn: &mut PgConnection) -> Result<Vec<Backlog>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_backlog.sql").fetch_all(conn).await?;
    let one = |target, runs, age: f64| Backlog { target, runs, age: Duration::from_secs_f64(age) };
    Ok(rows.into_iter().map(|r| one(r.target, r.runs, r.age)).collect())
}

/// Notes what is over of runs that have waited for so long; looks at `batch` live rows after an id. Returns where to go on.
///
/// # Errors
/// Whatever the database says.
pub async fn note_waits(
    conn: &mut PgConnection,
    after: Uuid,
    batch: i32,
    longest: Duration,
) -> Result<Option<Uuid>, DbError> {
    let longest = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
    Ok(sqlx::query_file!("src/db/sql/trace_note_waits.sql", after, batch, longest).fetch_one(conn).await?.last)
}

fn json<T: serde::de::DeserializeOwned>(text: Option<String>) -> Option<T> {
    serde_json::from_str(&text?).ok()
}

fn attempts(n: i16) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// Workflow and state of runs.
///
/// # Errors
/// Whatever the database says.
pub async fn states(conn: &mut PgConnection, runs: &[Uuid]) -> Result<Vec<(Uuid, String, RunState)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_states.sql", runs).fetch_all(conn).await?;
    let state = |word: &str| RunState::from_word(word).unwrap_or(RunState::Running);
    Ok(rows.into_iter().map(|r| (r.id, r.workflow, state(&r.state))).collect())
}

/// Runs, with `content` characters of what went in and what came out.
///
/// # Errors
/// Whatever the database says.
pub async fn runs(conn: &mut PgConnection, runs: &[Uuid], content: i32) -> Result<Vec<TracedRun>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_runs.sql", runs, content).fetch_all(conn).await?;
    let mut all = Vec::with_capacity(rows.len());
    for r in rows {
        let state = RunState::from_word(&r.state).unwrap_or(RunState::Running);
        let last = r.last_key.map(|key| TracedStep {
            run: r.id,
            seq: r.last_seq.unwrap_or(1),
            key,
            label: None,
            kind: r.last_kind.unwrap_or_default(),
            state: if state == RunState::Completed { StepState::Completed } else { StepState::Failed },
            attempts: attempts(r.last_attempts.unwrap_or(1)),
            epoch: r.epoch,
            started_at: r.last_started_at.or(r.started_at).or(r.ended_at).unwrap_or_default(),
            ended_at: r.ended_at,
            output: r.last_output.filter(|_| content > 0),
            error: None,
            usage: None,
            child: None,
        });
        all.push(TracedRun {
            id: r.id,
            workflow: r.workflow,
            state,
            queue: r.queue,
            priority: r.priority,
            epoch: r.epoch,
            resumes: r.resumes,
            crashes: r.crashes,
            created_at: r.created_at.or(r.started_at).or(r.ended_at).unwrap_or_default(),
            started_at: r.started_at,
            ended_at: r.ended_at,
            first_at: r.first_at,
            last_at: r.last_at,
            steps: r.steps + i64::from(last.is_some()),
            worker: r.worker,
            session: r.session_id,
            labels: serde_json::from_str(&r.labels).unwrap_or_default(),
            input: r.input,
            output: r.output,
            error: json(r.error),
            traceparent: r.traceparent,
            parent: r.parent.zip(r.parent_key),
            last,
        });
    }
    Ok(all)
}

/// The next steps of runs: of the first run those after a key. As many as `limit`; fewer: there are no more.
///
/// # Errors
/// Whatever the database says.
pub async fn steps(
    conn: &mut PgConnection,
    runs: &[Uuid],
    after: &str,
    content: i32,
    limit: i64,
) -> Result<Vec<TracedStep>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_steps.sql", runs, after, content, limit).fetch_all(conn).await?;
    let mut all = Vec::with_capacity(rows.len());
    for r in rows {
        all.push(TracedStep {
            run: r.run,
            seq: r.seq,
            key: r.key,
            label: r.label,
            kind: r.kind,
            state: StepState::from_word(&r.state).unwrap_or(StepState::Running),
            attempts: attempts(r.attempts),
            epoch: r.epoch,
            started_at: r.started_at,
            ended_at: r.ended_at,
            output: r.output,
            error: json(r.error),
            usage: json(r.usage),
            child: r.child.map(|child| (child, r.child_workflow)),
        });
    }
    Ok(all)
}

/// The steps that others are made of, by run.
///
/// # Errors
/// Whatever the database says.
pub async fn frames(conn: &mut PgConnection, runs: &[Uuid]) -> Result<HashMap<Uuid, Vec<Frame>>, DbError> {
    let mut all = HashMap::<Uuid, Vec<Frame>>::new();
    for r in sqlx::query_file!("src/db/sql/trace_frames.sql", runs).fetch_all(conn).await? {
        let frame = Frame { key: r.key, started_at: r.started_at, ended_at: r.ended_at };
        all.entry(r.run).or_default().push(frame);
    }
    Ok(all)
}

/// What the audit trail tells of attempts, by run.
///
/// # Errors
/// Whatever the database says.
pub async fn events(conn: &mut PgConnection, runs: &[Uuid]) -> Result<HashMap<Uuid, Vec<TracedEvent>>, DbError> {
    let mut all = HashMap::<Uuid, Vec<TracedEvent>>::new();
    for r in sqlx::query_file!("src/db/sql/trace_events.sql", runs).fetch_all(conn).await? {
        let event = TracedEvent {
            at: r.at,
            kind: r.kind,
            key: r.key,
            attempt: r.attempt.map(attempts),
            epoch: r.epoch,
            data: json(r.data).unwrap_or_default(),
        };
        all.entry(r.run).or_default().push(event);
    }
    Ok(all)
}

/// The next lines of what the attempts of runs have asked of others: of the first run those after a line's number. With each line its
/// run and its number; fewer than `limit`: there are no more.
///
/// # Errors
/// Whatever the database says.
pub async fn calls(
    conn: &mut PgConnection,
    runs: &[Uuid],
    after: i64,
    limit: i64,
) -> Result<Vec<(Uuid, i64, TracedCalls)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/trace_calls.sql", runs, after, limit).fetch_all(conn).await?;
    let calls = |text: &str| serde_json::from_str::<Vec<Call>>(text).unwrap_or_default();
    let mut all = Vec::with_capacity(rows.len());
    for r in rows {
        let calls = calls(&r.data);
        all.push((r.run, r.id, TracedCalls { key: r.key, attempt: attempts(r.attempt), epoch: r.epoch, calls }));
    }
    Ok(all)
}

/// Where the traces of runs are divided, by run.
///
/// # Errors
/// Whatever the database says.
pub async fn waits(conn: &mut PgConnection, runs: &[Uuid]) -> Result<HashMap<Uuid, Vec<DateTime<Utc>>>, DbError> {
    let mut all = HashMap::<Uuid, Vec<DateTime<Utc>>>::new();
    for r in sqlx::query_file!("src/db/sql/trace_waits.sql", runs).fetch_all(conn).await? {
        all.entry(r.run).or_default().push(r.at);
    }
    Ok(all)
}

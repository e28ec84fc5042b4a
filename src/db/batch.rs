//! One batch of writes, as columns: what `write_batch.sql` takes.

use chrono::{DateTime, Utc};
use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use super::error::DbError;

/// A batch in columns. Borrowed from the entries that it is made of.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Batch<'a> {
    pub runs: Vec<Uuid>,
    pub epochs: Vec<i32>,
    pub steps: StepColumns<'a>,
    pub notes: NoteColumns<'a>,
    pub moves: MoveColumns,
    pub ends: EndColumns<'a>,
}

#[derive(Default)]
#[allow(missing_docs)]
pub struct StepColumns<'a> {
    pub run: Vec<Uuid>,
    pub seq: Vec<i32>,
    pub started_at: Vec<DateTime<Utc>>,
    pub ended_at: Vec<Option<DateTime<Utc>>>,
    pub due_ms: Vec<Option<i64>>,
    pub attempts: Vec<i16>,
    pub checkpoint: Vec<bool>,
    pub state: Vec<&'static str>,
    pub key: Vec<&'a str>,
    pub kind: Vec<&'a str>,
    pub output: Vec<Option<&'a str>>,
    pub error: Vec<Option<String>>,
    pub decision: Vec<Option<&'a str>>,
    pub event: Vec<Option<&'a str>>,
    pub matches: Vec<Option<String>>,
    pub label: Vec<Option<&'a str>>,
    pub usage: Vec<Option<String>>,
}

#[derive(Default)]
#[allow(missing_docs)]
pub struct NoteColumns<'a> {
    pub run: Vec<Uuid>,
    pub n: Vec<i32>,
    pub attempt: Vec<Option<i16>>,
    pub kind: Vec<&'static str>,
    pub key: Vec<Option<&'a str>>,
    pub data: Vec<&'a str>,
}

#[derive(Default)]
#[allow(missing_docs)]
pub struct MoveColumns {
    pub run: Vec<Uuid>,
    pub epoch: Vec<i32>,
    pub state: Vec<&'static str>,
    pub due_ms: Vec<Option<i64>>,
    pub error: Vec<Option<String>>,
}

#[derive(Default)]
#[allow(missing_docs)]
pub struct EndColumns<'a> {
    pub run: Vec<Uuid>,
    pub state: Vec<&'static str>,
    pub output: Vec<Option<&'a str>>,
    pub error: Vec<Option<String>>,
    pub last_seq: Vec<Option<i32>>,
    pub last_attempts: Vec<Option<i16>>,
    pub last_started_at: Vec<Option<DateTime<Utc>>>,
    pub last_key: Vec<Option<&'a str>>,
    pub last_kind: Vec<Option<&'a str>>,
    pub last_output: Vec<Option<&'a str>>,
}

impl Batch<'_> {
    /// Commits the batch: all of it, but for the runs whose lease is lost. Returns those.
    ///
    /// # Errors
    /// `Refused`: nothing was written, one item is to blame. `Lost`: the outcome is unknown, read back.
    pub async fn commit(&self, conn: &mut PgConnection, worker: Uuid) -> Result<Vec<Uuid>, DbError> {
        let (s, n, m, e) = (&self.steps, &self.notes, &self.moves, &self.ends);
        let lost = sqlx::query_file_scalar!(
            "src/db/sql/write_batch.sql",
            worker,
            &self.runs,
            &self.epochs,
            &s.run,
            &s.seq,
            &s.started_at,
            &s.ended_at as &[Option<DateTime<Utc>>],
            &s.due_ms as &[Option<i64>],
            &s.attempts,
            &s.checkpoint,
            &s.state as &[&str],
            &s.key as &[&str],
            &s.kind as &[&str],
            &s.output as &[Option<&str>],
            &s.error as &[Option<String>],
            &s.decision as &[Option<&str>],
            &s.event as &[Option<&str>],
            &s.matches as &[Option<String>],
            &n.run,
            &n.attempt as &[Option<i16>],
            &n.kind as &[&str],
            &n.key as &[Option<&str>],
            &n.data as &[&str],
            &m.run,
            &m.epoch,
            &m.state as &[&str],
            &m.due_ms as &[Option<i64>],
            &m.error as &[Option<String>],
            &e.run,
            &e.state as &[&str],
            &e.output as &[Option<&str>],
            &e.error as &[Option<String>],
            &e.last_seq as &[Option<i32>],
            &e.last_attempts as &[Option<i16>],
            &e.last_started_at as &[Option<DateTime<Utc>>],
            &e.last_key as &[Option<&str>],
            &e.last_kind as &[Option<&str>],
            &e.last_output as &[Option<&str>],
            &s.label as &[Option<&str>],
            &n.n,
            &s.usage as &[Option<String>],
        )
        .fetch_one(conn)
        .await?;
        Ok(lost)
    }
}

/// What the database holds of a run, after an unknown outcome.
#[derive(Debug)]
pub struct ReadBack {
    /// The run.
    pub run: Uuid,
    /// The lease stands, and the run has not moved.
    pub mine: bool,
    /// It ended under this epoch.
    pub ended: bool,
    /// It left `running` under this epoch.
    pub moved: bool,
}

/// A row that stays: a step's, or that of a run's end.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The run.
    pub run: Uuid,
    /// The claim that wrote it.
    pub epoch: i32,
    /// The step; of a run that has ended any will do.
    pub key: String,
    /// The step was done.
    pub done: bool,
}

/// Does the database still hold these rows? And since when has this server run. `server`: the start of the one that they were
/// written to, where it is known.
///
/// # Errors
/// Whatever the database says.
pub async fn kept<'c>(
    db: impl Executor<'c, Database = Postgres>,
    rows: &[Recorded],
    server: Option<DateTime<Utc>>,
) -> Result<(bool, DateTime<Utc>), DbError> {
    let runs: Vec<Uuid> = rows.iter().map(|r| r.run).collect();
    let keys: Vec<&str> = rows.iter().map(|r| &*r.key).collect();
    let epochs: Vec<i32> = rows.iter().map(|r| r.epoch).collect();
    let done: Vec<bool> = rows.iter().map(|r| r.done).collect();
    let row =
        sqlx::query_file!("src/db/sql/kept.sql", &runs, &keys as &[&str], &epochs, &done, server).fetch_one(db).await?;
    Ok((row.kept, row.started))
}

/// Which of these runs has somebody locked?
///
/// # Errors
/// Whatever the database says.
pub async fn locked<'c>(db: impl Executor<'c, Database = Postgres>, runs: &[Uuid]) -> Result<Vec<Uuid>, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/locked.sql", runs).fetch_all(db).await?)
}

/// Reads back what became of a batch.
///
/// # Errors
/// Whatever the database says.
pub async fn read_back(
    conn: &mut PgConnection,
    worker: Uuid,
    runs: &[Uuid],
    epochs: &[i32],
) -> Result<Vec<ReadBack>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/read_back.sql", worker, runs, epochs).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|r| ReadBack { run: r.id, mine: r.mine, ended: r.ended, moved: r.moved }).collect())
}

//! The common batch, as columns: finished steps and completed runs, nothing else. What `write_plain.sql` and `write_step.sql` take.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::error::DbError;

/// A common batch in columns. Borrowed from the entries that it is made of.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Plain<'a> {
    pub steps: PlainSteps<'a>,
    pub ends: PlainEnds<'a>,
}

/// Steps that are completed, with nothing but their output.
#[derive(Default)]
#[allow(missing_docs)]
pub struct PlainSteps<'a> {
    pub run: Vec<Uuid>,
    pub epoch: Vec<i32>,
    pub seq: Vec<i32>,
    pub started_at: Vec<DateTime<Utc>>,
    pub ended_at: Vec<Option<DateTime<Utc>>>,
    pub attempts: Vec<i16>,
    pub key: Vec<&'a str>,
    pub kind: Vec<&'a str>,
    pub output: Vec<Option<&'a str>>,
}

/// Runs that are completed, each with the record of its last step where that rides along.
#[derive(Default)]
#[allow(missing_docs)]
pub struct PlainEnds<'a> {
    pub run: Vec<Uuid>,
    pub epoch: Vec<i32>,
    pub output: Vec<&'a str>,
    pub last_seq: Vec<Option<i32>>,
    pub last_attempts: Vec<Option<i16>>,
    pub last_started_at: Vec<Option<DateTime<Utc>>>,
    pub last_key: Vec<Option<&'a str>>,
    pub last_kind: Vec<Option<&'a str>>,
    pub last_output: Vec<Option<&'a str>>,
}

impl Plain<'_> {
    /// Commits the batch: all of it, but for the runs whose lease is lost. Returns those.
    ///
    /// # Errors
    /// As [`Batch::commit`](super::batch::Batch::commit).
    pub async fn commit(&self, conn: &mut PgConnection, worker: Uuid) -> Result<Vec<Uuid>, DbError> {
        match (self.steps.run.as_slice(), self.ends.run.is_empty()) {
            ([run], true) => self.commit_one(conn, worker, *run).await,
            _ => self.commit_all(conn, worker).await,
        }
    }

    async fn commit_all(&self, conn: &mut PgConnection, worker: Uuid) -> Result<Vec<Uuid>, DbError> {
        let (s, e) = (&self.steps, &self.ends);
        let lost = sqlx::query_file_scalar!(
            "src/db/sql/write_plain.sql",
            worker,
            &s.run,
            &s.epoch,
            &s.seq,
            &s.started_at,
            &s.ended_at as &[Option<DateTime<Utc>>],
            &s.attempts,
            &s.key as &[&str],
            &s.kind as &[&str],
            &s.output as &[Option<&str>],
            &e.run,
            &e.epoch,
            &e.output as &[&str],
            &e.last_seq as &[Option<i32>],
            &e.last_attempts as &[Option<i16>],
            &e.last_started_at as &[Option<DateTime<Utc>>],
            &e.last_key as &[Option<&str>],
            &e.last_kind as &[Option<&str>],
            &e.last_output as &[Option<&str>],
        )
        .fetch_one(conn)
        .await?;
        Ok(lost)
    }

    async fn commit_one(&self, conn: &mut PgConnection, worker: Uuid, run: Uuid) -> Result<Vec<Uuid>, DbError> {
        let s = &self.steps;
        let held = sqlx::query_file_scalar!(
            "src/db/sql/write_step.sql",
            worker,
            run,
            s.epoch[0],
            s.seq[0],
            s.started_at[0],
            s.ended_at[0],
            s.attempts[0],
            s.key[0],
            s.kind[0],
            s.output[0],
        )
        .fetch_one(conn)
        .await?;
        Ok(if held { Vec::new() } else { vec![run] })
    }
}

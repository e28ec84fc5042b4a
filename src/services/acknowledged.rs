//! What Postgres acknowledged last, to be asked for on the next session.
//!
//! A server loses what it has acknowledged from the end of its log: where the last of it is there, all of it is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Executor, Postgres};
use uuid::Uuid;

use crate::db::{DbError, batch};

/// What is older is not asked for: retention may have removed it. No server loses so much.
const TOLD: Duration = Duration::from_secs(600);

/// The row that was acknowledged last. Writers note it, the presence asks for it.
#[derive(Debug, Default)]
pub struct Acknowledged(Mutex<Option<Row>>);

/// A row that stays: a step's, or that of a run's end.
#[derive(Clone, Debug)]
pub struct Row {
    /// The run.
    pub run: Uuid,
    /// The claim that wrote it.
    pub epoch: i32,
    /// The step; of a run that has ended any will do.
    pub key: String,
    /// The step was done.
    pub done: bool,
    /// When it was sent.
    pub at: Instant,
}

impl Acknowledged {
    /// This one is the last.
    pub fn note(&self, row: Row) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(row);
    }

    /// Is the last one still there? Says no once.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn is_kept<'c>(&self, db: impl Executor<'c, Database = Postgres>) -> Result<bool, DbError> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(row) = last.filter(|row| row.at.elapsed() < TOLD) else { return Ok(true) };
        let kept = batch::kept(db, row.run, row.epoch, &row.key, row.done).await?;
        if !kept {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(kept)
    }
}

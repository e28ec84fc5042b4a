//! What Postgres acknowledged last, to be asked for on the next session.
//!
//! A server loses what it has acknowledged from the end of its log: where the last of it is there, all of it is.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres};

use crate::db::DbError;
use crate::db::batch::{self, Recorded};

/// What is older is not asked for: no server loses so much.
const TOLD: Duration = Duration::from_secs(600);

/// So many are remembered: commits of several connections may be acknowledged in another order than they stand in the log.
const LAST: usize = 8;

/// The rows that were acknowledged last. Writers and `sql` steps note them, the presence asks for them.
#[derive(Debug, Default)]
pub struct Acknowledged(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// When each was sent.
    rows: VecDeque<(Recorded, Instant)>,
    /// The start of the server that they were last asked of.
    server: Option<DateTime<Utc>>,
}

impl Acknowledged {
    /// This row, sent at that time, is there.
    pub fn note(&self, row: Recorded, at: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.rows.len() == LAST {
            known.rows.pop_front();
        }
        known.rows.push_back((row, at));
    }

    /// Are they still there? Says no once.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn is_kept<'c>(&self, db: impl Executor<'c, Database = Postgres>) -> Result<bool, DbError> {
        let (rows, server) = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.rows.retain(|(_, at)| at.elapsed() < TOLD);
            (known.rows.iter().map(|(row, _)| row.clone()).collect::<Vec<_>>(), known.server)
        };
        let (kept, started) = batch::kept(db, &rows, server).await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.server = Some(started);
        if !kept {
            known.rows.clear();
        }
        Ok(kept)
    }
}

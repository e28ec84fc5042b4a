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
    /// Those of before the session was lost that asks for them. What others commit meanwhile, on another server perhaps, must not
    /// take their places.
    held: VecDeque<(Recorded, Instant)>,
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

    /// The session that asks is lost: what is known now is kept until the next has asked.
    pub fn hold(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.held.is_empty() {
            known.held = std::mem::take(&mut known.rows);
        }
    }

    /// What is asked for, oldest first.
    fn asked(&self) -> (Vec<Recorded>, Option<DateTime<Utc>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { rows, held, server } = &mut *known;
        rows.retain(|(_, at)| at.elapsed() < TOLD);
        held.retain(|(_, at)| at.elapsed() < TOLD);
        (held.iter().chain(rows.iter()).map(|(row, _)| row.clone()).collect(), *server)
    }

    /// Are they still there? Says no once.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn is_kept<'c>(&self, db: impl Executor<'c, Database = Postgres>) -> Result<bool, DbError> {
        let (rows, server) = self.asked();
        let (kept, started) = batch::kept(db, &rows, server).await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.server = Some(started);
        known.held.clear();
        if !kept {
            known.rows.clear();
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u128) -> Recorded {
        Recorded { run: uuid::Uuid::from_u128(n), epoch: 1, key: "a".to_owned(), done: true }
    }

    #[test]
    fn what_is_committed_while_nobody_can_ask_does_not_take_the_place_of_what_was_known_before() {
        let (known, now) = (Acknowledged::default(), Instant::now());
        let asked = || known.asked().0.iter().map(|row| row.run.as_u128()).collect::<Vec<_>>();
        (0..10).for_each(|n| known.note(row(n), now));
        assert_eq!(asked(), [2, 3, 4, 5, 6, 7, 8, 9]);
        known.hold();
        (10..30).for_each(|n| known.note(row(n), now));
        // Lost once more before it could ask.
        known.hold();
        assert_eq!(asked(), [2, 3, 4, 5, 6, 7, 8, 9, 22, 23, 24, 25, 26, 27, 28, 29]);
    }
}

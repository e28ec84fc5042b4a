//! Folds the noted ends of runs into the daily figures (`migrations/0005_daily.sql`). What is noted is counted once, whoever folds it
//! and whoever dies with it: the notes go in the statement that adds them up. So there is nothing to take up after a crash, and a
//! worker that folds nothing for a while only lets them wait.

use std::sync::Arc;
use std::time::Duration;

use crate::db::{Database, DbError, daily};

use super::periodic::Periodic;
use super::runs::Runs;

/// A line is some hundred runs at full load: one pass is a few 10 ms.
const BATCH: i32 = 5_000;

/// The figures are so far behind at the most, where this worker ends runs …
const PERIOD: Duration = Duration::from_secs(5);

/// … and where it does not: what others end they fold themselves, and what is ended by hand may wait.
const SELDOM: Duration = Duration::from_secs(30);

/// The service.
pub struct Daily {
    /// The database.
    pub db: Database,
    /// What this worker runs.
    pub runs: Arc<Runs>,
    /// How many it had started at the last pass.
    pub started: u64,
}

impl Periodic for Daily {
    fn name(&self) -> &'static str {
        "daily"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        self.started = self.runs.started();
        let folded = self.db.ask(async |conn| daily::fold(conn, BATCH).await).await?;
        Ok(match folded {
            0 if self.runs.is_empty() => SELDOM,
            BATCH => Duration::ZERO,
            _ => PERIOD,
        })
    }

    /// Runs have been started since.
    async fn hinted(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            if self.runs.started() != self.started {
                return;
            }
        }
    }

    fn spacing(&self) -> Duration {
        Duration::ZERO
    }
}

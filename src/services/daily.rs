//! Folds the noted ends of runs into the daily figures (`migrations/0005_daily.sql`). What is noted is counted once, whoever folds it
//! and whoever dies with it: the notes go in the statement that adds them up. So there is nothing to take up after a crash, and a
//! worker that folds nothing for a while only lets them wait.

use std::time::Duration;

use crate::db::{Database, DbError, daily};

use super::periodic::Periodic;

/// A line is some hundred runs at full load: one pass is a few 10 ms.
const BATCH: i32 = 5_000;

/// The figures are so far behind at the most.
const PERIOD: Duration = Duration::from_secs(5);

/// The service.
pub struct Daily {
    /// The database.
    pub db: Database,
}

impl Periodic for Daily {
    fn name(&self) -> &'static str {
        "daily"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        let folded = self.db.ask(async |conn| daily::fold(conn, BATCH).await).await?;
        Ok(if folded == BATCH { Duration::ZERO } else { PERIOD })
    }

    /// Nobody waits for a figure.
    async fn hinted(&self) {
        std::future::pending().await
    }

    fn spacing(&self) -> Duration {
        Duration::ZERO
    }
}

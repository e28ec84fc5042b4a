//! Keeps the older systems' tables (`migrations/optional/tables.sql`) from the stored rows, where somebody has installed them. What has
//! changed is noted in the transaction that changes it, and forgotten in the one that copies it: nothing is to be taken up after a crash.

use std::time::Duration;

use crate::db::{Database, DbError, compat};

use super::periodic::Periodic;

/// A note is up to some hundred runs.
const BATCH: i32 = 50;

/// The tables are so far behind at the most.
const PERIOD: Duration = Duration::from_secs(2);

/// Have they been installed meanwhile?
const LOOK: Duration = Duration::from_secs(60);

/// The service.
pub struct Tables {
    /// The database.
    pub db: Database,
}

impl Periodic for Tables {
    fn name(&self) -> &'static str {
        "tables"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        Ok(match self.db.ask(async |conn| compat::catch_up(conn, BATCH).await).await? {
            None => LOOK,
            Some(BATCH) => Duration::ZERO,
            Some(_) => PERIOD,
        })
    }

    /// Nobody waits for a copy.
    async fn hinted(&self) {
        std::future::pending().await
    }

    fn spacing(&self) -> Duration {
        Duration::ZERO
    }
}

//! Mends lost wake-ups. A loop of its own: however long a pass takes, a take-over waits for none.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::db::{Database, DbError, Trouble, maintenance};
use crate::telemetry::metrics::Metrics;

use super::periodic::Periodic;

/// Lost wake-ups are rare: they need a hole between two statements.
const EVERY: Duration = Duration::from_secs(30);

/// … but with many unfinished runs one pass does not see all: the next part follows after this long.
const GAP: Duration = Duration::from_secs(3);

/// Runs that one pass looks at: some 50 ms of Postgres' time.
const BATCH: i32 = 5_000;

/// The repair.
pub struct Repair {
    db: Database,
    metrics: Arc<Metrics>,
    batch: i32,
    /// How far it has come among the runs.
    after: Option<Uuid>,
}

impl Repair {
    /// From the beginning.
    #[must_use]
    pub fn new(db: Database, metrics: Arc<Metrics>) -> Self {
        Self { db, metrics, batch: BATCH, after: None }
    }
}

impl Periodic for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        let (batch, after) = (self.batch, self.after);
        let done = self.db.ask(async |conn| maintenance::repair(conn, batch, after).await).await;
        self.batch = match &done {
            Ok(_) => (batch * 2).min(BATCH),
            // It took too long, perhaps: rather less at a time than never past these rows.
            Err(error) if error.trouble == Trouble::Busy => (batch / 2).max(1),
            Err(_) => batch,
        };
        let (mended, last) = done?;
        if mended > 0 {
            self.metrics.services.mended.inc_by(u64::try_from(mended).unwrap_or(0));
            tracing::info!(mended, "mended lost wake-ups");
        }
        self.after = last;
        let pause = if last.is_some() { GAP } else { EVERY };
        Ok(pause.mul_f64(0.75 + 0.5 * fastrand::f64()))
    }

    async fn hinted(&self) {
        std::future::pending().await
    }

    fn spacing(&self) -> Duration {
        Duration::ZERO
    }
}

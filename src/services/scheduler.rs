//! Starts runs at the instants of schedules. Every worker looks; the statement that enqueues a run decides its instant, once.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::schedules::{self, Schedule};
use crate::db::{Database, DbError, Trouble};
use crate::rules::cron::{CatchUp, Cron};
use crate::telemetry::metrics::Metrics;

use super::periodic::Periodic;
use super::shared::Hints;

/// A net under the next instant that is known, and under the hints that a load gives.
const NET: Duration = Duration::from_secs(10);

/// Instants that wait for a run to end are looked at so often.
const PENDING: Duration = Duration::from_secs(1);

/// Hints come for many reasons; schedules seldom change.
const SPACING: Duration = Duration::from_secs(1);

/// The scheduler.
pub struct Scheduler {
    /// The database.
    pub db: Database,
    /// Where wake-ups come from.
    pub hints: Arc<Hints>,
    /// Where the runs are counted that it starts.
    pub metrics: Arc<Metrics>,
}

impl Periodic for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        let found = self.db.ask(async |conn| schedules::schedules(conn).await).await?;
        let mut pause = NET;
        for schedule in &found {
            pause = pause.min(self.look(schedule).await?);
        }
        Ok(pause)
    }

    async fn hinted(&self) {
        self.hints.schedule.notified().await;
    }

    fn spacing(&self) -> Duration {
        SPACING
    }
}

impl Scheduler {
    /// Fires a schedule if it is time. Gives the time until the next look at it.
    async fn look(&self, s: &Schedule) -> Result<Duration, DbError> {
        if let Some(next) = s.next_at.filter(|next| *next > s.now && !s.pending) {
            return Ok(until(next, s.now));
        }
        let workflow = s.workflow.as_str();
        let (cron, catch_up) = match (Cron::parse(&s.cron, &s.timezone), CatchUp::from_word(&s.catch_up)) {
            (Ok(cron), Some(catch_up)) => (cron, catch_up),
            // Another version of stepd has loaded it, and fires it.
            (error, _) => {
                let error = error.err().map(|e| e.to_string());
                tracing::debug!(workflow, error, "this version of stepd cannot read a schedule");
                return Ok(NET);
            }
        };
        let due = cron.due(catch_up, s.seen_at, s.now);
        let next = cron.next(s.now);
        match self.db.ask(async |conn| schedules::fire(conn, s, &due, next).await).await {
            Ok(Some(runs)) if runs > 0 => {
                self.metrics.services.scheduled.inc_by(u64::try_from(runs).unwrap_or(0));
                let instant = due.last().map(DateTime::to_rfc3339);
                tracing::info!(workflow, instant, runs, "a schedule has started a run");
                self.hints.claim.notify_one();
            }
            Ok(_) => {}
            // One that cannot be fired must not keep the others from it.
            Err(error) if error.trouble == Trouble::Refused => {
                tracing::warn!(%error, workflow, "a schedule could not start its run; trying again");
                return Ok(NET);
            }
            // Somebody's open transaction has locked it, or holds its run's unique key.
            Err(error) if error.trouble == Trouble::Busy => {
                tracing::debug!(%error, workflow, "a schedule is locked");
                return Ok(PENDING);
            }
            Err(error) => return Err(error),
        }
        let wait = next.map_or(NET, |next| until(next, s.now));
        Ok(if s.pending || !due.is_empty() { wait.min(PENDING) } else { wait })
    }
}

/// A time ahead, from now on the worker's own monotonic clock.
fn until(next: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (next - now).max(TimeDelta::zero()).to_std().unwrap_or(NET)
}

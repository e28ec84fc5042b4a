//! Stages what is due, admits what is held. It has no poll of its own: the claimer's look says when there is something to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::db::maintenance::{self, Admitted, Staged};
use crate::db::{Database, DbError, Trouble};

use super::periodic::{AFTER_HINT, Periodic};
use super::shared::Hints;

/// Rows moved by one pass at the most: a pass stays short, and a full one is followed by the next at once.
const BATCH: i32 = 2_000;

/// A net under the claimer's look, every two seconds, and under the due time that is known.
const NET: Duration = Duration::from_secs(30);

/// Hints come with every insert; passes need not.
const SPACING: Duration = Duration::from_millis(50);

/// Where runs are held a place that is free is to be taken soon: then passes follow at once, and take half of the time at most.
const SHARE: u32 = 2;

/// … but never sooner than this.
const SOONEST: Duration = Duration::from_millis(1);

/// A place that is free is no reason to look for what is due: not more often than this, while passes follow each other for places.
const DUE: Duration = Duration::from_millis(20);

/// What is due and was not staged is a row that somebody's open transaction has locked.
const LOCKED: Duration = Duration::from_millis(50);

/// The stager.
pub struct Stager {
    /// The database.
    pub db: Database,
    /// Where wake-ups come from.
    pub hints: Arc<Hints>,
    /// How long a pass takes where runs are held, smoothed; zero where none is.
    pub cost: Duration,
    /// How far the admission has come among the keys.
    pub after: Option<Vec<String>>,
    /// When it was last looked for what is due.
    pub staged: Option<Instant>,
}

impl Periodic for Stager {
    fn name(&self) -> &'static str {
        "stager"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        let began = Instant::now();
        let lately = !self.cost.is_zero() && self.staged.is_some_and(|at| at.elapsed() < DUE);
        let done = match lately {
            true => Staged { held: true, ..Staged::default() },
            false => self.db.ask(async |conn| maintenance::stage(conn, BATCH).await).await?,
        };
        if !lately {
            self.staged = Some(began);
            self.hints.set_held(done.held);
        }
        // A statement of its own: a slow admission, or one that fails, must not keep sleeps from ending.
        let admitted = match done.held {
            true => self.db.ask(async |conn| maintenance::admit(conn, BATCH, self.after.as_deref()).await).await,
            false => Ok(Admitted::default()),
        };
        let admitted = admitted.unwrap_or_else(|error| {
            match error.trouble {
                Trouble::Refused => tracing::warn!(%error, "admission failed; held runs wait for the next pass"),
                // A database that is away is told by others.
                Trouble::Lost | Trouble::Busy | Trouble::Short => {
                    tracing::debug!(%error, "admission failed; held runs wait for the next pass")
                }
            }
            // The next pass begins where this one did.
            Admitted { last: self.after.take(), ..Admitted::default() }
        });
        let more = admitted.admitted.is_some() && admitted.last.is_some();
        let Admitted { admitted, next_ms, last } = admitted;
        let admitted = admitted.unwrap_or(0);
        self.after = last;
        self.cost = if done.held { (self.cost * 3 + began.elapsed()) / 4 } else { Duration::ZERO };
        if done.staged > 0 || admitted > 0 {
            tracing::debug!(staged = done.staged, admitted, "staged");
            self.hints.claim.notify_one();
        }
        if done.staged >= BATCH || admitted >= BATCH || more {
            return Ok(Duration::ZERO);
        }
        let next = done.next_ms.into_iter().chain(next_ms).min();
        let net = if lately { DUE } else { NET };
        let soonest = if done.staged == 0 && done.next_ms == Some(0) { LOCKED } else { Duration::ZERO };
        Ok(next.map_or(net, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))).max(soonest).min(net))
    }

    async fn hinted(&self) {
        self.hints.stage.notified().await;
    }

    fn spacing(&self) -> Duration {
        match self.cost.is_zero() {
            true => SPACING,
            false => (self.cost * SHARE).clamp(SOONEST, NET),
        }
    }

    fn patience(&self) -> Duration {
        match self.cost.is_zero() {
            true => AFTER_HINT,
            false => Duration::ZERO,
        }
    }
}

//! Takes over the runs of dead workers, and mends lost wake-ups. Any worker may sweep.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::db::{Database, liveness, maintenance};
use crate::rules::sweep::Suspect;

use super::presence::Presence;
use super::shared::{Backoff, Hints, Stop, stopped};

/// Lost wake-ups are rare: they need a hole between two statements.
const REPAIR_EVERY: Duration = Duration::from_secs(30);

/// Rows mended by one pass at the most.
const REPAIR_BATCH: i32 = 500;

/// The sweeper.
pub struct Sweeper {
    /// The database.
    pub db: Database,
    /// Whose sweeper this is.
    pub presence: Presence,
    /// Whom to wake.
    pub hints: Arc<Hints>,
    /// Workers that the presence has found dead.
    pub suspects: mpsc::Receiver<Suspect>,
}

impl Sweeper {
    /// Runs until the stop.
    pub async fn run(mut self, mut stop: Stop) {
        let mut repair = tokio::time::interval(REPAIR_EVERY.mul_f64(0.75 + 0.5 * fastrand::f64()));
        repair.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                suspect = self.suspects.recv() => match suspect {
                    Some(suspect) => self.take_over(suspect).await,
                    None => return,
                },
                _ = repair.tick() => self.repair().await,
            }
        }
    }

    async fn take_over(&self, suspect: Suspect) {
        let Some(me) = self.presence.worker() else { return };
        let mut backoff = Backoff::default();
        for _ in 0..3 {
            match liveness::take_over(self.db.pool(), suspect.worker, suspect.by_lock, suspect.beat, me.0).await {
                Ok(Some(done)) => {
                    tracing::warn!(
                        dead.worker = %suspect.worker, found_by = if suspect.by_lock { "lock" } else { "lease" },
                        requeued = done.requeued, quarantined = done.quarantined, "took over a dead worker's runs"
                    );
                    self.hints.claim.notify_one();
                    return;
                }
                // Alive after all, busy, or taken by another sweeper: the next look decides anew.
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, dead.worker = %suspect.worker, "take-over failed, trying again");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    async fn repair(&self) {
        match maintenance::repair(self.db.pool(), REPAIR_BATCH).await {
            Ok(0) => {}
            Ok(repaired) => tracing::info!(repaired, "mended lost wake-ups"),
            Err(error) => tracing::debug!(%error, "repair failed"),
        }
    }
}

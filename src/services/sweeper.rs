//! Takes over the runs of dead workers. Any worker may sweep.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::db::{Database, Trouble, liveness};
use crate::model::WorkerId;
use crate::os::evidence;
use crate::rules::sweep::Suspect;
use crate::telemetry::metrics::Metrics;
use crate::testing::Failpoints;

use super::presence::Presence;
use super::progress::Pulse;
use super::shared::{Backoff, Hints, Stop, stopped};

/// Runs that somebody has locked are asked for again after this long.
const LOCKED_AGAIN: Duration = Duration::from_secs(1);

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
    /// Proof that it turns.
    pub pulse: Arc<Pulse>,
    /// Where take-overs are counted.
    pub metrics: Arc<Metrics>,
    /// For tests.
    pub failpoints: Failpoints,
}

impl Sweeper {
    /// Runs until the stop.
    pub async fn run(mut self, mut stop: Stop) {
        let mut left: Vec<Left> = Vec::new();
        loop {
            self.pulse.rest();
            let work = tokio::select! {
                () = stopped(&mut stop) => return,
                suspect = self.suspects.recv() => match suspect {
                    Some(suspect) => Work::TakeOver(suspect),
                    None => return,
                },
                () = tokio::time::sleep(LOCKED_AGAIN), if !left.is_empty() => Work::Fetch,
            };
            self.pulse.beat();
            match work {
                Work::TakeOver(suspect) => left.extend(self.take_over(suspect).await),
                Work::Fetch => left = self.fetch(left).await,
            }
        }
    }

    /// Takes over; gives what it had to leave behind.
    async fn take_over(&self, suspect: Suspect) -> Option<Left> {
        let me = self.presence.worker()?;
        let mut backoff = Backoff::default();
        self.bear_witness(suspect.worker).await;
        self.failpoints.hit("sweeper.before_take_over").await;
        for _ in 0..3 {
            let Suspect { worker, by_lock, beat } = suspect;
            match self.db.ask(async |conn| liveness::take_over(conn, worker, by_lock, beat, me.0).await).await {
                Ok(Some(done)) => {
                    self.failpoints.hit("sweeper.after_take_over").await;
                    let counted = &self.metrics.services;
                    if suspect.by_lock { &counted.by_lock } else { &counted.by_lease }.inc();
                    self.count(done.requeued, done.quarantined);
                    tracing::warn!(
                        dead.worker = %suspect.worker, found_by = if suspect.by_lock { "lock" } else { "lease" },
                        requeued = done.requeued, quarantined = done.quarantined, locked = done.locked, "took over a dead worker's runs"
                    );
                    self.hints.claim.notify_one();
                    return (done.locked > 0).then_some(Left { victim: suspect.worker, evidence: done.evidence });
                }
                // Alive after all, busy, or taken by another sweeper: the next look decides anew.
                Ok(None) => return None,
                Err(error) => {
                    // What passes is met by others too, and told by them. What does not keeps the runs of the dead from coming back.
                    match error.trouble {
                        Trouble::Refused => {
                            tracing::warn!(%error, dead.worker = %suspect.worker, "postgres refuses a take-over; trying again");
                        }
                        Trouble::Lost | Trouble::Busy | Trouble::Short => {
                            tracing::debug!(%error, dead.worker = %suspect.worker, "take-over failed, trying again");
                        }
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
        None
    }

    fn count(&self, requeued: i32, quarantined: i32) {
        let number = |n: i32| u64::try_from(n).unwrap_or(0);
        self.metrics.services.taken.inc_by(number(requeued));
        self.metrics.services.quarantined.inc_by(number(quarantined));
    }

    /// Runs that somebody had locked when their worker was taken over. Should this worker die before them, the repair finds them.
    async fn fetch(&self, left: Vec<Left>) -> Vec<Left> {
        let mut still = Vec::new();
        for one in left {
            match self.db.ask(async |conn| liveness::requeue(conn, one.victim, &one.evidence).await).await {
                Ok(Some(done)) if done.requeued + done.quarantined > 0 => {
                    self.count(done.requeued, done.quarantined);
                    tracing::info!(dead.worker = %one.victim, requeued = done.requeued, quarantined = done.quarantined,
                        locked = done.locked, "took over runs that somebody had locked");
                    self.hints.claim.notify_one();
                    still.extend((done.locked > 0).then_some(one));
                }
                Ok(Some(done)) => still.extend((done.locked > 0).then_some(one)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, dead.worker = %one.victim, "runs that were locked are still to be taken over");
                    still.push(one);
                }
            }
        }
        still
    }

    /// Adds what can be seen from here to what the dead worker has said of itself, where both are on one machine.
    async fn bear_witness(&self, dead: WorkerId) {
        let told = async {
            let Some((pid, facts)) = liveness::facts_of(self.db.pool(), dead).await? else { return Ok(()) };
            let facts = serde_json::from_value(facts).unwrap_or_default();
            match evidence::witness(&facts, pid) {
                Some(seen) => liveness::witness(self.db.pool(), dead, &serde_json::json!(seen)).await,
                None => Ok(()),
            }
        };
        if let Err(error) = told.await {
            // The take-over matters, its story less.
            tracing::debug!(%error, dead.worker = %dead, "no evidence could be added");
        }
    }
}

/// What there is to do.
enum Work {
    TakeOver(Suspect),
    Fetch,
}

/// What a take-over has left behind.
struct Left {
    victim: WorkerId,
    evidence: serde_json::Value,
}

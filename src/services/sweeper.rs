//! Takes over the runs of dead workers, and mends lost wake-ups. Any worker may sweep.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::{Database, Trouble, liveness, maintenance};
use crate::model::WorkerId;
use crate::os::evidence;
use crate::rules::sweep::Suspect;
use crate::telemetry::metrics::Metrics;
use crate::testing::Failpoints;

use super::presence::Presence;
use super::progress::Pulse;
use super::shared::{Backoff, Hints, Stop, stopped};

/// Lost wake-ups are rare: they need a hole between two statements.
const REPAIR_EVERY: Duration = Duration::from_secs(30);

/// … but with many unfinished runs one pass does not see all: the next part follows after this long.
const REPAIR_GAP: Duration = Duration::from_secs(3);

/// Runs that one pass looks at: some 50 ms of Postgres' time.
const REPAIR_BATCH: i32 = 5_000;

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
        let mut repair = Repair { batch: REPAIR_BATCH, after: None };
        let mut due = Instant::now();
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
                () = tokio::time::sleep_until(due) => Work::Repair,
            };
            self.pulse.beat();
            match work {
                Work::TakeOver(suspect) => left.extend(self.take_over(suspect).await),
                Work::Fetch => left = self.fetch(left).await,
                Work::Repair => due = Instant::now() + self.repair(&mut repair).await,
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

    /// One pass; returns how long to wait for the next.
    async fn repair(&self, repair: &mut Repair) -> Duration {
        let (batch, after) = (repair.batch, repair.after);
        match self.db.ask(async |conn| maintenance::repair(conn, batch, after).await).await {
            Ok((mended, last)) => {
                self.pulse.passed(true);
                if mended > 0 {
                    self.metrics.services.mended.inc_by(u64::try_from(mended).unwrap_or(0));
                    tracing::info!(mended, "mended lost wake-ups");
                }
                repair.batch = (repair.batch * 2).min(REPAIR_BATCH);
                repair.after = last;
            }
            Err(error) => {
                self.pulse.passed(false);
                // Perhaps it took too long: rather less at a time than never past these rows.
                tracing::debug!(%error, "repair failed");
                repair.batch = (repair.batch / 2).max(1);
            }
        }
        let pause = if repair.after.is_some() { REPAIR_GAP } else { REPAIR_EVERY };
        pause.mul_f64(0.75 + 0.5 * fastrand::f64())
    }
}

/// What there is to do.
enum Work {
    TakeOver(Suspect),
    Fetch,
    Repair,
}

/// What a take-over has left behind.
struct Left {
    victim: WorkerId,
    evidence: serde_json::Value,
}

/// How far the repair has come.
struct Repair {
    batch: i32,
    after: Option<Uuid>,
}

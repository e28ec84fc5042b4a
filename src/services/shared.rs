//! What the services tell each other: hints to look, and whether Postgres is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::telemetry::metrics::Metrics;

/// Reasons to look before the next poll. A hint is never the only way: every consumer polls too.
#[derive(Debug, Default)]
pub struct Hints {
    /// Something may be claimable.
    pub claim: Notify,
    /// Something may be due or admissible earlier than known.
    pub stage: Notify,
    /// A schedule may have come or changed.
    pub schedule: Notify,
    /// Somebody may want something of a running run.
    pub request: Notify,
    /// When something was last looked for, was a run held?
    held: AtomicBool,
}

impl Hints {
    /// Says whether a run is held, as far as this worker knows.
    pub fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// A run has left its place: if others are held, one of them may have it.
    pub fn left(&self) {
        if self.held.load(Ordering::Relaxed) {
            self.stage.notify_one();
        }
    }

    /// Tells everyone to look.
    pub fn all(&self) {
        self.claim.notify_one();
        self.stage.notify_one();
        self.request.notify_one();
        self.schedule.notify_one();
    }
}

/// Says once when Postgres goes away and once when it is back, however many services notice.
#[derive(Debug)]
pub struct Connectivity {
    state: Mutex<Known>,
    metrics: Arc<Metrics>,
    /// How often it came back without what it had acknowledged.
    losses: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    away: bool,
    back_at: Option<Instant>,
}

/// For this long after the return a service may still report what it met before it. Whoever cannot reach Postgres then tries, and
/// reports, again.
const ECHO: Duration = Duration::from_secs(1);

impl Connectivity {
    /// There, as far as is known.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), metrics, losses: watch::Sender::new(0) }
    }

    /// The connection of a service, or a try to make one, has failed: perhaps only that one.
    pub fn dropped(&self, service: &str) {
        self.metrics.services.connection_lost(service);
    }

    /// Is Postgres away, as far as is known?
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).away
    }

    /// A service has lost its connection.
    pub fn lost(&self, error: &dyn std::fmt::Display) {
        if self.goes() {
            tracing::warn!(%error, "postgres is away: running steps go on, their results wait, claims pause");
        }
    }

    /// Postgres is there, and refuses this worker.
    pub fn refused(&self, error: &dyn std::fmt::Display) {
        if self.goes() {
            tracing::error!(%error, "this worker is refused, and tries again and again: its results wait, claims pause");
        }
    }

    /// It is away from now on. False: that is known, or an echo.
    fn goes(&self) -> bool {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let news = !known.away && known.back_at.is_none_or(|at| at.elapsed() > ECHO);
        known.away |= news;
        if news {
            self.metrics.services.outages.inc();
        }
        news
    }

    /// Postgres is there, and lacks what it had acknowledged.
    pub fn has_lost_commits(&self) {
        tracing::error!(
            "postgres has lost commits that it had acknowledged (synchronous_commit is off, or a standby was promoted that had not \
             received them): what runs here is given back, and goes on from what is recorded"
        );
        self.losses.send_modify(|n| *n += 1);
    }

    /// To be told of each loss of commits.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// A service has reached Postgres again.
    pub fn back(&self) {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut known.away) {
            known.back_at = Some(Instant::now());
            tracing::info!("postgres is back");
        }
    }
}

/// The stop of all services: a stage of the ordered shutdown.
pub type Stop = watch::Receiver<bool>;

/// Resolves when the stop has been said.
pub async fn stopped(stop: &mut Stop) {
    // An error means that the supervisor is gone: stop too.
    let _ = stop.wait_for(|s| *s).await;
}

/// Pauses between tries, with jitter: 50 ms doubling to 2 s.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let full = Duration::from_millis(50).saturating_mul(1 << self.tries.min(6)).min(Duration::from_secs(2));
        self.tries += 1;
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

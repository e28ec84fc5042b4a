//! What the services tell each other: hints to look, the stop, and how to pause between tries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

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

/// The stop of all services: a stage of the ordered shutdown.
pub type Stop = watch::Receiver<bool>;

/// Resolves when the stop has been said.
pub async fn stopped(stop: &mut Stop) {
    // An error means that the supervisor is gone: stop too.
    let _ = stop.wait_for(|s| *s).await;
}

/// Pauses between tries, with jitter: 50 ms doubling to 2 s.
#[derive(Clone, Debug, Default)]
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

//! The gate before every step: open while this worker knows that its leases stand.
//!
//! The gate shuts by itself: its keeper must say "open" again and again. A process that was stopped and
//! continued finds it shut before any of its threads can start a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

#[derive(Debug)]
struct Shared {
    birth: Instant,
    /// Milliseconds after `birth` until which the gate is open.
    until: AtomicU64,
    opened: Notify,
}

/// Opens the gate for a while; held by the service that keeps the registration.
#[derive(Debug)]
pub struct GateKeeper(Arc<Shared>);

/// What a run sees of the gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

fn shared(until: u64) -> Arc<Shared> {
    Arc::new(Shared { birth: Instant::now(), until: AtomicU64::new(until), opened: Notify::new() })
}

impl GateKeeper {
    /// A shut gate.
    #[must_use]
    pub fn new() -> (Self, Gate) {
        let shared = shared(0);
        (Self(shared.clone()), Gate(shared))
    }

    /// Opens until `since + span`, where `since` lies before the proof was asked for.
    pub fn open(&self, since: Instant, span: Duration) {
        let until = (since + span).saturating_duration_since(self.0.birth).as_millis();
        self.0.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Release);
        self.0.opened.notify_waiters();
    }

    /// Shuts.
    pub fn shut(&self) {
        self.0.until.store(0, Ordering::Release);
    }
}

impl Gate {
    /// A gate that is always open: where there is no database to lose.
    #[must_use]
    pub fn always_open() -> Self {
        Self(shared(u64::MAX))
    }

    /// May a step start now?
    #[must_use]
    pub fn is_open(&self) -> bool {
        let until = self.0.until.load(Ordering::Acquire);
        until == u64::MAX || self.0.birth.elapsed().as_millis() < u128::from(until)
    }

    /// Waits until a step may start.
    pub async fn opened(&self) {
        loop {
            let opened = self.0.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if self.is_open() {
                return;
            }
            opened.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_shuts_by_itself_when_nobody_vouches_for_it() {
        let (keeper, gate) = GateKeeper::new();
        assert!(!gate.is_open());
        keeper.open(Instant::now(), Duration::from_secs(60));
        assert!(gate.is_open());
        keeper.open(Instant::now().checked_sub(Duration::from_millis(10)).unwrap(), Duration::from_millis(5));
        assert!(!gate.is_open());
    }
}

//! The gate before every step: open while this worker knows that its leases stand.

use tokio::sync::watch;

/// Shuts and opens the gate; held by the service that keeps the registration.
#[derive(Debug)]
pub struct GateKeeper(watch::Sender<bool>);

/// What a run sees of the gate.
#[derive(Clone, Debug)]
pub struct Gate(watch::Receiver<bool>);

impl GateKeeper {
    /// A shut gate.
    #[must_use]
    pub fn new() -> (Self, Gate) {
        let (tx, rx) = watch::channel(false);
        (Self(tx), Gate(rx))
    }

    /// Opens or shuts.
    pub fn set(&self, open: bool) {
        self.0.send_if_modified(|now| std::mem::replace(now, open) != open);
    }
}

impl Gate {
    /// A gate that is always open: where there is no database to lose.
    #[must_use]
    pub fn always_open() -> Self {
        let (tx, rx) = watch::channel(true);
        drop(tx);
        Self(rx)
    }

    /// May a step start now?
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until a step may start.
    pub async fn opened(&self) {
        let mut rx = self.0.clone();
        if rx.wait_for(|open| *open).await.is_err() {
            // The keeper is gone, the process is about to end: start nothing.
            std::future::pending::<()>().await;
        }
    }
}

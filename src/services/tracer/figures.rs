//! What the export of traces has come to, for metrics: by target.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of one target. The counters are of this process; the backlog is the database's, as last looked at.
#[derive(Debug, Default)]
pub struct Figures {
    /// Spans that the target has taken.
    pub spans: AtomicU64,
    /// Bytes that have been sent to it, packed.
    pub bytes: AtomicU64,
    /// Requests that it has not taken: they are sent again.
    pub failed: AtomicU64,
    /// Spans that it has refused for good.
    pub refused: AtomicU64,
    /// Runs that were dropped before they were sent: too old, too many, or removed.
    pub dropped: AtomicU64,
    /// Runs that are still to be sent.
    pub backlog: AtomicU64,
    /// The age of the oldest of them, in milliseconds.
    pub age_ms: AtomicU64,
}

impl Figures {
    /// Adds to a counter.
    pub(super) fn count(counter: &AtomicU64, more: usize) {
        counter.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes a look at the backlog.
    pub(super) fn look(&self, runs: i64, age: Duration) {
        self.backlog.store(u64::try_from(runs).unwrap_or(0), Ordering::Relaxed);
        self.age_ms.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

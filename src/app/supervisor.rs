//! The daemon's end: ordered, bounded, without loss.

use std::time::Duration;

use crate::steps::StopReason;

use super::build::Daemon;

/// After the grace time, steps that must be interrupted get this long to die (TERM, then KILL, then reaping).
const INTERRUPT: Duration = Duration::from_secs(12);

/// What is finished must still be written. Longer than this, Postgres is away, and the take-over will repeat what was in flight.
const FLUSH: Duration = Duration::from_secs(10);

impl Daemon {
    /// Stops claiming, gives the buffer back, lets running steps end within the grace time, interrupts the rest and
    /// releases their runs, flushes the writer, ends the registration. True when nothing was left behind.
    pub async fn shutdown(mut self) -> bool {
        self.presence.stopping();
        self.stop.send_replace(true);
        self.runs.lock();
        if tokio::time::timeout(self.grace, self.runs.emptied()).await.is_err() {
            tracing::info!("grace time is over: interrupting what still runs");
            self.runs.stop_all(StopReason::Shutdown);
            if tokio::time::timeout(INTERRUPT, self.runs.emptied()).await.is_err() {
                tracing::warn!("some steps did not stop; their runs will be taken over");
            }
        }
        self.drained.send_replace(true);
        // Without Postgres a service may wait for it; it has nothing to save.
        if tokio::time::timeout(FLUSH, async { while self.services.join_next().await.is_some() {} }).await.is_err() {
            self.services.shutdown().await;
        }
        // The last handles to the journal: the writers end when all is written.
        let Self { presence, runs, mut writers, mut thread, .. } = self;
        drop(runs);
        let flushed = tokio::time::timeout(FLUSH, async { while writers.join_next().await.is_some() {} }).await.is_ok();
        presence.leave();
        let left = match thread.take() {
            Some(thread) => tokio::task::spawn_blocking(move || thread.join().is_ok()).await.unwrap_or(false),
            None => true,
        };
        flushed && left
    }
}

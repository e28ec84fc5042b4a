//! The daemon's end: ordered, bounded, without loss.

use std::time::Duration;

use crate::steps::StopReason;

use super::build::Daemon;

/// After the grace time, steps that must be interrupted get this long to die (TERM, then KILL, then reaping).
const INTERRUPT: Duration = Duration::from_secs(12);

/// What is finished must still be written. Longer than this, Postgres is away, and the take-over will repeat what was in flight.
const FLUSH: Duration = Duration::from_secs(10);

/// A Postgres that is known to be away is not waited for when the grace time is over.
const AWAY: Duration = Duration::from_millis(500);

/// Between two looks at what still runs.
const LOOK: Duration = Duration::from_millis(20);

/// Runs that are named when they are left behind.
const NAMED: usize = 20;

impl Daemon {
    /// The longest time that a shutdown may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.grace + INTERRUPT + 3 * FLUSH
    }

    /// Stops claiming, gives the buffer back, lets running steps end within the grace time, interrupts the rest and
    /// releases their runs, flushes the writer, ends the registration. True when nothing was left behind.
    ///
    /// While Postgres is away nothing can be recorded: it has the grace time to come back; then running steps are interrupted,
    /// and what is left is named.
    pub async fn shutdown(mut self) -> bool {
        self.presence.stopping();
        self.stop.send_replace(true);
        self.runs.lock();
        if tokio::time::timeout(self.grace, self.runs.emptied()).await.is_err() {
            tracing::info!(running = self.runs.counts().0, "grace time is over: interrupting what still runs");
            self.runs.stop_all(StopReason::GivenBack);
            if tokio::time::timeout(INTERRUPT, self.interrupted()).await.is_err() && self.runs.at_work() > 0 {
                tracing::warn!("some steps did not stop; their runs will be taken over");
            }
        }
        self.drained.send_replace(true);
        let flush = if self.connectivity.is_away() { AWAY } else { FLUSH };
        // Without Postgres a service may wait for it; it has nothing to save.
        if tokio::time::timeout(flush, async { while self.services.join_next().await.is_some() {} }).await.is_err() {
            self.services.shutdown().await;
        }
        // Bounded by itself; their runs have ended, or have been let go.
        self.outside.servers.close().await;
        let left = self.tell_what_is_left();
        self.failures.flush(AWAY).await;
        // The last handles to the journal: the writers end when all is written.
        let Self { presence, runs, mut writers, mut thread, .. } = self;
        drop(runs);
        let flushed = tokio::time::timeout(flush, async { while writers.join_next().await.is_some() {} }).await.is_ok();
        presence.leave();
        let gone = match thread.take() {
            Some(thread) => {
                let joined = tokio::task::spawn_blocking(move || thread.join().is_ok());
                // It may be on its way to a Postgres that does not answer.
                tokio::time::timeout(flush, joined).await.is_ok_and(|joined| joined.unwrap_or(false))
            }
            None => true,
        };
        flushed && gone && !left
    }

    /// Resolves when nothing runs any more; without Postgres: when no step is at work, for what they were cannot be recorded.
    async fn interrupted(&self) {
        while self.runs.counts().0 > 0 && !(self.connectivity.is_away() && self.runs.at_work() == 0) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell_what_is_left(&self) -> bool {
        let (left, _) = self.runs.in_flight();
        if left.is_empty() {
            return false;
        }
        let mut named: Vec<String> = left.iter().take(NAMED).map(ToString::to_string).collect();
        if left.len() > NAMED {
            named.push("…".to_owned());
        }
        tracing::warn!(
            left = left.len(),
            runs = named.join(", "),
            "these runs are left as they are: their last results could not be recorded; other workers take them over by the lease, and steps without a record run again"
        );
        true
    }
}

//! Idempotent passes without input: the driver owns period, wake-up, pause after an error.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use crate::db::DbError;

use super::progress::Pulse;
use super::shared::{Backoff, Stop, stopped};

/// A hint is most often for the claimer: passes let it go first, so that a job's pickup does not share the cores with them.
pub const AFTER_HINT: Duration = Duration::from_millis(5);

/// A pass over the database that can be repeated at any time.
pub trait Periodic: Send {
    /// For logs.
    fn name(&self) -> &'static str;

    /// One pass; returns when the next is due.
    fn tick(&mut self) -> impl Future<Output = Result<Duration, DbError>> + Send;

    /// Resolves when a pass is worth making before its time.
    fn hinted(&self) -> impl Future<Output = ()> + Send;

    /// Passes are at least this far apart, however many hints come.
    fn spacing(&self) -> Duration;

    /// So long a hint waits at least.
    fn patience(&self) -> Duration {
        AFTER_HINT
    }
}

/// Drives one service until the stop. A pass that has begun is finished.
pub async fn drive<P: Periodic>(mut service: P, pulse: Arc<Pulse>, mut stop: Stop) {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        pulse.beat();
        let tick = AssertUnwindSafe(service.tick()).catch_unwind().await;
        pulse.passed(matches!(tick, Ok(Ok(_))));
        let pause = match tick {
            Ok(Ok(pause)) => {
                backoff.reset();
                pause
            }
            Ok(Err(error)) => {
                tracing::debug!(service = service.name(), %error, "pass failed");
                backoff.pause()
            }
            // A bug of ours, met in a row that nobody has foreseen. The service is more than that row: it goes on trying.
            Err(_) => {
                tracing::error!(service = service.name(), "a pass panicked; trying again");
                backoff.pause()
            }
        };
        pulse.rest();
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => {}
            () = service.hinted() => {
                tokio::time::sleep_until((began + service.spacing()).max(Instant::now() + service.patience())).await;
            }
        }
        if *stop.borrow() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::super::progress::Progress;
    use super::*;

    /// Its first passes meet a fault.
    struct Faulty(watch::Sender<u32>);

    impl Periodic for Faulty {
        fn name(&self) -> &'static str {
            "faulty"
        }

        async fn tick(&mut self) -> Result<Duration, DbError> {
            self.0.send_modify(|n| *n += 1);
            let n = *self.0.borrow();
            assert!(n > 3, "a row that nobody has foreseen");
            Ok(Duration::from_secs(1))
        }

        async fn hinted(&self) {
            std::future::pending().await
        }

        fn spacing(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_panics_is_made_again_and_counts_as_failed() {
        let (passes, mut seen) = watch::channel(0);
        let (stop, stopping) = watch::channel(false);
        let progress = Progress::default();
        let pulse = progress.pulse("faulty", Duration::from_secs(1));
        let stops = async {
            seen.wait_for(|n| *n > 5).await.unwrap();
            stop.send(true).unwrap();
        };
        tokio::join!(drive(Faulty(passes), pulse, stopping), stops);
        let passed = progress.passes()[0];
        assert_eq!(passed.failed, 3);
        assert!(passed.ok >= 2);
    }
}

//! Can Postgres be worked with? Said once when it cannot, and once when it can again, however many services notice.
//!
//! Who has said that it cannot must find for himself that it can: a server that takes connections but no writes would else be away and
//! back by turns, as often as somebody connects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::db::{DbError, Trouble};
use crate::telemetry::metrics::Metrics;

/// How the services stand with Postgres.
#[derive(Debug)]
pub struct Connectivity {
    state: Mutex<Known>,
    metrics: Arc<Metrics>,
    /// How often it came back without what it had acknowledged.
    losses: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    /// The services that cannot work, and how it is with each.
    out: BTreeMap<&'static str, Kind>,
    back_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It cannot be reached, cannot write, or refuses this worker.
    Away,
    /// It can, but something is in the way.
    Waits,
}

/// For this long after the return a service may still report what it met before it. Whoever cannot reach Postgres then tries, and
/// reports, again.
const ECHO: Duration = Duration::from_secs(1);

impl Known {
    fn is(&self, kind: Kind) -> bool {
        self.out.values().any(|k| *k == kind)
    }
}

impl Connectivity {
    /// There, as far as is known.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), metrics, losses: watch::Sender::new(0) }
    }

    /// Is Postgres away, or unable to write, as far as is known?
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.known(|known| known.is(Kind::Away))
    }

    fn known<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A service could not do its work. `fresh`: on a connection made for it, or none could be made. Of a connection that was there
    /// before, its loss alone says nothing: perhaps only that one is gone.
    pub fn failed(&self, service: &'static str, error: &DbError, fresh: bool) {
        if error.trouble == Trouble::Lost {
            // The two writers are one service.
            self.metrics.services.connection_lost(service.split(' ').next().unwrap_or(service));
            if !fresh && error.lack().is_none() {
                return;
            }
        }
        let kind = if error.trouble == Trouble::Busy { Kind::Waits } else { Kind::Away };
        if !self.is_news(service, kind) {
            return;
        }
        match (kind, error.trouble, error.lack()) {
            (Kind::Waits, ..) => tracing::warn!(%error, service, "postgres keeps this worker waiting; trying again"),
            (_, _, Some(lack)) => {
                tracing::warn!(%error, "{lack}: running steps go on, their results wait, claims pause");
            }
            (_, Trouble::Refused, _) => {
                tracing::error!(%error, "this worker is refused, and tries again and again: its results wait, claims pause");
            }
            _ => tracing::warn!(%error, "postgres is away: running steps go on, their results wait, claims pause"),
        }
    }

    /// Nobody has said so yet, and it is no echo.
    fn is_news(&self, service: &'static str, kind: Kind) -> bool {
        let news = self.known(|known| {
            let first = !known.is(kind);
            if first && known.out.is_empty() && known.back_at.is_some_and(|at| at.elapsed() <= ECHO) {
                return false;
            }
            known.out.insert(service, kind);
            first
        });
        if news && kind == Kind::Away {
            self.metrics.services.outages.inc();
        }
        news
    }

    /// A service has done its work.
    pub fn back(&self, service: &'static str) {
        let last = self.known(|known| {
            let kind = known.out.remove(service)?;
            if kind == Kind::Away && !known.is(Kind::Away) {
                known.back_at = Some(Instant::now());
            }
            (!known.is(kind)).then_some(kind)
        });
        match last {
            Some(Kind::Away) => tracing::info!("postgres is back"),
            Some(Kind::Waits) => tracing::info!("postgres keeps nobody waiting any more"),
            None => {}
        }
    }

    /// A service ends: what it has last seen of Postgres says nothing any more.
    pub fn forget(&self, service: &'static str) {
        self.known(|known| known.out.remove(service));
    }

    /// Postgres is there, and lacks what it had acknowledged.
    pub fn has_lost_commits(&self) {
        tracing::error!(
            "postgres has lost commits that it had acknowledged (synchronous_commit is off, a standby was promoted that had not \
             received them, or an older state was restored): what runs here is given back, and goes on from what is recorded"
        );
        self.losses.send_modify(|n| *n += 1);
    }

    /// To be told of each loss of commits.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> DbError {
        DbError::ended()
    }

    fn outages(known: &Connectivity) -> u64 {
        known.metrics.services.outages.get()
    }

    #[test]
    fn an_outage_ends_when_everybody_who_has_met_it_can_work_again() {
        let known = Connectivity::new(Arc::new(Metrics::default()));
        known.failed("writer 1", &lost(), false);
        assert!(!known.is_away(), "perhaps only that connection");
        known.failed("writer 1", &lost(), true);
        known.failed("presence", &lost(), true);
        assert!(known.is_away());
        known.back("presence");
        known.back("claimer");
        assert!(known.is_away(), "the writer has not written yet");
        known.failed("presence", &lost(), true);
        known.back("presence");
        known.back("writer 1");
        assert!(!known.is_away());
        assert_eq!(outages(&known), 1);
    }

    #[test]
    fn what_is_reported_right_after_the_return_is_an_echo_and_who_ends_keeps_nothing_away() {
        let known = Connectivity::new(Arc::new(Metrics::default()));
        known.failed("presence", &lost(), true);
        known.back("presence");
        known.failed("claimer", &lost(), true);
        assert!(!known.is_away());
        let known = Connectivity::new(Arc::new(Metrics::default()));
        known.failed("claimer", &lost(), true);
        known.forget("claimer");
        assert!(!known.is_away());
        assert_eq!(outages(&known), 1);
    }
}

//! Tells systemd how the daemon stands, and that it is alive: only while every loop of the engine turns.
//!
//! A loop that stands still while Postgres can be reached is a fault that a restart mends; the pings end, and systemd sees to it.
//! While Postgres is away, loops may wait for it: a restart would not bring it back, and would kill running steps.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::Connection as _;

use crate::db::Database;
use crate::services::connectivity::Connectivity;
use crate::services::presence::Presence;
use crate::services::progress::{Progress, Watcher};
use crate::services::runs::Runs;

use super::build::Daemon;
use super::systemd::{Systemd, watchdog};

/// Between two looks. Nothing is said where nothing has changed.
const LOOK: Duration = Duration::from_secs(2);

/// Postgres must answer within this time to be there.
const ANSWER: Duration = Duration::from_secs(3);

/// What the herald sees of a daemon. It keeps nothing of it alive.
pub struct Herald {
    systemd: Arc<Systemd>,
    presence: Presence,
    runs: Weak<Runs>,
    db: Database,
    connectivity: Arc<Connectivity>,
    progress: Arc<Progress>,
    remark: Arc<Remark>,
}

/// Something that the status says until it is mended: a reload that failed.
#[derive(Debug, Default)]
pub struct Remark(Mutex<Option<String>>);

impl Remark {
    /// Sets it, or takes it away.
    pub fn set(&self, remark: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = remark;
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Herald {
    /// The herald of a daemon.
    #[must_use]
    pub fn new(daemon: &Daemon, systemd: Arc<Systemd>, remark: Arc<Remark>) -> Self {
        Self {
            systemd,
            presence: daemon.presence.clone(),
            runs: Arc::downgrade(&daemon.runs),
            db: daemon.db.clone(),
            connectivity: daemon.connectivity.clone(),
            progress: daemon.progress.clone(),
            remark,
        }
    }

    /// Speaks until the daemon is gone.
    pub async fn run(self) {
        if !self.systemd.listens() {
            return;
        }
        // Twice within what systemd waits for, at least.
        let period = watchdog().map_or(LOOK, |w| LOOK.min(w / 3));
        let mut watcher = Watcher::default();
        let mut last = String::new();
        let mut told = false;
        while let Some(status) = self.status() {
            if status != last {
                self.systemd.status(&status);
                last = status;
            }
            let stuck = watcher.stuck(&self.progress, Instant::now());
            if stuck.is_empty() || !self.reachable().await {
                told = false;
                self.systemd.alive();
            } else if !told {
                told = true;
                tracing::error!(
                    stuck = stuck.join(", "),
                    "the engine makes no progress though postgres answers; the watchdog is no longer told that all is well"
                );
            }
            tokio::time::sleep(period).await;
        }
    }

    /// `None`: the daemon is gone.
    pub fn status(&self) -> Option<String> {
        let (running, buffered) = self.runs.upgrade()?.counts();
        let mut parts = vec![format!("{running} running")];
        if buffered > 0 {
            parts.push(format!("{buffered} claimed and waiting for a slot"));
        }
        parts.push(match self.presence.worker() {
            Some(worker) => format!("worker {worker}"),
            None => "not registered".to_owned(),
        });
        if self.connectivity.is_away() {
            parts.push("postgres is away".to_owned());
        }
        parts.extend(self.remark.get());
        Some(parts.join(", "))
    }

    async fn reachable(&self) -> bool {
        let asked = async { self.db.connect("watchdog", &[]).await.ok()?.ping().await.ok() };
        tokio::time::timeout(ANSWER, asked).await.is_ok_and(|answer| answer.is_some())
    }
}

//! Faults of single sessions.

use std::time::Duration;

use crate::cluster::{Cluster, now};
use crate::plan::Fault;

impl Cluster {
    /// kill -9 of a backend: every session ends, Postgres recovers.
    pub async fn backend_kill(&self, draw: u64) {
        let Some(pid) = self.backend("stepd %", draw).await else { return };
        let from = now();
        if self.primary(|pg| pg.kill_backend(pid)).is_err() {
            return;
        }
        while self.db.ask::<i32>("SELECT 1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.hit(Fault::BackendKill, None, from, now());
    }

    /// Ends one to three sessions of daemons; half of the time those that keep the locks.
    pub async fn terminate(&self, draw: u64) {
        let whose = if draw.is_multiple_of(2) { "stepd presence%" } else { "stepd %" };
        for n in 0..=(draw >> 8) % 3 {
            let Some(pid) = self.backend(whose, draw.rotate_left(16 * u32::try_from(n).unwrap())).await else { return };
            let holder = format!(
                "SELECT w.pid FROM stepd_engine.workers w JOIN pg_locks l ON l.locktype = 'advisory' AND l.objid = w.number::oid AND l.granted
                 WHERE l.pid = {pid}"
            );
            let holder = self.db.ask::<i32>(&holder).await.ok();
            let slot = holder.and_then(|daemon| self.pids().iter().position(|pid| *pid == daemon));
            if self.db.ask::<bool>(&format!("SELECT pg_terminate_backend({pid})")).await.is_ok() {
                self.hit(Fault::Terminate, slot, now(), now());
            }
        }
    }

    async fn backend(&self, whose: &str, draw: u64) -> Option<i32> {
        let pids =
            format!("SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE application_name LIKE '{whose}'");
        let pids: Vec<i32> = self.db.ask::<Option<Vec<i32>>>(&pids).await.ok()??;
        pids.get(usize::try_from(draw % u64::try_from(pids.len()).ok()?).ok()?).copied()
    }
}

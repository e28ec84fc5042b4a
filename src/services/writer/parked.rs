//! What waits behind somebody's open transaction stands aside, and the others go on.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::db::{Trouble, batch, within};
use crate::engine::Entry;
use crate::services::shared::Backoff;

use super::group::Group;
use super::{ANSWERS, Writer, plain};

/// A group that waits for somebody's lock to be let go.
pub(super) struct Parked {
    group: Group,
    due: tokio::time::Instant,
    tries: u32,
}

impl Writer {
    /// The next entry; `Some(None)`: it is time to try a parked group again; `None`: everything is written.
    pub(super) async fn next(&mut self, rx: &mut mpsc::UnboundedReceiver<Entry>) -> Option<Option<Entry>> {
        let Some(due) = self.parked.iter().map(|p| p.due).min() else { return rx.recv().await.map(Some) };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(due.max(self.unpark)) => Some(None),
            Some(entry) = rx.recv() => Some(Some(entry)),
            // The last handle is gone: what is parked is still to be written.
            else => Some(None),
        }
    }

    /// Tries the parked groups that are due again. It may wait for a lock: a fifth of the time at the most, the rest is for the others.
    pub(super) async fn unpark(&mut self) {
        let Some(due) = self.parked.iter().map(|p| p.due).min() else { return };
        tokio::time::sleep_until(due).await;
        let began = tokio::time::Instant::now();
        let (ready, parked): (Vec<Parked>, _) =
            std::mem::take(&mut self.parked).into_iter().partition(|p| p.due <= began);
        self.parked = parked;
        self.tries = ready.iter().map(|p| p.tries).max().unwrap_or(0);
        let mut groups: Vec<Group> = ready.into_iter().map(|p| p.group).collect();
        self.metrics.services.parked.dec_by(i64::try_from(groups.len()).unwrap_or(0));
        while let Some(worker) = groups.first().map(|g| g.worker) {
            let (of_one, rest) = groups.into_iter().partition(|g| g.worker == worker);
            groups = rest;
            for groups in plain::split(of_one) {
                self.commit_free(groups).await;
            }
        }
        self.tries = 0;
        self.unpark = tokio::time::Instant::now() + began.elapsed() * 4;
    }

    /// Commits those of the groups whose runs nobody has locked, and parks the others again.
    async fn commit_free(&mut self, groups: Vec<Group>) {
        let mut backoff = Backoff::default();
        let free = match self.connection(&mut backoff).await {
            Some(mut conn) => {
                let (free, whole) = self.set_aside(&mut conn, groups).await;
                self.conn = whole.then_some(conn);
                free
            }
            None => groups,
        };
        if !free.is_empty() {
            self.commit(free).await;
        }
    }

    /// Parks those whose runs somebody has locked; gives the others, and whether the connection is still good.
    pub(super) async fn set_aside(&mut self, conn: &mut PgConnection, groups: Vec<Group>) -> (Vec<Group>, bool) {
        let runs: Vec<Uuid> = groups.iter().map(|g| g.run).collect();
        match within(ANSWERS, batch::locked(conn, &runs)).await {
            Ok(locked) => {
                let (held, free): (Vec<Group>, _) = groups.into_iter().partition(|g| locked.contains(&g.run));
                held.into_iter().for_each(|group| self.park(group));
                (free, true)
            }
            Err(error) => (groups, error.trouble != Trouble::Lost),
        }
    }

    /// Somebody's open transaction holds a row that this group must write. It waits aside, and the others go on.
    pub(super) fn park(&mut self, group: Group) {
        // One line however many they are: who holds a whole tenant's rows holds all of its runs up.
        if self.tries == 0 && self.parked.is_empty() {
            tracing::warn!(run.id = %group.run, "a run's records wait behind somebody's lock; the other runs go on");
        }
        let pause = Duration::from_millis(100).saturating_mul(1 << self.tries.min(5)).min(Duration::from_secs(2));
        self.metrics.services.parked.inc();
        self.parked.push(Parked { group, due: tokio::time::Instant::now() + pause, tries: self.tries + 1 });
    }

    /// Later entries of a parked run wait behind it: a run's records are committed in order.
    pub(super) fn behind_parked(&mut self, groups: Vec<Group>) -> Vec<Group> {
        if self.parked.is_empty() {
            return groups;
        }
        let mut free = Vec::with_capacity(groups.len());
        for group in groups {
            match self.parked.iter_mut().find(|p| p.group.run == group.run && p.group.epoch == group.epoch) {
                Some(parked) => parked.group.absorb(group),
                None => free.push(group),
            }
        }
        free
    }
}

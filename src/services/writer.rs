//! Group commit. One task owns the hot write path: callers hand it entries, it answers after COMMIT. While one batch is in flight the
//! next one gathers: no timer, no added latency when idle. A batch is one statement. When a value makes it fail, the batch is split until the
//! culprit fails alone. After a lost connection the outcome is unknown; the database is asked what it holds before anything is sent again.

mod columns;
mod group;
mod outcome;
mod parked;
mod plain;
mod records;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::db::{Database, Trouble, waits, within};
use crate::engine::{Answer, CommitError, Entry, Journal, Transition};
use crate::model::{Failure, Payload, RunId, StepKey, StepRecord, WorkerId};
use crate::steps::BoxFuture;
use crate::telemetry::metrics::Metrics;
use crate::testing::Failpoints;

use super::acknowledged::Acknowledged;
use super::afterwards::{After, Afterwards};
use super::connectivity::Connectivity;
use super::progress::{Progress, Pulse};
use super::shared::{Backoff, Hints};

use columns::columns;
use group::{Group, fold, gather, size};
use outcome::{held_of, settle_after_read_back};
use parked::Parked;
use records::Records;

/// Runs in one batch at the most. Beyond it the gain is small (`performance.md`), and a poisonous item costs more to find.
const MAX_RUNS: usize = 1_000;

/// Bytes of outputs in one batch at the most (one entry may be larger): keeps a statement far below Postgres' 1 GB.
const MAX_BYTES: usize = 16 << 20;

/// Two writers by hash of the run's id: about half as many steps again as one (`performance.md`) …
const WRITERS: [&str; 2] = ["writer 1", "writer 2"];

/// … where there are places enough to fill the batches of both. A worker of fewer has one: with 10 places it drains 1.4 times as fast so, with 20
/// 1.2 times, with 60 no faster, and a fleet of fifty such workers 1.5 times.
const PLACES_OF_ONE: usize = 50;

/// A writer that has something to write gets it done, or tries again, within this time: its statement's limit, and a reconnect.
const BOUND: Duration = Duration::from_secs(90);

/// The writer's session: one plan for every batch size, and no waiting behind somebody's open transaction for long.
const SESSION: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    // A plan that is made while the tables are empty must serve when they are full.
    ("enable_seqscan", "off"),
    ("lock_timeout", "200ms"),
    ("statement_timeout", "20s"),
];

/// The server ends a statement of the writer after 20 s (a batch is then split), and says so. Who says nothing for longer is not there.
const ANSWERS: Duration = Duration::from_secs(22);

/// The journal in Postgres: a handle to the writers.
pub struct PgJournal {
    shards: Vec<mpsc::UnboundedSender<Entry>>,
    db: Database,
    afterwards: Afterwards,
    /// One end of a wait at a time: it may wait behind somebody's open transaction, and the pool is for others too.
    expiring: Arc<Semaphore>,
    records: Arc<Records>,
}

/// The writers' tasks; they end when every handle is gone and everything is written.
pub type Writers = tokio::task::JoinSet<()>;

impl PgJournal {
    /// Starts the writers for so many places; `told` is who hears of them.
    #[must_use]
    pub fn start(
        db: &Database,
        places: usize,
        hints: &Arc<Hints>,
        acknowledged: &Arc<Acknowledged>,
        told: (&Arc<Connectivity>, &Arc<Progress>, &Arc<Metrics>),
        failpoints: &Failpoints,
    ) -> (Self, Writers) {
        let (connectivity, progress, metrics) = told;
        let mut tasks = Writers::new();
        let shards = WRITERS
            .into_iter()
            .take(if places <= PLACES_OF_ONE { 1 } else { WRITERS.len() })
            .map(|name| {
                let (tx, rx) = mpsc::unbounded_channel();
                let writer = Writer {
                    name,
                    db: db.clone(),
                    hints: hints.clone(),
                    connectivity: connectivity.clone(),
                    pulse: progress.pulse(name, BOUND),
                    metrics: metrics.clone(),
                    failpoints: failpoints.clone(),
                    conn: None,
                    acknowledged: acknowledged.clone(),
                    parked: Vec::new(),
                    unpark: tokio::time::Instant::now(),
                    tries: 0,
                };
                tasks.spawn(writer.run(rx));
                tx
            })
            .collect();
        let afterwards = Afterwards::start(db, hints, failpoints, &mut tasks);
        let records = Arc::new(Records::new(db, failpoints));
        (Self { shards, db: db.clone(), afterwards, expiring: Arc::new(Semaphore::new(1)), records }, tasks)
    }
}

impl Journal for PgJournal {
    fn submit(&self, entry: Entry) {
        // The last bits of a UUIDv7 are random; any will do.
        let shard = usize::from(entry.run.0.as_bytes()[15]) % self.shards.len();
        // A failure means that the writer is gone; the ticket, dropped, says so.
        let _ = self.shards[shard].send(entry);
    }

    fn load(&self, run: RunId) -> BoxFuture<'static, Result<Vec<StepRecord>, Failure>> {
        Box::pin(self.records.clone().load(run))
    }

    fn load_input(&self, run: RunId) -> BoxFuture<'static, Result<Payload, Failure>> {
        Box::pin(self.records.clone().load_input(run))
    }

    fn settle(&self, run: RunId, keys: Vec<StepKey>) {
        self.afterwards.look(run, After::Suspend(keys));
    }

    fn tell_parent(&self, run: RunId) {
        self.afterwards.look(run, After::EndOfChild);
    }

    fn abandon(&self, run: RunId) {
        self.afterwards.look(run, After::EndOfParent);
    }

    fn expire(
        &self,
        run: RunId,
        lease: (WorkerId, i32),
        key: StepKey,
        failure: Failure,
    ) -> BoxFuture<'static, Option<Answer>> {
        let (db, expiring) = (self.db.clone(), self.expiring.clone());
        Box::pin(async move {
            #[expect(clippy::disallowed_methods, reason = "awaited below; a statement is never dropped half-way")]
            let task = tokio::spawn(async move {
                let mut backoff = Backoff::default();
                loop {
                    let tried = async {
                        let _one = expiring.acquire().await;
                        match db.ask(async |conn| waits::expire(conn, run, &key, &failure, lease).await).await? {
                            // The time is up; or the lease is lost, and nothing that the run still does is recorded.
                            Some(true) | None => Ok(None),
                            Some(false) => db.ask(async |conn| waits::answer_of(conn, run, &key).await).await,
                        }
                    };
                    match tried.await {
                        Ok(answer) => return answer,
                        Err::<_, crate::db::DbError>(error) if error.trouble == Trouble::Refused => {
                            tracing::warn!(run.id = %run, step.key = %key, %error, "a wait could not be ended");
                            return None;
                        }
                        Err(_) => tokio::time::sleep(backoff.pause()).await,
                    }
                }
            });
            task.await.unwrap_or(None)
        })
    }
}

struct Writer {
    name: &'static str,
    db: Database,
    hints: Arc<Hints>,
    connectivity: Arc<Connectivity>,
    pulse: Arc<Pulse>,
    metrics: Arc<Metrics>,
    failpoints: Failpoints,
    conn: Option<PgConnection>,
    acknowledged: Arc<Acknowledged>,
    parked: Vec<Parked>,
    /// Not before this time they are tried again: the others go first.
    unpark: tokio::time::Instant,
    /// How often the group at hand has been parked.
    tries: u32,
}

impl Writer {
    async fn run(mut self, mut rx: mpsc::UnboundedReceiver<Entry>) {
        let mut busy = false;
        while let Some(first) = self.rested(&mut rx).await {
            let Some(first) = first else {
                self.unpark().await;
                continue;
            };
            if busy {
                gather(&rx).await;
            }
            let mut bytes = size(&first);
            let mut entries = vec![first];
            while entries.len() < MAX_RUNS && bytes < MAX_BYTES {
                let Ok(next) = rx.try_recv() else { break };
                bytes += size(&next);
                entries.push(next);
            }
            busy = entries.len() > 1;
            for groups in fold(entries) {
                let groups = self.behind_parked(groups);
                for groups in plain::split(groups) {
                    self.commit(groups).await;
                }
            }
        }
        if let Some(conn) = self.conn.take() {
            let _ = conn.close().await;
        }
    }

    /// [`Writer::next`], however long nothing comes.
    async fn rested(&mut self, rx: &mut mpsc::UnboundedReceiver<Entry>) -> Option<Option<Entry>> {
        self.pulse.rest();
        let next = self.next(rx).await;
        self.pulse.beat();
        next
    }

    /// Commits the groups of one registration, however long Postgres is away.
    async fn commit(&mut self, groups: Vec<Group>) {
        let mut todo = vec![groups];
        let mut backoff = Backoff::default();
        let mut unknown = false;
        let mut general = false;
        while let Some(groups) = todo.pop() {
            self.pulse.beat();
            let Some(worker) = groups.first().map(|g| g.worker) else { continue };
            let Some(mut conn) = self.connection(&mut backoff).await else {
                todo.push(groups);
                continue;
            };
            if unknown {
                match within(ANSWERS, held_of(&mut conn, &groups)).await {
                    Ok(held) => {
                        unknown = false;
                        // Only the general statement may be repeated.
                        general = true;
                        self.conn = Some(conn);
                        match settle_after_read_back(groups, &held) {
                            // Nothing is left to be committed, and with it nobody else who could say that Postgres is back.
                            again if again.is_empty() => self.connectivity.back(self.name),
                            again => todo.push(again),
                        }
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the writer's connection is gone");
                        todo.push(groups);
                        tokio::time::sleep(backoff.pause()).await;
                        continue;
                    }
                }
            }
            self.failpoints.hit("writer.before_commit").await;
            let last = group::last_row(&groups);
            let common = if general { None } else { plain::of(&groups) };
            let was_common = common.is_some();
            let began = Instant::now();
            let result = match common {
                Some(batch) => within(ANSWERS, batch.commit(&mut conn, worker)).await,
                None => within(ANSWERS, columns(&groups).commit(&mut conn, worker)).await,
            };
            self.failpoints.hit("writer.after_commit").await;
            if result.as_ref().map_or_else(|e| e.trouble != Trouble::Lost && !e.concerns_all(), |_| true) {
                self.connectivity.back(self.name);
            }
            match result {
                Ok(lost) => {
                    self.conn = Some(conn);
                    backoff.reset();
                    self.metrics.services.committed(groups.len(), began.elapsed());
                    // Of a batch that was refused in part the row may be missing.
                    if let Some(last) = last.filter(|_| lost.is_empty()) {
                        self.acknowledged.note(last, began);
                    }
                    self.committed(groups, &lost);
                }
                Err(error) if error.trouble == Trouble::Lost => {
                    // Perhaps only this connection, kept from before an outage; whether Postgres is away, the reconnect shows.
                    self.connectivity.failed(self.name, &error, false);
                    tracing::debug!(%error, "the writer's connection is gone");
                    unknown = true;
                    todo.push(groups);
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(error) if error.concerns_all() => {
                    // The server's own trouble, a missing right, a schema in the middle of a change, a table that is locked.
                    self.conn = Some(conn);
                    self.connectivity.failed(self.name, &error, true);
                    general = true;
                    todo.push(groups);
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(error) if error.trouble == Trouble::Refused && was_common => {
                    // Perhaps a step that seemed fresh has a row after all; the general statement copes with that.
                    tracing::debug!(%error, "the common batch was refused");
                    self.conn = Some(conn);
                    general = true;
                    todo.push(groups);
                }
                Err(error) if error.trouble == Trouble::Busy && groups.len() == 1 => {
                    self.conn = Some(conn);
                    groups.into_iter().for_each(|group| self.park(group));
                }
                Err(error) if error.trouble == Trouble::Busy => {
                    let before = groups.len();
                    let (mut left, whole) = self.set_aside(&mut conn, groups).await;
                    self.conn = whole.then_some(conn);
                    // Nobody has locked a run: it is a row of a step, perhaps. One half or the other has it.
                    if left.len() == before {
                        let right = left.split_off(left.len() / 2);
                        todo.push(right);
                    }
                    if !left.is_empty() {
                        todo.push(left);
                    }
                }
                Err(error) => {
                    self.conn = Some(conn);
                    if groups.len() == 1 {
                        tracing::warn!(%error, run.id = %groups[0].run, "postgres refused what a run wanted to record");
                        let refusal = Err(CommitError::Refused(error.to_string()));
                        groups.into_iter().for_each(|g| g.answer(&refusal));
                    } else {
                        let mut left = groups;
                        let right = left.split_off(left.len() / 2);
                        todo.push(right);
                        todo.push(left);
                    }
                }
            }
        }
    }

    async fn connection(&mut self, backoff: &mut Backoff) -> Option<PgConnection> {
        if let Some(conn) = self.conn.take() {
            return Some(conn);
        }
        match self.db.connect("writer", &SESSION).await {
            Ok(conn) => Some(conn),
            Err(error) => {
                self.connectivity.failed(self.name, &error, true);
                tokio::time::sleep(backoff.pause()).await;
                None
            }
        }
    }

    fn committed(&self, groups: Vec<Group>, lost: &[Uuid]) {
        let mut wake_stager = false;
        let mut wake_claimer = false;
        let mut left = false;
        for group in groups {
            left |= group.transition.as_ref().is_some_and(|t| !matches!(t, Transition::Start));
            match &group.transition {
                Some(Transition::Suspend { .. } | Transition::Resume { .. }) => wake_stager = true,
                Some(Transition::Release) => wake_claimer = true,
                _ => {}
            }
            let result = if lost.contains(&group.run) { Err(CommitError::LeaseLost) } else { Ok(()) };
            group.answer(&result);
        }
        if wake_stager {
            self.hints.stage.notify_one();
        }
        if wake_claimer {
            self.hints.claim.notify_one();
        }
        if left {
            self.hints.left();
        }
    }
}

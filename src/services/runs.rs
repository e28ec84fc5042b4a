//! The runs in flight: slots, the buffer ahead of them, and each run's inbox.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::engine::{Entry, Inbox, Outcome, Ports, Transition};
use crate::model::{Claimed, Failure, Lease, RunId, StepKey, WorkerId, code};
use crate::steps::StopReason;
use crate::telemetry::context::{self, Place};
use crate::telemetry::step_log::StepLog;

use super::catalog::Catalog;
use super::shared::{Hints, Stop, stopped};

/// What a run fails with that has met a bug of the engine.
const PANICKED: &str = "the engine panicked in this run; the worker's log has the message";

/// The executor: `slots` runs at once, and a buffer of claimed runs ahead of them.
pub struct Runs {
    slots: usize,
    ports: Arc<Ports>,
    catalog: Arc<Catalog>,
    hints: Arc<Hints>,
    inner: Mutex<Inner>,
    idle: Notify,
    started: AtomicU64,
}

#[derive(Default)]
struct Inner {
    inflight: HashMap<RunId, Arc<Inbox>>,
    tasks: usize,
    /// With the time since which each waits for a slot; the first has waited longest. Boxed: a claimed run goes through several
    /// futures, each of which would keep room for it.
    buffer: VecDeque<(Instant, Box<Claimed>)>,
    /// Buffer below this: time to claim again.
    low_water: usize,
    door: Door,
    /// For how many seconds slots were taken, each counted, until the last change of `tasks`.
    taken: f64,
    changed: Option<Instant>,
    /// The registration that was lost last: what a late answer to its claims still brings is not this worker's any more.
    lost: Option<WorkerId>,
}

/// May runs be started?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Door {
    #[default]
    Open,
    /// Not now: a run waits to be alone.
    Closed,
    /// Never again: this worker is shutting down.
    Locked,
}

impl Inner {
    fn set_tasks(&mut self, tasks: usize, now: Instant) {
        self.taken = self.taken_until(now);
        self.changed = Some(now);
        self.tasks = tasks;
    }

    #[allow(clippy::cast_precision_loss)]
    fn taken_until(&self, now: Instant) -> f64 {
        self.taken + self.changed.map_or(0.0, |at| self.tasks as f64 * (now - at).as_secs_f64())
    }
}

impl Runs {
    /// An executor with `slots` places.
    #[must_use]
    pub fn new(slots: usize, ports: Arc<Ports>, catalog: Arc<Catalog>, hints: Arc<Hints>) -> Arc<Self> {
        Arc::new(Self {
            slots,
            ports,
            catalog,
            hints,
            inner: Mutex::default(),
            idle: Notify::new(),
            started: AtomicU64::new(0),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Free slots minus what waits for them.
    #[must_use]
    pub fn room(&self) -> usize {
        let inner = self.inner();
        if inner.door != Door::Open {
            0
        } else {
            (self.slots - inner.tasks.min(self.slots)).saturating_sub(inner.buffer.len())
        }
    }

    /// Claimed runs that have not started.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.inner().buffer.len()
    }

    /// Nothing runs, and nothing is claimed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.inner();
        inner.tasks == 0 && inner.buffer.is_empty()
    }

    /// How many runs are being run, and how many wait for a slot.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.tasks, inner.buffer.len())
    }

    /// How many attempts of steps are at work.
    #[must_use]
    pub fn at_work(&self) -> usize {
        self.inner().inflight.values().map(|inbox| inbox.at_work()).sum()
    }

    /// Runs started since the process began.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// For how many seconds all slots together were taken since the process began.
    #[must_use]
    pub fn taken(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let slots = self.slots.max(1) as f64;
        self.inner().taken_until(Instant::now()) / slots
    }

    /// Takes claimed runs over: as many as there are free slots start at once. Gives them back when nothing is to be started.
    pub fn accept(self: &Arc<Self>, claimed: impl IntoIterator<Item = Claimed>, low_water: usize) {
        let mut inner = self.inner();
        let lost = inner.lost;
        let claimed = claimed.into_iter().filter(|c| Some(c.lease.worker()) != lost);
        if inner.door != Door::Open {
            drop(inner);
            return self.give_back(claimed.map(|c| c.lease));
        }
        inner.low_water = low_water;
        let now = Instant::now();
        inner.buffer.extend(claimed.map(|c| (now, Box::new(c))));
        while inner.tasks < self.slots {
            let Some((_, next)) = inner.buffer.pop_front() else { break };
            let tasks = inner.tasks + 1;
            inner.set_tasks(tasks, now);
            let inbox = Self::admit(&mut inner, &next);
            #[expect(
                clippy::disallowed_methods,
                reason = "counted in `tasks`, told to stop by its inbox, and awaited by the drain"
            )]
            tokio::spawn(self.clone().work(next, inbox));
        }
    }

    fn admit(inner: &mut Inner, next: &Claimed) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        // The one before has let the run go, and ends. Or Postgres has forgotten that it has it: then its lease is worth nothing.
        if let Some(before) = inner.inflight.insert(next.lease.run(), inbox.clone()) {
            before.stop(StopReason::LeaseLost);
        }
        inbox
    }

    /// One slot at work: run after run, until the buffer is empty.
    async fn work(self: Arc<Self>, first: Box<Claimed>, inbox: Arc<Inbox>) {
        let mut next = Some((first, inbox));
        while let Some((claimed, inbox)) = next {
            let run = claimed.lease.run();
            self.started.fetch_add(1, Ordering::Relaxed);
            let (name, since) = (claimed.workflow.clone(), claimed.started_at);
            let session_id = claimed.session_id.clone();
            let (worker, epoch, keeps_key) = (claimed.lease.worker(), claimed.lease.epoch(), claimed.keeps_key);
            let place = Place { run, worker: claimed.lease.worker(), session_id, step: None, log: StepLog::default() };
            let work = async {
                tracing::debug!(workflow = &*name, epoch = claimed.lease.epoch(), "run taken up");
                let workflow = self.catalog.workflow(&claimed.workflow, claimed.definition).await;
                crate::engine::run(claimed, workflow, self.ports.clone(), inbox.clone()).await
            };
            let told = async {
                match std::panic::AssertUnwindSafe(work).catch_unwind().await {
                    Ok(outcome) => self.report(run, (&name, since), outcome),
                    // A bug of ours, met in what is recorded of this run. The slot goes on; and the run ends, for it would do the same again.
                    Err(_) => {
                        tracing::error!(run.id = %run, workflow = &*name, "the engine panicked: the run fails");
                        let failure = Failure::permanent(code::PANIC, PANICKED);
                        let transition = Some(Transition::Fail { failure });
                        let (steps, notes) = (Vec::new(), Vec::new());
                        let ended = Entry { run, worker, epoch, keeps_key, steps, notes, transition, ticket: None };
                        self.ports.journal.submit(ended);
                        self.report(run, (&name, since), Outcome::Failed);
                    }
                }
            };
            context::within(Some(place), std::pin::pin!(told)).await;
            next = self.after(run, &inbox);
        }
    }

    /// Counts what came of a run whose first claim was at `since`, and tells it.
    fn report(&self, run: RunId, (workflow, since): (&str, DateTime<Utc>), outcome: Outcome) {
        let work = &self.ports.metrics.work;
        work.left(outcome.word());
        match (outcome, outcome.ends()) {
            (_, Some(state)) => {
                work.run_ended(workflow, state, (self.ports.clock.now() - since).to_std().unwrap_or_default());
            }
            (Outcome::Resuming, None) => work.resumes(workflow),
            _ => {}
        }
        tell(run, workflow, outcome);
    }

    fn after(self: &Arc<Self>, run: RunId, inbox: &Arc<Inbox>) -> Option<(Box<Claimed>, Arc<Inbox>)> {
        let mut inner = self.inner();
        // A run that was suspended may have been woken and claimed here again already: that inbox is not ours to remove.
        if inner.inflight.get(&run).is_some_and(|current| Arc::ptr_eq(current, inbox)) {
            inner.inflight.remove(&run);
        }
        if inner.door == Door::Open
            && let Some((_, claimed)) = inner.buffer.pop_front()
        {
            if inner.buffer.len() <= inner.low_water {
                self.hints.claim.notify_one();
            }
            let inbox = Self::admit(&mut inner, &claimed);
            return Some((claimed, inbox));
        }
        let tasks = inner.tasks - 1;
        inner.set_tasks(tasks, Instant::now());
        if tasks == 0 {
            self.idle.notify_waiters();
        }
        self.hints.claim.notify_one();
        None
    }

    /// Starts nothing more until [`Runs::reopen`], and gives back what has not started.
    pub fn close(&self) {
        self.shut(Door::Closed);
    }

    /// Starts nothing any more, and gives back what has not started.
    pub fn lock(&self) {
        self.shut(Door::Locked);
    }

    fn shut(&self, door: Door) {
        let unstarted = {
            let mut inner = self.inner();
            if inner.door != Door::Locked {
                inner.door = door;
            }
            std::mem::take(&mut inner.buffer)
        };
        self.give_back(unstarted.into_iter().map(|(_, claimed)| claimed.lease));
    }

    /// Starts runs again, unless this worker is shutting down.
    pub fn reopen(&self) {
        let mut inner = self.inner();
        if inner.door == Door::Closed {
            inner.door = Door::Open;
        }
    }

    /// Gives back what was claimed and has waited this long for a slot, however many others have started meanwhile: another
    /// worker may have one. Returns how many.
    pub fn give_back_waiting(&self, span: Duration) -> usize {
        let unstarted: Vec<Box<Claimed>> = {
            let mut inner = self.inner();
            let n = inner.buffer.iter().take_while(|(since, _)| since.elapsed() >= span).count();
            inner.buffer.drain(..n).map(|(_, claimed)| claimed).collect()
        };
        let n = unstarted.len();
        self.give_back(unstarted.into_iter().map(|c| c.lease));
        n
    }

    fn give_back(&self, unstarted: impl IntoIterator<Item = Lease>) {
        for lease in unstarted {
            self.release(lease.run(), lease.worker(), lease.epoch());
        }
    }

    fn release(&self, run: RunId, worker: WorkerId, epoch: i32) {
        let (steps, notes) = (Vec::new(), Vec::new());
        self.ports.journal.submit(Entry {
            run,
            worker,
            epoch,
            // It does not end.
            keeps_key: false,
            steps,
            notes,
            transition: Some(Transition::Release),
            ticket: None,
        });
    }

    /// The runs that are here: those in flight, and those that wait for a slot.
    pub fn known(&self) -> HashSet<RunId> {
        let inner = self.inner();
        inner.inflight.keys().copied().chain(inner.buffer.iter().map(|(_, c)| c.lease.run())).collect()
    }

    /// Gives back the runs that the database counts as this worker's and that were not known when it was asked: a claim
    /// whose answer never came.
    pub fn give_back_unknown(&self, worker: WorkerId, held: &[(RunId, i32)], known: &HashSet<RunId>) -> usize {
        let unknown: Vec<_> = held.iter().filter(|(run, _)| !known.contains(run)).collect();
        for (run, epoch) in &unknown {
            self.release(*run, worker, *epoch);
        }
        unknown.len()
    }

    /// Tells every run to stop.
    pub fn stop_all(&self, reason: StopReason) {
        for inbox in self.inner().inflight.values() {
            inbox.stop(reason);
        }
    }

    /// A registration is lost, and every lease under it: what runs is stopped, what waits for a slot is dropped,
    /// and so is what a late answer to a claim still brings.
    pub fn lose(&self, worker: WorkerId) {
        {
            let mut inner = self.inner();
            inner.lost = Some(worker);
            inner.buffer.clear();
        }
        self.stop_all(StopReason::LeaseLost);
    }

    /// Each time that Postgres has lost commits, what runs here knows more than is recorded: it is given back, to start again from that.
    pub async fn give_back_at_losses(self: Arc<Self>, mut losses: watch::Receiver<u64>, mut stop: Stop) {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                lost = losses.changed() => match lost {
                    Ok(()) => {
                        // What waits for a slot first: a slot that becomes free must not start it.
                        self.give_back_waiting(Duration::ZERO);
                        self.stop_all(StopReason::GivenBack);
                    }
                    Err(_) => return,
                },
            }
        }
    }

    /// Resolves when nothing runs.
    pub async fn emptied(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.inner().tasks == 0 {
                return;
            }
            idle.await;
        }
    }

    /// The ids of the runs in flight, and the waits that they keep in memory.
    #[must_use]
    pub fn in_flight(&self) -> (Vec<Uuid>, Vec<(Uuid, StepKey)>) {
        let inner = self.inner();
        let waits = inner
            .inflight
            .iter()
            .flat_map(|(run, inbox)| inbox.waiting().into_iter().map(|key| (run.0, key)))
            .collect();
        (inner.inflight.keys().map(|r| r.0).collect(), waits)
    }

    /// Is there a run whose answers are worth looking for often?
    pub(super) fn hurried(&self) -> bool {
        self.inner().inflight.values().any(|inbox| inbox.is_hurried())
    }

    /// A run's inbox.
    #[must_use]
    pub fn inbox(&self, run: RunId) -> Option<Arc<Inbox>> {
        self.inner().inflight.get(&run).cloned()
    }
}

fn tell(run: RunId, workflow: &str, outcome: Outcome) {
    match outcome {
        Outcome::Done | Outcome::Suspended => tracing::debug!(run.id = %run, workflow, ?outcome, "run left"),
        Outcome::Failed | Outcome::Resuming | Outcome::Cancelled | Outcome::Paused | Outcome::Interrupted => {
            tracing::info!(run.id = %run, workflow, ?outcome, "run left");
        }
        Outcome::LeaseLost => {
            tracing::warn!(run.id = %run, workflow, "lease lost: nothing was written, another worker has the run")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Gate, MemoryJournal, ServerClock};
    use crate::model::Payload;
    use crate::steps::Registry;
    use crate::telemetry::failures::Failures;
    use crate::telemetry::step_log::StepLogs;

    fn claimed(n: u128) -> Claimed {
        Claimed::of(RunId(Uuid::from_u128(n)), 1, "w", Payload::null())
    }

    #[tokio::test]
    async fn what_has_waited_too_long_for_a_slot_is_given_back_and_what_came_later_is_not() {
        let journal = Arc::new(MemoryJournal::default());
        let ports = Ports {
            journal: journal.clone(),
            registry: Arc::new(Registry::default()),
            gate: Gate::always_open(),
            clock: Arc::new(ServerClock::new(chrono::DateTime::UNIX_EPOCH)),
            max_output: 1,
            logs: StepLogs::new(0),
            failures: Failures::default(),
            metrics: Arc::default(),
            traces: None,
        };
        let db = crate::db::Database::new(
            sqlx::postgres::PgConnectOptions::new_without_pgpass(),
            1,
            Duration::from_secs(30),
        );
        let catalog = Arc::new(Catalog::new(db, Arc::new(|_, _| Err(crate::model::Failure::permanent("x", "x")))));
        let runs = Runs::new(0, Arc::new(ports), catalog, Arc::default());
        runs.accept([claimed(1), claimed(2)], 0);
        // However many others have started meanwhile.
        runs.started.fetch_add(1_000, Ordering::Relaxed);
        runs.inner().buffer.iter_mut().for_each(|(since, _)| *since -= Duration::from_secs(1));
        runs.accept([claimed(3)], 0);
        assert_eq!(runs.give_back_waiting(Duration::from_millis(500)), 2);
        let released = |n| journal.run(RunId(Uuid::from_u128(n))).transitions.len();
        assert_eq!((released(1), released(2), released(3), runs.buffered()), (1, 1, 0, 1));
        // Postgres has lost commits, perhaps those of these claims: nothing of them starts.
        let (lost, losses) = watch::channel(0);
        let (stop, stopping) = watch::channel(false);
        let mut giving = tokio::task::JoinSet::new();
        giving.spawn(runs.clone().give_back_at_losses(losses, stopping));
        lost.send(1).unwrap();
        while runs.buffered() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(released(3), 1);
        stop.send(true).unwrap();
        giving.join_next().await.unwrap().unwrap();
    }
}

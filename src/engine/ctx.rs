//! The context of a run: what workflow code, interpreted or compiled, may ask for.
//!
//! A finished step's record is *deferred*: it is handed to the journal when the workflow does anything
//! else (asks for another step, or waits for anything), and every start of a step first waits for all
//! acknowledgements outstanding. So a checkpoint is durable before the next step starts, while the record of the last step
//! travels together with the run's end, in one commit.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{Claimed, Failure, Payload, RunId, StepKey, StepRecord, StepState, WorkerId, code};
use crate::rules::policy::{OnError, StepPolicy};
use crate::steps::{Flow, Registry, Shape, StepCx, StepOutput, StopReason};

use super::clock::ServerClock;
use super::gate::Gate;
use super::halt::{Halt, StepFailure};
use super::inbox::Inbox;
use super::journal::{Acks, CommitError, Entry, Journal, Note, StepRow, Ticket, Transition};
use super::wait::answerable;

/// What the run knows of itself.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// Its id.
    pub id: RunId,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// Its `run_at`.
    pub scheduled_for: DateTime<Utc>,
}

/// Everything outside the run that a run needs.
pub struct Ports {
    /// Where records go.
    pub journal: Arc<dyn Journal>,
    /// The kinds of step that this process can run.
    pub registry: Arc<Registry>,
    /// Open while the leases stand.
    pub gate: Gate,
    /// Dates records.
    pub clock: Arc<ServerClock>,
    /// The largest output, in bytes of JSON text.
    pub max_output: usize,
}

/// One step to be done.
pub struct Call<'a> {
    /// The step's name in its run; used once.
    pub key: StepKey,
    /// Its kind, a name in the registry.
    pub kind: &'a str,
    /// The parameters, evaluated anew for each attempt (they may name `step.attempt`).
    pub params: &'a (dyn Fn(u32) -> Result<Value, Failure> + Send + Sync),
    /// Retries, limits, what failure means.
    pub policy: &'a StepPolicy,
    /// Turns the raw result into the recorded output.
    pub shape: Shape,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    /// `Completed`, `Skipped`, or `Failed` (under `on_error: continue`).
    pub state: StepState,
    /// The output; null unless completed.
    pub output: Payload,
    /// The failure under `on_error: continue`.
    pub error: Option<Failure>,
}

/// The context of one run under one lease.
pub struct Ctx {
    pub(super) info: RunInfo,
    pub(super) worker: WorkerId,
    pub(super) epoch: i32,
    pub(super) traceparent: Option<Arc<str>>,
    /// After an automatic resume a failed step has one attempt: its own retries are spent.
    pub(super) one_attempt: bool,
    pub(super) ports: Arc<Ports>,
    pub(super) inbox: Arc<Inbox>,
    records: HashMap<StepKey, StepRecord>,
    pub(super) acks: Arc<Acks>,
    /// Turns true when the run is going to fail: branches that wait return, nothing new starts.
    failing: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seq: i32,
    used: HashSet<StepKey>,
    /// Operations under way that are not waits: while there is one, the run is not suspended.
    busy: usize,
    waits: HashMap<StepKey, Option<Instant>>,
    deferred: Vec<StepRow>,
    notes: Vec<Note>,
    submitted: u64,
    /// Steps whose last row says running or waiting: closed when the run ends without them.
    open: HashMap<StepKey, StepRow>,
}

/// A run counts as busy while this lives.
pub(super) struct Busy<'a>(&'a Ctx);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

/// Is the run quiet, that is: does everything in it wait?
pub(super) enum Quiet {
    No,
    /// Yes, and the earliest wait is due in this long (`None`: only an answer wakes it).
    For(Option<Duration>),
}

impl Ctx {
    pub(super) fn new(claimed: &Claimed, records: Vec<StepRecord>, ports: Arc<Ports>, inbox: Arc<Inbox>) -> Self {
        let seq = records.iter().map(|r| r.seq).max().unwrap_or(0);
        let open = records
            .iter()
            .filter(|r| matches!(r.state, StepState::Running | StepState::Waiting))
            .map(|r| (r.key.clone(), StepRow { record: r.clone(), wait: None, due_in: None, fresh: false }))
            .collect();
        Self {
            info: RunInfo {
                id: claimed.lease.run(),
                workflow: claimed.workflow.clone(),
                scheduled_for: claimed.scheduled_for,
            },
            worker: claimed.lease.worker(),
            epoch: claimed.lease.epoch(),
            traceparent: claimed.traceparent.as_deref().map(Arc::from),
            one_attempt: claimed.resumes > 0,
            ports,
            inbox,
            records: records.into_iter().map(|r| (r.key.clone(), r)).collect(),
            acks: Arc::default(),
            failing: watch::channel(false).0,
            state: Mutex::new(State { seq, open, ..State::default() }),
        }
    }

    /// What the run knows of itself.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Does a step: answers from its checkpoint, or runs it with its retries and records it.
    ///
    /// # Errors
    /// `Halt::Failed` when the step failed for good and its policy does not say continue; `Halt::Stopped` when the run must stop.
    pub async fn call(&self, call: Call<'_>) -> Result<StepDone, Halt> {
        let Some(step) = self.ports.registry.get(call.kind).cloned() else {
            let known = self.ports.registry.names().join(", ");
            return Err(self.failed(
                Some(call.key),
                Failure::permanent(
                    code::DEFINITION,
                    format!("this worker has no step kind `{}`; it has {known}", call.kind),
                ),
            ));
        };
        let Call { key, kind, params, policy, shape } = call;
        let body = super::attempt::KindBody { step: &step, params, shape };
        self.resolve(key, kind, policy, &body).await
    }

    /// Does a step that is Rust code: `work` is called for each attempt, and its value recorded as JSON.
    ///
    /// # Errors
    /// As [`Ctx::call`].
    pub async fn step<T, F, Fut>(&self, key: impl Into<StepKey>, policy: &StepPolicy, work: F) -> Result<T, Halt>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        let body = super::attempt::CodeBody::new(&work);
        let done = self.resolve(key.into(), "code", policy, &body).await?;
        serde_json::from_str(done.output.as_str()).map_err(|e| {
            Halt::failed(Failure::permanent(
                code::INVALID_JSON,
                format!("the recorded output has another shape than this code expects: {e}"),
            ))
        })
    }

    /// Records that a step is skipped (a decision is a checkpoint too).
    ///
    /// # Errors
    /// `Halt::Stopped` when the run must stop.
    pub async fn skip(&self, key: StepKey, kind: &str) -> Result<StepDone, Halt> {
        let _busy = self.begin(&key)?;
        if let Some(done) = self.recorded(&key, kind)? {
            return Ok(done);
        }
        self.settled().await?;
        let now = self.ports.clock.now();
        let record = self.record(key, kind, StepState::Skipped, now);
        self.defer(StepRow {
            record: StepRecord { checkpoint: true, ended_at: Some(now), ..record },
            wait: None,
            due_in: None,
            fresh: false,
        });
        Ok(StepDone { state: StepState::Skipped, output: Payload::null(), error: None })
    }

    /// Opens a step that is made of other steps (`map`): the first time `decide` is called and its
    /// answer recorded durably, later the recorded answer comes back. `Err(done)` in the inner result when the step has ended already.
    ///
    /// # Errors
    /// `Halt::Failed` when `decide` fails; `Halt::Stopped` when the run must stop.
    pub async fn open(
        &self,
        key: &StepKey,
        kind: &str,
        decide: impl FnOnce() -> Result<Payload, Failure> + Send,
    ) -> Result<Result<Payload, StepDone>, Halt> {
        let _busy = self.begin(key)?;
        if let Some(done) = self.recorded(key, kind)? {
            return Ok(Err(done));
        }
        self.settled().await?;
        if let Some(known) = self.records.get(key)
            && let Some(decision) = known.decision.clone()
        {
            if known.state != StepState::Running {
                let record = StepRecord {
                    state: StepState::Running,
                    epoch: self.epoch,
                    ended_at: None,
                    error: None,
                    ..known.clone()
                };
                self.defer(StepRow { record, wait: None, due_in: None, fresh: false });
            }
            return Ok(Ok(decision));
        }
        let decision = decide().map_err(|f| self.failed(Some(key.clone()), f))?;
        let mut record = self.record(key.clone(), kind, StepState::Running, self.ports.clock.now());
        record.decision = Some(decision.clone());
        self.defer(StepRow { record, wait: None, due_in: None, fresh: false });
        self.settled().await?;
        Ok(Ok(decision))
    }

    /// Ends a step that `open` opened.
    ///
    /// # Errors
    /// `Halt::Failed` when the result is a failure and `policy` does not say continue; `Halt::Stopped` when the run must stop.
    pub async fn close(
        &self,
        key: &StepKey,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> Result<StepDone, Halt> {
        let _busy = self.busy()?;
        self.settled().await?;
        let Some(row) = self.state().open.get(key).cloned() else {
            let bug = format!("step `{key}` was closed without having been opened");
            return Err(Halt::failed(Failure::permanent(code::INTERNAL, bug)));
        };
        self.finish(row.record, result, policy)
    }

    // --- what the parts of the engine use of each other ---

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the run as busy, unless it must stop.
    pub(super) fn busy(&self) -> Result<Busy<'_>, Halt> {
        if self.inbox.signal().reason().is_some() || *self.failing.borrow() {
            return Err(Halt::Stopped);
        }
        self.state().busy += 1;
        Ok(Busy(self))
    }

    /// Begins an operation on a key that this activation has not used before.
    pub(super) fn begin(&self, key: &StepKey) -> Result<Busy<'_>, Halt> {
        let busy = self.busy()?;
        if self.state().used.insert(key.clone()) {
            return Ok(busy);
        }
        Err(self.failed(
            Some(key.clone()),
            Failure::permanent(
                code::DUPLICATE_KEY,
                format!("two steps of this run have the key `{key}`; every step needs its own"),
            ),
        ))
    }

    /// Marks a busy stretch as over for the time of a wait.
    pub(super) fn pause_busy(&self, key: &StepKey, due: Option<Instant>) {
        let mut state = self.state();
        state.busy -= 1;
        state.waits.insert(key.clone(), due);
        drop(state);
        self.inbox.begin_wait(key.clone());
    }

    /// The wait is over, the run is busy again.
    pub(super) fn resume_busy(&self, key: &StepKey) {
        let mut state = self.state();
        state.busy += 1;
        state.waits.remove(key);
        drop(state);
        self.inbox.end_wait(key);
    }

    /// What is recorded of a step, if that is a checkpoint.
    fn recorded(&self, key: &StepKey, kind: &str) -> Result<Option<StepDone>, Halt> {
        let Some(record) = self.record_of(key, kind)? else { return Ok(None) };
        if !record.checkpoint {
            return Ok(None);
        }
        Ok(Some(StepDone {
            state: record.state,
            output: record.output.clone().unwrap_or_else(Payload::null),
            error: record.error.clone(),
        }))
    }

    /// The step's record; a record of another kind is an error that names both.
    pub(super) fn record_of(&self, key: &StepKey, kind: &str) -> Result<Option<&StepRecord>, Halt> {
        match self.records.get(key) {
            Some(record) if record.kind != kind => Err(self.failed(
                Some(key.clone()),
                Failure::permanent(
                    code::FINGERPRINT,
                    format!(
                        "step `{key}` was recorded as `{}` and is now `{kind}`: the definition has changed under the run; fork it from an earlier step",
                        record.kind
                    ),
                ),
            )),
            found => Ok(found),
        }
    }

    /// A new record, numbered.
    pub(super) fn record(&self, key: StepKey, kind: &str, state: StepState, started_at: DateTime<Utc>) -> StepRecord {
        let seq = {
            let mut s = self.state();
            s.seq += 1;
            s.seq
        };
        StepRecord {
            key,
            kind: kind.to_owned(),
            state,
            checkpoint: false,
            attempts: 1,
            seq,
            epoch: self.epoch,
            started_at,
            ended_at: None,
            output: None,
            error: None,
            decision: None,
            due_in_ms: None,
        }
    }

    /// Queues a row for the journal.
    pub(super) fn defer(&self, row: StepRow) {
        let mut state = self.state();
        if matches!(row.record.state, StepState::Running | StepState::Waiting) {
            state.open.insert(row.record.key.clone(), row.clone());
        } else if !state.open.is_empty() {
            state.open.remove(&row.record.key);
        }
        state.deferred.push(row);
    }

    /// Has no row of this step been written before, by this activation or an earlier one?
    fn is_fresh(&self, key: &StepKey) -> bool {
        let open = &self.state().open;
        (open.is_empty() || !open.contains_key(key)) && (self.records.is_empty() || !self.records.contains_key(key))
    }

    /// Queues a line of the audit trail.
    pub(super) fn note(&self, note: Note) {
        self.state().notes.push(note);
    }

    /// Records a step's start at leisure: nothing waits for it.
    pub(super) fn note_start(&self, record: &StepRecord) {
        let row = StepRow { record: record.clone(), wait: None, due_in: None, fresh: false };
        self.state().open.insert(record.key.clone(), row.clone());
        let entry = self.entry(vec![row], Vec::new(), None, None);
        self.ports.journal.submit(entry);
    }

    fn entry(
        &self,
        steps: Vec<StepRow>,
        notes: Vec<Note>,
        transition: Option<Transition>,
        ticket: Option<Ticket>,
    ) -> Entry {
        Entry { run: self.info.id, worker: self.worker, epoch: self.epoch, steps, notes, transition, ticket }
    }

    /// Hands what is deferred to the journal. Returns the number to wait for.
    pub(super) fn flush(&self) -> u64 {
        let mut state = self.state();
        if state.deferred.is_empty() && state.notes.is_empty() {
            return state.submitted;
        }
        let (steps, notes) = (std::mem::take(&mut state.deferred), std::mem::take(&mut state.notes));
        state.submitted += 1;
        let n = state.submitted;
        drop(state);
        self.ports.journal.submit(self.entry(steps, notes, None, Some(Ticket::new(self.acks.clone(), n))));
        n
    }

    /// Everything recorded so far is durable, the run may go on, and a step may start.
    pub(super) async fn settled(&self) -> Result<(), Halt> {
        let n = self.flush();
        if n > 0 {
            self.acks.reached(n).await.map_err(|e| self.commit_failed(e))?;
        }
        if !self.ports.gate.is_open() {
            tokio::select! {
                () = self.ports.gate.opened() => {}
                _ = self.inbox.signal().stopped() => {}
            }
        }
        if self.inbox.signal().reason().is_some() || *self.failing.borrow() { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Commits the run's next state, with all that is deferred.
    ///
    /// # Errors
    /// What the journal says.
    pub(super) async fn transition(&self, transition: Transition) -> Result<(), CommitError> {
        let (steps, notes, n) = {
            let mut state = self.state();
            state.submitted += 1;
            (std::mem::take(&mut state.deferred), std::mem::take(&mut state.notes), state.submitted)
        };
        let (steps, transition) = ride_along(steps, transition);
        self.ports.journal.submit(self.entry(steps, notes, Some(transition), Some(Ticket::new(self.acks.clone(), n))));
        self.acks.reached(n).await
    }

    /// Marks what still runs or waits as cancelled: the run ends without it.
    pub(super) fn close_open_steps(&self) {
        let now = self.ports.clock.now();
        let open: Vec<_> = self.state().open.drain().map(|(_, row)| row).collect();
        for mut row in open {
            row.record.state = StepState::Cancelled;
            row.record.ended_at = Some(now);
            row.wait = None;
            row.due_in = None;
            self.defer(row);
        }
    }

    fn commit_failed(&self, error: CommitError) -> Halt {
        match error {
            CommitError::LeaseLost => {
                self.inbox.stop(StopReason::LeaseLost);
                Halt::Stopped
            }
            CommitError::Refused(why) => self.failed(None, Failure::permanent(code::NOT_STORABLE, why)),
        }
    }

    /// A step has failed for good, and with it the run: branches that wait return, nothing new starts. Steps at work
    /// end by themselves.
    pub(super) fn failed(&self, key: Option<StepKey>, failure: Failure) -> Halt {
        self.failing.send_replace(true);
        Halt::Failed(StepFailure { key, failure })
    }

    /// Resolves when the run is going to fail.
    pub(super) async fn failing(&self) {
        // The sender lives as long as `self`; an error cannot happen.
        let _ = self.failing.subscribe().wait_for(|failing| *failing).await;
    }

    /// Ends a step: records the result and says what it means for the run.
    pub(super) fn finish(
        &self,
        mut record: StepRecord,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> Result<StepDone, Halt> {
        record.ended_at = Some(self.ports.clock.now());
        record.epoch = self.epoch;
        record.due_in_ms = None;
        match result {
            Ok(output) => {
                record.state = StepState::Completed;
                record.checkpoint = true;
                record.error = None;
                record.output = Some(output.clone());
                let fresh = self.is_fresh(&record.key);
                self.defer(StepRow { record, wait: None, due_in: None, fresh });
                Ok(StepDone { state: StepState::Completed, output, error: None })
            }
            Err(failure) => {
                let goes_on = policy.on_error != OnError::Fail;
                record.state = StepState::Failed;
                record.checkpoint = policy.on_error == OnError::Continue;
                if answerable(&record) {
                    // A failed row that still says what it waited for is an answer to be worked off; this one is.
                    record.decision = None;
                }
                record.error = Some(failure.clone());
                let key = record.key.clone();
                self.defer(StepRow { record, wait: None, due_in: None, fresh: false });
                if goes_on {
                    Ok(StepDone { state: StepState::Failed, output: Payload::null(), error: Some(failure) })
                } else {
                    Err(self.failed(Some(key), failure))
                }
            }
        }
    }

    pub(super) fn quiet(&self) -> Quiet {
        let state = self.state();
        if state.busy > 0 || state.waits.is_empty() {
            return Quiet::No;
        }
        let now = Instant::now();
        Quiet::For(state.waits.values().flatten().min().map(|due| due.saturating_duration_since(now)))
    }

    pub(super) fn waiting_keys(&self) -> Vec<StepKey> {
        self.state().waits.keys().cloned().collect()
    }

    pub(super) fn step_cx(
        &self,
        record: &StepRecord,
        attempt: u32,
        shape: Shape,
        stop: crate::steps::StopSignal,
    ) -> StepCx {
        StepCx {
            run: self.info.id,
            workflow: self.info.workflow.clone(),
            key: record.key.clone(),
            attempt,
            epoch: self.epoch,
            worker: self.worker,
            seq: record.seq,
            traceparent: self.traceparent.clone(),
            started_at: record.started_at,
            shape,
            stop,
        }
    }

    /// The size limit, applied to every output.
    pub(super) fn sized(&self, output: Payload) -> Result<Payload, Failure> {
        if output.len() <= self.ports.max_output {
            return Ok(output);
        }
        Err(Failure::permanent(
            code::TOO_LARGE,
            format!(
                "the output has {} bytes, more than the limit of {}; store it elsewhere and return a reference",
                output.len(),
                self.ports.max_output
            ),
        ))
    }
}

/// The last checkpoint of a completed run rides along with its end.
fn ride_along(mut steps: Vec<StepRow>, transition: Transition) -> (Vec<StepRow>, Transition) {
    match transition {
        Transition::Complete { output, last: None }
            if steps.last().is_some_and(|row| row.record.state == StepState::Completed) =>
        {
            let last = steps.pop().map(Box::new);
            (steps, Transition::Complete { output, last })
        }
        other => (steps, other),
    }
}

/// A shape that records the default output.
#[must_use]
pub fn plain_shape() -> Shape {
    Arc::new(|out: StepOutput| Ok(Payload::from_value(&out.default)))
}

/// What an attempt came to, its output shaped.
pub(super) enum Attempted {
    Done(Payload),
    Committed(Payload),
    Suspend(crate::model::Wait),
}

pub(super) fn shaped(flow: Flow, shape: &Shape) -> Result<Attempted, Failure> {
    Ok(match flow {
        Flow::Done(out) => Attempted::Done(shape(out)?),
        Flow::Committed(payload) => Attempted::Committed(payload),
        Flow::Suspend(wait) => Attempted::Suspend(wait),
    })
}

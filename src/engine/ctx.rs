//! The context of a run: what workflow code, interpreted or compiled, may ask for.
//!
//! A finished step's record is *deferred*: it is handed to the journal when the workflow does anything
//! else (asks for another step, or waits for anything), and every start of a step first waits for all
//! acknowledgements outstanding. So a checkpoint is durable before the next step starts, while the record of the last step
//! travels together with the run's end, in one commit.

mod budget;
mod busy;
mod records;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{Claimed, Failure, Payload, RunId, StepKey, StepRecord, StepState, WorkerId, code};
use crate::rules::policy::StepPolicy;
use crate::rules::sampling::Sampling;
use crate::steps::{After, BoxFuture, Calls, Flow, Meter, Registry, Reply, Shape, StepCx, StepOutput};
use crate::telemetry::context;
use crate::telemetry::failures::Failures;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::step_log::StepLogs;

use super::clock::ServerClock;
use super::gate::Gate;
use super::halt::{Halt, StepFailure};
use super::inbox::Inbox;
use super::journal::{Acks, Journal, Note, StepRow};
use super::kept::Kept;

pub(super) use busy::Quiet;

/// What the run knows of itself.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// Its id.
    pub id: RunId,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// Its `run_at`.
    pub scheduled_for: DateTime<Utc>,
    /// What it belongs to together with other runs.
    pub session_id: Option<Arc<str>>,
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
    /// Where steps write while they work.
    pub logs: Arc<StepLogs>,
    /// Told of each failed attempt.
    pub failures: Failures,
    /// Where steps and their attempts are counted.
    pub metrics: Arc<Metrics>,
    /// What is noted for traces beside the records; `None`: nothing is traced.
    pub traces: Option<Tracing>,
}

/// What traces need to know of a run beside its records.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Which runs.
    pub sampling: Sampling,
    /// The bytes that are kept of what a call asks, and of what it is answered; 0: none.
    pub content: usize,
}

impl Tracing {
    fn of(&self, claimed: &Claimed) -> Option<Arc<Calls>> {
        let (run, workflow) = (claimed.lease.run(), &*claimed.workflow);
        let sampled = self.sampling.takes(run, workflow);
        let may = sampled || self.sampling.errors;
        may.then(|| Arc::new(Calls::new(run, claimed.lease.epoch(), sampled, self.content)))
    }
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

/// The code of a step, called for each attempt.
pub type Work<'a> = dyn Fn(StepCx) -> BoxFuture<'a, Result<Payload, Failure>> + Send + Sync + 'a;

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
    /// Automatic resumes so far. Each gives a step that has failed one attempt: its own retries are spent.
    pub(super) resumes: i16,
    /// Another run waits for its end.
    pub(super) is_child: bool,
    keeps_key: bool,
    /// The run has killed a worker before: each step's start is durable before the step begins, so that the next death names it.
    pub(super) suspect: bool,
    pub(super) ports: Arc<Ports>,
    pub(super) inbox: Arc<Inbox>,
    /// What its steps use up of models.
    pub(super) meter: Arc<Meter>,
    /// What they ask of others, where the run is traced.
    pub(super) calls: Option<Arc<Calls>>,
    /// Held by the branch that asks for more of the budget.
    asking: tokio::sync::Mutex<budget::Asked>,
    records: HashMap<StepKey, StepRecord>,
    pub(super) acks: Arc<Acks>,
    /// Turns true when the run is going to fail: branches that wait return, nothing new starts.
    failing: AtomicBool,
    fails: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seq: i32,
    used: HashSet<StepKey>,
    /// Operations under way that are not waits: while there is one, the run is not suspended.
    busy: usize,
    waits: HashMap<StepKey, Option<Instant>>,
    kept_until: Option<Instant>,
    deferred: Vec<StepRow>,
    notes: Vec<Note>,
    noted: i32,
    submitted: u64,
    /// Steps whose last row says running or waiting: closed when the run ends without them.
    open: HashMap<StepKey, Box<StepRow>>,
    /// What people call the steps that have a label.
    labels: HashMap<StepKey, Arc<str>>,
}

impl Ctx {
    /// Of a run without records: the first claim, or one whose records have not been loaded yet.
    pub(super) fn new(claimed: &Claimed, ports: Arc<Ports>, inbox: Arc<Inbox>) -> Self {
        Self {
            info: RunInfo {
                id: claimed.lease.run(),
                workflow: claimed.workflow.clone(),
                scheduled_for: claimed.scheduled_for,
                session_id: claimed.session_id.clone(),
            },
            worker: claimed.lease.worker(),
            epoch: claimed.lease.epoch(),
            traceparent: claimed.traceparent.as_deref().map(Arc::from),
            resumes: claimed.resumes,
            is_child: claimed.is_child,
            keeps_key: claimed.keeps_key,
            suspect: claimed.crashes > 0,
            meter: Arc::new(Meter::of(claimed.workflow.clone(), ports.metrics.clone())),
            calls: ports.traces.as_ref().and_then(|traces| traces.of(claimed)),
            ports,
            inbox,
            asking: tokio::sync::Mutex::default(),
            records: HashMap::new(),
            acks: Arc::default(),
            failing: AtomicBool::new(false),
            fails: Notify::new(),
            state: Mutex::default(),
        }
    }

    /// Takes up what earlier claims have recorded, before the workflow's code runs.
    pub(super) fn remember(&mut self, records: Vec<StepRecord>) {
        self.recall_usage(&records);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.seq = records.iter().map(|r| r.seq).max().unwrap_or(0);
        state.open = records
            .iter()
            .filter(|r| matches!(r.state, StepState::Running | StepState::Waiting))
            .map(|r| (r.key.clone(), Box::new(StepRow { record: r.clone(), wait: None, due_in: None, fresh: false })))
            .collect();
        self.records = records.into_iter().map(|r| (r.key.clone(), r)).collect();
    }

    /// What has failed is known; something else is begun.
    pub(super) fn go_on(&mut self) {
        *self.failing.get_mut() = false;
    }

    /// Begins anew, with all that is recorded of the run now: what it was about to do has been broken off.
    pub(super) fn begin_again(&mut self, records: Vec<StepRecord>) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        (state.used, state.waits, state.busy, state.kept_until) = (HashSet::new(), HashMap::new(), 0, None);
        self.remember(records);
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

    /// Does a step that is Rust code: `work` is called for each attempt, and what it gives is recorded.
    ///
    /// # Errors
    /// As [`Ctx::call`].
    pub async fn code(&self, key: StepKey, policy: &StepPolicy, work: &Work<'_>) -> Result<StepDone, Halt> {
        self.resolve(key, "code", policy, &super::attempt::CodeBody::new(work)).await
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
        self.count_end(&record, StepState::Skipped);
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
                    // An operator's retry has made it 0; a crash from now on is none.
                    attempts: known.attempts.max(1),
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

    /// Records another decision of a step that `open` opened. Durable before anything else of the run starts.
    ///
    /// # Errors
    /// `Halt::Stopped` when the run must stop.
    pub fn decide_again(&self, key: &StepKey, decision: Payload) -> Result<(), Halt> {
        let _busy = self.busy()?;
        let open = self.state().open.get(key).cloned();
        if let Some(mut row) = open {
            row.record.decision = Some(decision);
            self.defer(*row);
        }
        Ok(())
    }

    /// A key `name[1]`, `name[2]`, … that no step of the run has had.
    pub(super) fn unused(&self, name: &str) -> String {
        let state = self.state();
        let is_used = |key: &StepKey| self.records.contains_key(key) || state.used.contains(key);
        let keys = (1_u64..).map(|n| format!("{name}[{n}]"));
        keys.into_iter().find(|key| !is_used(&StepKey::new(key.clone()))).unwrap_or_default()
    }

    /// What earlier claims have recorded of a step.
    pub(crate) fn loaded(&self, key: &StepKey) -> Option<&StepRecord> {
        self.records.get(key)
    }

    // --- what the parts of the engine use of each other ---

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The step's record; a record of another kind is an error that names both, and is fatal whatever `on_error` says: it is
    /// not this step that failed, and what the record holds is the answer to another question.
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

    /// A step has failed for good, and with it the run: branches that wait return, nothing new starts. Steps at work
    /// end by themselves.
    pub(crate) fn failed(&self, key: Option<StepKey>, failure: Failure) -> Halt {
        self.failing.store(true, Ordering::Release);
        self.fails.notify_waiters();
        Halt::Failed(StepFailure { key, failure })
    }

    fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Nothing more is to be started.
    fn must_stop(&self) -> bool {
        self.inbox.signal().reason().is_some() || self.is_failing() || self.inbox.is_pausing()
    }

    /// Resolves when the run is going to fail.
    pub(super) async fn failing(&self) {
        // Enabled before the look, so that a failure between look and wait is not missed.
        let fails = self.fails.notified();
        tokio::pin!(fails);
        fails.as_mut().enable();
        if !self.is_failing() {
            fails.await;
        }
    }

    pub(super) fn step_cx(
        &self,
        record: &StepRecord,
        attempt: u32,
        shape: Shape,
        (stop, reply): (crate::steps::StopSignal, Option<Reply>),
    ) -> StepCx {
        // The attempt's own, by the place in which it is polled.
        let log = context::here().map(|place| place.log).unwrap_or_default();
        StepCx {
            run: self.info.id,
            workflow: self.info.workflow.clone(),
            key: record.key.clone(),
            attempt,
            epoch: self.epoch,
            worker: self.worker,
            seq: record.seq,
            session_id: self.info.session_id.clone(),
            given_context: self.traceparent.clone(),
            started_at: record.started_at,
            label: self.label_of(&record.key),
            shape,
            stop,
            meter: self.meter.clone(),
            calls: self.calls.clone(),
            kept: record.decision.as_ref().and_then(|decision| Kept::of(Some(decision)).kept),
            reply,
            log,
        }
    }

    /// The size limit, applied to every output.
    pub(crate) fn sized(&self, output: Payload) -> Result<Payload, Failure> {
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
    GoOn { keep: Value, after: After },
}

pub(super) fn shaped(flow: Flow, shape: &Shape) -> Result<Attempted, Failure> {
    Ok(match flow {
        Flow::Done(out) => Attempted::Done(shape(out)?),
        Flow::Committed(payload) => Attempted::Committed(payload),
        Flow::Suspend(wait) => Attempted::Suspend(wait),
        Flow::GoOn { keep, after } => Attempted::GoOn { keep, after },
    })
}

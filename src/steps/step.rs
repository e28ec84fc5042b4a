//! What a kind of step is, and what its code is given.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;

use crate::model::{Failure, Payload, RunId, StepKey, Wait, WorkerId};
use crate::telemetry::context;
use crate::telemetry::step_log::Stream;
pub use crate::telemetry::step_log::{LogLevel, StepLog};

use super::calls::Calls;
use super::meter::Meter;

/// A boxed future, the price of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A kind of step: `run`, `http`, `sql`, …
///
/// `params` is the JSON object of the step's evaluated parameters (each kind documents its own). A kind
/// never retries by itself, keeps no time limits of its own, and stores nothing: it does the work
/// of one attempt and says how it went.
pub trait Step: Send + Sync {
    /// The word that names the kind in a workflow file.
    fn kind(&self) -> &'static str;

    /// Does one attempt.
    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>>;

    /// The names of its raw result that a workflow file's `output:` may use. Those of the standard kinds the language knows.
    fn raw(&self) -> &'static [&'static str] {
        &[]
    }

    /// Does the kind end its own work when told to stop (a process group that must be killed), and
    /// how long may that take? `None`: the future is simply dropped.
    fn stop_grace(&self) -> Option<Duration> {
        None
    }

    /// Does it call models? Then no attempt of it starts past the run's budget.
    fn spends(&self) -> bool {
        false
    }
}

/// What came of an attempt that did not fail.
#[derive(Debug)]
pub enum Flow {
    /// Done; the engine shapes and commits the output.
    Done(StepOutput),
    /// Done, and the checkpoint has been committed together with the effect (a `sql` step in
    /// stepd's own database).
    Committed(Payload),
    /// The run must wait; nothing is held meanwhile.
    Suspend(Wait),
    /// Not done yet. What is kept is durable before the attempt goes on.
    GoOn {
        /// What the kind is given then, as [`StepCx::kept`]; null: nothing.
        keep: Value,
        /// What comes first.
        after: After,
    },
}

/// What comes before an attempt goes on.
#[derive(Debug)]
pub enum After {
    /// Nothing.
    Now,
    /// A person's answer, which comes as [`StepCx::reply`].
    Reply(Question),
    /// A pause in which nothing is held. It counts as no failure; `why` is told to people, and is the failure where the step's time
    /// does not allow the pause.
    Pause {
        /// How long.
        span: Duration,
        /// What is waited for.
        why: Failure,
    },
    /// The attempt has failed, and the step's policy decides about another one; that one is given what is kept.
    Failure(Failure),
}

/// What a kind asks people.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Question {
    /// The question.
    pub prompt: String,
    /// The answer is an object that matches this JSON Schema.
    pub schema: Value,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The answer.
    Given(Value),
    /// Somebody said no.
    Declined,
    /// Nobody answered in time.
    Silence,
}

/// The raw result of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutput {
    /// The names that a step's `output:` expression may use, as a JSON object
    /// (`{status, headers, body}` for `http`).
    pub raw: Value,
    /// The output where the step says nothing.
    pub default: Value,
}

impl StepOutput {
    /// An output without raw names.
    #[must_use]
    pub fn plain(value: Value) -> Self {
        Self { raw: Value::Object(serde_json::Map::new()), default: value }
    }
}

/// Turns a raw result into the recorded output: the step's `output:` expression, its `schema`, and the size limit.
pub type Shape = Arc<dyn Fn(StepOutput) -> Result<Payload, Failure> + Send + Sync>;

/// Secrets by name, as the daemon's configuration gives them; their values are redacted wherever
/// they would be stored or shown.
#[derive(Clone, Default)]
pub struct Secrets(pub Arc<BTreeMap<String, String>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why an attempt is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The attempt's or the step's time is up.
    Timeout,
    /// The run was cancelled.
    Cancelled,
    /// The lease is lost: another worker has, or will have, the run.
    LeaseLost,
    /// The daemon lets go of its runs, unharmed: it shuts down and the grace time is over, or Postgres has lost what it knew of them.
    GivenBack,
    /// The run is paused, and not when its steps have ended but now.
    Paused,
}

impl StopReason {
    const ALL: [Self; 5] = [Self::Timeout, Self::Cancelled, Self::LeaseLost, Self::GivenBack, Self::Paused];
}

/// A watch channel would do; every run has one of these, and it is a tenth of the size.
#[derive(Debug, Default)]
struct Stopping {
    /// 0: not yet; else the reason's place in [`StopReason::ALL`], plus one.
    said: AtomicU8,
    told: Notify,
}

/// The receiving end of a stop.
#[derive(Clone, Debug)]
pub struct StopSignal(Arc<Stopping>);

/// The sending end of a stop.
#[derive(Debug)]
pub struct StopTrigger(Arc<Stopping>);

/// A connected trigger and signal.
#[must_use]
pub fn stop_pair() -> (StopTrigger, StopSignal) {
    let shared = Arc::<Stopping>::default();
    (StopTrigger(shared.clone()), StopSignal(shared))
}

impl StopTrigger {
    /// Says stop. The first reason stands.
    pub fn stop(&self, reason: StopReason) {
        let _ = self.0.said.compare_exchange(0, reason as u8 + 1, Ordering::AcqRel, Ordering::Acquire);
        self.0.told.notify_waiters();
    }
}

impl StopSignal {
    /// Resolves when the attempt is told to stop; pends for ever if that never comes.
    pub async fn stopped(&self) -> StopReason {
        loop {
            // Enabled before the look, so that a stop between look and wait is not missed.
            let told = self.0.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if let Some(reason) = self.reason() {
                return reason;
            }
            told.await;
        }
    }

    /// The reason, if the stop has been said.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        let said = self.0.said.load(Ordering::Acquire);
        StopReason::ALL.get(usize::from(said).checked_sub(1)?).copied()
    }
}

/// What one attempt knows about itself.
#[derive(Clone)]
pub struct StepCx {
    /// The run.
    pub run: RunId,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The step's key.
    pub key: StepKey,
    /// The attempt's number, from 1, over all resumes.
    pub attempt: u32,
    /// The claim's number, for fencing outside.
    pub epoch: i32,
    /// The worker's registration.
    pub worker: WorkerId,
    /// The order of the step's start in its run.
    pub seq: i32,
    /// The trace context that the run was given.
    pub(crate) given_context: Option<Arc<str>>,
    /// What the run belongs to together with other runs, as its enqueuer says.
    pub session_id: Option<Arc<str>>,
    /// When the step's first attempt started, by the server's clock carried on monotonically.
    pub started_at: chrono::DateTime<chrono::Utc>,
    /// What people call the step, where it has a label.
    pub label: Option<Arc<str>>,
    /// Turns the raw result into the recorded output (only kinds that commit themselves need it).
    pub shape: Shape,
    /// Says when to stop.
    pub stop: StopSignal,
    /// Counts what calls of models use up.
    pub meter: Arc<Meter>,
    /// What the attempt asks of others, where the run is traced.
    pub calls: Option<Arc<Calls>>,
    /// What the kind has kept ([`Flow::GoOn`]): in this attempt, or in one that was interrupted or repeated.
    pub kept: Option<Value>,
    /// The answer to the question for which it was kept.
    pub reply: Option<Reply>,
    /// What the attempt has to say while it works.
    pub log: StepLog,
}

impl StepCx {
    /// Writes a line into the attempt's log (`stepd logs`, `stepd.logs`). Never waits.
    pub fn log(&self, text: impl fmt::Display) {
        self.log_as(LogLevel::Info, text);
    }

    /// As [`StepCx::log`], with what the line matters.
    pub fn log_as(&self, level: LogLevel, text: impl fmt::Display) {
        if self.log.is_kept() {
            self.log.push(Stream::Code, level, &text.to_string());
        }
    }

    /// `<run id>/<step key>`: the same on every attempt and resume. Made on demand: most steps never ask.
    #[must_use]
    pub fn idempotency_key(&self) -> Arc<str> {
        format!("{}/{}", self.run, self.key).into()
    }
}

/// As [`StepCx::log_as`], for whatever attempt is at work here; outside of one nothing is written.
pub fn log_here(level: LogLevel, text: impl fmt::Display) {
    if let Some(place) = context::here().filter(|place| place.log.is_kept()) {
        place.log.push(Stream::Code, level, &text.to_string());
    }
}

/// The kinds that this process can run.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: HashMap<&'static str, Arc<dyn Step>>,
}

impl Registry {
    /// Adds a kind; a second one of the same name replaces the first.
    #[must_use]
    pub fn with(mut self, step: impl Step + 'static) -> Self {
        self.kinds.insert(step.kind(), Arc::new(step));
        self
    }

    /// Adds all kinds of another registry; one of a name that is there already replaces it.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.kinds.extend(other.kinds);
        self
    }

    /// The kind of that name.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Step>> {
        self.kinds.get(kind)
    }

    /// All kinds, in no order.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<dyn Step>> {
        self.kinds.values()
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.kinds.keys().copied().collect();
        names.sort_unstable();
        names
    }
}

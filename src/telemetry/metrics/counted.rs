//! What is counted where it happens. Whoever counts holds a group; each count is an addition to an atomic, and at most one look-up of a
//! name.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Shelf;
use super::about::{self, About};
use super::family::{Family, Handles};
use super::histogram::{CALL, FAST, Histogram, LONG, SIZES};
use crate::model::{RunState, StepState, Usage};

/// Workflows that have figures of their own; what comes later counts as `other`.
pub const WORKFLOWS: usize = 100;

/// Queues that have.
pub const QUEUES: usize = 100;

/// Kinds of step: the standard ones, and a binary's own.
const KINDS: usize = 64;

/// Combinations of a kind and a failure's code, of a workflow and a model, of a route and a status.
const PAIRS: usize = 500;

/// A counter of money.
type Money = Counter<f64, AtomicU64>;

/// Runs and their steps: what the engine counts.
#[derive(Debug)]
pub struct Work {
    workflows: Handles<OfWorkflow>,
    kinds: Handles<OfKind>,
    activations: Family<Counter>,
    ended: Family<Counter>,
    durations: Family<Histogram>,
    resumes: Family<Counter>,
    steps: Family<Counter>,
    step_durations: Family<Histogram>,
    failed: Family<Counter>,
    retries: Family<Counter>,
}

/// A workflow's.
#[derive(Debug)]
struct OfWorkflow {
    completed: Counter,
    failed: Counter,
    cancelled: Counter,
    duration: Histogram,
    resumes: Counter,
}

/// A kind's.
#[derive(Debug)]
struct OfKind {
    completed: Counter,
    failed: Counter,
    skipped: Counter,
    duration: Histogram,
    retries: Counter,
}

/// What can come of a claimed run.
const OUTCOMES: [&str; 8] =
    ["completed", "failed", "cancelled", "suspended", "resuming", "paused", "interrupted", "lease_lost"];

/// The services that keep a connection of their own.
const CONNECTED: [&str; 3] = ["claimer", "presence", "writer"];

/// A counter for each word, from 0 on: the first thing that happens is an increase.
fn counters(shelf: &Shelf, about: &'static About, words: &[&str]) -> Family<Counter> {
    let family = shelf.family(about, PAIRS, Counter::default);
    for word in words {
        drop(family.of(&[word]));
    }
    family
}

impl Work {
    pub(super) fn new(shelf: &Shelf) -> Self {
        Self {
            workflows: Handles::new(WORKFLOWS),
            kinds: Handles::new(KINDS),
            activations: counters(shelf, &about::ACTIVATIONS, &OUTCOMES),
            ended: shelf.family(&about::RUNS_ENDED, PAIRS, Counter::default),
            durations: shelf.family(&about::RUN_DURATION, PAIRS, || Histogram::new(LONG)),
            resumes: shelf.family(&about::RESUMES, PAIRS, Counter::default),
            steps: shelf.family(&about::STEPS_ENDED, PAIRS, Counter::default),
            step_durations: shelf.family(&about::STEP_DURATION, PAIRS, || Histogram::new(LONG)),
            failed: shelf.family(&about::ATTEMPTS_FAILED, PAIRS, Counter::default),
            retries: shelf.family(&about::RETRIES, PAIRS, Counter::default),
        }
    }

    fn workflow(&self, name: &str) -> Arc<OfWorkflow> {
        self.workflows.of(name, |name| OfWorkflow {
            completed: self.ended.of(&[name, RunState::Completed.as_str()]),
            failed: self.ended.of(&[name, RunState::Failed.as_str()]),
            cancelled: self.ended.of(&[name, RunState::Cancelled.as_str()]),
            duration: self.durations.of(&[name]),
            resumes: self.resumes.of(&[name]),
        })
    }

    fn kind(&self, name: &str) -> Arc<OfKind> {
        self.kinds.of(name, |name| OfKind {
            completed: self.steps.of(&[name, StepState::Completed.as_str()]),
            failed: self.steps.of(&[name, StepState::Failed.as_str()]),
            skipped: self.steps.of(&[name, StepState::Skipped.as_str()]),
            duration: self.step_durations.of(&[name]),
            retries: self.retries.of(&[name]),
        })
    }

    /// What came of a claimed run.
    pub fn left(&self, outcome: &str) {
        self.activations.of(&[outcome]).inc();
    }

    /// A run has ended, so long after its first claim.
    pub fn run_ended(&self, workflow: &str, state: RunState, took: Duration) {
        let of = self.workflow(workflow);
        match state {
            RunState::Completed => of.completed.inc(),
            RunState::Cancelled => of.cancelled.inc(),
            _ => of.failed.inc(),
        };
        of.duration.took(took);
    }

    /// A failed run will be resumed.
    pub fn resumes(&self, workflow: &str) {
        self.workflow(workflow).resumes.inc();
    }

    /// A step has ended, so long after its first attempt began.
    pub fn step_ended(&self, kind: &str, state: StepState, took: Duration) {
        let of = self.kind(kind);
        match state {
            StepState::Completed => of.completed.inc(),
            StepState::Skipped => of.skipped.inc(),
            _ => of.failed.inc(),
        };
        of.duration.took(took);
    }

    /// An attempt has failed; is it followed by another one?
    pub fn attempt_failed(&self, kind: &str, code: &str, retried: bool) {
        self.failed.of(&[kind, code]).inc();
        if retried {
            self.kind(kind).retries.inc();
        }
    }
}

/// What models are asked, and what that costs.
#[derive(Debug)]
pub struct Models {
    calls: Family<Counter>,
    tokens: Family<Counter>,
    cached: Family<Counter>,
    cost: Family<Money>,
    durations: Family<Histogram>,
}

impl Models {
    pub(super) fn new(shelf: &Shelf) -> Self {
        Self {
            calls: shelf.family(&about::MODEL_CALLS, PAIRS, Counter::default),
            tokens: shelf.family(&about::MODEL_TOKENS, PAIRS, Counter::default),
            cached: shelf.family(&about::MODEL_CACHED, PAIRS, Counter::default),
            cost: shelf.family(&about::MODEL_COST, PAIRS, Money::default),
            durations: shelf.family(&about::MODEL_TIME, KINDS, || Histogram::new(CALL)),
        }
    }

    /// A call begins.
    pub fn called(&self, workflow: &str, model: &str) {
        self.calls.of(&[workflow, model]).inc();
    }

    /// What a call has used.
    pub fn used(&self, workflow: &str, model: &str, usage: &Usage) {
        self.tokens.of(&[workflow, model, "in"]).inc_by(usage.tokens_in);
        self.tokens.of(&[workflow, model, "out"]).inc_by(usage.tokens_out);
        self.cached.of(&[workflow, model]).inc_by(usage.tokens_cached);
        self.cost.of(&[workflow, model]).inc_by(usage.cost);
    }

    /// How long a call took, however it went.
    pub fn took(&self, model: &str, span: Duration) {
        self.durations.of(&[model]).took(span);
    }
}

/// Claims.
#[derive(Debug)]
pub struct Claims {
    /// How long a claim's statement took.
    pub duration: Histogram,
    queues: Handles<OfQueue>,
    runs: Family<Counter>,
    waits: Family<Histogram>,
}

/// A queue's.
#[derive(Debug)]
pub struct OfQueue {
    /// Runs that were claimed.
    pub runs: Counter,
    /// How long new ones were ready before.
    pub waits: Histogram,
}

impl Claims {
    pub(super) fn new(shelf: &Shelf) -> Self {
        Self {
            duration: shelf.one(&about::CLAIM_TIME, Histogram::new(FAST)),
            queues: Handles::new(QUEUES),
            runs: shelf.family(&about::RUNS_CLAIMED, PAIRS, Counter::default),
            waits: shelf.family(&about::RUN_WAIT, PAIRS, || Histogram::new(LONG)),
        }
    }

    /// That of a queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> Arc<OfQueue> {
        self.queues.of(name, |name| OfQueue { runs: self.runs.of(&[name]), waits: self.waits.of(&[name]) })
    }
}

/// Writers, take-overs, schedules: what the services count.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Services {
    batch: Histogram,
    commit: Histogram,
    pub parked: Gauge<i64, AtomicI64>,
    pub outages: Counter,
    pub by_lock: Counter,
    pub by_lease: Counter,
    pub taken: Counter,
    pub quarantined: Counter,
    pub mended: Counter,
    pub scheduled: Counter,
    connections_lost: Family<Counter>,
}

impl Services {
    pub(super) fn new(shelf: &Shelf) -> Self {
        let take_overs = shelf.family(&about::TAKE_OVERS, PAIRS, Counter::default);
        Self {
            batch: shelf.one(&about::BATCH, Histogram::new(SIZES)),
            commit: shelf.one(&about::COMMIT, Histogram::new(FAST)),
            parked: shelf.one(&about::PARKED, Gauge::default()),
            outages: shelf.one(&about::OUTAGES, Counter::default()),
            by_lock: take_overs.of(&["lock"]),
            by_lease: take_overs.of(&["lease"]),
            taken: shelf.one(&about::TAKEN, Counter::default()),
            quarantined: shelf.one(&about::QUARANTINED, Counter::default()),
            mended: shelf.one(&about::MENDED, Counter::default()),
            scheduled: shelf.one(&about::SCHEDULED, Counter::default()),
            connections_lost: counters(shelf, &about::CONNECTIONS_LOST, &CONNECTED),
        }
    }

    /// A writer has recorded something of so many runs.
    pub fn committed(&self, runs: usize, took: Duration) {
        self.batch.held(runs);
        self.commit.took(took);
    }

    /// A service has lost its connection, or could not make one.
    pub fn connection_lost(&self, service: &str) {
        self.connections_lost.of(&[service]).inc();
    }
}

/// Requests to the HTTP server.
#[derive(Debug)]
pub struct Requests {
    requests: Family<Counter>,
    durations: Family<Histogram>,
}

impl Requests {
    pub(super) fn new(shelf: &Shelf) -> Self {
        Self {
            requests: shelf.family(&about::REQUESTS, PAIRS, Counter::default),
            durations: shelf.family(&about::REQUEST_TIME, PAIRS, || Histogram::new(FAST)),
        }
    }

    /// A request has been answered.
    pub fn answered(&self, method: &str, route: &str, status: &str, took: Duration) {
        self.requests.of(&[method, route, status]).inc();
        self.durations.of(&[route]).took(took);
    }
}

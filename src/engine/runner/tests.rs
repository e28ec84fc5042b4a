use chrono::DateTime;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::wait::Purpose;
use super::super::{Gate, MemoryJournal, ServerClock};
use super::*;
use crate::model::{RunId, StepKey, StepRecord, Wait, WorkerId};
use crate::rules::policy::ResumePolicy;
use crate::steps::Registry;
use crate::telemetry::failures::Failures;
use crate::telemetry::step_log::StepLogs;

use super::super::inbox::Answer;
use super::super::journal::{Entry, Journal};

/// A journal of runs that have so many records.
struct Recorded(MemoryJournal, i32);

impl Journal for Recorded {
    fn submit(&self, entry: Entry) {
        self.0.submit(entry);
    }

    fn load(&self, _: RunId) -> BoxFuture<'static, Result<Vec<StepRecord>, Failure>> {
        let last =
            StepRecord { state: StepState::Completed, output: Some(Payload::null()), ..record("last", "set", self.1) };
        Box::pin(std::future::ready(Ok(vec![last])))
    }

    fn settle(&self, _: RunId, _: Vec<StepKey>) {}

    fn expire(&self, _: RunId, _: (WorkerId, i32), _: StepKey, _: Failure) -> BoxFuture<'static, Option<Answer>> {
        Box::pin(std::future::ready(None))
    }
}

fn record(key: &str, kind: &str, seq: i32) -> StepRecord {
    StepRecord {
        key: key.into(),
        kind: kind.to_owned(),
        state: StepState::Running,
        checkpoint: false,
        attempts: 1,
        seq,
        epoch: 1,
        started_at: DateTime::UNIX_EPOCH,
        ended_at: None,
        output: None,
        error: None,
        decision: None,
        due_in_ms: None,
        usage: None,
        label: None,
    }
}

/// Waits ten times, each time for another child; or for an event.
struct Waits {
    children: bool,
    policy: ResumePolicy,
}

impl Workflow for Waits {
    fn run<'a>(&'a self, ctx: &'a Ctx, _: Payload) -> BoxFuture<'a, Result<Payload, Halt>> {
        Box::pin(async move {
            for n in 0..10 {
                let key = StepKey::new(&*format!("wait {n}"));
                let _busy = ctx.begin(&key)?;
                let (kind, wait) = if self.children {
                    let run = RunId(Uuid::from_u128(n + 2));
                    ("workflow", Wait::Child { run, workflow: "child".to_owned(), timeout: None })
                } else {
                    ("wait", Wait::Event { name: "it".to_owned(), matches: json!({}), timeout: None })
                };
                ctx.begin_wait(&mut record(key.as_str(), kind, 0), Purpose::Wait(wait)).await?;
            }
            Ok(Payload::null())
        })
    }

    fn resume_policy(&self) -> &ResumePolicy {
        &self.policy
    }
}

/// A run with so many records whose waits are each answered after `answered`: what it came to, and after which time.
async fn played(children: bool, records: i32, answered: Duration) -> (Outcome, Duration) {
    let ports = Ports {
        journal: Arc::new(Recorded(MemoryJournal::default(), records)),
        registry: Arc::new(Registry::default()),
        gate: Gate::always_open(),
        clock: Arc::new(ServerClock::new(DateTime::UNIX_EPOCH)),
        max_output: 1_000,
        logs: StepLogs::new(0),
        failures: Failures::default(),
        metrics: Arc::default(),
        traces: None,
    };
    let claimed = Box::new(Claimed::of(RunId(Uuid::from_u128(1)), 2, "w", Payload::null()));
    let inbox = Arc::new(Inbox::default());
    let workflow: Arc<dyn Workflow> = Arc::new(Waits { children, policy: ResumePolicy::default() });
    let began = Instant::now();
    let answers = async {
        loop {
            tokio::time::sleep(answered).await;
            inbox.waiting().into_iter().for_each(|key| inbox.answer(key, Ok(Payload::null())));
        }
    };
    tokio::select! {
        outcome = run(claimed, Ok(workflow), Arc::new(ports), inbox.clone()) => (outcome, began.elapsed()),
        () = answers => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_with_many_records_hears_of_children_that_end_sooner_than_it_could_be_loaded_again() {
    let (outcome, took) = played(true, 2_000, Duration::from_millis(50)).await;
    assert_eq!(outcome, Outcome::Done, "after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn it_is_kept_for_no_child_longer_than_loading_it_again_would_take() {
    let (outcome, took) = played(true, 2_000, Duration::from_secs(3)).await;
    assert_eq!(outcome, Outcome::Suspended);
    assert!((60..=62).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_with_few_records_or_that_waits_for_something_else_is_suspended_at_once() {
    for (children, records) in [(true, 500), (false, 100_000)] {
        let (outcome, took) = played(children, records, Duration::from_millis(1)).await;
        assert_eq!((outcome, took), (Outcome::Suspended, Duration::ZERO), "{records}");
    }
}

//! The interpreter on the real context, over the journal in memory.

use serde_json::{Value, json};

use super::super::{Gate, Inbox, MemoryJournal, Outcome, Ports, ServerClock, Transition, run};
use super::*;
use crate::definition::load;
use crate::model::{Claimed, RunId, StepState};
use crate::steps::{Flow, Registry, StepCx};
use crate::telemetry::failures::Failures;
use crate::telemetry::step_log::StepLogs;

/// `set`, but the value `fail` does what it says until it is healed; counts what it does.
#[derive(Clone, Default)]
pub(super) struct Set {
    pub(super) healed: bool,
    pub(super) did: Arc<std::sync::Mutex<Vec<String>>>,
}

impl crate::steps::Step for Set {
    fn kind(&self) -> &'static str {
        "set"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            self.did.lock().unwrap().push(cx.key.to_string());
            match params["value"].as_str() {
                Some("fail") if !self.healed => Err(Failure::permanent("boom", "it broke")),
                Some("flaky") if !self.healed => Err(Failure::transient("flaky", "it may pass")),
                _ => Ok(Flow::Done(StepOutput::plain(params["value"].clone()))),
            }
        })
    }
}

pub(super) async fn whole(text: &str, input: Value) -> (Outcome, Arc<MemoryJournal>) {
    let journal = Arc::new(MemoryJournal::default());
    (activation(text, input, &journal, Set::default()).await, journal)
}

/// One activation of the run, from what the journal holds of it.
pub(super) async fn activation(text: &str, input: Value, journal: &Arc<MemoryJournal>, set: Set) -> Outcome {
    let definition = load("test.yaml", text).unwrap_or_else(|e| panic!("{e}"));
    let id = RunId(uuid::Uuid::nil());
    let now = chrono::DateTime::UNIX_EPOCH;
    let ports = Ports {
        journal: journal.clone(),
        registry: Arc::new(Registry::default().with(set)),
        gate: Gate::always_open(),
        clock: Arc::new(ServerClock::new(now)),
        max_output: limits::RESULT_BYTES,
        logs: StepLogs::new(0),
        failures: Failures::default(),
        metrics: Arc::default(),
        traces: None,
    };
    let epoch = if journal.run(id).commits == 0 { 1 } else { 2 };
    let mut claimed = Claimed::of(id, epoch, "test", Payload::from_value(&input));
    // As if the sweep had resumed it, or an operator.
    claimed.resumes = i16::try_from(journal.run(id).transitions.len()).unwrap();
    let workflow = Arc::new(Interpreter::new(Arc::new(definition), Arc::default()));
    run(Box::new(claimed), Ok(workflow), Arc::new(ports), Arc::new(Inbox::default())).await
}

pub(super) fn output(journal: &MemoryJournal) -> Value {
    match journal.run(RunId(uuid::Uuid::nil())).transitions.last() {
        Some(Transition::Complete { output, .. }) => output.value().unwrap(),
        other => panic!("{other:?}"),
    }
}

const MAP: &str = r#"
name: a
output: "[steps.docs.output, steps.docs.failed]"
steps:
  - {id: docs, map: "${{ input }}", as: doc, max_parallel: 3, tolerate: 1, steps: [{id: x, set: "${{ doc }}"}, {id: y, set: "${{ steps.x.output }}!"}]}
"#;

#[tokio::test]
async fn a_tolerated_failure_does_not_stop_the_run() {
    let (outcome, journal) = whole(MAP, json!(["a", "fail", "c", "d", "e"])).await;
    assert_eq!(outcome, Outcome::Done);
    let out = output(&journal);
    assert_eq!((&out[0][0], &out[0][4], &out[1]), (&json!("a!"), &json!("e!"), &json!(1)));
}

#[tokio::test]
async fn a_failure_that_is_not_tolerated_fails_the_run_under_the_step_s_name() {
    let (outcome, journal) = whole(&MAP.replace("tolerate: 1", "tolerate: 0"), json!(["a", "fail", "c"])).await;
    assert_eq!(outcome, Outcome::Failed);
    let recorded = journal.run(RunId(uuid::Uuid::nil()));
    let step = &recorded.steps[&StepKey::from("docs[1].x")];
    assert_eq!((step.state, step.checkpoint), (StepState::Failed, false), "a resume tries it again");
    let (outcome, journal) = whole(MAP, json!(["fail", "fail", "c"])).await;
    assert_eq!(outcome, Outcome::Failed);
    let map = &journal.run(RunId(uuid::Uuid::nil())).steps[&StepKey::from("docs")];
    assert_eq!(map.error.as_ref().map(|e| &*e.code), Some("map_failed"));
}

#[tokio::test]
async fn branches_conditions_and_outputs_work_on_the_real_context() {
    let text = r#"
name: a
steps:
  - {id: one, set: {n: 2}, needs: []}
  - {id: two, set: 3, needs: [], if: "input.go"}
  - {id: three, set: "${{ steps.one.output.n + 1 }} ${{ steps.two.output }} ${{ step.attempt }}", needs: [one, two]}
"#;
    let (outcome, journal) = whole(text, json!({"go": false})).await;
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(output(&journal), json!({"one": {"n": 2}, "two": null, "three": "3 null 1"}));
}

#[tokio::test]
async fn a_map_that_failed_is_mended_by_trying_its_failed_items_again() {
    let journal = Arc::new(MemoryJournal::default());
    let input = json!(["a", "fail", "fail", "d"]);
    assert_eq!(activation(MAP, input, &journal, Set::default()).await, Outcome::Failed);
    let healed = Set { healed: true, ..Set::default() };
    // Another input now: the items are decided already, and stay what they were.
    assert_eq!(activation(MAP, json!([]), &journal, healed.clone()).await, Outcome::Done);
    assert_eq!(output(&journal), json!([["a!", "fail!", "fail!", "d!"], 0]));
    let did = healed.did.lock().unwrap().clone();
    assert!(did.contains(&"docs[1].x".into()) && did.contains(&"docs[2].x".into()), "{did:?}");
    assert!(!did.contains(&"docs[0].x".into()), "what is done stays done: {did:?}");
}

#[tokio::test]
async fn what_a_run_records_grows_with_its_steps_and_no_faster() {
    for n in [500, 1_000] {
        let steps: String = (0..n).map(|i| format!("  - {{id: s{i}, set: {i}}}\n")).collect();
        let (outcome, journal) = whole(&format!("name: a\nsteps:\n{steps}"), Value::Null).await;
        let run = journal.run(RunId(uuid::Uuid::nil()));
        // The last step's record rides along with the end.
        assert_eq!((outcome, run.steps.len(), run.commits), (Outcome::Done, n, n));
        let map = "name: a\noutput: steps.all.output | length\nsteps: [{id: all, map: \"${{ input }}\", max_parallel: 100, steps: [{id: x, set: 1}, {id: y, set: 2}]}]\n";
        let items: Vec<usize> = (0..10 * n).collect();
        let (_, journal) = whole(map, json!(items)).await;
        let run = journal.run(RunId(uuid::Uuid::nil()));
        assert_eq!((output(&journal), run.steps.len()), (json!(10 * n), 20 * n + 1));
        assert!(run.commits <= 20 * n + 2, "{}", run.commits);
    }
}

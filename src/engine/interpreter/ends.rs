//! What is done at the end of a run, on the real context over the journal in memory.

use serde_json::{Value, json};

use super::whole::{Set, activation};
use super::*;
use crate::engine::{MemoryJournal, Outcome, Transition};
use crate::model::{RunId, StepState};

const RUN: RunId = RunId(uuid::Uuid::nil());

fn did(set: &Set) -> Vec<String> {
    set.did.lock().unwrap().clone()
}

async fn ended(text: &str, input: Value) -> (Outcome, Arc<MemoryJournal>, Vec<String>) {
    let (journal, set) = (Arc::new(MemoryJournal::default()), Set::default());
    let outcome = activation(text, input, &journal, set.clone()).await;
    (outcome, journal, did(&set))
}

fn recorded(journal: &MemoryJournal, key: &str) -> (StepState, Value) {
    let step = journal.run(RUN).steps[&StepKey::from(key)].clone();
    (step.state, step.output.map_or(Value::Null, |o| o.value().unwrap()))
}

fn failure(journal: &MemoryJournal) -> Failure {
    match journal.run(RUN).transitions.last() {
        Some(Transition::Fail { failure }) => failure.clone(),
        other => panic!("{other:?}"),
    }
}

const SAGA: &str = r#"
name: a
resume: never
steps:
  - {id: one, set: 1, undo: {set: "${{ steps.one.output }} ${{ step.idempotency_key }} ${{ step.key }} ${{ run.state }} ${{ error.code }}"}}
  - {id: two, set: "${{ input.two }}", undo: {set: "${{ steps.two.output }} ${{ steps.two.state }}"}}
  - {id: three, set: 3, undo: {set: never}}
on_failure:
  - {set: "${{ error.message }} ${{ steps.three.state }}"}
finally:
  - {id: bye, set: "${{ run.state }}"}
  - {set: "${{ steps.bye.output }} ${{ steps.one.output }}"}
"#;

#[tokio::test]
async fn what_has_started_is_undone_newest_first_and_then_come_on_failure_and_finally() {
    let (outcome, journal, did) = ended(SAGA, json!({"two": "fail"})).await;
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(did, ["one", "two", "two.undo", "one.undo", "on_failure[0]", "bye", "finally[1]"]);
    assert_eq!(recorded(&journal, "two.undo").1, json!("null failed"));
    assert_eq!(recorded(&journal, "one.undo").1, json!(format!("1 {RUN}/one one.undo failed boom")));
    assert_eq!(recorded(&journal, "on_failure[0]").1, json!("it broke skipped"));
    assert_eq!(recorded(&journal, "finally[1]").1, json!("failed 1"));
    assert_eq!(failure(&journal).code, "boom");
    assert_eq!(failure(&journal).details.unwrap()["step"], "two");
}

#[tokio::test]
async fn a_run_that_ends_well_does_nothing_but_finally() {
    let (outcome, journal, did) = ended(SAGA, json!({"two": 2})).await;
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(did, ["one", "two", "three", "bye", "finally[1]"]);
    assert_eq!(recorded(&journal, "bye").1, json!("completed"));
    match journal.run(RUN).transitions.last() {
        Some(Transition::Complete { output, .. }) => {
            assert_eq!(output.value().unwrap(), json!({"one": 1, "two": 2, "three": 3}));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_handler_that_fails_is_recorded_the_others_go_on_and_the_run_keeps_its_first_failure() {
    let text = SAGA
        .replace("undo: {set: \"${{ steps.two.output }} ${{ steps.two.state }}\"}", "undo: {set: fail}")
        .replace(
            "{id: bye, set: \"${{ run.state }}\"}",
            "{id: bye, map: [1, fail], steps: [{id: x, set: \"${{ item }}\"}]}",
        )
        .replace("steps.bye.output", "steps.bye.error.code");
    let (outcome, journal, did) = ended(&text, json!({"two": "fail"})).await;
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(did, ["one", "two", "two.undo", "one.undo", "on_failure[0]", "bye[0].x", "bye[1].x", "finally[1]"]);
    assert_eq!(recorded(&journal, "two.undo").0, StepState::Failed);
    assert!(journal.run(RUN).steps[&StepKey::from("two.undo")].checkpoint, "it never runs again");
    assert_eq!(recorded(&journal, "finally[1]").1, json!("map_failed 1"));
    assert_eq!(failure(&journal).details.unwrap()["step"], "two");
}

#[tokio::test]
async fn whoever_takes_up_a_run_that_is_ending_goes_on_with_what_is_left_and_nothing_else() {
    let journal = Arc::new(MemoryJournal::default());
    let set = Set::default();
    // The worker dies in the middle of the second undo: what it has recorded until then stands.
    assert_eq!(activation(SAGA, json!({"two": "fail"}), &journal, set.clone()).await, Outcome::Failed);
    journal.forget(RUN, &["one.undo", "on_failure[0]", "bye", "finally[1]"]);
    let heir = Set { healed: true, ..Set::default() };
    assert_eq!(activation(SAGA, json!({"two": 2}), &journal, heir.clone()).await, Outcome::Failed);
    assert_eq!(did(&heir), ["one.undo", "on_failure[0]", "bye", "finally[1]"]);
    assert_eq!(failure(&journal).code, "boom", "how it ends was decided once");
    assert_eq!(recorded(&journal, "one.undo").1, json!(format!("1 {RUN}/one one.undo failed boom")));
}

#[tokio::test]
async fn steps_in_items_iterations_and_branches_are_undone_with_what_they_knew() {
    let text = r#"
name: a
resume: never
steps:
  - id: all
    map: [a, b]
    steps:
      - {id: kind, switch: item, cases: {a: [{id: book, set: "${{ item }}", undo: {set: "${{ item }} ${{ steps.book.output }}"}}]}}
  - id: poll
    repeat: {steps: [{id: try, set: "${{ index }}", undo: {set: "${{ index }}"}}], until: index == 1, max: 2}
  - id: bad
    set: fail
"#;
    let (_, journal, did) = ended(text, Value::Null).await;
    assert_eq!(
        did,
        [
            "all[0].book",
            "poll[0].try",
            "poll[1].try",
            "bad",
            "poll[1].try.undo",
            "poll[0].try.undo",
            "all[0].book.undo"
        ]
    );
    assert_eq!(recorded(&journal, "all[0].book.undo").1, json!("a a"));
    assert_eq!(recorded(&journal, "poll[1].try.undo").1, json!(1));
}

#[tokio::test]
async fn an_undo_may_be_made_of_steps_and_may_be_skipped() {
    let text = r#"
name: a
resume: never
steps:
  - {id: one, set: [1, 2], undo: {map: "${{ steps.one.output }}", steps: [{id: x, set: "${{ item }} ${{ step.idempotency_key }}"}]}}
  - {id: two, set: 2, undo: {if: "steps.one.output[0] == 2", set: 1}}
  - {id: three, set: fail}
"#;
    let (_, journal, did) = ended(text, Value::Null).await;
    assert_eq!(did, ["one", "two", "three", "one.undo[0].x", "one.undo[1].x"]);
    assert_eq!(recorded(&journal, "two.undo").0, StepState::Skipped);
    assert_eq!(recorded(&journal, "one.undo[1].x").1, json!(format!("2 {RUN}/one")));
}

#[tokio::test]
async fn a_run_whose_input_is_wrong_has_an_end_too() {
    let text = SAGA.replace("resume: never", "resume: never\ninput: {required: [two]}");
    let (outcome, journal, did) = ended(&text, json!({})).await;
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(did, ["on_failure[0]", "bye", "finally[1]"]);
    assert_eq!(failure(&journal).code, "invalid_input");
}

#[tokio::test]
async fn a_failure_that_will_be_resumed_undoes_nothing() {
    let text = SAGA.replace("resume: never", "retry: {max_attempts: 1}");
    let (outcome, journal, did) = ended(&text, json!({"two": "flaky"})).await;
    assert_eq!((outcome, did), (Outcome::Resuming, vec!["one".to_owned(), "two".to_owned()]));
    assert!(!journal.run(RUN).steps.contains_key(&StepKey::from("(end)")));
    let healed = Set { healed: true, ..Set::default() };
    assert_eq!(activation(&text, json!({"two": "flaky"}), &journal, healed.clone()).await, Outcome::Done);
    assert_eq!(healed.did.lock().unwrap()[..2], ["two", "three"]);
}

//! `switch` and `repeat`, in front of a context that records what it is asked.

use serde_json::{Value, json};

use super::tests::{Fake, failed, run};
use super::whole::{Set, activation, output, whole};
use super::*;
use crate::engine::{MemoryJournal, Outcome};
use crate::model::{RunId, StepState};

const SWITCH: &str = r#"
name: a
output: "[steps.pick.output, steps.mail.output, steps.post.output, steps.post.state, steps.ask.state]"
steps:
  - id: pick
    switch: input.kind
    cases:
      digital: [{id: mail, set: mailed}]
      "404": [{id: post, set: "${{ input.kind }}"}, {id: stamp, set: stamped}]
    default: [{id: ask, set: asked}]
  - {id: next, set: "${{ steps.ask.output }}"}
"#;

#[tokio::test]
async fn the_branch_that_fits_is_run_and_the_steps_of_the_others_are_skipped() {
    for (kind, expected, did) in [
        (json!("digital"), json!(["mailed", "mailed", null, "skipped", "skipped"]), vec!["mail", "next"]),
        (json!(404), json!(["stamped", null, 404, "completed", "skipped"]), vec!["post", "stamp", "next"]),
        (json!("404"), json!(["stamped", null, "404", "completed", "skipped"]), vec!["post", "stamp", "next"]),
        (json!(null), json!(["asked", null, null, "skipped", "completed"]), vec!["ask", "next"]),
    ] {
        let fake = Fake::echo();
        assert_eq!(run(SWITCH, &fake, json!({"kind": kind})).await.unwrap(), expected, "{kind}");
        let started: Vec<String> =
            fake.log().iter().filter_map(|line| line.strip_prefix("start ").map(str::to_owned)).collect();
        assert_eq!(started, did, "{kind}");
    }
}

#[tokio::test]
async fn a_switch_without_a_fitting_case_does_nothing_and_a_skipped_one_skips_its_steps() {
    let text = SWITCH.replace("    default: [{id: ask, set: asked}]\n", "");
    let text = text.replace("steps.ask.state", "steps.pick.state").replace("steps.ask.output", "steps.post.state");
    let fake = Fake::echo();
    let output = run(&text, &fake, json!({"kind": "x"})).await.unwrap();
    assert_eq!(output, json!([null, null, null, "skipped", "completed"]));
    let text = text.replace("    switch: input.kind", "    if: false\n    switch: input.kind");
    let output = run(&text, &Fake::echo(), json!({"kind": "digital"})).await.unwrap();
    assert_eq!(output, json!([null, null, null, "skipped", "skipped"]));
}

#[tokio::test]
async fn the_first_condition_that_holds_is_taken_and_switches_stand_in_switches() {
    let text = r#"
name: a
output: "[steps.tariff.output, steps.deep.output, steps.free.state]"
steps:
  - id: tariff
    switch:
      - {when: input.n > 10, steps: [{id: free, set: 0}]}
      - when: input.n > 5
        steps:
          - {id: first, set: 1}
          - id: inner
            switch: steps.first.output
            cases: {1: [{id: deep, set: "${{ input.n }}"}]}
            output: "{'deep': steps.deep.output}"
    default: [{id: other, set: 20}]
"#;
    assert_eq!(run(text, &Fake::echo(), json!({"n": 11})).await.unwrap(), json!([0, null, "completed"]));
    assert_eq!(run(text, &Fake::echo(), json!({"n": 7})).await.unwrap(), json!([{"deep": 7}, 7, "skipped"]));
    assert_eq!(run(text, &Fake::echo(), json!({"n": 1})).await.unwrap(), json!([20, null, "skipped"]));
    let (key, failure) = failed(run(text, &Fake::echo(), json!({})).await);
    assert_eq!((key.as_deref(), &*failure.code), (Some("tariff"), "expression"));
}

#[tokio::test]
async fn a_branch_is_chosen_once_and_a_failure_in_it_may_be_passed_over() {
    let text = r#"
name: a
output: "[steps.pick.state, steps.pick.error.code, steps.one.state, steps.two.state]"
steps:
  - {id: pick, on_error: continue, switch: input.kind, cases: {a: [{id: one, set: fail}, {id: two, set: 2}]}}
"#;
    let output = run(text, &Fake::echo(), json!({"kind": "a"})).await.unwrap();
    assert_eq!(output, json!(["failed", "boom", "failed", "skipped"]));
    let strict = text.replace("on_error: continue, ", "");
    let fake = Fake::echo();
    let (key, _) = failed(run(&strict, &fake, json!({"kind": "a"})).await);
    assert_eq!(key.as_deref(), Some("one"), "it is the step that failed the run");
    let healed = fake.healed();
    // Another input now: the branch stays what it was.
    let output = run(&strict.replace("error.code", "error"), &healed, json!({"kind": "b"})).await.unwrap();
    assert_eq!((&output[0], &output[2], &output[3]), (&json!("completed"), &json!("completed"), &json!("completed")));
    assert_eq!(healed.count("decide"), 0);
}

#[tokio::test]
async fn a_switch_in_an_item_has_the_item_s_keys() {
    let text = r#"
name: a
output: steps.all.output
steps:
  - id: all
    map: [1, 2]
    steps:
      - {id: kind, switch: item, cases: {1: [{id: one, set: "${{ item }}"}]}, default: [{id: more, set: "${{ item * 2 }}"}]}
"#;
    let fake = Fake::echo();
    assert_eq!(run(text, &fake, Value::Null).await.unwrap(), json!([1, 4]));
    assert!(fake.log().contains(&"start all[1].more".to_owned()), "{:?}", fake.log());
}

const REPEAT: &str = r#"
name: a
output: "[steps.poll.output, steps.poll.state, steps.after.output]"
steps:
  - id: poll
    repeat:
      steps: [{id: look, set: "${{ index }}"}, {id: check, set: "${{ steps.look.output * 10 }}"}]
      until: steps.look.output >= input.enough
      max: 4
  - {id: after, set: "${{ steps.poll.output }}!"}
"#;

#[tokio::test]
async fn a_repeat_goes_on_until_its_condition_holds_and_gives_the_last_result() {
    let fake = Fake::echo();
    assert_eq!(run(REPEAT, &fake, json!({"enough": 2})).await.unwrap(), json!([20, "completed", "20!"]));
    assert_eq!(fake.count("start poll["), 6);
    assert!(fake.log().contains(&"start poll[2].check".to_owned()));
    let named = REPEAT.replace("      max: 4", "      max: 4\n    output: \"{'n': index}\"");
    let output = run(&named, &Fake::echo(), json!({"enough": 0})).await.unwrap();
    assert_eq!(output[0], json!({"n": 0}));
}

#[tokio::test]
async fn a_repeat_ends_at_its_bound_with_a_failure_that_says_so() {
    let fake = Fake::echo();
    let (key, failure) = failed(run(REPEAT, &fake, json!({"enough": 9})).await);
    assert_eq!((key.as_deref(), &*failure.code), (Some("poll"), "repeat_exhausted"));
    assert_eq!(fake.count("start poll["), 8);
    assert!(failure.message.contains("4 times") && failure.message.contains("steps.look.output >= input.enough"));
}

#[tokio::test]
async fn a_repeat_goes_on_with_the_iteration_that_it_was_in_and_pauses_before_each_other_one() {
    let text = REPEAT.replace("      max: 4", "      max: 4\n      every: 30s");
    let fake = Fake::new(|key, params| match key {
        "poll[2].look" => Err(Failure::transient("boom", "it broke")),
        _ => Ok(params["value"].clone()),
    });
    failed(run(&text, &fake, json!({"enough": 3})).await);
    assert_eq!(fake.log().iter().filter(|l| l.as_str() == "start poll[1]" || l.as_str() == "start poll[2]").count(), 2);
    assert_eq!(fake.count("start poll[0] "), 0, "no pause before the first");
    let healed = fake.healed();
    assert_eq!(run(&text, &healed, json!({"enough": 3})).await.unwrap()[0], json!(30));
    assert_eq!(
        healed.count("start poll[0]") + healed.count("start poll[1]"),
        0,
        "what has ended is not even asked for"
    );
    assert_eq!(healed.count("start poll[2].look"), 1);
}

#[tokio::test]
async fn on_the_real_context_a_switch_that_is_done_still_shows_its_steps_to_a_resume() {
    let text = r#"
name: a
output: "[steps.pick.output, steps.mail.output, steps.post.state, steps.last.output]"
steps:
  - {id: pick, switch: input.kind, cases: {a: [{id: mail, set: mailed}], b: [{id: post, set: 1}]}}
  - {id: poll, repeat: {steps: [{id: n, set: "${{ index }}"}], until: steps.n.output == 2, max: 3}}
  - {id: last, set: fail}
"#;
    let journal = Arc::new(MemoryJournal::default());
    assert_eq!(activation(text, json!({"kind": "a"}), &journal, Set::default()).await, Outcome::Failed);
    let healed = Set { healed: true, ..Set::default() };
    assert_eq!(activation(text, json!({"kind": "b"}), &journal, healed.clone()).await, Outcome::Done);
    assert_eq!(output(&journal), json!(["mailed", "mailed", "skipped", "fail"]));
    assert_eq!(*healed.did.lock().unwrap(), ["last"], "nothing is done again");
    let steps = journal.run(RunId(uuid::Uuid::nil())).steps;
    let decision = |key: &str| steps[&StepKey::from(key)].decision.clone().map(|d| d.value().unwrap());
    assert_eq!(decision("pick"), Some(json!({"branch": 0, "case": "a"})));
    assert_eq!(decision("poll"), Some(json!({"iterations": 2})));
    assert!(steps.values().all(|s| s.state == StepState::Completed));
}

#[tokio::test]
async fn ten_thousand_iterations_are_each_done_once() {
    let text = "
name: a
output: steps.count.output
steps: [{id: count, repeat: {steps: [{id: n, set: \"${{ index }}\"}], until: steps.n.output == 9999, max: 10000}}]
";
    let (outcome, journal) = whole(text, Value::Null).await;
    assert_eq!((outcome, output(&journal)), (Outcome::Done, json!(9999)));
    // The steps, the step itself at its start and at its end, and each iteration's end: with what follows it, not by itself.
    let commits = journal.run(RunId(uuid::Uuid::nil())).commits;
    assert!(commits <= 10_003, "{commits}");
}

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::ctx::RunInfo;
use super::super::halt::StepFailure;
use super::*;
use crate::definition::load;
use crate::model::{Class, RunId, StepState};
use crate::rules::policy::{OnError, StepPolicy};

type Behave = Box<dyn Fn(&str, &Value) -> Result<Value, Failure> + Send + Sync>;

/// A context that records what it is asked, and answers from what it has recorded before.
pub(super) struct Fake {
    info: RunInfo,
    behave: Behave,
    log: Mutex<Vec<String>>,
    journal: Mutex<BTreeMap<String, StepDone>>,
    decided: Mutex<BTreeMap<String, Payload>>,
    /// Steps at work now, and the most that ever were.
    busy: Mutex<(usize, usize)>,
    /// A step has failed for good: as in the engine, everything asked from now on is told to stop.
    failing: std::sync::atomic::AtomicBool,
}

impl Fake {
    pub(super) fn new(behave: impl Fn(&str, &Value) -> Result<Value, Failure> + Send + Sync + 'static) -> Self {
        Self {
            info: RunInfo {
                id: RunId(uuid::Uuid::nil()),
                workflow: "test".into(),
                scheduled_for: chrono::DateTime::UNIX_EPOCH,
                session_id: None,
            },
            behave: Box::new(behave),
            log: Mutex::default(),
            journal: Mutex::default(),
            decided: Mutex::default(),
            busy: Mutex::default(),
            failing: false.into(),
        }
    }

    /// Steps that give their parameters' `value`, or fail where it says `fail`.
    pub(super) fn echo() -> Self {
        Self::new(|_, params| match params["value"].as_str() {
            Some("fail") => Err(Failure::transient("boom", "it broke")),
            Some("never") => Err(Failure::permanent("boom", "it broke")),
            _ => Ok(params["value"].clone()),
        })
    }

    fn say(&self, what: &str, key: &str) {
        self.log.lock().unwrap().push(format!("{what} {key}"));
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn count(&self, prefix: &str) -> usize {
        self.log().iter().filter(|line| line.starts_with(prefix)).count()
    }

    fn end(&self, key: &StepKey, result: Result<Payload, Failure>, policy: &StepPolicy) -> Result<StepDone, Halt> {
        let done = match result {
            Ok(output) => StepDone { state: StepState::Completed, output, error: None },
            Err(failure) if policy.on_error != OnError::Fail => {
                StepDone { state: StepState::Failed, output: Payload::null(), error: Some(failure) }
            }
            Err(failure) => {
                self.failing.store(true, Ordering::Relaxed);
                return Err(Halt::Failed(StepFailure { key: Some(key.clone()), failure }));
            }
        };
        self.journal.lock().unwrap().insert(key.as_str().into(), done.clone());
        Ok(done)
    }

    /// The same journal, in a process where everything goes well.
    pub(super) fn healed(self) -> Self {
        self.log.lock().unwrap().clear();
        Self { behave: Box::new(|_, params| Ok(params["value"].clone())), failing: false.into(), ..self }
    }

    fn go_on(&self) -> Result<(), Halt> {
        if self.failing.load(Ordering::Relaxed) { Err(Halt::Stopped) } else { Ok(()) }
    }

    fn recorded(&self, key: &StepKey) -> Option<StepDone> {
        self.journal.lock().unwrap().get(key.as_str()).cloned()
    }
}

impl StepRunner for Fake {
    fn info(&self) -> &RunInfo {
        &self.info
    }

    fn label(&self, key: &StepKey, label: Arc<str>) {
        self.say("label", &format!("{key} {label}"));
    }

    async fn call(&self, call: Call<'_>) -> Result<StepDone, Halt> {
        self.go_on()?;
        if let Some(done) = self.recorded(&call.key) {
            return Ok(done);
        }
        self.say("start", call.key.as_str());
        {
            let mut busy = self.busy.lock().unwrap();
            busy.0 += 1;
            busy.1 = busy.1.max(busy.0);
        }
        // As long as the key: so that steps that start together end one after the other.
        for _ in 0..call.key.as_str().len() {
            tokio::task::yield_now().await;
        }
        let result = (call.params)(1)
            .and_then(|params| (self.behave)(call.key.as_str(), &params))
            .and_then(|value| (call.shape)(StepOutput { raw: json!({"value": value}), default: value }));
        self.busy.lock().unwrap().0 -= 1;
        self.say(if result.is_ok() { "done" } else { "fail" }, call.key.as_str());
        if matches!(&result, Err(f) if f.code == "stop") {
            return Err(Halt::Stopped);
        }
        self.end(&call.key, result, call.policy)
    }

    async fn skip(&self, key: StepKey, _: &str) -> Result<StepDone, Halt> {
        self.go_on()?;
        self.say("skip", key.as_str());
        Ok(StepDone { state: StepState::Skipped, output: Payload::null(), error: None })
    }

    async fn open(
        &self,
        key: &StepKey,
        _: &str,
        decide: impl FnOnce() -> Result<Payload, Failure> + Send,
    ) -> Result<Result<Payload, StepDone>, Halt> {
        self.go_on()?;
        if let Some(done) = self.recorded(key) {
            return Ok(Err(done));
        }
        let before = self.decided.lock().unwrap().get(key.as_str()).cloned();
        if let Some(items) = before {
            return Ok(Ok(items));
        }
        self.say("decide", key.as_str());
        let items = decide().map_err(|failure| Halt::Failed(StepFailure { key: Some(key.clone()), failure }))?;
        self.decided.lock().unwrap().insert(key.as_str().into(), items.clone());
        Ok(Ok(items))
    }

    async fn close(
        &self,
        key: &StepKey,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> Result<StepDone, Halt> {
        self.go_on()?;
        self.say("close", key.as_str());
        self.end(key, result, policy)
    }

    fn decide_again(&self, key: &StepKey, decision: Payload) -> Result<(), Halt> {
        self.go_on()?;
        self.decided.lock().unwrap().insert(key.as_str().into(), decision);
        Ok(())
    }

    fn recorded(&self, _: &StepKey) -> Option<&crate::model::StepRecord> {
        None
    }
}

fn interpreter(text: &str) -> Interpreter {
    match load("test.yaml", text) {
        Ok(definition) => Interpreter::new(Arc::new(definition), Arc::default()),
        Err(e) => panic!("{e}"),
    }
}

pub(super) async fn run(text: &str, fake: &Fake, input: Value) -> Result<Value, Halt> {
    interpreter(text).execute(fake, Payload::from_value(&input)).await.map(|p| p.value().unwrap())
}

pub(super) fn failed(result: Result<Value, Halt>) -> (Option<String>, Failure) {
    match result {
        Err(Halt::Failed(f)) => (f.key.map(|k| k.to_string()), f.failure),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn steps_run_in_list_order_and_hand_on_their_outputs() {
    let fake = Fake::echo();
    let text = r#"
name: a
steps:
  - {id: one, set: {n: "${{ input.n }}"}}
  - {id: two, if: "steps.one.output.n > 5", set: never seen}
  - {id: three, set: "${{ steps.one.output.n + 1 }} ${{ steps.two.state }} ${{ step.idempotency_key }}", output: "[run.workflow, input.n]"}
"#;
    let output = run(text, &fake, json!({"n": 3})).await.unwrap();
    assert_eq!(output, json!({"one": {"n": 3}, "two": null, "three": ["test", 3]}));
    assert_eq!(fake.log(), ["start one", "done one", "skip two", "start three", "done three"]);
}

#[tokio::test]
async fn branches_run_together_and_meet_where_they_are_needed() {
    let fake = Fake::echo();
    let text = r#"
name: a
output: steps.meet.output
steps:
  - {id: left, set: 1, needs: []}
  - {id: right_longer, set: 2, needs: []}
  - {id: after_left, set: "${{ steps.left.output }}", needs: [left]}
  - {id: meet, set: ["${{ steps.after_left.output }}", "${{ steps.right_longer.output }}"], needs: [after_left, right_longer]}
"#;
    assert_eq!(run(text, &fake, Value::Null).await.unwrap(), json!([1, 2]));
    let log = fake.log();
    assert_eq!(&log[..2], ["start left", "start right_longer"]);
    assert_eq!(&log[log.len() - 2..], ["start meet", "done meet"]);
    assert_eq!(fake.busy.lock().unwrap().1, 2);
}

#[tokio::test]
async fn after_a_failure_nothing_new_starts_and_what_runs_may_end() {
    let fake = Fake::echo();
    let text = r#"
name: a
steps:
  - {id: bad, set: fail, needs: []}
  - {id: slow_but_good, set: 1, needs: []}
  - {id: never, set: 1, needs: [slow_but_good]}
"#;
    let (key, failure) = failed(run(text, &fake, Value::Null).await);
    assert_eq!((key.as_deref(), &*failure.code), (Some("bad"), "boom"));
    assert_eq!(fake.log(), ["start bad", "start slow_but_good", "fail bad", "done slow_but_good"]);
}

#[tokio::test]
async fn a_failure_that_may_be_passed_over_is_seen_by_the_next_steps() {
    let fake = Fake::echo();
    let text = r#"
name: a
output: "[steps.bad.state, steps.bad.error.code, steps.bad.output, steps.worse.error.code]"
steps:
  - {id: bad, set: fail, on_error: continue}
  - {id: worse, if: input.zzz, set: 1, on_error: continue}
"#;
    let output = run(text, &fake, json!({})).await.unwrap();
    assert_eq!(output, json!(["failed", "boom", null, "expression"]));
}

#[tokio::test]
async fn input_and_outputs_are_held_against_their_schemas() {
    let text = r#"
name: a
input: {required: [n], properties: {n: {type: integer}}}
steps:
  - {id: one, set: "${{ input.n }}", schema: {type: integer, minimum: 5}}
"#;
    let fake = Fake::echo();
    let (key, failure) = failed(run(text, &fake, json!({"n": "x"})).await);
    assert_eq!((key, &*failure.code, failure.class), (None, "invalid_input", Class::Permanent));
    assert!(fake.log().is_empty());
    let (key, failure) = failed(run(text, &fake, json!({"n": 4})).await);
    assert_eq!((key.as_deref(), &*failure.code), (Some("one"), "schema_mismatch"));
    assert!(run(text, &Fake::echo(), json!({"n": 5})).await.is_ok());
}

const MAP: &str = r#"
name: a
output: "[steps.docs.output, steps.docs.count, steps.docs.failed]"
steps:
  - id: docs
    map: ${{ input.docs }}
    as: doc
    max_parallel: 3
    tolerate: 1
    steps:
      - {id: text, set: "${{ doc }}"}
      - {id: save, set: "${{ steps.text.output }}${{ index }}"}
"#;

#[tokio::test]
async fn a_map_gives_its_results_in_item_order_and_counts_its_failures() {
    let fake = Fake::echo();
    let output = run(MAP, &fake, json!({"docs": ["a", "fail", "c", "d"]})).await.unwrap();
    let error = json!({"$error": {"class": "transient", "code": "boom", "message": "it broke"}});
    assert_eq!(output, json!([["a0", error, "c2", "d3"], 4, 1]));
    assert_eq!(fake.busy.lock().unwrap().1, 3);
    assert!(fake.log().contains(&"start docs[3].save".to_owned()));
}

#[tokio::test]
async fn a_map_with_more_failures_than_it_tolerates_says_why() {
    let fake = Fake::echo();
    let docs = json!({"docs": ["a", "fail", "fail", "d", "e", "f", "g"]});
    let (key, failure) = failed(run(MAP, &fake, docs).await);
    assert_eq!(
        (key.as_deref(), &*failure.code, failure.class),
        (Some("docs"), "map_failed", Class::Transient),
        "its failures may pass"
    );
    assert!(failure.message.starts_with("2 of 7 items failed, 1 tolerated; the first: docs[1]"), "{failure}");
    assert_eq!(fake.count("start docs[6]"), 0, "nothing new after the failure");
}

#[tokio::test]
async fn a_map_that_tolerates_nothing_fails_with_its_step_and_a_resume_goes_on_from_there() {
    let text = MAP.replace("tolerate: 1", "tolerate: 0");
    let fake = Fake::echo();
    let docs = json!({"docs": ["a", "b", "fail", "d", "e", "f", "g"]});
    let (key, failure) = failed(run(&text, &fake, docs.clone()).await);
    assert_eq!((key.as_deref(), &*failure.code, failure.class), (Some("docs[2].text"), "boom", Class::Transient));
    assert_eq!(fake.count("start docs[6]"), 0, "nothing new after the failure");
    let healed = fake.healed();
    let output = run(&text, &healed, docs).await.unwrap();
    assert_eq!((&output[1], &output[2]), (&json!(7), &json!(0)));
    assert_eq!(healed.count("decide"), 0, "the items are decided once");
    assert_eq!(healed.count("start docs[0].text"), 0, "what is done stays done");
    assert_eq!(healed.count("start docs[2].text"), 1);
}

#[tokio::test]
async fn a_failure_outweighs_the_stops_that_it_causes() {
    let text = r#"
name: a
steps:
  - {id: bad, set: fail, needs: []}
  - {id: good, set: 1, needs: []}
  - {id: inner_map_step, map: [1, 2, 3], needs: [], steps: [{id: x, set: 1}, {id: y, set: 2}]}
"#;
    let fake = Fake::echo();
    let (key, _) = failed(run(text, &fake, Value::Null).await);
    assert_eq!(key.as_deref(), Some("bad"));
}

#[tokio::test]
async fn a_map_inside_a_tolerant_map_fails_its_item_and_no_more() {
    let text = r#"
name: a
output: "[steps.rows.failed, steps.rows.output[1]]"
steps:
  - id: rows
    map: [[1, fail], [2]]
    tolerate: 50%
    steps:
      - id: cells
        map: ${{ item }}
        as: cell
        steps: [{id: one, set: "${{ cell }}"}]
"#;
    assert_eq!(run(text, &Fake::echo(), Value::Null).await.unwrap(), json!([1, [2]]));
}

#[tokio::test]
async fn a_stop_in_an_item_stops_the_map_without_closing_it() {
    let fake = Fake::new(|key, params| match key {
        "docs[1].text" => Err(Failure::transient("stop", "stop")),
        _ => Ok(params["value"].clone()),
    });
    assert_eq!(run(MAP, &fake, json!({"docs": [1, 2, 3, 4, 5, 6, 7]})).await, Err(Halt::Stopped));
    assert_eq!(fake.count("close"), 0);
    assert_eq!(fake.count("start docs[6]"), 0);
}

#[tokio::test]
async fn maps_stand_in_maps_and_inner_names_reach_outwards() {
    let fake = Fake::echo();
    let text = r#"
name: a
output: steps.rows.output
steps:
  - {id: base, set: 100}
  - id: rows
    map: [[1, 2], [3]]
    as: row
    output: "{'sum': steps.cells.output | sum, 'n': index}"
    steps:
      - id: cells
        map: ${{ row }}
        as: cell
        max_parallel: 2
        steps:
          - {id: one, set: "${{ cell + steps.base.output + row | length }}"}
"#;
    let output = run(text, &fake, Value::Null).await.unwrap();
    assert_eq!(output, json!([{"sum": 207, "n": 0}, {"sum": 104, "n": 1}]));
    assert!(fake.log().contains(&"start rows[0].cells[1].one".to_owned()));
}

#[tokio::test]
async fn a_map_of_nothing_is_an_empty_list_and_one_of_no_list_fails() {
    let fake = Fake::echo();
    assert_eq!(run(MAP, &fake, json!({"docs": []})).await.unwrap(), json!([[], 0, 0]));
    let (key, failure) = failed(run(MAP, &Fake::echo(), json!({"docs": {"a": 1}})).await);
    assert_eq!((key.as_deref(), &*failure.code), (Some("docs"), "invalid_params"));
    let numbers = "[steps.docs.state, steps.docs.count, steps.docs.failed]";
    let broken = MAP.replace("tolerate: 1", "on_error: continue");
    let broken = broken.replace("[steps.docs.output, steps.docs.count, steps.docs.failed]", numbers);
    let output = run(&broken, &Fake::echo(), json!({"docs": ["fail", 2, 3, 4, 5]})).await.unwrap();
    assert_eq!(output, json!(["failed", 5, 1]));
    let passed_over = MAP
        .replace("tolerate: 1", "on_error: continue")
        .replace("steps.docs.count, steps.docs.failed", "steps.docs.state");
    let output = run(&passed_over, &Fake::echo(), json!({"docs": 7})).await.unwrap();
    assert_eq!(output, json!([null, "failed"]));
}

#[tokio::test]
async fn a_sleep_s_expression_must_give_a_duration() {
    let text = "name: a\nsteps:\n  - {id: nap, sleep: '${{ input.t }}', output: null}\n";
    let fake = Fake::new(|_, params| Ok(params.clone()));
    let text = text.replace(", output: null", "");
    assert_eq!(run(&text, &fake, json!({"t": "2m"})).await.unwrap(), json!({"nap": {"ms": 120_000}}));
    let (_, failure) = failed(run(&text, &Fake::echo(), json!({"t": "soon"})).await);
    assert_eq!(&*failure.code, "invalid_params");
}

#[tokio::test]
async fn ten_thousand_items_are_each_done_once() {
    let fake = Fake::echo();
    let items: Vec<Value> = (0..10_000).map(|i| json!({"i": i, "more": vec!["x"; 20]})).collect();
    let text = MAP.replace("max_parallel: 3", "max_parallel: 100").replace("${{ doc }}", "${{ doc.i }}");
    let output = run(&text, &fake, json!({"docs": items})).await.unwrap();
    assert_eq!((&output[1], &output[2]), (&json!(10_000), &json!(0)));
    let starts = fake.log().into_iter().filter(|line| line.starts_with("start docs["));
    let mut starts: Vec<String> = starts.collect();
    let all = starts.len();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), all, "no step twice");
}

//! AFU-9 documents on the real context, over the journal in memory: what its engine was observed to do, row by row, and what its
//! documentation promises.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::{Gate, Inbox, MemoryJournal, Outcome, Ports, ServerClock, Transition, run};
use super::*;
use crate::definition::load;
use crate::model::{Claimed, RunId};
use crate::steps::{Flow, Registry, StepCx};
use crate::telemetry::failures::Failures;
use crate::telemetry::step_log::StepLogs;

/// Tools: `fail` fails (as often as its argument says), `give` gives its argument, `nothing` gives nothing.
#[derive(Clone, Default)]
struct Tools {
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl crate::steps::Step for Tools {
    fn kind(&self) -> &'static str {
        "mcp"
    }

    fn run<'a>(&'a self, _cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let tool = params["tool"].as_str().unwrap().to_owned();
            let server = params["server"].as_str().unwrap();
            let before = {
                let mut calls = self.calls.lock().unwrap();
                calls.push((format!("{server}.{tool}"), params["args"].clone()));
                calls.iter().filter(|(t, _)| t.ends_with(".fail")).count()
            };
            let give = |value: Value| Ok(Flow::Done(StepOutput::plain(value)));
            match tool.as_str() {
                "fail" if before as u64 <= params["args"]["times"].as_u64().unwrap_or(99) => {
                    Err(Failure::transient("connection", "no such host"))
                }
                "slow" => {
                    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
                    give(Value::Null)
                }
                "nothing" => give(Value::Null),
                _ => give(params["args"]["value"].clone()),
            }
        })
    }
}

/// A person's answers.
struct Person;

impl crate::steps::Step for Person {
    fn kind(&self) -> &'static str {
        "approve"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        assert_eq!(params["prompt"], crate::definition::afu9::HOLD);
        let answer = if cx.workflow.as_ref() == "refused" {
            Err(Failure::permanent(code::REJECTED, "rejected by ada"))
        } else {
            Ok(Flow::Done(StepOutput::plain(json!({"approved": true, "by": "ada"}))))
        };
        Box::pin(std::future::ready(answer))
    }
}

struct Seen {
    outcome: Outcome,
    calls: Vec<(String, Value)>,
    /// The variables in the end.
    output: Option<Value>,
    error: Option<Failure>,
    /// `key state`, in the order of their starts.
    steps: Vec<String>,
}

async fn whole(document: Value, input: Value) -> Seen {
    named("test", document, input).await
}

async fn named(name: &str, document: Value, input: Value) -> Seen {
    let (journal, tools) = (Arc::new(MemoryJournal::default()), Tools::default());
    let definition = load("test.json", &document.to_string()).unwrap_or_else(|e| panic!("{e}"));
    let (id, now) = (RunId(uuid::Uuid::nil()), chrono::DateTime::UNIX_EPOCH);
    let ports = Ports {
        journal: journal.clone(),
        registry: Arc::new(Registry::default().with(tools.clone()).with(Person)),
        gate: Gate::always_open(),
        clock: Arc::new(ServerClock::new(now)),
        max_output: limits::RESULT_BYTES,
        logs: StepLogs::new(0),
        failures: Failures::default(),
        metrics: Arc::default(),
        traces: None,
    };
    let claimed = Claimed::of(id, 1, name, Payload::from_value(&input));
    let workflow = Arc::new(Interpreter::new(Arc::new(definition), Arc::default()));
    let outcome = run(Box::new(claimed), Ok(workflow), Arc::new(ports), Arc::new(Inbox::default())).await;
    let recorded = journal.run(id);
    let mut steps: Vec<_> = recorded.steps.values().collect();
    steps.sort_by_key(|s| s.seq);
    let (mut output, mut error) = (None, None);
    match recorded.transitions.last() {
        Some(Transition::Complete { output: o, .. }) => output = Some(o.value().unwrap()),
        Some(Transition::Fail { failure }) => error = Some(failure.clone()),
        other => panic!("{other:?}"),
    }
    let calls = tools.calls.lock().unwrap().clone();
    Seen {
        outcome,
        calls,
        output,
        error,
        steps: steps.iter().map(|s| format!("{} {}", s.key, s.state.as_str())).collect(),
    }
}

fn step(name: &str, tool: &str, params: Value) -> Value {
    json!({"name": name, "tool": tool, "params": params})
}

fn with(mut step: Value, more: Value) -> Value {
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

/// A document whose first step assigns a variable.
fn assigned(variable: &str, value: Value, rest: Vec<Value>) -> Value {
    let mut steps = vec![with(step("first", "t.give", json!({"value": value})), json!({"assign": variable}))];
    steps.extend(rest);
    json!({"name": "test", "steps": steps})
}

#[tokio::test]
async fn results_are_assigned_and_the_run_gives_its_variables() {
    let document = assigned(
        "issue",
        json!({"number": 7}),
        vec![
            with(step("second", "t.give", json!({"value": "fix/${issue.number}"})), json!({"assign": "branch"})),
            with(step("third", "t.nothing", json!({})), json!({"assign": "none"})),
            step("fourth", "t.give", json!({"value": 1})),
        ],
    );
    let seen = whole(document, json!({"variables": {"v": 1}, "input": {}})).await;
    assert_eq!(seen.outcome, Outcome::Done);
    assert_eq!(
        seen.output,
        Some(json!({"v": 1, "issue": {"number": 7}, "branch": "fix/7"})),
        "nothing assigns nothing"
    );
    assert_eq!(seen.calls[1], ("t.give".into(), json!({"value": "fix/7"})));
}

#[tokio::test]
async fn a_failed_step_ends_the_run_with_the_tool_s_message_and_the_rest_is_not_run() {
    let document = json!({"steps": [step("a", "t.give", json!({})), step("b", "t.fail", json!({})), step("c", "t.give", json!({}))]});
    let seen = whole(document.clone(), json!({})).await;
    assert_eq!((seen.outcome, seen.calls.len()), (Outcome::Failed, 2));
    assert_eq!(seen.error.unwrap().message, "no such host");
    assert_eq!(seen.steps, ["a completed", "b failed"]);
    let mut goes_on = document;
    goes_on["config"] = json!({"continueOnError": true});
    let seen = whole(goes_on, json!({})).await;
    assert_eq!((seen.outcome, seen.error), (Outcome::Done, None));
    assert_eq!(seen.steps, ["a completed", "b failed", "c completed"]);
}

#[tokio::test]
async fn max_retries_are_further_calls_of_every_step_without_a_pause() {
    for compat in ["documented", "afu9-engine"] {
        let mut document =
            json!({"compat": compat, "config": {"maxRetries": 2}, "steps": [step("a", "t.fail", json!({}))]});
        let seen = whole(document.clone(), json!({})).await;
        assert_eq!((seen.outcome, seen.calls.len()), (Outcome::Failed, 3), "{compat}");
        document["steps"][0]["params"] = json!({"times": 2});
        assert_eq!(whole(document, json!({})).await.outcome, Outcome::Done);
    }
}

#[tokio::test]
async fn a_step_s_own_retry_is_obeyed_as_documented_and_ignored_as_the_engine_did() {
    let retry = json!({"retry": {"maxAttempts": 3, "backoff": "fixed", "initialDelayMs": 1, "maxDelayMs": 1}});
    for (compat, calls) in [("documented", 3), ("afu9-engine", 1)] {
        let document = json!({"compat": compat, "steps": [with(step("a", "t.fail", json!({})), retry.clone())]});
        assert_eq!(whole(document, json!({})).await.calls.len(), calls, "{compat}");
    }
}

#[tokio::test]
async fn a_time_limit_is_kept_as_documented() {
    let document =
        json!({"config": {"timeoutMs": 50}, "steps": [step("a", "t.give", json!({})), step("b", "t.slow", json!({}))]});
    let seen = whole(document, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Failed);
    assert_eq!(seen.error.unwrap().code, "timeout");
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_is_ignored_as_the_engine_did() {
    let document =
        json!({"compat": "afu9-engine", "config": {"timeoutMs": 1000}, "steps": [step("a", "t.slow", json!({}))]});
    assert_eq!(whole(document, json!({})).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn a_tool_without_a_dot_fails_in_the_engine_s_words_and_more_dots_are_passed_over() {
    let document =
        json!({"compat": "afu9-engine", "steps": [step("a", "x.y.z", json!({})), step("b", "bad", json!({}))]});
    let seen = whole(document, json!({})).await;
    assert_eq!(seen.calls[0].0, "x.y");
    assert_eq!(seen.error.unwrap().message, "Invalid tool format: bad. Expected format: \"server.tool\"");
}

#[tokio::test]
async fn conditions_skip_steps_and_a_skipped_step_assigns_nothing() {
    let document = assigned(
        "analysis",
        json!({"has_fix": false}),
        vec![
            with(step("fix", "t.give", json!({"value": 1})), json!({"if": "${analysis.has_fix}", "assign": "fixed"})),
            with(step("told", "t.give", json!({"value": 2})), json!({"if": "${!analysis.has_fix}", "assign": "told"})),
        ],
    );
    let seen = whole(document, json!({})).await;
    assert_eq!(seen.steps, ["first completed", "fix skipped", "told completed"]);
    assert_eq!(seen.output, Some(json!({"analysis": {"has_fix": false}, "told": 2})));
}

#[tokio::test]
async fn what_leads_nowhere_fails_the_step_by_name_or_is_kept() {
    let steps = json!([step("a", "t.give", json!({"value": "x ${nobody.knows}"}))]);
    let seen = whole(json!({"steps": steps}), json!({})).await;
    let error = seen.error.unwrap();
    assert!(seen.calls.is_empty() && error.message.contains("`${nobody.knows}`"), "{error}");
    for keeps in [json!({"unresolved": "keep"}), json!({"compat": "afu9-engine"})] {
        let seen = whole(with(json!({"steps": steps}), keeps), json!({})).await;
        assert_eq!(seen.calls[0].1, json!({"value": "x ${nobody.knows}"}));
    }
}

#[tokio::test]
async fn hold_waits_for_a_person_before_and_after_every_step_and_asks_once() {
    let rest = vec![step("second", "t.give", json!({})), step("third", "t.give", json!({}))];
    let issue = json!({"issue": {"state": "HOLD"}, "input": {}});
    let seen = whole(json!({"steps": rest}), issue.clone()).await;
    assert_eq!(seen.steps, ["hold[0] completed", "second completed", "third completed"]);
    let document = assigned("issue", json!({"state": "HOLD"}), rest.clone());
    let seen = whole(document.clone(), json!({})).await;
    assert_eq!(seen.steps, ["first completed", "hold[1] completed", "second completed", "third completed"]);
    let released = vec![
        with(step("second", "t.give", json!({"value": "GO"})), json!({"assign": "issueState"})),
        with(step("third", "t.give", json!({"value": "HOLD"})), json!({"assign": "issueState"})),
    ];
    let seen = whole(assigned("issueState", json!("HOLD"), released), json!({})).await;
    assert_eq!(seen.steps.iter().filter(|s| s.starts_with("hold")).count(), 2, "it came up again: {:?}", seen.steps);
    let seen = named("refused", document, json!({})).await;
    assert_eq!((seen.outcome, seen.error.unwrap().code.as_ref()), (Outcome::Failed, "rejected"));
    assert_eq!(seen.calls.len(), 1, "nothing runs behind it");
}

#[tokio::test]
async fn red_ends_the_run_in_the_words_of_afu9() {
    for (value, why) in [
        (json!({"simpleVerdict": "RED"}), "RED verdict triggered - critical failure detected"),
        (json!({"verdict": {"verdictType": "REJECTED"}}), "REJECTED verdict triggered - deployment rejected"),
        (json!({"action": "ABORT"}), "ABORT action triggered - workflow must terminate"),
    ] {
        let document = assigned("check", value, vec![step("second", "t.give", json!({}))]);
        let seen = whole(with(document, json!({"config": {"continueOnError": true}})), json!({})).await;
        let error = seen.error.unwrap();
        assert_eq!((seen.calls.len(), error.code.as_ref(), error.message.as_str()), (1, "verdict", why));
    }
    let green = assigned("check", json!({"simpleVerdict": "GREEN", "action": "GO"}), vec![]);
    assert_eq!(whole(green, json!({})).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn a_document_without_steps_is_done_at_once() {
    let seen = whole(json!({"steps": []}), json!({"variables": {"a": 1}})).await;
    assert_eq!((seen.outcome, seen.output), (Outcome::Done, Some(json!({"a": 1}))));
}

#[tokio::test]
async fn a_name_that_stands_twice_is_two_steps() {
    let document = json!({"steps": [step("a", "t.give", json!({})), step("a", "t.give", json!({}))]});
    assert_eq!(whole(document, json!({})).await.steps, ["a completed", "a[2] completed"]);
}

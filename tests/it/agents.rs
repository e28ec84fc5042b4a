//! Agents that call workflows, and models that do not answer, on the real daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::models::{approve, boxes, configured};
use crate::support::outside::{ModelServer, calls, last, says};
use crate::support::{Db, Files, SOON, wait_until};

const DESK: &str = "
name: desk
resume: never
steps:
  - id: desk
    agent: large
    prompt: Refund order 7.
    tools:
      - workflow: refund
        description: Pays an order back.
        input: {type: object, required: [order], properties: {order: {type: integer}}}
      - {workflow: nowhere}
      - boxes.open
    timeout: 1m
output: steps.desk.output
";

const REFUND: &str = "
name: refund
resume: never
input: {type: object, required: [order]}
steps:
  - {id: ask, approve: 'Refund order ${{ input.order }}?'}
output: \"{'refunded': input.order}\"
";

/// Calls the workflows, wrongly at first, then answers with what it was told last.
fn refunding(request: &Value, _: usize) -> ResponseTemplate {
    let turns = request["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "assistant").count();
    match turns {
        0 => calls(&[("refund", json!({"order": 7})), ("refund", json!({})), ("nowhere", json!({}))]),
        1 => calls(&[("refund", json!({"order": 8}))]),
        _ => says(&last(request)),
    }
}

#[tokio::test]
async fn an_agent_that_calls_workflows_starts_each_child_once_whatever_kills_it() {
    let (db, files) = (Db::new().await, Files::new([DESK, REFUND]));
    let (model, tools) = (ModelServer::start(refunding).await, boxes().await);
    let spec = configured(&db, &files, &[model.section("large"), tools.section("boxes")]).lease(3);
    let mut worker = spec.ready().await;
    let run = db.enqueue("desk", "{}").await;
    let children = "SELECT count(*) FROM stepd.runs WHERE workflow = 'refund'";
    let asking = "SELECT count(*) FROM stepd.waiting WHERE workflow = 'refund' AND waits_for = 'approval'";
    // In each of two turns: killed while the child waits for a person, and taken up by another.
    for turn in 1..=2 {
        db.reaches(&run, "waiting", SOON).await;
        wait_until("the child asks", SOON, async || db.count(asking).await == 1).await;
        worker.kill9();
        worker = spec.ready().await;
        let child: String =
            db.one("SELECT run::text FROM stepd.waiting WHERE workflow = 'refund' AND waits_for = 'approval'").await;
        approve(&db, &child, &[]).await;
        db.reaches(&child, "completed", SOON).await;
        wait_until("the turn is told", SOON, async || model.heard().len() == turn + 1).await;
    }
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#""{\"refunded\":8}""#);
    assert_eq!(model.heard().len(), 3, "three turns, three calls of the model");
    assert_eq!(db.count(children).await, 3, "two that ran, and one whose input did not fit");
    let heard = model.heard();
    assert_eq!(heard[0]["tools"][0]["function"]["name"], "refund");
    assert_eq!(heard[0]["tools"][0]["function"]["parameters"]["required"], json!(["order"]));
    assert_eq!(heard[0]["tools"][2]["function"]["name"], "boxes__open");
    let told: Vec<&str> =
        heard[1]["messages"].as_array().unwrap().iter().rev().take(3).map(|m| m["content"].as_str().unwrap()).collect();
    assert!(told[0].contains("there is no workflow `nowhere`"), "{told:?}");
    assert!(told[1].starts_with("error: ") && told[1].contains("order"), "{told:?}");
    assert_eq!(told[2], r#"{"refunded":7}"#);
    let steps: Vec<String> = db
        .all(format!(
            "SELECT key || ' ' || kind FROM stepd.steps WHERE run = '{run}' AND key LIKE '%.tool[%' ORDER BY key"
        ))
        .await;
    assert_eq!(
        steps,
        ["desk.tool[1.0] workflow", "desk.tool[1.1] workflow", "desk.tool[1.2] workflow", "desk.tool[2.0] workflow"]
    );
}

#[tokio::test]
async fn a_model_that_does_not_answer_is_left_alone_after_five_calls_and_its_steps_wait() {
    let asks = "name: asks\nresume: never\nsteps: [{id: q, llm: small, prompt: x, retry: {max_attempts: 1}}]\noutput: steps.q.output\n";
    let (db, files) = (Db::new().await, Files::new([asks]));
    let down = Arc::new(AtomicBool::new(true));
    let model = ModelServer::start({
        let down = down.clone();
        move |_, _| if down.load(Ordering::SeqCst) { ResponseTemplate::new(502) } else { says("yes") }
    })
    .await;
    let _worker = configured(&db, &files, &[model.section("small"), "rest_seconds = 2\n".to_owned()]).ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'asks' FROM generate_series(1, 5)").await;
    db.all_ended(SOON).await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'asks' FROM generate_series(1, 4)").await;
    let waiting = "SELECT count(*) FROM stepd.jobs WHERE state = 'waiting'";
    wait_until("they wait", SOON, async || db.count(waiting).await == 4).await;
    let why: String = db.one("SELECT stepd.why(id) FROM stepd.jobs LIMIT 1").await;
    assert!(why.contains("the model `small` does not answer"), "{why}");
    assert!((5..=6).contains(&model.heard().len()), "{}", model.heard().len());
    down.store(false, Ordering::SeqCst);
    db.all_ended(SOON).await;
    let ended = "SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM (SELECT state::text, count(*) AS n FROM stepd.runs GROUP BY 1) s";
    assert_eq!(db.one::<String>(ended).await, "completed 4, failed 5");
}

//! Tools that ask people before they answer, tools that answer with a task, and servers that do not answer at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::stepd;
use crate::support::outside::RpcServer;
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

fn configured(db: &Db, files: &Files, text: &str) -> Spec {
    std::fs::write(files.path("stepd.toml"), text).unwrap();
    Spec::new(db, files).arg("--config").arg(&files.path("stepd.toml").display().to_string()).lease(3)
}

const CALL: &str = "name: call\nresume: never\nsteps:\n  - {id: call, mcp: own.work, on_interrupt: fail, retry: {max_attempts: 2, initial: 10ms}}\noutput: steps.call.output\n";

/// What a form asks for.
fn form(message: &str, properties: &Value) -> Value {
    let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
    let schema = json!({"type": "object", "properties": properties, "required": required});
    json!({"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}})
}

fn done(value: &Value) -> Result<Value, Value> {
    Ok(json!({"resultType": "complete", "structuredContent": value, "content": []}))
}

fn asks(requests: &Value, state: &str) -> Result<Value, Value> {
    Ok(json!({"resultType": "input_required", "inputRequests": requests, "requestState": state}))
}

fn name_and_region() -> Value {
    json!({
        "name": form("Your name?", &json!({"name": {"type": "string", "minLength": 2}})),
        "region": form("Where?", &json!({"region": {"enum": ["eu", "us"]}})),
    })
}

#[tokio::test]
async fn what_a_tool_asks_is_answered_by_people_across_a_kill_and_the_call_is_repeated_with_it() {
    let (db, files) = (Db::new().await, Files::new([CALL]));
    let server = RpcServer::start(|message, _| match message["params"].get("inputResponses") {
        None => asks(&name_and_region(), "s1"),
        Some(said) => done(&json!({"result": {"said": said, "state": message["params"]["requestState"]}})),
    })
    .await;
    let spec = configured(&db, &files, &server.section("own"));
    let mut doomed = spec.ready().await;
    let run = db.enqueue("call", "{}").await;
    db.step_reaches(&run, "call.input[1]", "waiting", SOON).await;
    db.reaches(&run, "waiting", SOON).await;
    doomed.kill9();
    let told: String = db.one(format!("SELECT prompt || ' ' || schema FROM stepd.waiting WHERE run = '{run}'")).await;
    assert!(told.contains("own.work asks: Your name?") && told.contains("minLength"), "{told}");
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("an answer at call.input[1]") && why.contains("--answer JSON"), "{why}");
    // What cannot be an answer is refused at once.
    stepd(&db, &["approve", &run]).await.is(2).says("SD018").says("needs an answer");
    stepd(&db, &["approve", &run, "--answer", "{\"nam\": 1}"]).await.is(2).says("\"name\" is missing");
    stepd(&db, &["approve", &run, "--answer", "{\"name\": 1}"]).await.is(2).says("\"name\" must be of type string");
    stepd(&db, &["approve", &run, "--answer", "3"]).await.is(2).says("a JSON object");
    // What only the whole schema tells is asked again.
    stepd(&db, &["approve", &run, "--answer", "{\"name\": \"x\"}"]).await.is(0);
    let _heir = spec.ready().await;
    db.step_reaches(&run, "call.input[2]", "waiting", SOON).await;
    let prompt: String = db.one(format!("SELECT prompt FROM stepd.waiting WHERE run = '{run}'")).await;
    assert!(prompt.contains("Your name?") && prompt.contains("shorter than 2"), "{prompt}");
    stepd(&db, &["approve", &run, "--answer", "{\"name\": \"Ann\"}"]).await.is(0);
    db.step_reaches(&run, "call.input[3]", "waiting", SOON).await;
    let wrong = db.ask::<String>(&format!("SELECT stepd.approve('{run}', answer => '{{\"region\": \"mars\"}}')")).await;
    assert!(wrong.unwrap_err().to_string().contains("must be one of"));
    db.exec(format!("SELECT stepd.approve('{run}', answer => '{{\"region\": \"eu\"}}')")).await;
    db.reaches(&run, "completed", SOON).await;
    let output: Value = serde_json::from_str(&db.output(&run).await).unwrap();
    let expected = json!({
        "name": {"action": "accept", "content": {"name": "Ann"}},
        "region": {"action": "accept", "content": {"region": "eu"}},
    });
    assert_eq!(output, json!({"said": expected, "state": "s1"}));
    assert_eq!(server.heard("tools/call").len(), 2, "once to be asked, once with the answers");
}

#[tokio::test]
async fn a_server_that_has_forgotten_what_it_asked_is_called_afresh_and_nobody_is_asked_twice() {
    let (db, files) = (Db::new().await, Files::new([CALL]));
    let server = RpcServer::start(|message, n| match (message["params"]["requestState"].as_str(), n) {
        (None, 0) => asks(&json!({"a": form("Name?", &json!({"name": {"type": "string"}}))}), "old"),
        (None, _) => asks(&json!({"a": form("Name?", &json!({"name": {"type": "string"}}))}), "new"),
        (Some("old"), _) => {
            Err(json!({"code": -32602, "message": "sealed by another", "data": {"reason": "invalid_request_state"}}))
        }
        _ => done(&message["params"]["inputResponses"]["a"]["content"]),
    })
    .await;
    let _worker = configured(&db, &files, &server.section("own")).ready().await;
    let run = db.enqueue("call", "{}").await;
    db.step_reaches(&run, "call.input[1]", "waiting", SOON).await;
    stepd(&db, &["approve", &run, "--answer", "{\"name\": \"Ann\"}"]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "{\"name\":\"Ann\"}");
    assert_eq!(server.heard("tools/call").len(), 4);
}

#[tokio::test]
async fn a_no_and_a_silence_are_told_to_the_tool_as_declined() {
    let (db, files) = (Db::new().await, Files::new([CALL]));
    let server = RpcServer::start(|message, _| match message["params"].get("inputResponses") {
        None => asks(&json!({"a": form("Name?", &json!({"name": {"type": "string"}}))}), "s"),
        Some(said) => done(&said["a"]),
    })
    .await;
    let section = server.section("own");
    let _worker = configured(&db, &files, &format!("{section}input_seconds = 1\n")).ready().await;
    let silent = db.enqueue("call", "{}").await;
    db.reaches(&silent, "completed", SOON).await;
    assert_eq!(db.output(&silent).await, "{\"action\":\"decline\"}");
    let refused = db.enqueue("call", "{}").await;
    db.step_reaches(&refused, "call.input[1]", "waiting", SOON).await;
    stepd(&db, &["reject", &refused]).await.is(0);
    db.reaches(&refused, "completed", SOON).await;
    assert_eq!(db.output(&refused).await, "{\"action\":\"decline\"}");
}

/// A task that ends when it is told to.
fn task(status: &str) -> Value {
    json!({"resultType": "complete", "taskId": "t1", "status": status, "ttlMs": null, "pollIntervalMs": 50})
}

#[tokio::test]
async fn a_task_is_looked_after_by_whoever_takes_the_run_up_and_its_tool_is_called_once() {
    let (db, files) = (Db::new().await, Files::new([CALL]));
    let (ready, flaky) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let server = RpcServer::failing(
        {
            let ready = ready.clone();
            move |message, _| match message["method"].as_str().unwrap() {
                "tools/call" => {
                    Ok(json!({"resultType": "task", "taskId": "t1", "status": "working", "pollIntervalMs": 50}))
                }
                "tasks/get" if ready.load(Ordering::SeqCst) => {
                    let mut ended = task("completed");
                    ended["result"] = json!({"structuredContent": {"result": "done"}, "content": []});
                    Ok(ended)
                }
                _ => Ok(task("working")),
            }
        },
        {
            let flaky = flaky.clone();
            move |message| message["method"] == "tasks/get" && flaky.swap(false, Ordering::SeqCst)
        },
    )
    .await;
    let spec = configured(&db, &files, &server.section("own"));
    let mut doomed = spec.ready().await;
    let run = db.enqueue("call", "{}").await;
    wait_until("it is polled", SOON, async || server.heard("tasks/get").len() >= 2).await;
    doomed.kill9();
    let before = server.heard("tasks/get").len();
    let _heir = spec.ready().await;
    wait_until("the heir polls", SOON, async || server.heard("tasks/get").len() > before + 1).await;
    // A look that fails is a failed attempt; the next one goes on with the task.
    flaky.store(true, Ordering::SeqCst);
    let failed = format!("SELECT count(*) FROM stepd.attempts WHERE run = '{run}' AND error_code = 'http_503'");
    wait_until("the attempt has failed", SOON, async || db.count(&failed).await == 1).await;
    ready.store(true, Ordering::SeqCst);
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"done\"");
    assert_eq!(server.heard("tools/call").len(), 1, "a task is not begun twice");
    assert!(server.heard("tasks/get").iter().all(|params| params["taskId"] == "t1"));
}

#[tokio::test]
async fn a_task_that_is_not_wanted_any_more_is_cancelled() {
    let limited = CALL.replace("name: call", "name: limited").replace("on_interrupt: fail", "timeout: 1s");
    let (db, files) = (Db::new().await, Files::new([CALL, &limited]));
    let server = RpcServer::start(|message, _| match message["method"].as_str().unwrap() {
        "tools/call" => Ok(json!({"resultType": "task", "taskId": "t1", "status": "working", "pollIntervalMs": 50})),
        _ => Ok(task("working")),
    })
    .await;
    let _worker = configured(&db, &files, &server.section("own")).ready().await;
    let run = db.enqueue("call", "{}").await;
    wait_until("it is polled", SOON, async || !server.heard("tasks/get").is_empty()).await;
    stepd(&db, &["cancel", &run]).await.is(0);
    db.reaches(&run, "cancelled", SOON).await;
    assert_eq!(server.heard("tasks/cancel").len(), 1);
    let run = db.enqueue("limited", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(server.heard("tasks/cancel").len(), 3, "one for each of two attempts");
    assert_eq!(server.heard("tools/call").len(), 3);
}

#[tokio::test]
async fn a_task_may_ask_people_too_and_is_told_once() {
    let (db, files) = (Db::new().await, Files::new([CALL]));
    let told = Arc::new(AtomicBool::new(false));
    let server = RpcServer::start(move |message, _| match message["method"].as_str().unwrap() {
        "tools/call" => Ok(json!({"resultType": "task", "taskId": "t1", "status": "working", "pollIntervalMs": 50})),
        "tasks/update" => {
            told.store(true, Ordering::SeqCst);
            Ok(json!({"resultType": "complete"}))
        }
        _ if told.load(Ordering::SeqCst) => {
            let mut ended = task("completed");
            ended["result"] = json!({"content": [{"type": "text", "text": "thanks"}]});
            Ok(ended)
        }
        _ => {
            let mut asking = task("input_required");
            asking["inputRequests"] = json!({"a": form("Name?", &json!({"name": {"type": "string"}}))});
            Ok(asking)
        }
    })
    .await;
    let spec = configured(&db, &files, &server.section("own"));
    let mut doomed = spec.ready().await;
    let run = db.enqueue("call", "{}").await;
    db.step_reaches(&run, "call.input[1]", "waiting", SOON).await;
    doomed.kill9();
    stepd(&db, &["approve", &run, "--answer", "{\"name\": \"Ann\"}"]).await.is(0);
    let _heir = spec.ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"thanks\"");
    let updates = server.heard("tasks/update");
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0]["inputResponses"], json!({"a": {"action": "accept", "content": {"name": "Ann"}}}));
    assert_eq!(server.heard("tools/call").len(), 1);
}

#[tokio::test]
async fn a_server_that_is_down_is_left_alone_after_five_calls_and_its_steps_wait_until_it_is_up() {
    let once = CALL.replace("max_attempts: 2", "max_attempts: 1");
    let (db, files) = (Db::new().await, Files::new([once]));
    let down = Arc::new(AtomicBool::new(true));
    let server = RpcServer::failing(|_, _| done(&json!({"result": "up"})), {
        let down = down.clone();
        move |message| message["method"] == "tools/call" && down.load(Ordering::SeqCst)
    })
    .await;
    let section = server.section("own");
    let worker = configured(&db, &files, &format!("{section}rest_seconds = 2\n")).ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'call' FROM generate_series(1, 5)").await;
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'failed' AND error_code = 'http_503'").await, 5);
    assert_eq!(worker.logged("it is left alone for"), 1, "{}", worker.log());
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'call' FROM generate_series(1, 6)").await;
    let waiting = "SELECT count(*) FROM stepd.jobs WHERE state = 'waiting'";
    wait_until("they wait", SOON, async || db.count(waiting).await == 6).await;
    let why: String = db.one("SELECT stepd.why(id) FROM stepd.jobs LIMIT 1").await;
    assert!(why.contains("the MCP server `own` does not answer; it is left alone"), "{why}");
    // One call in two seconds tries; none of those that wait fails by it.
    let before = server.heard("tools/call").len();
    assert!((5..=6).contains(&before), "{before}");
    holds_for("hardly a call", Duration::from_secs(3), async || server.heard("tools/call").len() <= before + 2).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'failed'").await, 5);
    down.store(false, Ordering::SeqCst);
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 6);
    assert_eq!(db.count("SELECT count(*) FROM stepd.attempts WHERE attempt > 1").await, 0, "no attempt was used up");
    assert_eq!(worker.logged("answers again"), 1);
}

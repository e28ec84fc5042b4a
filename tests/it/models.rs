//! Models, agents and budgets, on the real daemon against a local endpoint that speaks the protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::cli::stepd;
use crate::support::outside::{ModelServer, ToolServer, calls, last, says};
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

/// A daemon's spec with a configuration of these sections.
pub fn configured(db: &Db, files: &Files, sections: &[String]) -> Spec {
    std::fs::write(files.path("stepd.toml"), sections.concat()).unwrap();
    Spec::new(db, files).arg("--config").arg(&files.path("stepd.toml").display().to_string())
}

pub async fn approve(db: &Db, run: &str, args: &[&str]) {
    let args: Vec<&str> = ["approve", run].into_iter().chain(args.iter().copied()).collect();
    stepd(db, &args).await.is(0);
}

#[tokio::test]
async fn the_second_example_of_the_language_runs_as_it_is_written() {
    let example = include_str!("../../examples/index_documents.yaml");
    let (db, files) = (Db::new().await, Files::new([example]));
    db.exec("CREATE SCHEMA app; CREATE TABLE app.facts (doc text PRIMARY KEY, facts jsonb)").await;
    let store = ToolServer::start(&["list_objects"], &[], |_, args| {
        assert_eq!(args, &json!({"prefix": "contracts/"}));
        let all: Vec<Value> = (0..25).map(|n| json!({"key": format!("d{n}")})).collect();
        Ok(json!({"objects": all}))
    })
    .await;
    let pdf =
        ToolServer::start(&["extract_text"], &[], |_, args| Ok(json!({"text": format!("text of {}", args["key"])})))
            .await;
    let model = ModelServer::start(|request, _| {
        let asked = request["messages"][0]["content"].as_str().unwrap();
        let messages = request["messages"].as_array().unwrap().len();
        if asked.contains("\"d7\"") {
            return ResponseTemplate::new(400)
                .set_body_json(json!({"error": {"code": "context_length_exceeded", "message": "too long"}}));
        }
        match (asked.contains("\"d3\""), messages) {
            (true, 1) => says("I found Ann and Bob"),
            _ => says("{\"parties\": [\"Ann\"], \"dates\": []}"),
        }
    })
    .await;
    let sections = [store.section("store"), pdf.section("pdf"), model.section("extractor")];
    let _worker = configured(&db, &files, &sections).ready().await;
    let run = db.enqueue("index_documents", r#"{"prefix": "contracts/"}"#).await;
    db.step_reaches(&run, "review", "waiting", SOON).await;
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("1 of 25 failed. Publish anyway?"), "{why}");
    approve(&db, &run, &[]).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(
        db.count("SELECT count(*) FROM app.facts WHERE facts = '{\"parties\": [\"Ann\"], \"dates\": []}'").await,
        24
    );
    // 24 answers that fit, one of them at the second try; the refused one cost nothing.
    let used: String = db
        .one(format!("SELECT concat_ws(' ', tokens_in, tokens_out, cost::float8) FROM stepd.runs WHERE id = '{run}'"))
        .await;
    assert_eq!(used, "2500 250 0.003");
    let one: String = db
        .one(format!("SELECT concat_ws(' ', tokens_in, tokens_out, cost::float8) FROM stepd.steps WHERE run = '{run}' AND key = 'docs[3].facts'"))
        .await;
    assert_eq!(one, "200 20 0.00024");
    assert_eq!(model.heard().len(), 26);
    let shown = stepd(&db, &["show", &run]).await.is(0);
    assert!(shown.out.contains("2500 tokens in, 250 out, cost 0.0030"), "{}", shown.out);
}

const ASKS: &str = "
name: asks
resume: never
steps:
  - id: q
    llm: small
    prompt: 'count to ${{ input.n }}'
    schema: {type: object, required: [n]}
    retry: {max_attempts: 3, initial: 10ms, max: 10s, only: [rate_limited, schema_mismatch]}
    output: \"{'n': json.n, 'in': usage.tokens_in}\"
";

#[tokio::test]
async fn what_a_failed_attempt_has_used_is_told_with_it_and_a_provider_is_given_the_pause_that_it_asks_for() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    let model = ModelServer::start(|_, n| match n {
        0 => ResponseTemplate::new(429).insert_header("retry-after", "1"),
        1..=3 => says("no JSON"),
        _ => says("{\"n\": 3}"),
    })
    .await;
    let _worker = configured(&db, &files, &[model.section("small")]).ready().await;
    let run = db.enqueue("asks", r#"{"n": 3}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#"{"q":{"n":3,"in":100}}"#);
    let attempts: Vec<String> = db
        .all(format!(
            "SELECT concat_ws(' ', attempt, state, error_code, tokens_in, tokens_out, cost::float8) FROM stepd.attempts WHERE run = '{run}' ORDER BY attempt"
        ))
        .await;
    assert_eq!(
        attempts,
        ["1 failed rate_limited 0 0 0", "2 failed schema_mismatch 300 30 0.00036", "3 completed 100 10 0.00012"]
    );
    let pause: f64 = db
        .one(format!(
            "SELECT extract(epoch FROM retry_in)::float8 FROM stepd.attempts WHERE run = '{run}' AND attempt = 1"
        ))
        .await;
    assert!(pause >= 1.0, "{pause}");
    assert!(last(&model.heard()[3]).contains("no JSON"), "the model is told what was wrong");
}

const AGENT: &str = "
name: research
resume: never
steps:
  - id: research
    agent: large
    system: You are careful.
    prompt: 'What is in ${{ input.box }}?'
    tools: [boxes.open, boxes.weigh]
    max_turns: 5
    schema: {type: object, required: [thing]}
output: steps.research.output
";

/// Opens the box, then weighs and opens what is not there, then answers badly, then well.
fn curious(request: &Value, _: usize) -> ResponseTemplate {
    let turns = request["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "assistant").count();
    match turns {
        0 => calls(&[("boxes__open", json!({"key": "red"})), ("boxes__weigh", json!({"key": "red"}))]),
        1 => calls(&[("boxes__weigh", json!({"key": "none"})), ("boxes__burn", json!({}))]),
        2 => says("a hat"),
        _ => says("{\"thing\": \"hat\"}"),
    }
}

pub async fn boxes() -> ToolServer {
    ToolServer::start(&["open", "weigh"], &["weigh"], |tool, args| match (tool, args["key"].as_str()) {
        ("open", _) => Ok(json!({"thing": "hat"})),
        (_, Some("none")) => Err("there is no such box".to_owned()),
        _ => Ok(json!({"kg": 1})),
    })
    .await
}

#[tokio::test]
async fn an_agent_s_turns_and_calls_are_checkpoints_and_what_a_tool_does_wrong_goes_back_to_the_model() {
    let (db, files) = (Db::new().await, Files::new([AGENT]));
    let (model, tools) = (ModelServer::start(curious).await, boxes().await);
    let _worker = configured(&db, &files, &[model.section("large"), tools.section("boxes")]).ready().await;
    let run = db.enqueue("research", r#"{"box": "the red box"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#"{"thing":"hat"}"#);
    let steps: Vec<String> = db
        .all(format!("SELECT key || ' ' || kind || ' ' || state FROM stepd.steps WHERE run = '{run}' ORDER BY key"))
        .await;
    assert_eq!(
        steps,
        [
            "research agent completed",
            "research.tool[1.0] mcp completed",
            "research.tool[1.1] mcp completed",
            "research.tool[2.0] mcp failed",
            "research.tools mcp completed",
            "research.turn[1] llm completed",
            "research.turn[2] llm completed",
            "research.turn[3] llm completed",
            "research.turn[4] llm completed",
        ]
    );
    let heard = model.heard();
    assert_eq!(heard.len(), 4);
    assert_eq!(heard[0]["tools"][0]["function"]["name"], "boxes__open");
    let said: Vec<String> = heard[2]["messages"].as_array().unwrap().iter().map(|m| m["content"].to_string()).collect();
    assert!(said.iter().any(|s| s.contains("there is no such box")), "{said:?}");
    assert!(said.iter().any(|s| s.contains("there is no tool `boxes__burn`")), "{said:?}");
    assert!(last(&heard[3]).contains("no JSON"), "{}", last(&heard[3]));
    let used: i64 = db.one(format!("SELECT tokens_in FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(used, 400);
}

#[tokio::test]
async fn an_agent_that_is_killed_pays_for_no_turn_twice() {
    let (db, files) = (Db::new().await, Files::new([AGENT]));
    let (model, tools) = (ModelServer::start(curious).await, boxes().await);
    let spec = configured(&db, &files, &[model.section("large"), tools.section("boxes")]).lease(3);
    let mut doomed = spec.ready().await;
    let run = db.enqueue("research", r#"{"box": "the red box"}"#).await;
    // In the second turn's call of a slow tool.
    wait_until("the slow call is under way", SOON, async || {
        tools.heard().iter().any(|(_, args, _)| args["key"] == "none")
    })
    .await;
    doomed.kill9();
    let _heir = spec.ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#"{"thing":"hat"}"#);
    assert_eq!(model.heard().len(), 4, "four turns, four calls of the model");
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for (_, _, key) in tools.heard() {
        *calls.entry(key.rsplit_once('/').unwrap().1.to_owned()).or_default() += 1;
    }
    let expected = [("research.tool[1.0]", 1), ("research.tool[1.1]", 1), ("research.tool[2.0]", 2)];
    assert_eq!(
        calls,
        expected.map(|(key, n)| (key.to_owned(), n)).into(),
        "what was in flight is called again under its key"
    );
    let used: i64 = db.one(format!("SELECT tokens_in FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(used, 400, "nothing is counted twice, and nothing lost");
}

#[tokio::test]
async fn an_agent_without_an_end_is_bounded_and_its_failure_may_be_passed_over() {
    let endless = "name: endless\nresume: never\nsteps:\n  - {id: a, agent: large, prompt: go, tools: [boxes.open], max_turns: 3, on_error: continue}\noutput: steps.a.error.code\n";
    let (db, files) = (Db::new().await, Files::new([endless]));
    let model = ModelServer::start(|_, _| calls(&[("boxes__open", json!({}))])).await;
    let tools = boxes().await;
    let _worker = configured(&db, &files, &[model.section("large"), tools.section("boxes")]).ready().await;
    let run = db.enqueue("endless", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"max_turns\"");
    assert_eq!((model.heard().len(), tools.heard().len()), (3, 3));
}

/// Six questions, three at a time, within a budget.
fn six(budget: &str) -> String {
    format!(
        "name: six\nresume: never\nbudget: {budget}\nsteps:\n  - id: all\n    map: [1, 2, 3, 4, 5, 6]\n    max_parallel: 3\n    steps: [{{id: q, llm: small, prompt: '${{{{ item }}}}'}}]\n"
    )
}

#[tokio::test]
async fn past_the_budget_no_call_starts_until_somebody_grants_as_much_again() {
    let (db, files) = (Db::new().await, Files::new([six("{calls: 2, action: approve}")]));
    let model = ModelServer::start(|_, _| says("yes")).await;
    let spec = configured(&db, &files, &[model.section("small")]);
    let mut worker = spec.ready().await;
    let run = db.enqueue("six", "{}").await;
    db.step_reaches(&run, "budget[1]", "waiting", SOON).await;
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(model.heard().len(), 2);
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("2 of 2 calls") && why.contains("Grant as much again?"), "{why}");
    // Nothing of it is held in memory: another worker goes on with the count.
    worker.kill9();
    let _heir = spec.ready().await;
    approve(&db, &run, &["--note", "two more"]).await;
    db.step_reaches(&run, "budget[2]", "waiting", SOON).await;
    // Only then has every call that was under way been answered.
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(model.heard().len(), 4);
    approve(&db, &run, &[]).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(model.heard().len(), 6);
}

#[tokio::test]
async fn a_fork_spends_a_budget_of_its_own_and_keeps_no_grant() {
    let (db, files) = (
        Db::new().await,
        Files::new([six("{calls: 2, action: approve}").replace("max_parallel: 3", "max_parallel: 1")]),
    );
    let model = ModelServer::start(|_, _| says("yes")).await;
    let _worker = configured(&db, &files, &[model.section("small")]).ready().await;
    let run = db.enqueue("six", "{}").await;
    for n in 1..=2 {
        db.step_reaches(&run, &format!("budget[{n}]"), "waiting", SOON).await;
        approve(&db, &run, &[]).await;
    }
    db.reaches(&run, "completed", SOON).await;
    let fork: String = db.one(format!("SELECT stepd.fork('{run}', 'all[2].q')::text")).await;
    db.step_reaches(&fork, "budget[1]", "waiting", SOON).await;
    assert_eq!(model.heard().len(), 8, "two calls of its own, then it asks");
    approve(&db, &fork, &[]).await;
    db.reaches(&fork, "completed", SOON).await;
    assert_eq!(model.heard().len(), 10);
    let used = format!("SELECT tokens_in FROM stepd.runs WHERE id = '{fork}'");
    assert_eq!(db.one::<i64>(used).await, 400, "what the other run has used is not its own");
}

#[tokio::test]
async fn a_budget_that_is_refused_or_says_fail_fails_the_run_by_its_name() {
    let (db, files) = (Db::new().await, Files::new([six("{tokens: 300, action: fail}")]));
    files.write("w1.yaml", &six("{cost: 0.0002, action: approve}").replace("name: six", "name: asks"));
    let model = ModelServer::start(|_, _| says("yes")).await;
    let _worker = configured(&db, &files, &[model.section("small")]).ready().await;
    let run = db.enqueue("six", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    let code = |run: String| format!("SELECT error_code FROM stepd.runs WHERE id = '{run}'");
    assert_eq!(db.one::<String>(code(run)).await, "budget_exceeded");
    // Three at a time: the overshoot is at most what was in flight.
    let before = model.heard().len();
    assert!((3..=5).contains(&before), "{before}");
    let run = db.enqueue("asks", "{}").await;
    db.step_reaches(&run, "budget[1]", "waiting", SOON).await;
    stepd(&db, &["reject", &run]).await.is(0);
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(db.one::<String>(code(run.clone())).await, "budget_exceeded");
    stepd(&db, &["retry", &run]).await.is(0);
    db.step_reaches(&run, "budget[2]", "waiting", SOON).await;
    holds_for("no call starts", std::time::Duration::from_millis(300), async || model.heard().len() <= before + 4)
        .await;
    // Six calls cost 0.00072: three grants more.
    for n in 2..=5 {
        let key = format!("budget[{n}]");
        wait_until("it asks, or has ended", SOON, async || {
            db.state(&run).await == "completed"
                || db
                    .count(format!(
                        "SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND key = '{key}' AND state = 'waiting'"
                    ))
                    .await
                    == 1
        })
        .await;
        if db.state(&run).await == "completed" {
            return;
        }
        approve(&db, &run, &[]).await;
    }
    db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn a_reload_takes_up_other_models() {
    let asks = "name: asks\nresume: never\nsteps: [{id: q, llm: small, prompt: x}]\noutput: steps.q.output\n";
    let (db, files) = (Db::new().await, Files::new([asks]));
    let (one, two) = (ModelServer::start(|_, _| says("one")).await, ModelServer::start(|_, _| says("two")).await);
    let mut worker = configured(&db, &files, &[one.section("small")]).ready().await;
    let run = db.enqueue("asks", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"one\"");
    let _ = configured(&db, &files, &[two.section("small")]);
    worker.hup();
    worker.logs("reloaded").await;
    let run = db.enqueue("asks", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"two\"");
}

#[tokio::test]
async fn a_secret_in_the_configuration_reaches_the_provider_and_nobody_else() {
    let asks = "name: asks\nresume: never\nsteps: [{id: q, llm: small, prompt: x}]\noutput: steps.q.output\n";
    let (db, files) = (Db::new().await, Files::new([asks]));
    let seen = Arc::new(AtomicBool::new(false));
    let model = ModelServer::start({
        let seen = seen.clone();
        move |_, _| {
            seen.store(true, Ordering::SeqCst);
            says("your key is sk-geheim-123")
        }
    })
    .await;
    let sections = [
        model.section("small"),
        "api_key = \"${{ secrets.provider }}\"\n[secrets]\nprovider = \"sk-geheim-123\"\n".to_owned(),
    ];
    let worker = configured(&db, &files, &sections).ready().await;
    let run = db.enqueue("asks", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert!(seen.load(Ordering::SeqCst));
    assert_eq!(db.output(&run).await, "\"your key is ***\"");
    assert!(!worker.log().contains("geheim"));
}

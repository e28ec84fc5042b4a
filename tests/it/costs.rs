//! What models cost: the same figure wherever it stands.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::cli::stepd;
use crate::http::client;
use crate::metrics::Page;
use crate::models::configured;
use crate::support::outside::{ModelServer, last};
use crate::support::{Db, Files, SOON, wait_until};

/// Asks twice, the first answer fits no schema; costs what is left, and fails where it is told to.
const SPENDS: &str = "
name: spends
resume: never
concurrency: {key: input.tenant, limit: 5, when_full: queue}
steps:
  - id: q
    llm: small
    prompt: 'Who is ${{ input.tenant }}? ${{ input.then }}'
    schema: {type: object, required: [n]}
    retry: {max_attempts: 2, initial: 10ms, max: 10ms}
  - {id: then, run: 'test \"$THEN\" != fail', env: {THEN: '${{ input.then }}'}, retry: {max_attempts: 1}}
";

const LIMITED: &str = "
name: limited
resume: never
budget: {cost: 0.01, action: fail}
steps:
  - {id: one, llm: small, prompt: 'limited 1'}
  - {id: two, llm: small, prompt: 'limited 2'}
  - {id: three, llm: small, prompt: 'limited 3'}
";

/// 1000 tokens in, 500 out; of the prompts of tenant b 400 from the cache.
fn answered(text: &str, asked: &str) -> ResponseTemplate {
    let cached = if asked.contains("Who is b") { 400 } else { 0 };
    ResponseTemplate::new(200).set_body_json(json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "prompt_tokens_details": {"cached_tokens": cached}},
    }))
}

/// What stands in a place: calls, tokens in and out, cost to a billionth.
async fn stands(db: &Db, from: &str) -> String {
    db.one(format!(
        "SELECT concat_ws(' ', sum(calls), sum(tokens_in), sum(tokens_out), round(sum(cost), 9)::float8) FROM {from}"
    ))
    .await
}

#[tokio::test]
async fn what_models_cost_is_the_same_by_attempt_step_run_day_key_and_label_and_in_the_metrics() {
    let (db, files) = (Db::new().await, Files::new([SPENDS, LIMITED]));
    let model = ModelServer::start(|request, n| {
        let asked = request["messages"][0]["content"].as_str().unwrap();
        match (asked.contains("Who is"), n) {
            (true, 0..=2) => answered("no JSON", asked),
            (true, _) => answered("{\"n\": 1}", asked),
            (false, _) => answered("fine", asked),
        }
    })
    .await;
    // Two and four for a million: 0.002 and 0.002 a call; 0.5 from the cache.
    let section = model.section("small").replace("price_input = 1.0", "price_input = 2.0\nprice_cached_input = 0.5");
    let section = section.replace("price_output = 2.0", "price_output = 4.0");
    let mut worker = configured(&db, &files, &[section]).http().ready().await;
    let site = worker.site().await;
    // An attempt that fails after its two repairs, and one that is well: four calls.
    let enqueue = async |tenant: &str, then: &str, team: &str| -> String {
        let sql = format!(
            "INSERT INTO stepd.jobs (workflow, input, labels) VALUES ('spends', '{{\"tenant\": \"{tenant}\", \"then\": \"{then}\"}}', '{{\"team\": \"{team}\"}}') RETURNING id::text"
        );
        db.one(sql).await
    };
    let first = enqueue("a", "end", "x").await;
    db.reaches(&first, "completed", SOON).await;
    assert_eq!(
        stands(&db, &format!("stepd.attempts WHERE run = '{first}' AND state = 'failed'")).await,
        "3 3000 1500 0.012"
    );
    assert_eq!(stands(&db, &format!("stepd.runs WHERE id = '{first}'")).await, "4 4000 2000 0.016");
    // One whose last step fails; it is retried, and its cost counts once.
    let failed = enqueue("b", "fail", "x").await;
    db.reaches(&failed, "failed", SOON).await;
    assert_eq!(stands(&db, &format!("stepd.runs WHERE id = '{failed}'")).await, "1 1000 500 0.0034");
    // What the budget of 0.01 lets through: three calls at 0.004 each, the last one begun below it; the row says what was spent.
    let limited = db.enqueue("limited", "{}").await;
    db.reaches(&limited, "completed", SOON).await;
    stepd(&db, &["retry", &failed]).await.is(0);
    wait_until("it has failed again", SOON, async || {
        db.state(&failed).await == "failed" && db.events("retried").await == 1
    })
    .await;
    folded(&db).await;
    let all = "8 8000 4000 0.0314";
    for place in [
        "stepd.attempts",
        "stepd.steps",
        "stepd.runs",
        "stepd.costs",
        "stepd.daily",
        "stepd.daily_costs",
        "stepd.stats()",
    ] {
        assert_eq!(stands(&db, place).await, all, "{place}");
    }
    let page = Page::of(&site).await;
    let metrics = [("calls", ""), ("tokens", "direction=\"in\""), ("tokens", "direction=\"out\""), ("cost", "")]
        .map(|(what, labels)| page.sum(&format!("stepd_model_{what}_total"), labels));
    assert_eq!(format!("{} {} {} {}", metrics[0], metrics[1], metrics[2], (metrics[3] * 1e9).round() / 1e9), all);
    assert_eq!(page.sum("stepd_model_cached_tokens_total", "").round(), 400.0);
    by_what_they_are_summed(&db, &site).await;
}

async fn folded(db: &Db) {
    wait_until("all is folded", SOON, async || {
        db.exec("SELECT stepd_engine.fold(100)").await;
        db.count("SELECT (SELECT count(*) FROM stepd_engine.tallies) + (SELECT count(*) FROM stepd_engine.spendings)")
            .await
            == 0
    })
    .await;
}

async fn by_what_they_are_summed(db: &Db, site: &str) {
    let web = client(HeaderMap::new());
    let ask = async |query: &str| -> Value {
        let answer = web.get(format!("{site}/api/v1/costs?{query}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{query}");
        answer.json().await.unwrap()
    };
    let lines = |told: &Value| -> Vec<(Option<String>, i64, f64)> {
        let line = |l: &Value| {
            (l["name"].as_str().map(ToOwned::to_owned), l["calls"].as_i64().unwrap(), l["cost"].as_f64().unwrap())
        };
        told["costs"].as_array().unwrap().iter().map(line).collect()
    };
    let some = |name: &str| Some(name.to_owned());
    let by_key = ask("by=key").await;
    assert_eq!(lines(&by_key), [(some("a"), 4, 0.016), (None, 3, 0.012), (some("b"), 1, 0.0034)]);
    assert_eq!((&by_key["total"]["calls"], &by_key["total"]["cost"]), (&json!(8), &json!(0.0314)));
    assert_eq!(lines(&ask("by=workflow").await), [(some("spends"), 5, 0.0194), (some("limited"), 3, 0.012)]);
    assert_eq!(lines(&ask("by=label&label=team&workflow=spends").await), [(some("x"), 5, 0.0194)]);
    assert_eq!(lines(&ask("").await).len(), 1, "one day");
    let none = ask("since=2001-01-01&until=2001-01-02").await;
    assert_eq!((lines(&none).len(), &none["total"]["calls"]), (0, &json!(0)));
    for wrong in ["by=label", "label=x", "by=team", "since=yesterday", "sinc=2001-01-01"] {
        assert_eq!(
            web.get(format!("{site}/api/v1/costs?{wrong}")).send().await.unwrap().status().as_u16(),
            400,
            "{wrong}"
        );
    }
    let told = stepd(db, &["cost", "--by", "key"]).await.is(0);
    assert!(
        told.out.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == ["a", "1", "4", "4000", "2000", "0.0160"]),
        "{}",
        told.out
    );
    let told = stepd(db, &["cost", "--by", "label:team", "-o", "json"]).await.is(0);
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((&told["total"]["calls"], &told["costs"][0]["name"]), (&json!(8), &json!("x")), "{told}");
}

#[tokio::test]
async fn a_budget_of_a_cent_stops_the_run_at_the_same_figure_that_is_recorded() {
    let file = LIMITED
        .replace("prompt: 'limited 3'}", "prompt: 'limited 3'}\n  - {id: four, llm: small, prompt: 'limited 4'}");
    let (db, files) = (Db::new().await, Files::new([file]));
    let model = ModelServer::start(|request, _| answered("fine", &last(request))).await;
    let section = model.section("small").replace("price_input = 1.0", "price_input = 2.0");
    let section = section.replace("price_output = 2.0", "price_output = 4.0");
    let _worker = configured(&db, &files, &[section]).ready().await;
    let run = db.enqueue("limited", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(
        db.one::<String>(format!("SELECT error_code FROM stepd.runs WHERE id = '{run}'")).await,
        "budget_exceeded"
    );
    assert_eq!(stands(&db, &format!("stepd.runs WHERE id = '{run}'")).await, "3 3000 1500 0.012");
    assert_eq!(model.heard().len(), 3, "the fourth call was not made");
}

#[tokio::test]
async fn an_attempt_that_is_broken_off_has_cost_what_has_been_answered_by_then() {
    let file = "name: asks\nresume: never\nsteps: [{id: q, llm: small, prompt: hi, schema: {type: object}}]\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    // The first answer is none, the second one does not come.
    let model = ModelServer::start(|_, n| match n {
        0 => answered("no JSON", ""),
        _ => answered("{}", "").set_delay(std::time::Duration::from_secs(60)),
    })
    .await;
    let worker = configured(&db, &files, &[model.section("small")]).grace(0).ready().await;
    let run = db.enqueue("asks", "{}").await;
    wait_until("it asks again", SOON, async || model.heard().len() == 2).await;
    // Its worker is told to end: the attempt is given back, and another worker repeats it.
    worker.term();
    let _other = configured(&db, &files, &[model.section("small")]).ready().await;
    wait_until("it is asked anew", SOON, async || model.heard().len() == 3).await;
    stepd(&db, &["cancel", &run, "--yes"]).await.is(0);
    db.reaches(&run, "cancelled", SOON).await;
    assert_eq!(stands(&db, &format!("stepd.runs WHERE id = '{run}'")).await, "3 1000 500 0.002");
}

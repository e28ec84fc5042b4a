//! What Prometheus is told, by a daemon at work; and what models cost, the same figure wherever it stands.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use stepd::postgres::StopMode;
use wiremock::ResponseTemplate;

use crate::cli::stepd;
use crate::http::{client, tokens};
use crate::models::configured;
use crate::support::outside::{ModelServer, last};
use crate::support::{Db, Files, SOON, Server, Spec, wait_until};

/// A page: each line's name and labels, and its value.
pub struct Page {
    pub text: String,
    values: BTreeMap<String, f64>,
}

impl Page {
    /// Scrapes.
    pub async fn of(site: &str) -> Self {
        let answer = client(HeaderMap::new()).get(format!("{site}/metrics")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text().await.unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let values = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        });
        Self { values: values.collect(), text }
    }

    /// The value of a line, as in `stepd_runs{queue="default",state="queued"}`.
    pub fn value(&self, line: &str) -> f64 {
        self.found(line).unwrap_or_else(|| panic!("{line} is not there:\n{}", self.text))
    }

    pub fn found(&self, line: &str) -> Option<f64> {
        self.values.get(line).copied()
    }

    /// The sum of all lines of a metric whose labels hold a text.
    pub fn sum(&self, metric: &str, labels: &str) -> f64 {
        let of = |line: &str| {
            line.strip_prefix(metric)
                .is_some_and(|rest| rest.starts_with('{') && rest.contains(labels) || rest.is_empty())
        };
        self.values.iter().filter(|(line, _)| of(line)).map(|(_, value)| value).sum()
    }
}

/// Scrapes until a line has a value; figures of the database rest for some seconds.
pub async fn comes_to(site: &str, line: &str, value: f64) -> Page {
    let mut page = Page::of(site).await;
    wait_until(&format!("{line} {value}"), SOON, async || {
        page = Page::of(site).await;
        page.found(line).is_some_and(|v| (v - value).abs() < 1e-9)
    })
    .await;
    page
}

pub const ASKS: &str = "name: asks\nsteps: [{id: ok, approve: 'Go on?'}]\n";
pub const FAILS: &str = "name: fails\nresume: {max_attempts: 1, initial: 10ms, max: 20ms}\nsteps: [{id: a, run: exit 3, retry: {max_attempts: 2, initial: 10ms, max: 20ms}}]\n";
pub const KEYED: &str = "name: keyed\nconcurrency: {key: input.k, limit: 1, when_full: queue}\nqueue: narrow\nsteps: [{id: a, wait: go}, {id: b, run: sleep 60}]\n";

#[tokio::test]
async fn a_page_tells_what_waits_runs_and_has_failed_and_every_line_of_it_stands_in_the_handbook() {
    let (db, files) = (Db::new().await, Files::new([ASKS, FAILS]));
    let mut worker = Spec::new(&db, &files).http().ready().await;
    let site = worker.site().await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT CASE WHEN n <= 3 THEN 'asks' ELSE 'fails' END FROM generate_series(1, 5) n").await;
    db.exec(
        "INSERT INTO stepd.jobs (workflow, queue) VALUES ('asks', 'nobody''s'); SELECT stepd.pause_queue('nobody''s')",
    )
    .await;
    db.exec("INSERT INTO stepd.jobs (workflow, queue, run_at) SELECT 'asks', 'later', now() + interval '1 day' FROM generate_series(1, 2)").await;
    wait_until("both have failed for good", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE state = 'failed'").await == 2
    })
    .await;
    comes_to(&site, "stepd_failed_runs{queue=\"default\"}", 2.0).await;
    let page = comes_to(&site, "stepd_runs{queue=\"default\",state=\"waiting\"}", 3.0).await;
    for (line, value) in [
        ("stepd_runs{queue=\"later\",state=\"scheduled\"}", 2.0),
        ("stepd_queue_paused{queue=\"nobody's\"}", 1.0),
        ("stepd_queue_paused{queue=\"default\"}", 0.0),
        ("stepd_oldest_ready_age_seconds{queue=\"default\"}", 0.0),
        ("stepd_database_up", 1.0),
        ("stepd_workers{alive=\"true\"}", 1.0),
        ("stepd_registered", 1.0),
        ("stepd_slots_used", 0.0),
        ("stepd_runs_ended_total{workflow=\"fails\",state=\"failed\"}", 2.0),
        ("stepd_run_duration_seconds_count{workflow=\"fails\"}", 2.0),
        ("stepd_resumes_total{workflow=\"fails\"}", 2.0),
        ("stepd_activations_total{outcome=\"resuming\"}", 2.0),
        ("stepd_activations_total{outcome=\"failed\"}", 2.0),
        // Two attempts each, and one after the resume.
        ("stepd_attempts_failed_total{kind=\"run\",code=\"exit_3\"}", 6.0),
        ("stepd_retries_total{kind=\"run\"}", 2.0),
        ("stepd_steps_ended_total{kind=\"run\",state=\"failed\"}", 4.0),
        ("stepd_breaker_open", f64::NAN),
    ] {
        match value.is_nan() {
            true => assert_eq!(page.found(line), None, "there is nothing to break"),
            false => assert!((page.value(line) - value).abs() < 1e-9, "{line}: {}", page.value(line)),
        }
    }
    // The claims of new runs, and of those that came back.
    assert!(page.value("stepd_run_wait_seconds_count{queue=\"default\"}") >= 5.0, "{}", page.text);
    assert!(page.value("stepd_runs_claimed_total{queue=\"default\"}") >= 7.0);
    assert!(
        page.value("stepd_writer_batch_runs_count") > 0.0
            && page.value("stepd_writer_commit_duration_seconds_sum") > 0.0
    );
    assert!(page.value("process_resident_memory_bytes") > 1e6 && page.value("process_open_fds") > 3.0);
    assert!(page.value("process_cpu_seconds_total") > 0.0 && page.value("process_start_time_seconds") > 1.6e9);
    assert!(page.value("stepd_table_size_bytes{table=\"stepd.jobs\"}") > 0.0);
    assert!(page.sum("stepd_http_requests_total", "route=\"/metrics\"") >= 1.0);
    assert!(page.sum("stepd_service_passes_total", "service=\"stager\",outcome=\"ok\"") >= 1.0);
    assert!(page.sum("stepd_pool_connections_max", "pool=\"stepd http\"") >= 1.0);
    in_the_handbook(&page);
}

/// Every metric of a page has a line in the handbook, with its type and exactly its labels.
fn in_the_handbook(page: &Page) {
    let handbook = include_str!("../../docs/metrics.md");
    let known: BTreeMap<&str, (&str, Vec<&str>)> = handbook
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let (name, rest) = line.split_once("` | ").unwrap();
            let cells: Vec<&str> = rest.splitn(4, " | ").collect();
            (name, (cells[0], cells[2].split('`').skip(1).step_by(2).collect()))
        })
        .collect();
    for line in page.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(known.get(name).map(|(kind, _)| *kind), Some(kind), "{name}");
    }
    for line in page.values.keys() {
        let (name, labels) = line.split_once('{').unwrap_or((line, ""));
        let suffix = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|s| name.strip_suffix(s).filter(|n| known.contains_key(n)));
        let (_, wanted) = &known[suffix.unwrap_or(name)];
        let names: Vec<&str> = labels.split("=\"").filter_map(|part| part.rsplit(['"', ',', '{']).next()).collect();
        let names: Vec<&str> =
            names.into_iter().filter(|name| !name.is_empty() && *name != "le" && *name != "}").collect();
        assert_eq!(&names, wanted, "{line}");
    }
}

#[tokio::test]
async fn three_held_locks_are_three_and_one_when_two_have_been_let_go() {
    let (db, files) = (Db::new().await, Files::new([KEYED]));
    let mut worker = Spec::new(&db, &files).http().env("STEPD_QUEUES", "narrow").ready().await;
    let site = worker.site().await;
    comes_to(&site, "stepd_locks_held{kind=\"key\"}", 0.0).await;
    // A waiting run holds none: two of each key have the signal already, so that the first holds it and the second stands behind.
    for k in ["a", "b", "c", "a", "b", "c"] {
        let run = db.enqueue("keyed", &json!({"k": k}).to_string()).await;
        db.exec(format!("SELECT stepd.signal('{run}', 'go', '1')")).await;
    }
    comes_to(&site, "stepd_locks_held{kind=\"key\"}", 3.0).await;
    comes_to(&site, "stepd_locks_held{kind=\"lease\"}", 3.0).await;
    db.exec("SELECT stepd.cancel(id) FROM stepd.jobs WHERE concurrency_key <> 'a'").await;
    comes_to(&site, "stepd_locks_held{kind=\"key\"}", 1.0).await;
}

#[tokio::test]
async fn while_postgres_is_away_the_page_is_there_without_what_only_postgres_knows() {
    let files = Files::new([ASKS]);
    let mut server = Server::own().await;
    let db = server.db().await;
    let mut worker = Spec::new(&db, &files).http().ready().await;
    let site = worker.site().await;
    let run = db.enqueue("asks", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    comes_to(&site, "stepd_database_up", 1.0).await;
    comes_to(&site, "stepd_runs{queue=\"default\",state=\"waiting\"}", 1.0).await;
    server.pg.stop(StopMode::Immediate);
    let page = comes_to(&site, "stepd_database_up", 0.0).await;
    assert_eq!(page.found("stepd_runs{queue=\"default\",state=\"waiting\"}"), None, "nobody knows that now");
    assert!(page.value("stepd_activations_total{outcome=\"suspended\"}") >= 1.0, "what was counted is there");
    comes_to(&site, "stepd_database_outages_total", 1.0).await;
    server.pg.start_again().unwrap();
    comes_to(&site, "stepd_database_up", 1.0).await;
    comes_to(&site, "stepd_runs{queue=\"default\",state=\"waiting\"}", 1.0).await;
}

#[tokio::test]
async fn from_elsewhere_the_page_needs_a_token_and_openmetrics_is_given_to_who_asks() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    let mut worker = configured(&db, &files, &[tokens()]).http().ready().await;
    let page = format!("{}/metrics", worker.site().await);
    let ask = |token: Option<&str>| {
        let request = client(HeaderMap::new()).get(&page).header("X-Forwarded-For", "10.1.1.1");
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    };
    assert_eq!(ask(None).send().await.unwrap().status().as_u16(), 401);
    assert_eq!(ask(Some("wrong")).send().await.unwrap().status().as_u16(), 401);
    let answer =
        ask(Some("looker")).header("Accept", "application/openmetrics-text;version=1.0.0").send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert!(answer.text().await.unwrap().ends_with("# EOF\n"));
}

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

#[tokio::test]
async fn the_breaker_of_a_model_that_is_down_is_seen_open_and_seen_closed_again() {
    let file = "name: asks\nresume: never\nsteps: [{id: q, llm: small, prompt: hi, retry: {max_attempts: 9, initial: 10ms, max: 20ms}}]\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let up = files.path("up");
    let model = ModelServer::start(move |_, _| match up.exists() {
        true => answered("fine", ""),
        false => ResponseTemplate::new(503),
    })
    .await;
    let mut worker = configured(&db, &files, &[model.section("small") + "rest_seconds = 2\n"]).http().ready().await;
    let site = worker.site().await;
    let line = "stepd_breaker_open{kind=\"model\",name=\"small\"}";
    comes_to(&site, line, 0.0).await;
    let run = db.enqueue("asks", "{}").await;
    comes_to(&site, line, 1.0).await;
    assert!((5..=7).contains(&model.heard().len()), "five calls, and perhaps one that tried: {}", model.heard().len());
    std::fs::write(files.path("up"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    let page = comes_to(&site, line, 0.0).await;
    assert!(page.value("stepd_attempts_failed_total{kind=\"llm\",code=\"http_503\"}") >= 5.0);
}

//! What Prometheus is told by a daemon at work.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use serde_json::json;
use stepd::postgres::StopMode;
use wiremock::ResponseTemplate;

use crate::http::{client, tokens};
use crate::models::configured;
use crate::support::outside::{ModelServer, says};
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

#[tokio::test]
async fn a_dead_worker_is_seen_in_the_figures_of_the_one_that_took_its_runs_over() {
    let file = "name: long\nsteps: [{id: a, run: 'while [ ! -e @DIR@/go ]; do sleep 0.02; done'}]\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let mut doomed = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "a", "running", SOON).await;
    let mut heir = Spec::new(&db, &files).http().ready().await;
    let site = heir.site().await;
    let before = comes_to(&site, "stepd_workers{alive=\"true\"}", 2.0).await;
    assert!(before.sum("stepd_take_overs_total", "").abs() < 0.5, "nobody has died");
    doomed.kill9();
    let after = comes_to(&site, "stepd_runs_taken_over_total", 1.0).await;
    assert!((after.value("stepd_take_overs_total{found_by=\"lock\"}") - 1.0).abs() < 1e-9);
    assert!(after.value("stepd_runs_quarantined_total").abs() < 1e-9);
    comes_to(&site, "stepd_workers{alive=\"true\"}", 1.0).await;
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    comes_to(&site, "stepd_runs_ended_total{workflow=\"long\",state=\"completed\"}", 1.0).await;
}

#[tokio::test]
async fn of_many_queues_the_hundred_largest_have_figures_of_their_own_and_the_rest_together() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    drop(Spec::new(&db, &files).ready().await);
    // Queue n has n runs; the oldest one waits in the smallest queue.
    db.exec("INSERT INTO stepd.jobs (workflow, queue, run_at) SELECT 'asks', 'q' || q, CASE WHEN q > 1 THEN now() + interval '1 day' END FROM generate_series(1, 130) q, generate_series(1, q) n").await;
    let mut server = Spec::new(&db, &files).http().without_work().ready().await;
    let site = server.site().await;
    let page = comes_to(&site, "stepd_runs{queue=\"q130\",state=\"scheduled\"}", 130.0).await;
    let queues = page.text.lines().filter(|l| l.starts_with("stepd_oldest_ready_age_seconds{")).count();
    assert_eq!(queues, 101);
    // The default queue is the workflow's, and has none: 31 are left out, the one with the oldest run among them.
    assert!((page.sum("stepd_runs", "") - 130.0 * 131.0 / 2.0).abs() < 1e-9, "none is lost");
    assert!(page.value("stepd_oldest_ready_age_seconds{queue=\"other\"}") > 0.0, "and neither is the longest wait");
    assert_eq!(page.found("stepd_runs{queue=\"q1\",state=\"queued\"}"), None);
    assert_eq!(page.found("stepd_slots"), None, "it is no worker");
}

#[tokio::test]
async fn the_breaker_of_a_model_that_is_down_is_seen_open_and_seen_closed_again() {
    let file = "name: asks\nresume: never\nsteps: [{id: q, llm: small, prompt: hi, retry: {max_attempts: 9, initial: 10ms, max: 20ms}}]\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let up = files.path("up");
    let model = ModelServer::start(move |_, _| match up.exists() {
        true => says("fine"),
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

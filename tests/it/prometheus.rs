//! A real Prometheus scrapes a daemon at work: the page is sound, every panel of the dashboard finds data, every alert rule is known.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::metrics::{ASKS, FAILS, KEYED, Page};
use crate::models::configured;
use crate::support::collector::Collector;
use crate::support::outside::{ModelServer, ToolServer, says};
use crate::support::prometheus::{Prometheus, programs, promtool};
use crate::support::{Db, Files, SOON, wait_until};

const PLAN: &str = "name: planned\nschedule: {cron: '* * * * *'}\nsteps: [{id: a, set: 1}]\n";
const THINKS: &str = "name: thinks\nsteps: [{id: q, llm: small, prompt: hi}, {id: t, mcp: tools.look, args: {}}]\n";

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(config("grafana/stepd.json")).unwrap()).unwrap()
}

/// The queries of a dashboard, each with its panel's title.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let all = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |t| (title.to_owned(), t["expr"].as_str().unwrap().to_owned()))
    });
    all.collect()
}

#[test]
fn the_alert_rules_are_sound_and_each_fires_when_it_should_and_not_else() {
    let Some(programs) = programs() else { return };
    promtool(&programs, &config("prometheus"), &["check", "rules", "stepd-alerts.yml"], "");
    promtool(&programs, &config("prometheus"), &["test", "rules", "stepd-alerts-tests.yml"], "");
    let (rules, tests) = ("prometheus/stepd-alerts.yml", "prometheus/stepd-alerts-tests.yml");
    let tests = std::fs::read_to_string(config(tests)).unwrap();
    let rules = std::fs::read_to_string(config(rules)).unwrap();
    for alert in rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "no test fires {alert}");
    }
}

#[test]
fn the_dashboard_is_put_together_as_grafana_wants_it() {
    let dashboard = dashboard();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("{title}: {name}"));
        assert!(at("x") + at("w") <= 24, "{title}: beyond the edge");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(places.insert((x, y)), "{title} lies over another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(["stat", "timeseries"].contains(&panel["type"].as_str().unwrap()), "{title}");
        let mut refs = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(
                target["datasource"]["uid"], "${datasource}",
                "{title}: the data source is the reader's to choose"
            );
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{title}: two queries of one name");
        }
    }
    let variables: Vec<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    for (title, query) in queries(&dashboard) {
        for used in query.split('$').skip(1) {
            let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(name == "__rate_interval" || variables.contains(&name.as_str()), "{title}: ${name} is no variable");
        }
    }
}

#[tokio::test]
async fn prometheus_takes_the_page_and_every_panel_of_the_dashboard_and_every_alert_finds_its_data() {
    let Some(programs) = programs() else { return };
    let (db, files) = (Db::new().await, Files::new([ASKS, FAILS, KEYED, PLAN, THINKS]));
    let model = ModelServer::start(|_, _| says("fine")).await;
    let tools = ToolServer::start(&["look"], &[], |_, _| Ok(serde_json::json!({"n": 1}))).await;
    let sections = [model.section("small"), tools.section("tools")];
    let collector = Collector::start().await;
    let spec = configured(&db, &files, &sections).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.place());
    let mut worker = spec.http().ready().await;
    let site = worker.site().await;
    let prometheus =
        Prometheus::start(&programs, &[site.trim_start_matches("http://")], &config("prometheus/stepd-alerts.yml"))
            .await;
    // A little of everything, before and while it is scraped: what has just come has no rate yet.
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT w FROM unnest('{asks,fails,thinks,planned}'::text[]) w, generate_series(1, 3)").await;
    wait_until("all have come to where they can", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE state IN ('completed', 'failed', 'waiting')").await >= 12
    })
    .await;
    let page = Page::of(&site).await;
    promtool(&programs, &config("prometheus"), &["check", "metrics"], &page.text);
    let missing = std::sync::Mutex::new(Vec::new());
    let found = async {
        wait_until("every query gives data", SOON, async || {
            // While it is looked at there is something going on.
            db.exec("INSERT INTO stepd.jobs (workflow) VALUES ('fails'), ('planned')").await;
            let mut without = Vec::new();
            for (title, query) in queries(&dashboard()) {
                let query = query.replace("$__rate_interval", "1m");
                let query = ["instance", "queue", "workflow", "job"]
                    .iter()
                    .fold(query, |q, v| q.replace(&format!("${v}"), ".*"));
                if prometheus.query(&query).await.is_empty() {
                    without.push(format!("{title}: {query}"));
                }
            }
            let done = without.is_empty();
            *missing.lock().unwrap() = without;
            done
        })
        .await;
    };
    let found = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(found)).await;
    assert!(found.is_ok(), "no data for:\n{}", missing.lock().unwrap().join("\n"));
    // The daemon was never away, and nothing of what it says was refused.
    assert_eq!(prometheus.query("min_over_time(up{job=\"stepd\"}[1m]) == 1").await.len(), 1, "{}", prometheus.log());
    let rules = prometheus.get("rules").await;
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 15 && rules.iter().all(|r| r["health"] != "err"), "{rules:?}");
}

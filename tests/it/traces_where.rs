//! Where traces go and which: the configuration, the commands, the share; and what is handed on.

use std::collections::BTreeSet;

use serde_json::json;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::cli::{stepd, stepd_at};
use crate::metrics::Page;
use crate::models::configured;
use crate::support::collector::{Collector, Mood};
use crate::support::outside::RpcServer;
use crate::support::{Db, Files, SOON, Spec, wait_until};
use crate::traces::sent;

#[tokio::test]
async fn half_a_configuration_is_refused_with_the_variable_that_is_missing_and_none_at_all_is_one_line() {
    let (db, files) = (Db::new().await, Files::new(["name: a\nsteps: [{id: a, set: 1}]\n"]));
    let checked = async |variable: &'static str, value: &'static str| {
        let url = db.url.clone();
        tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stepd"));
            let done =
                command.args(["config", "check"]).env("DATABASE_URL", url).env(variable, value).output().unwrap();
            (done.status.code(), String::from_utf8(done.stderr).unwrap())
        })
        .await
        .unwrap()
    };
    for (variable, value, names) in [
        ("LANGFUSE_PUBLIC_KEY", "x", "LANGFUSE_SECRET_KEY"),
        ("LANGFUSE_SECRET_KEY", "geheim", "LANGFUSE_PUBLIC_KEY"),
        ("LANGCHAIN_TRACING_V2", "true", "LANGCHAIN_API_KEY"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=geheim", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("STEPD_TRACES__X__PROFILE", "langsmith", "api_key under [traces.x]"),
    ] {
        let (code, err) = checked(variable, value).await;
        assert!(code == Some(2) && err.contains(names) && !err.contains("geheim"), "{variable}: {code:?} {err}");
    }
    let worker = Spec::new(&db, &files).ready().await;
    assert_eq!(worker.logged("traces are off"), 1, "{}", worker.log());
    let run = db.enqueue("a", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.trace_notes").await, 0);
    stepd(&db, &["trace", "replay", &run]).await.is(2).says("traces are off");
}

#[tokio::test]
async fn a_doctor_asks_every_target_and_a_replay_sends_what_was_sent_before() {
    let definition = "name: a\nsteps: [{id: a, run: 'echo 1'}]\n";
    let (db, files, collector) = (Db::new().await, Files::new([definition]), Collector::start().await);
    let section = format!(
        "[traces.smith]\nprofile = \"langsmith\"\nurl = \"{}\"\napi_key = \"k\"\nproject = \"bos\"\n",
        collector.place()
    );
    let spec = configured(&db, &files, &[section]);
    let config = files.path("stepd.toml").display().to_string();
    let worker = spec.ready().await;
    let run = db.enqueue("a", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    sent(&collector, &run).await;
    drop(worker);
    let doctor = ["--config", &config, "doctor", "--traces"];
    let done = stepd(&db, &doctor).await.is(0);
    assert!(done.out.contains("the test span was taken") && done.out.contains("project bos"), "{}", done.out);
    collector.is(Mood::Answers(401));
    let done = stepd(&db, &doctor).await.is(1);
    assert!(done.out.contains("401") && done.out.contains("key"), "{}", done.out);
    stepd(&db, &["--config", &config, "trace", "replay", &run]).await.is(1).says("401");
    collector.is(Mood::Takes);
    let before: BTreeSet<Vec<u8>> = of_run(&collector, &run);
    let n = collector.heard().len();
    let done = stepd(&db, &["--config", &config, "trace", "replay", &run[..13]]).await.is(0);
    assert!(done.out.contains("4 spans to smith"), "{}", done.out);
    assert_eq!(collector.heard().len(), n + 1);
    assert_eq!(of_run(&collector, &run), before, "the same spans under the same ids");
    stepd(&db, &["--config", &config, "trace", "replay", "@last", "--target", "x"])
        .await
        .is(2)
        .says("there are: smith");
    stepd(&db, &["--config", &config, "trace", "replay", "01900000-0000-7000-8000-000000000000"]).await.is(3);
}

fn of_run(collector: &Collector, run: &str) -> BTreeSet<Vec<u8>> {
    let id = uuid::Uuid::parse_str(run).unwrap();
    collector.spans().into_iter().filter(|s| s.trace_id == id.as_bytes()).map(|s| s.span_id).collect()
}

#[tokio::test]
async fn a_share_of_the_runs_is_exported_and_what_failed_in_any_case() {
    let (db, files, collector) = (
        Db::new().await,
        Files::new([
            "name: a\nsteps: [{id: a, set: 1}]\n",
            "name: b\nresume: never\nsteps: [{id: a, run: exit 3, retry: {max_attempts: 1}}]\n",
            "name: c\nsteps: [{id: a, set: 1}]\n",
        ]),
        Collector::start().await,
    );
    let spec = Spec::new(&db, &files).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.place());
    let mut worker = spec.http().env("STEPD_TRACE_RATIO", "0").env("STEPD_TRACE_WORKFLOWS__C", "1.0").ready().await;
    let (quiet, failed, loud) = (db.enqueue("a", "{}").await, db.enqueue("b", "{}").await, db.enqueue("c", "{}").await);
    db.all_ended(SOON).await;
    sent(&collector, &failed).await;
    sent(&collector, &loud).await;
    wait_until("all is done", SOON, async || db.count("SELECT count(*) FROM stepd_engine.trace_notes").await == 0)
        .await;
    assert!(!collector.runs().contains(&quiet));
    let page = Page::of(&worker.site().await).await;
    assert!(page.value("stepd_trace_export_spans_total{target=\"otlp\"}") >= 6.0, "{}", page.text);
    assert!(page.value("stepd_trace_export_sent_bytes_total{target=\"otlp\"}") > 0.0);
    assert!(page.found("stepd_trace_export_queue_runs{target=\"otlp\"}").is_some());
}

#[tokio::test]
async fn requests_and_tools_are_handed_the_span_of_their_call() {
    let calls =
        "name: calls\nsteps:\n  - {id: get, http: 'GET ${{ env.url }}'}\n  - {id: tool, mcp: own.work, args: {}}\n";
    let (db, files, collector) = (Db::new().await, Files::new([calls]), Collector::start().await);
    let site = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(json!({"ok": true}))).mount(&site).await;
    let tools = RpcServer::start(|_, _| Ok(json!({"content": []}))).await;
    let top = format!("http_allow = ['127.0.0.1']\n[env]\nurl = '{}/a?token=x'\n", site.uri());
    let spec = configured(&db, &files, &[top, tools.section("own")]);
    let _worker = spec.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.place()).ready().await;
    let run = db.enqueue("calls", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    sent(&collector, &run).await;
    let of = |name: &str| {
        let spans = collector.spans();
        let span = spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name}"));
        let id: String = span.span_id.iter().map(|b| format!("{b:02x}")).collect();
        format!("00-{}-{id}-01", run.replace('-', ""))
    };
    let asked = site.received_requests().await.unwrap();
    assert_eq!(asked[0].headers["traceparent"].to_str().unwrap(), of("GET"));
    assert_eq!(tools.heard("tools/call")[0]["_meta"]["traceparent"], of("tools/call work"));
    let spans = collector.spans();
    let get = spans.iter().find(|s| s.name == "GET").unwrap();
    let url = get.attributes.iter().find(|a| a.key == "url.full").unwrap();
    assert!(!format!("{url:?}").contains("token"), "{url:?}");
}

#[tokio::test]
async fn a_run_of_the_command_line_is_told_before_the_command_ends() {
    let (db, files, collector) =
        (Db::new().await, Files::new(["name: once\nsteps: [{id: a, set: 1}]\n"]), Collector::start().await);
    stepd(&db, &["migrate"]).await.is(0);
    let (url, place) = (db.url.clone(), collector.place());
    let config = files.path("stepd.toml");
    std::fs::write(&config, format!("[traces.c]\nurl = '{place}/v1/traces'\n")).unwrap();
    let file = files.workflows().join("w0.yaml").display().to_string();
    let done = tokio::task::spawn_blocking(move || {
        stepd_at(Some(&url), &["--config", &config.display().to_string(), "run", &file])
    });
    done.await.unwrap().is(0);
    assert_eq!(collector.runs().len(), 1);
}

#[tokio::test]
async fn a_run_of_many_steps_is_told_whole_however_many_requests_that_takes() {
    let many = "name: many\nsteps:\n  - id: docs\n    map: \"${{ range(700) | list }}\"\n    as: n\n    steps: [{id: text, set: \"${{ 'x' * 9000 }}\"}]\n";
    let (db, files, collector) = (Db::new().await, Files::new([many]), Collector::start().await);
    let target = format!("[traces.c]\nurl = \"{}/v1/traces\"\ncontent = \"on\"\n", collector.place());
    let _worker = configured(&db, &files, &[target]).ready().await;
    let run = db.enqueue("many", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    wait_until("all of it is there", SOON, async || collector.spans().len() >= 1_402).await;
    let spans = collector.spans();
    let ids: BTreeSet<_> = spans.iter().map(|s| s.span_id.clone()).collect();
    assert_eq!((ids.len(), spans.len()), (1_402, 1_402), "a root, a map, 700 items, 700 attempts");
    assert!(spans.iter().all(|s| s.parent_span_id.is_empty() || ids.contains(&s.parent_span_id)));
    assert!(collector.heard().len() > 1 && collector.heard().iter().all(|h| h.body.len() < 5_000_000));
}

#[tokio::test]
async fn two_runs_of_one_session_are_two_traces_with_the_same_session() {
    let (db, files, fuse) =
        (Db::new().await, Files::new(["name: a\nsteps: [{id: a, set: 1}]\n"]), Collector::start().await);
    let spec = Spec::new(&db, &files).env("LANGFUSE_HOST", fuse.place());
    let _worker = spec.env("LANGFUSE_PUBLIC_KEY", "p").env("LANGFUSE_SECRET_KEY", "geheim").ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow, session_id) VALUES ('a', 'chat-7'), ('a', 'chat-7')").await;
    db.all_ended(SOON).await;
    wait_until("both are there", SOON, async || fuse.runs().len() == 2).await;
    let spans = fuse.spans();
    let traces: BTreeSet<_> = spans.iter().map(|s| s.trace_id.clone()).collect();
    assert_eq!(traces.len(), 2);
    for name in ["session.id", "langfuse.session.id", "gen_ai.conversation.id"] {
        let of = |span: &stepd::telemetry::traces::otlp::Span| span.attributes.iter().find(|a| a.key == name).cloned();
        assert!(spans.iter().all(|s| format!("{:?}", of(s)).contains("chat-7")), "{name} on every span");
    }
}

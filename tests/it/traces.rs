//! Traces of real runs, as a receiver gets them: read by what OpenTelemetry publishes, not by stepd's own messages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::mcp::python;
use crate::models::{boxes, configured};
use crate::support::collector::Collector;
use crate::support::outside::{ModelServer, says};
use crate::support::{Db, Files, SOON, wait_until};

/// From PyPI: the messages of the protocol, as they are published.
const MESSAGES: &str = "opentelemetry-proto==1.45.2";

const SHOP: &str = r#"
name: shop
resume: never
steps:
  - id: flaky
    run: 'test -e @DIR@/once || { touch @DIR@/once; exit 75; }; echo "$TRACEPARENT"'
    retry: {max_attempts: 3, initial: 10ms, max: 10ms}
  - id: slow
    run: 'echo begun >> @DIR@/slow; while [ ! -e @DIR@/go ]; do sleep 0.02; done; echo ok'
  - {id: tool, mcp: boxes.open, args: {key: red}}
  - id: each
    map: "${{ [1, 2] }}"
    as: n
    steps: [{id: twice, set: "${{ n * 2 }}"}]
  - {id: ask, llm: large, prompt: "What is ${{ steps.tool.output }}?"}
  - id: bad
    run: echo no >&2; exit 3
    on_error: continue
    retry: {max_attempts: 1}
output: steps.ask.output
"#;

/// A trace, as it is drawn.
struct Trace(Vec<Value>);

impl Trace {
    fn of(spans: &[Value], run: &str) -> Self {
        let id = run.replace('-', "");
        let mut mine: BTreeMap<String, Value> = BTreeMap::new();
        for span in spans.iter().filter(|s| s["trace"] == id.as_str()) {
            // At least once: whatever comes twice is the same.
            let before = mine.insert(span["id"].as_str().unwrap().to_owned(), span.clone());
            assert!(before.is_none_or(|b| b == *span), "{span:#}");
        }
        Self(mine.into_values().collect())
    }

    fn get(&self, name: &str) -> &Value {
        let all: Vec<&Value> = self.0.iter().filter(|s| s["name"] == name).collect();
        assert_eq!(all.len(), 1, "{name} in\n{}", self.drawn());
        all[0]
    }

    fn below(&self, parent: &str) -> Vec<&Value> {
        let mut all: Vec<&Value> = self.0.iter().filter(|s| s["parent"] == parent).collect();
        all.sort_by_key(|s| (s["start"].as_u64(), s["name"].to_string()));
        all
    }

    /// Names, two spaces a level, `!` where the status is an error.
    fn drawn(&self) -> String {
        fn add(trace: &Trace, parent: &str, level: usize, out: &mut String) {
            for span in trace.below(parent) {
                let error = if span["status"] == "STATUS_CODE_ERROR" { " !" } else { "" };
                out.push_str(&format!("{}{}{error}\n", "  ".repeat(level), span["name"].as_str().unwrap()));
                add(trace, span["id"].as_str().unwrap(), level + 1, out);
            }
        }
        let mut out = String::new();
        add(self, "", 0, &mut out);
        out
    }

    /// Every span has its parent, and lies within it.
    fn is_whole(&self) {
        let by_id: BTreeMap<&str, &Value> = self.0.iter().map(|s| (s["id"].as_str().unwrap(), s)).collect();
        for span in &self.0 {
            let (start, end) = (span["start"].as_u64().unwrap(), span["end"].as_u64().unwrap());
            assert!(start > 0 && start <= end, "{span:#}");
            let parent = span["parent"].as_str().unwrap();
            if parent.is_empty() {
                continue;
            }
            let parent = by_id.get(parent).unwrap_or_else(|| panic!("no parent of {span:#}"));
            let (from, to) = (parent["start"].as_u64().unwrap(), parent["end"].as_u64().unwrap());
            // A call's times are worked out from the worker's clock: a hair beside those of its attempt.
            let hair = 5_000_000;
            assert!(from <= start + hair && end <= to + hair, "{span:#}\nis not within\n{parent:#}");
        }
    }
}

async fn messages() -> Option<PathBuf> {
    tokio::task::spawn_blocking(|| python(MESSAGES)).await.unwrap()
}

pub async fn sent(collector: &Collector, run: &str) {
    wait_until("the trace is there", SOON, async || collector.runs().iter().any(|r| r == run)).await;
}

#[tokio::test]
async fn a_run_that_failed_once_and_crashed_once_is_one_trace_with_all_its_attempts_and_calls() {
    let Some(python) = messages().await else { return };
    let (db, files, collector) = (Db::new().await, Files::new([SHOP]), Collector::start().await);
    let (model, tools) = (ModelServer::start(|_, _| says("a box")).await, boxes().await);
    let spec = configured(&db, &files, &[model.section("large"), tools.section("boxes")]);
    let spec = spec.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.place()).env("OTEL_SERVICE_NAME", "shop-daemon");
    let spec = spec.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let mut first = spec.ready().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let run: String = db
        .one(format!("INSERT INTO stepd.jobs (workflow, labels, traceparent) VALUES ('shop', '{{\"customer\": \"42\"}}', '{traceparent}') RETURNING id::text"))
        .await;
    wait_until("the second step runs", SOON, async || files.lines("slow").len() == 1).await;
    db.step_reaches(&run, "slow", "running", SOON).await;
    let second = spec.ready().await;
    first.kill9();
    wait_until("it runs again", SOON, async || files.lines("slow").len() == 2).await;
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    sent(&collector, &run).await;
    let spans = collector.read_by(&python, &files.path(""));
    let trace = Trace::of(&spans, &run);
    assert_eq!(
        trace.drawn(),
        "invoke_workflow shop
  flaky
    flaky (attempt 1) !
      exec bash !
    flaky (attempt 2)
      exec bash
  slow
    slow (attempt 1) !
    slow (attempt 1)
      exec bash
  tool
    tool (attempt 1)
      tools/call open
  each
    each[0].twice
      each[0].twice (attempt 1)
    each[1].twice
      each[1].twice (attempt 1)
  ask
    ask (attempt 1)
      chat stand-in
  bad !
    bad (attempt 1) !
      exec bash !
"
    );
    trace.is_whole();
    root_is_right(&trace, &run, traceparent);
    attempts_are_right(&trace, &run);
    calls_are_right(&trace);
    assert!(second.log().contains("\"traces go there\""));
    // What a program was given is the span of its call.
    let flaky: String =
        db.one(format!("SELECT output #>> '{{}}' FROM stepd.steps WHERE run = '{run}' AND key = 'flaky'")).await;
    let exec = trace.below(trace.get("flaky (attempt 2)")["id"].as_str().unwrap())[0];
    assert_eq!(flaky.trim(), format!("00-{}-{}-01", run.replace('-', ""), exec["id"].as_str().unwrap()));
}

fn root_is_right(trace: &Trace, run: &str, traceparent: &str) {
    let root = trace.get("invoke_workflow shop");
    for (name, value) in [
        ("gen_ai.operation.name", json!("invoke_workflow")),
        ("gen_ai.workflow.name", json!("shop")),
        ("stepd.run.id", json!(run)),
        ("stepd.run.state", json!("completed")),
        ("stepd.crashes", json!(1)),
        ("stepd.label.customer", json!("42")),
    ] {
        assert_eq!(root["attributes"][name], value, "{name}: {root:#}");
    }
    assert_eq!(root["resource"]["service.name"], "shop-daemon");
    assert_eq!(root["resource"]["deployment.environment.name"], "test");
    assert_eq!(
        (&root["kind"], &root["status"], &root["flags"]),
        (&"SPAN_KIND_INTERNAL".into(), &"STATUS_CODE_UNSET".into(), &1.into())
    );
    let link = format!("{}-{}", root["links"][0]["trace"].as_str().unwrap(), root["links"][0]["id"].as_str().unwrap());
    assert!(traceparent.contains(&link), "{root:#}");
    assert!(
        trace.0.iter().all(|s| s["attributes"].get("input.value").is_none()),
        "contents are only told where they are asked for"
    );
}

fn attempts_are_right(trace: &Trace, run: &str) {
    let slow = trace.below(trace.get("slow")["id"].as_str().unwrap());
    let (died, again) = (slow[0], slow[1]);
    assert_eq!(
        (&died["attributes"]["stepd.attempt.state"], &died["attributes"]["error.type"]),
        (&"crashed".into(), &"crashed".into())
    );
    assert!(died["message"].as_str().unwrap().contains("died during this attempt"), "{died:#}");
    assert_eq!(died["events"][0]["name"], "exception");
    let link = &again["links"][0];
    assert_eq!((&link["id"], &link["trace"]), (&died["id"], &json!(run.replace('-', ""))));
    let workers: BTreeSet<&str> =
        ["stepd.worker.from", "stepd.worker.to"].map(|n| link["attributes"][n].as_str().unwrap()).into();
    assert_eq!(workers.len(), 2, "from the one to the other: {link:#}");
    assert_eq!(again["attributes"]["stepd.worker.id"], link["attributes"]["stepd.worker.to"]);
    assert!(again["start"].as_u64() >= died["end"].as_u64(), "one after the other");
    let failed = trace.get("flaky (attempt 1)");
    assert_eq!(
        (&failed["attributes"]["error.type"], &failed["events"][0]["attributes"]["exception.type"]),
        (&"exit_75".into(), &"exit_75".into())
    );
    let bad = trace.get("bad");
    assert!(bad["message"].as_str().unwrap().contains("exit"), "{bad:#}");
}

fn calls_are_right(trace: &Trace) {
    let chat = trace.get("chat stand-in");
    for (name, value) in [
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.request.model", json!("stand-in")),
        ("gen_ai.provider.name", json!("127.0.0.1")),
        ("gen_ai.usage.input_tokens", json!(100)),
        ("gen_ai.usage.output_tokens", json!(10)),
        ("gen_ai.usage.cost", json!(0.00012)),
        ("gen_ai.response.finish_reasons", json!(["stop"])),
        ("server.address", json!("127.0.0.1")),
    ] {
        assert_eq!(chat["attributes"][name], value, "{name}: {chat:#}");
    }
    let tool = trace.get("tools/call open");
    for (name, value) in [
        ("mcp.method.name", json!("tools/call")),
        ("mcp.protocol.version", json!("2026-07-28")),
        ("gen_ai.operation.name", json!("execute_tool")),
        ("gen_ai.tool.name", json!("open")),
        ("network.transport", json!("tcp")),
    ] {
        assert_eq!(tool["attributes"][name], value, "{name}: {tool:#}");
    }
    assert_eq!((&chat["kind"], &tool["kind"]), (&"SPAN_KIND_CLIENT".into(), &"SPAN_KIND_CLIENT".into()));
    let exec: Vec<&Value> = trace.0.iter().filter(|s| s["name"] == "exec bash").collect();
    let mut codes: Vec<i64> = exec.iter().map(|s| s["attributes"]["process.exit.code"].as_i64().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 0, 3, 75]);
}

#[tokio::test]
async fn langsmith_and_langfuse_are_told_at_once_each_in_its_own_words_by_their_variables_alone() {
    let Some(python) = messages().await else { return };
    let (db, files) = (Db::new().await, Files::new([SHOP]));
    let (smith, fuse) = (Collector::start().await, Collector::start().await);
    let (model, tools) = (ModelServer::start(|_, _| says("a box")).await, boxes().await);
    std::fs::write(files.path("go"), "").unwrap();
    let spec = configured(&db, &files, &[model.section("large"), tools.section("boxes")])
        .env("LANGCHAIN_TRACING_V2", "true")
        .env("LANGCHAIN_ENDPOINT", smith.place())
        .env("LANGCHAIN_API_KEY", "lsv2-geheim")
        .env("LANGCHAIN_PROJECT", "bos-workflow-aiarm")
        .env("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
        .env("LANGFUSE_SECRET_KEY", "sk-lf-geheim")
        .env("LANGFUSE_HOST", fuse.place())
        .env("STEPD_TRACES__LANGSMITH__CONTENT", "on")
        .env("STEPD_TRACES__LANGFUSE__CONTENT", "on");
    let mut worker = spec.ready().await;
    let run = db.enqueue("shop", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    sent(&smith, &run).await;
    sent(&fuse, &run).await;
    let (to_smith, to_fuse) = (&smith.heard()[0], &fuse.heard()[0]);
    assert_eq!((to_smith.path.as_str(), &*to_smith.headers["x-api-key"]), ("/otel/v1/traces", "lsv2-geheim"));
    assert_eq!(to_smith.headers["langsmith-project"], "bos-workflow-aiarm");
    assert_eq!(to_fuse.path, "/api/public/otel/v1/traces");
    assert_eq!(to_fuse.headers["authorization"], "Basic cGstbGYtMTpzay1sZi1nZWhlaW0=");
    assert_eq!(to_fuse.headers["x-langfuse-ingestion-version"], "4");
    for heard in [to_smith, to_fuse] {
        assert_eq!(
            (&*heard.headers["content-type"], &*heard.headers["content-encoding"]),
            ("application/x-protobuf", "gzip")
        );
    }
    let of = |collector: &Collector| Trace::of(&collector.read_by(&python, &files.path("")), &run);
    let (smiths, fuses) = (of(&smith), of(&fuse));
    smiths.is_whole();
    fuses.is_whole();
    assert_eq!(smiths.drawn(), fuses.drawn());
    let (chat, tool) = (smiths.get("chat stand-in"), smiths.get("tools/call open"));
    assert_eq!(
        (&chat["attributes"]["langsmith.span.kind"], &tool["attributes"]["langsmith.span.kind"]),
        (&"llm".into(), &"tool".into())
    );
    assert_eq!(chat["attributes"]["gen_ai.usage.total_tokens"], 110);
    assert!(chat["attributes"]["gen_ai.prompt"].as_str().unwrap().contains("What is"), "{chat:#}");
    assert!(chat["attributes"]["gen_ai.completion"].as_str().unwrap().contains("a box"), "{chat:#}");
    assert_eq!(smiths.get("invoke_workflow shop")["attributes"]["langsmith.metadata.workflow"], "shop");
    let (chat, tool) = (fuses.get("chat stand-in"), fuses.get("tools/call open"));
    assert_eq!(
        (&chat["attributes"]["langfuse.observation.type"], &tool["attributes"]["langfuse.observation.type"]),
        (&"generation".into(), &"tool".into())
    );
    assert_eq!(chat["attributes"]["langfuse.observation.model.name"], "stand-in");
    let details = |name: &str| serde_json::from_str::<Value>(chat["attributes"][name].as_str().unwrap()).unwrap();
    assert_eq!(details("langfuse.observation.usage_details"), json!({"input": 100, "output": 10, "total": 110}));
    assert_eq!(details("langfuse.observation.cost_details"), json!({"total": 0.00012}));
    assert!(fuses.0.iter().all(|s| s["attributes"]["langfuse.trace.name"] == "shop"), "on every span");
    assert!(fuses.0.iter().all(|s| s["attributes"].as_object().unwrap().keys().all(|k| !k.starts_with("langsmith."))));
    assert!(tool["attributes"]["langfuse.observation.input"].as_str().unwrap().contains("red"), "{tool:#}");
    worker.logs("bos-workflow-aiarm").await;
    assert!(!worker.log().contains("geheim"));
}

const AGENT: &str = "
name: desk
resume: never
steps:
  - {id: desk, agent: large, prompt: Open it., tools: [boxes.open]}
  - {id: child, workflow: other, input: {}}
";

#[tokio::test]
async fn an_agents_turns_stand_below_it_and_a_child_is_linked_both_ways() {
    use crate::support::outside::{calls, last};
    let Some(python) = messages().await else { return };
    let other = "name: other\nsteps: [{id: a, set: 1}]\n";
    let (db, files, collector) = (Db::new().await, Files::new([AGENT, other]), Collector::start().await);
    let model = ModelServer::start(|request, _| {
        let turns = request["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "assistant").count();
        if turns == 0 { calls(&[("boxes__open", json!({"key": "red"}))]) } else { says(&last(request)) }
    })
    .await;
    let tools = boxes().await;
    let spec = configured(&db, &files, &[model.section("large"), tools.section("boxes")]);
    let _worker = spec.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/x", collector.place())).ready().await;
    let run = db.enqueue("desk", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    let child: String = db.one("SELECT id::text FROM stepd.runs WHERE workflow = 'other'").await;
    sent(&collector, &run).await;
    sent(&collector, &child).await;
    let spans = collector.read_by(&python, &files.path(""));
    let (trace, of_child) = (Trace::of(&spans, &run), Trace::of(&spans, &child));
    trace.is_whole();
    assert_eq!(
        trace.drawn(),
        "invoke_workflow desk
  invoke_agent desk
    desk.tools
      desk.tools (attempt 1)
    desk.turn[1]
      desk.turn[1] (attempt 1)
        chat stand-in
    desk.tool[1.0]
      desk.tool[1.0] (attempt 1)
        tools/call open
    desk.turn[2]
      desk.turn[2] (attempt 1)
        chat stand-in
  child
    child (attempt 1)
"
    );
    assert_eq!(trace.get("invoke_agent desk")["attributes"]["gen_ai.operation.name"], "invoke_agent");
    let (step, root) = (trace.get("child"), of_child.get("invoke_workflow other"));
    assert_eq!((&step["links"][0]["trace"], &step["links"][0]["id"]), (&root["trace"], &root["id"]));
    assert_eq!((&root["links"][0]["trace"], &root["links"][0]["id"]), (&step["trace"], &step["id"]));
    assert_eq!(collector.heard()[0].path, "/x");
}

/// Planted where a step may meet one: in a prompt, a header, a program's words, an argument, an error.
const LEAKY: &str = r#"
name: leaky
resume: never
steps:
  - {id: ask, llm: large, prompt: "Use ${{ secrets.key }}."}
  - {id: tool, mcp: boxes.open, args: {key: "${{ secrets.key }}"}, on_error: continue, retry: {max_attempts: 1}}
  - id: says
    run: 'echo "$K"; printf %s "$K" | base64; echo "x=$K&y" >&2; exit 4'
    env: {K: "${{ secrets.key }}"}
    on_error: continue
    retry: {max_attempts: 1}
  - {id: out, run: 'echo "user:$K" | base64', env: {K: "${{ secrets.key }}"}}
output: input
"#;

#[tokio::test]
async fn no_secret_leaves_in_a_trace_in_any_form() {
    let (db, files, collector) = (Db::new().await, Files::new([LEAKY]), Collector::start().await);
    let model = ModelServer::start(|request, _| says(&crate::support::outside::last(request))).await;
    let tools = boxes().await;
    let secret = "hunter2/geheim+x";
    let secrets = format!("[secrets]\nkey = \"{secret}\"\n");
    let target = format!(
        "[traces.c]\nurl = \"{}/v1/traces\"\ncontent = \"on\"\nheaders = {{ \"x-key\" = \"another-geheim\" }}\n",
        collector.place()
    );
    let _worker =
        configured(&db, &files, &[model.section("large"), tools.section("boxes"), secrets, target]).ready().await;
    let run = db.enqueue("leaky", &format!("{{\"given\": \"{secret}\"}}")).await;
    db.reaches(&run, "completed", SOON).await;
    sent(&collector, &run).await;
    let spans = collector.spans();
    let has = |name: &str| spans.iter().any(|s| s.attributes.iter().any(|a| a.key == name));
    assert!(
        has("gen_ai.input.messages") && has("gen_ai.tool.call.arguments") && has("input.value"),
        "contents are sent"
    );
    for heard in collector.heard() {
        let text = String::from_utf8_lossy(&heard.body).into_owned();
        for form in [
            "hunter2",
            "geheim",
            "hunter2%2Fgeheim%2Bx",
            "aHVudGVyMi9nZWhlaW",
            "HVudGVyMi9nZWhlaW0re",
            "h1bnRlcjIvZ2VoZWltK3",
            "odW50ZXIyL2dlaGVpbSt4",
        ] {
            assert!(!text.contains(form), "{form}");
        }
    }
}

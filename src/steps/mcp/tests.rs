use std::path::Path;

use serde_json::json;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use super::*;
use crate::model::Class;
use crate::steps::process::{ProcessOptions, kinds};
use crate::steps::testing;

pub(super) fn options() -> ServerOptions {
    ServerOptions {
        command: Vec::new(),
        env: BTreeMap::new(),
        url: None,
        headers: BTreeMap::new(),
        afu9: false,
        idle: Duration::from_secs(5),
        longest: Duration::from_secs(20),
        input: Duration::from_secs(60),
        rest: Duration::from_secs(30),
        max_message: 100_000,
    }
}

pub(super) fn kind(servers: impl IntoIterator<Item = (&'static str, ServerOptions)>) -> Mcp {
    let all = Arc::new(Servers::default());
    all.replace(servers.into_iter().map(|(name, options)| (name.to_owned(), options)).collect());
    Mcp::new(all, kinds(ProcessOptions::default()).0.launcher())
}

pub(super) async fn call(mcp: &Mcp, tool: &str, args: Value) -> Result<Value, Failure> {
    let (cx, _stop) = testing::context();
    match mcp.run(&cx, json!({"server": "s", "tool": tool, "args": args})).await? {
        Flow::Done(output) => Ok(output.default),
        other => panic!("{other:?}"),
    }
}

/// A server over HTTP; `answer` is given the message.
pub(super) async fn serving(
    answer: impl Fn(&Value, &Request) -> ResponseTemplate + Send + Sync + 'static,
) -> MockServer {
    struct By<F>(F);
    impl<F: Fn(&Value, &Request) -> ResponseTemplate + Send + Sync> Respond for By<F> {
        fn respond(&self, request: &Request) -> ResponseTemplate {
            (self.0)(&serde_json::from_slice(&request.body).unwrap(), request)
        }
    }
    let server = MockServer::start().await;
    Mock::given(matchers::any()).respond_with(By(answer)).mount(&server).await;
    server
}

pub(super) fn at(server: &MockServer) -> ServerOptions {
    ServerOptions { url: Some(server.uri().parse().unwrap()), ..options() }
}

pub(super) fn result(message: &Value, result: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
}

pub(super) fn error(status: u16, message: &Value, error: Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({"jsonrpc": "2.0", "id": message["id"], "error": error}))
}

fn header<'r>(request: &'r Request, name: &str) -> &'r str {
    request.headers.get(name).map_or("", |v| v.to_str().unwrap())
}

#[tokio::test]
async fn a_modern_server_is_called_without_a_session_and_told_who_calls() {
    let server = serving(|message, request| match message["method"].as_str().unwrap() {
        "server/discover" => result(message, json!({"supportedVersions": ["2026-07-28"]})),
        "tools/call" => {
            assert_eq!(header(request, "mcp-protocol-version"), "2026-07-28");
            assert_eq!((header(request, "mcp-method"), header(request, "mcp-name")), ("tools/call", "add"));
            let meta = &message["params"]["_meta"];
            assert!(meta["dev.stepd/idempotencyKey"].as_str().unwrap().ends_with("/charge"), "{meta}");
            assert!(meta["traceparent"].is_string());
            let events = format!(
                "event: message\ndata: {}\n\nevent: message\ndata: {}\n\n",
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": message["id"]}}),
                json!({"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", "structuredContent": {"total": 3}}}),
            );
            ResponseTemplate::new(200).set_body_raw(events, "text/event-stream")
        }
        other => panic!("{other}"),
    })
    .await;
    let mcp = kind([("s", at(&server))]);
    assert_eq!(call(&mcp, "add", json!({"a": 1})).await.unwrap(), json!({"total": 3}));
    assert_eq!(call(&mcp, "add", json!({})).await.unwrap(), json!({"total": 3}));
    assert_eq!(server.received_requests().await.unwrap().len(), 3, "it is met once");
}

#[tokio::test]
async fn an_older_server_is_begun_with_keeps_its_session_and_is_begun_with_again_when_that_is_gone() {
    let server = serving({
        let sessions = std::sync::atomic::AtomicU32::new(0);
        let calls = std::sync::atomic::AtomicU32::new(0);
        move |message, request| match message["method"].as_str().unwrap() {
            "server/discover" => {
                error(400, message, json!({"code": -32600, "message": "Bad Request: Missing session ID"}))
            }
            "initialize" => {
                let n = sessions.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let said = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
                result(message, said).insert_header("mcp-session-id", format!("s{n}"))
            }
            "notifications/initialized" => ResponseTemplate::new(202),
            "tools/call" if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 => ResponseTemplate::new(404),
            "tools/call" => {
                assert_eq!(header(request, "mcp-protocol-version"), "2025-06-18");
                result(message, json!({"content": [{"type": "text", "text": header(request, "mcp-session-id")}]}))
            }
            other => panic!("{other}"),
        }
    })
    .await;
    let mcp = kind([("s", at(&server))]);
    assert_eq!(call(&mcp, "t", json!({})).await.unwrap(), "s0");
    assert_eq!(call(&mcp, "t", json!({})).await.unwrap(), "s1", "the first session was gone");
}

#[tokio::test]
async fn the_dialect_of_afu9_is_spoken_where_it_is_said() {
    let server = serving(|message, _| match message["method"].as_str().unwrap() {
        "tools/list" => result(message, json!({"tools": [{"name": "getIssue"}, {"name": "boom"}]})),
        _ => match message["params"]["tool"].as_str().unwrap() {
            "getIssue" => {
                assert_eq!(message["params"]["arguments"], json!({"n": 1}));
                result(message, json!({"content": [{"type": "text", "text": "{\"number\": 1}"}]}))
            }
            "boom" => error(200, message, json!({"code": -32000, "message": "broken", "data": {"stack": "x"}})),
            other => error(200, message, json!({"code": -32601, "message": format!("Tool not found: {other}")})),
        },
    })
    .await;
    let mcp = kind([("s", ServerOptions { afu9: true, ..at(&server) })]);
    assert_eq!(call(&mcp, "getIssue", json!({"n": 1})).await.unwrap(), json!({"number": 1}));
    let failure = call(&mcp, "boom", json!({})).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Permanent, "tool_error"));
    let failure = call(&mcp, "getIsue", json!({})).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Permanent, "unknown_tool"));
    assert!(failure.message.contains("did you mean `getIssue`?"), "{failure}");
}

#[tokio::test]
async fn what_a_remote_server_does_wrong_is_told_apart() {
    let server =
        serving(|message, _| match (message["method"].as_str().unwrap(), message["params"]["name"].as_str()) {
            ("server/discover", _) => result(message, json!({"supportedVersions": ["2026-07-28"]})),
            ("tools/list", _) => {
                let tools = ["busy", "down", "no", "ask", "slow", "large"].map(|name| json!({"name": name}));
                result(message, json!({"tools": tools}))
            }
            (_, Some("busy")) => ResponseTemplate::new(429).insert_header("retry-after", "7"),
            (_, Some("down")) => ResponseTemplate::new(503),
            (_, Some("no")) => {
                result(message, json!({"isError": true, "content": [{"type": "text", "text": "not today"}]}))
            }
            (_, Some("ask")) => result(message, json!({"resultType": "strange"})),
            (_, Some("slow")) => result(message, json!({})).set_delay(Duration::from_secs(30)),
            (_, Some("large")) => result(message, json!({"content": [{"text": "x".repeat(200_000)}]})),
            (_, name) => error(404, message, json!({"code": -32602, "message": format!("Unknown tool: {name:?}")})),
        })
        .await;
    let mcp = kind([("s", ServerOptions { idle: Duration::from_millis(300), ..at(&server) })]);
    for (tool, class, code) in [
        ("busy", Class::Transient, "http_429"),
        ("down", Class::Transient, "http_503"),
        ("no", Class::Permanent, "tool_error"),
        ("ask", Class::Permanent, "mcp"),
        ("slow", Class::Transient, "timeout"),
        ("large", Class::Permanent, "too_large"),
        ("nay", Class::Permanent, "unknown_tool"),
    ] {
        let failure = call(&mcp, tool, json!({})).await.unwrap_err();
        assert_eq!((failure.class, &*failure.code), (class, code), "{tool}: {failure}");
        assert_eq!(failure.retry_after_ms, (tool == "busy").then_some(7_000), "{tool}");
    }
    let failure = call(&kind([]), "t", json!({})).await.unwrap_err();
    assert!(failure.message.contains("no MCP server `s`") && failure.class == Class::Permanent, "{failure}");
    let nowhere = ServerOptions { url: Some("http://127.0.0.1:9/".parse().unwrap()), ..options() };
    let failure = call(&kind([("s", nowhere)]), "t", json!({})).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Transient, "connection"));
}

/// A server of a few lines: what it is told stands in `heard`, and it says to stderr that it lives.
const SCRIPT: &str = r#"
echo "$$" >> "$DIR/pids"; echo "awake" >&2
while IFS= read -r line; do
  printf '%s\n' "$line" >> "$DIR/heard"
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  case "$line" in
    *'"method":"server/discover"'*) say '{"supportedVersions":["2026-07-28"]}' ;;
    *'"method":"tools/list"'*) say '{"tools":[{"name":"echo"},{"name":"die"},{"name":"hang"},{"name":"work"}]}' ;;
    *'"name":"die"'*) echo "farewell" >&2; exit 7 ;;
    *'"name":"hang"'*) sleep 1000 ;;
    *'"name":"mute"'*) ;;
    *'"name":"work"'*) for n in 1 2 3 4; do sleep 0.3
        printf '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%s}}\n' "$id" "$n"; done
      say '{"structuredContent":{"result":"worked"}}' ;;
    *'"name":"echo"'*) say '{"structuredContent":{"result":"hello"}}' ;;
    *'"method":"notifications/'*) ;;
  esac
done
"#;

fn program(folder: &Path) -> ServerOptions {
    let env = BTreeMap::from([("DIR".to_owned(), folder.display().to_string())]);
    ServerOptions { command: ["sh", "-c", SCRIPT].map(String::from).to_vec(), env, ..options() }
}

pub(super) fn lines(folder: &Path, name: &str) -> Vec<String> {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not: {what}");
}

#[tokio::test]
async fn a_program_is_kept_from_call_to_call_and_ends_with_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let mcp = kind([("s", program(folder.path()))]);
    for _ in 0..3 {
        assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello");
    }
    let pids = lines(folder.path(), "pids");
    assert_eq!(pids.len(), 1, "{pids:?}");
    mcp.0.close().await;
    let pid: i32 = pids[0].parse().unwrap();
    until("it has ended", || crate::os::proc::stat(pid).is_none_or(|s| s.is_zombie())).await;
}

#[tokio::test]
async fn a_program_that_ends_fails_its_calls_with_its_last_words_and_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mcp = kind([("s", program(folder.path()))]);
    let failure = call(&mcp, "die", json!({})).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Transient, "connection"));
    assert!(failure.message.contains("farewell"), "{failure}");
    assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello", "the first time at once");
    assert_eq!(lines(folder.path(), "pids").len(), 2);
    // One that cannot even begin is left alone for longer and longer.
    let broken = ServerOptions { command: ["sh", "-c", "exit 1"].map(String::from).to_vec(), ..options() };
    let mcp = kind([("s", broken)]);
    let mut waits = Vec::new();
    for _ in 0..3 {
        waits.push(call(&mcp, "echo", json!({})).await.unwrap_err().retry_after_ms);
    }
    assert!(waits[0].is_none() && waits[2].is_some_and(|ms| ms <= 1_000), "{waits:?}");
    let none = ServerOptions { command: vec!["/nowhere/at/all".into()], ..options() };
    let failure = call(&kind([("s", none)]), "echo", json!({})).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Permanent, "spawn"));
}

#[tokio::test]
async fn progress_keeps_a_call_alive_and_silence_ends_it_and_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let short = ServerOptions { idle: Duration::from_millis(700), ..program(folder.path()) };
    let mcp = kind([("s", short.clone())]);
    assert_eq!(call(&mcp, "work", json!({})).await.unwrap(), "worked", "1.2 s of work, 0.7 s of silence allowed");
    let failure = call(&mcp, "hang", json!({})).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Transient, "timeout"));
    assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello", "a fresh one");
    assert_eq!(lines(folder.path(), "pids").len(), 2);
    let bounded = ServerOptions { longest: Duration::from_millis(500), ..short };
    let failure = call(&kind([("s", bounded)]), "work", json!({})).await.unwrap_err();
    assert!(failure.code == "timeout" && failure.message.contains("in all"), "{failure}");
}

#[tokio::test]
async fn a_server_that_is_stuck_holds_up_no_other_and_an_abandoned_call_is_cancelled() {
    let (stuck, fine) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mcp = kind([("stuck", program(stuck.path())), ("s", program(fine.path()))]);
    let (cx, _stop) = testing::context();
    let mut hanging = mcp.run(&cx, json!({"server": "stuck", "tool": "mute", "args": {}}));
    let heard = || lines(stuck.path(), "heard").iter().any(|l| l.contains("\"mute\""));
    while !heard() {
        assert!(futures_util::poll!(&mut hanging).is_pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello");
    drop(hanging);
    until("it is told", || lines(stuck.path(), "heard").iter().any(|l| l.contains("notifications/cancelled"))).await;
}

#[tokio::test]
async fn only_a_server_whose_options_have_changed_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mcp = kind([("s", program(folder.path()))]);
    let again = |options: ServerOptions| mcp.0.replace(BTreeMap::from([("s".to_owned(), options)]));
    assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello");
    again(program(folder.path()));
    assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello");
    assert_eq!(lines(folder.path(), "pids").len(), 1);
    again(ServerOptions { idle: Duration::from_secs(6), ..program(folder.path()) });
    assert_eq!(call(&mcp, "echo", json!({})).await.unwrap(), "hello");
    let pids = lines(folder.path(), "pids");
    assert_eq!(pids.len(), 2);
    let first: i32 = pids[0].parse().unwrap();
    until("the first has ended", || crate::os::proc::stat(first).is_none_or(|s| s.is_zombie())).await;
}

#[tokio::test]
async fn tools_are_described_for_an_agent_and_one_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mcp = kind([("s", program(folder.path()))]);
    let (cx, _stop) = testing::context();
    let ask = |tool: &str| mcp.run(&cx, json!({"tools": [["s", tool]]}));
    let Flow::Done(output) = ask("echo").await.unwrap() else { panic!() };
    assert_eq!(
        output.default,
        json!([{"server": "s", "tool": "echo", "description": "", "schema": {"type": "object"}}])
    );
    assert_eq!(ask("ecko").await.unwrap_err().code, "unknown_tool");
}

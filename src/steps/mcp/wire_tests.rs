//! What goes over the wire beside calls and answers: farewells, other versions, lists of tools.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wiremock::ResponseTemplate;

use super::tests::{at, call, error, kind, lines, options, result, serving, until};
use super::*;
use crate::steps::testing;

/// Polls a call until `heard` holds, then drops it.
async fn abandoned(mcp: &Mcp, heard: impl AsyncFn() -> bool) {
    let (cx, _stop) = testing::context();
    let mut hanging = mcp.run(&cx, json!({"server": "s", "tool": "t", "args": {}}));
    while !heard().await {
        assert!(futures_util::poll!(&mut hanging).is_pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn of_a_call_that_is_given_up_an_older_remote_server_is_told_by_a_message() {
    let server = serving(|message, _| match message["method"].as_str().unwrap() {
        "server/discover" => error(400, message, json!({"code": -32600, "message": "Missing session ID"})),
        "initialize" => result(message, json!({"protocolVersion": "2025-11-25", "capabilities": {}})),
        "tools/call" => result(message, json!({})).set_delay(Duration::from_secs(30)),
        _ => ResponseTemplate::new(202),
    })
    .await;
    let mcp = kind([("s", at(&server))]);
    let heard = async |what: &str| {
        let all = server.received_requests().await.unwrap();
        all.into_iter().any(|request| String::from_utf8_lossy(&request.body).contains(what))
    };
    abandoned(&mcp, async || heard("tools/call").await).await;
    for _ in 0..1_000 {
        if heard("notifications/cancelled").await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not told");
}

#[tokio::test]
async fn of_a_call_that_is_given_up_a_modern_remote_server_is_told_by_the_end_of_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (called, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = (called.clone(), ended.clone());
    #[expect(clippy::disallowed_methods, reason = "the server's side, which ends with the test")]
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let n = connection.read(&mut chunk).await.unwrap_or(0);
            if n == 0 {
                seen.1.store(1, Ordering::SeqCst);
                return;
            }
            text.extend_from_slice(&chunk[..n]);
            let said = String::from_utf8_lossy(&text).into_owned();
            if said.contains("\"method\":\"tools/call\"") {
                seen.0.store(1, Ordering::SeqCst);
            } else if said.ends_with('}') {
                let body =
                    json!({"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": ["2026-07-28"]}}).to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                connection.write_all((head + &body).as_bytes()).await.unwrap();
                text.clear();
            }
        }
    });
    let mcp = kind([("s", ServerOptions { url: Some(url.parse().unwrap()), ..options() })]);
    abandoned(&mcp, async || called.load(Ordering::SeqCst) == 1).await;
    until("the connection has ended", || ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_server_that_speaks_another_version_than_before_is_met_anew() {
    let calls = AtomicUsize::new(0);
    let server = serving(move |message, _| match message["method"].as_str().unwrap() {
        "server/discover" if calls.load(Ordering::SeqCst) == 0 => {
            result(message, json!({"supportedVersions": ["2026-07-28"]}))
        }
        "initialize" => result(message, json!({"protocolVersion": "2025-11-25", "capabilities": {}})),
        "notifications/initialized" => ResponseTemplate::new(202),
        "tools/call" if calls.fetch_add(1, Ordering::SeqCst) > 0 => {
            let era = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
            assert!(era.is_null(), "{message}");
            result(message, json!({"structuredContent": {"result": "old"}}))
        }
        _ => error(400, message, json!({"code": -32022, "message": "no", "data": {"supported": ["2025-11-25"]}})),
    })
    .await;
    assert_eq!(call(&kind([("s", at(&server))]), "t", json!({})).await.unwrap(), "old");
}

/// Says that its tools have changed where it is called.
const CHANGING: &str = r#"
while IFS= read -r line; do
  printf '%s\n' "$line" >> "$DIR/heard"
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  case "$line" in
    *'"method":"server/discover"'*) say '{"supportedVersions":["2026-07-28"]}' ;;
    *'"method":"tools/list"'*) say '{"tools":[{"name":"t"}]}' ;;
    *'"method":"tools/call"'*) printf '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'; say '{}' ;;
  esac
done
"#;

#[tokio::test]
async fn a_list_of_tools_is_asked_for_once_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let env = BTreeMap::from([("DIR".to_owned(), folder.path().display().to_string())]);
    let mcp =
        kind([("s", ServerOptions { command: ["sh", "-c", CHANGING].map(String::from).to_vec(), env, ..options() })]);
    let lists = || lines(folder.path(), "heard").iter().filter(|line| line.contains("tools/list")).count();
    for _ in 0..3 {
        assert_eq!(mcp.0.tools("s").await.unwrap()[0].name, "t");
    }
    assert_eq!(lists(), 1);
    call(&mcp, "t", json!({})).await.unwrap();
    mcp.0.tools("s").await.unwrap();
    assert_eq!(lists(), 2);
}

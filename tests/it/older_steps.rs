//! What the API of the older system tells and does beyond what that had: one step's state, a retry; and servers that die.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::http::client;
use crate::older::{Ground, NATIVE, answer, has_exactly, refused, spec};
use crate::support::outside::Afu9Servers;
use crate::support::{Db, Files, SOON, wait_until};

#[tokio::test]
async fn the_state_at_each_step_is_told_with_what_it_was_given_and_every_try() {
    let g = Ground::with(false).await;
    let id = g.triggered("issue_to_branch", json!({"input": {"issue_number": 7, "repo": {"owner": "ada"}}})).await;
    g.reaches(&id, "completed").await;
    let at = async |step: &str| g.ok(&format!("/executions/{id}/steps/{step}")).await;
    let two = at("2").await;
    has_exactly(
        &two,
        "id execution_id step_name step_index status input output started_at completed_at duration_ms error retry_count created_at updated_at context_before context_after attempts",
    );
    let issue = answer("getIssue", &Value::Null);
    assert_eq!((&two["step_name"], &two["input"]), (&json!("create_branch"), &json!({"branch": "fix/7"})));
    assert_eq!(two["context_before"]["variables"], json!({"issue": issue}));
    assert_eq!(two["context_after"]["variables"], json!({"issue": issue, "branch": {"done": "createBranch"}}));
    has_exactly(&two["attempts"][0], "attempt status started_at completed_at error_class error_code error");
    assert_eq!(at("create_branch").await, two, "by its name, too");
    assert_eq!(at("0").await["context_before"]["variables"], json!({}), "nothing of later");
    for step in ["3", "none", "-1"] {
        let told = g.get(&format!("/executions/{id}/steps/{step}")).await;
        assert_eq!((told.0, &told.1["error"]), (404, &json!("Step not found")), "{step}");
    }
    let nobody = uuid::Uuid::now_v7();
    assert_eq!(g.get(&format!("/executions/{nobody}/steps/0")).await.1["error"], "Execution not found");
    assert_eq!(g.get("/executions/x/steps/0").await.1["error"], "Execution not found");
}

#[tokio::test]
async fn a_failed_execution_is_retried_in_place_from_the_step_that_failed() {
    let g = Ground::with(false).await;
    let document = r#"{"name": "mended", "steps": [
        {"name": "first", "tool": "t.give", "params": {"value": "a"}, "assign": "v"},
        {"name": "second", "tool": "gone.give", "params": {"value": "${v}"}, "assign": "w"}]}"#;
    let mut g = g;
    std::fs::write(g.files.workflows().join("mended.json"), document).unwrap();
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    let id = g.triggered("mended", json!({"input": {}})).await;
    g.reaches(&id, "failed").await;
    refused(g.post("ops", &format!("/executions/{id}/retry"), json!({})).await, 400, "retriedBy is required").await;
    let answer = g.post("app", &format!("/executions/{id}/retry"), json!({"retriedBy": "a"})).await;
    refused(answer, 403, "the token `app` is good for `enqueue`, and this needs `operate`").await;
    // The server is there now.
    let config = g.files.path("stepd.toml");
    let text = std::fs::read_to_string(&config).unwrap() + &g.servers.sections(&["gone"]);
    std::fs::write(&config, text).unwrap();
    g.worker.hup();
    wait_until("it is reloaded", SOON, async || g.worker.logged("\"reloaded\"") == 2).await;
    let answer = g.post("ops", &format!("/executions/{id}/retry"), json!({"retriedBy": "ada"})).await;
    let done: Value = answer.json().await.unwrap();
    has_exactly(&done, "success executionId status retriedBy retriedAt");
    g.reaches(&id, "completed").await;
    assert_eq!(
        g.ok(&format!("/executions/{id}")).await["output"],
        json!({"v": "a", "w": "a"}),
        "with what it had assigned"
    );
    assert_eq!(g.servers.heard().iter().filter(|call| call["arguments"]["value"] == "a").count(), 2, "each step once");
    let whom: String =
        g.db.one(format!("SELECT by_whom FROM stepd.history WHERE run = '{id}' AND event = 'retried'")).await;
    assert!(whom.ends_with("/ops/ada"), "{whom}");
    let error = "Cannot retry execution in status: completed. Only failed executions can be retried.";
    refused(g.post("ops", &format!("/executions/{id}/retry"), json!({"retriedBy": "a"})).await, 400, error).await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_told_within_fifteen_seconds_and_one_that_only_listens_too() {
    let db = Db::new().await;
    let (files, servers) = (Files::new([NATIVE]), Afu9Servers::start(answer).await);
    let spec = spec(&db, &files, &servers, false);
    // A server of tools in a process of its own.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut mortal = std::process::Command::new("python3").args(["-c", MORTAL, &port.to_string()]).spawn().unwrap();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |port: u16| format!("url = \"http://127.0.0.1:{port}/\"\ndialect = \"afu9\"\n");
    let more = format!("[mcp.mortal]\n{}[mcp.deaf]\n{}", at(port), at(deaf.local_addr().unwrap().port()));
    let config = files.path("stepd.toml");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &more).unwrap();
    let mut worker = spec.ready().await;
    let site = worker.site().await;
    let health = async || -> Value {
        client(HeaderMap::new()).get(format!("{site}/api/mcp/health")).send().await.unwrap().json().await.unwrap()
    };
    wait_until("it is up", SOON, async || health().await["servers"]["mortal"]["status"] == "ok").await;
    let told = health().await;
    assert_eq!(
        (&told["servers"]["deaf"]["status"], &told["servers"]["github"]["status"]),
        (&json!("error"), &json!("ok"))
    );
    mortal.kill().unwrap();
    mortal.wait().unwrap();
    let took =
        wait_until("its death is told", SOON, async || health().await["servers"]["mortal"]["status"] == "error").await;
    assert!(took < std::time::Duration::from_secs(15), "{took:?}");
    assert_eq!(health().await["servers"]["github"]["status"], "ok", "and nobody else's");
    let doctor = crate::cli::stepd_with(&db, &config, &["doctor"]).await.is(1);
    for part in ["server  ", "schema version", "queue lag", "tool servers", "mortal: ", "deaf: "] {
        assert!(doctor.out.contains(part), "{part}: {}", doctor.out);
    }
    assert!(!doctor.out.contains("github: "), "{}", doctor.out);
}

/// Answers every POST that it has no tools, until it is killed.
const MORTAL: &str = r#"
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"tools": []}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

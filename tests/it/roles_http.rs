//! Least privilege of the HTTP server on a host of its own: with the one role that is made for it, it serves every endpoint of both
//! APIs; and what that role may not do, no request makes it do.

use std::collections::BTreeSet;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::http::{ASKS, FAILS, client, is_problem, tokens};
use crate::roles::{db_with_roles, login};
use crate::support::{Db, Files, SOON, Spec, Worker};

const HOOK: &str = "[http_hooks.h]\nsecret = \"long enough\"\nworkflow = \"asks\"\ninput = \"${{ {'n': 1} }}\"\n";
const DOCUMENT: &str = r#"{"name": "doc", "steps": []}"#;

struct Ground {
    db: Db,
    files: Files,
    site: String,
    client: Client,
    server: Worker,
    _worker: Worker,
}

/// A worker as the owner, and a server alone with that role.
async fn ground(role: &str) -> Ground {
    let (db, files) = (db_with_roles().await, Files::new([ASKS, FAILS]));
    std::fs::write(files.workflows().join("doc.json"), DOCUMENT).unwrap();
    std::fs::write(files.path("stepd.toml"), ["http_documents = \"on\"\n", &tokens(), HOOK].concat()).unwrap();
    let worker = Spec::new(&db, &files).ready().await;
    let url = login(&db, role).await;
    let spec = Spec::new(&Db { url, ..db.clone() }, &files).http().without_work();
    let mut server = spec.env("STEPD_CONFIG", files.path("stepd.toml").display()).start();
    let site = server.site().await;
    Ground { db, files, site, client: client(HeaderMap::new()), server, _worker: worker }
}

impl Ground {
    async fn run(&self, workflow: &str, state: &str) -> String {
        let run = self.db.enqueue(workflow, "{\"n\": 1}").await;
        self.db.reaches(&run, state, SOON).await;
        run
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let method: Method = method.to_uppercase().parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.site)).bearer_auth("ops");
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
        .send()
        .await
        .unwrap()
    }

    /// One call for each path and method of the description: where, with what, and what it must come to.
    async fn call(&self, method: &str, path: &str) -> (String, Option<Value>, u16) {
        let waiting = self.run("asks", "waiting").await;
        let of = |id: &str| path.replace("{id}", id);
        let by = json!({"pausedBy": "a", "resumedBy": "a", "retriedBy": "a", "triggeredBy": "a", "input": {"n": 1}});
        match (method, path) {
            ("post", "/api/v1/runs") => (path.into(), Some(json!({"workflow": "asks", "input": {"n": 1}})), 201),
            ("post", "/api/v1/runs/{id}/{verb}") => (of(&waiting).replace("{verb}", "cancel"), Some(json!({})), 200),
            ("post", "/api/v1/runs/{id}/fork") => (of(&waiting), Some(json!({"from_step": "one"})), 201),
            ("post", "/api/v1/runs/{id}/signal") => (of(&waiting), Some(json!({"name": "x"})), 200),
            ("post", "/api/v1/runs/{id}/answer") => (of(&waiting), Some(json!({"approved": true})), 200),
            ("post", "/api/v1/events") => (path.into(), Some(json!({"name": "x"})), 200),
            ("post", "/api/v1/actions") => {
                (path.into(), Some(json!({"verb": "pause", "filter": {"state": "scheduled"}, "expect": 0})), 200)
            }
            ("post", "/api/v1/schedules/{workflow}/{verb}") => {
                (path.replace("{workflow}", "fails").replace("{verb}", "run"), Some(json!({})), 200)
            }
            ("post", "/api/v1/queues/{name}/{verb}") => {
                (path.replace("{name}", "other").replace("{verb}", "pause"), Some(json!({})), 200)
            }
            ("put", "/api/v1/queues/{name}/limit") => {
                (path.replace("{name}", "other"), Some(json!({"max_running": 3})), 200)
            }
            ("post", "/api/v1/session") => (path.into(), Some(json!({"token": "ops"})), 200),
            ("post", "/api/workflow/execute") => {
                let document = json!({"workflow": {"steps": []}, "context": {}});
                (path.into(), Some(document), 200)
            }
            ("post", "/api/executions/{id}/resume") => {
                self.db.exec(format!("SELECT stepd.pause('{waiting}')")).await;
                (of(&waiting), Some(by), 200)
            }
            ("post", "/api/executions/{id}/retry") => (of(&self.run("fails", "failed").await), Some(by), 200),
            ("post", "/api/executions/{id}/pause") => (of(&waiting), Some(by), 200),
            ("post", "/api/workflows/{id}/trigger") => (of("asks"), Some(by), 200),
            ("get", path) if path.starts_with("/api/workflows/") => (of("asks"), None, 200),
            ("get", "/api/v1/compare") => (format!("{path}?a={waiting}&b={waiting}"), None, 200),
            ("get", path) if path.ends_with("/ws") => (of(&waiting), None, 426),
            ("get", path) if path.ends_with("/step") || path.ends_with("/state") => {
                (of(&waiting) + "?key=one", None, 200)
            }
            ("get", _) => {
                let named = of(&waiting).replace("{name}", "asks").replace("{step}", "0").replace("{workflow}", "asks");
                (named, None, 200)
            }
            ("delete", "/api/v1/session") => (path.into(), None, 200),
            _ => panic!("{method} {path}: a new endpoint; say how it is called, so that the role is held to it"),
        }
    }
}

#[tokio::test]
async fn with_its_own_role_the_server_alone_serves_every_endpoint_of_both_apis() {
    let g = ground("stepd_serve").await;
    let ended = g.run("asks", "waiting").await;
    g.db.exec(format!("SELECT stepd.approve('{ended}')")).await;
    g.db.reaches(&ended, "completed", SOON).await;
    g.db.exec("INSERT INTO stepd_engine.schedules (workflow, cron, timezone, overlap, catch_up) VALUES ('fails', '0 3 1 1 *', 'UTC', 'skip', 'none')").await;
    let document: Value = g.send("get", "/api/v1/openapi.json", None).await.json().await.unwrap();
    let mut walked = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let (place, body, wanted) = g.call(method, path).await;
            // Streams are endless: the head says it.
            let answer = g.send(method, &place, body).await;
            let status = answer.status().as_u16();
            let said = if status == wanted { String::new() } else { answer.text().await.unwrap() };
            assert_eq!(status, wanted, "{method} {place}: {said}");
            walked.insert(format!("{method} {path}"));
        }
    }
    assert!(walked.len() > 45, "{walked:#?}");
    for path in ["/", "/readyz", "/healthz", "/errors/SD001"] {
        assert_eq!(g.send("get", path, None).await.status().as_u16(), 200, "{path}");
    }
    let page = g.send("get", "/metrics", None).await.text().await.unwrap();
    for figure in
        ["stepd_database_up 1", "stepd_runs{", "stepd_failed_runs{", "stepd_locks_held{", "stepd_table_size_bytes{"]
    {
        assert!(page.lines().any(|line| line.starts_with(figure)), "{figure} is not there:\n{page}");
    }
    hook(&g).await;
    session(&g).await;
    assert_eq!(g.server.logged("permission denied"), 0, "{}", g.server.log());
    assert_eq!(g.server.logged("\"ERROR\""), 0, "{}", g.server.log());
}

async fn hook(g: &Ground) {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"long enough").unwrap();
    mac.update(b"{}");
    let mac: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    for again in [false, true] {
        let request = g.client.post(format!("{}/hooks/h", g.site)).header("X-Hub-Signature-256", &mac);
        let answer = request.header("X-GitHub-Delivery", "d").body("{}").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 202);
        assert_eq!(answer.json::<Value>().await.unwrap()["created"], !again);
    }
}

async fn session(g: &Ground) {
    let begun =
        g.client.post(format!("{}/api/v1/session", g.site)).json(&json!({"token": "ops"})).send().await.unwrap();
    let cookie = begun.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let who = g.client.get(format!("{}/api/v1/session", g.site)).header("Cookie", cookie).send().await.unwrap();
    assert_eq!(who.json::<Value>().await.unwrap()["scope"], "operate");
}

#[tokio::test]
async fn with_too_small_a_role_the_server_says_which_one_it_needs_and_does_nothing() {
    let g = ground("stepd_read").await;
    let run = g.run("asks", "waiting").await;
    assert_eq!(g.send("get", &format!("/api/v1/runs/{run}"), None).await.status().as_u16(), 200, "it may look");
    for (path, body) in [
        (format!("/api/v1/runs/{run}/cancel"), json!({})),
        ("/api/v1/runs".to_owned(), json!({"workflow": "asks", "input": {"n": 1}})),
    ] {
        let answer = g.send("post", &path, Some(body)).await;
        let told: Value = answer.json().await.unwrap();
        assert!(told["hint"].as_str().unwrap().contains("GRANT stepd_serve"), "{told}");
        assert!(!told.to_string().contains("function"), "what the database says is for the log: {told}");
    }
    is_problem(g.send("get", "/api/v1/nothing", None).await, 404, "nothing here").await;
    assert_eq!(g.db.state(&run).await, "waiting");
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 1);
    assert!(g.server.logged("permission denied") >= 2, "{}", g.server.log());
    assert!(g.files.workflows().exists());
}

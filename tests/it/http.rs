//! The HTTP API, asked from outside.

use reqwest::header::HeaderMap;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Db, Files, SOON, Spec, Worker, wait_until};

pub const ASKS: &str = "name: asks\ninput: {required: [n], properties: {n: {type: integer}}}\nsteps:\n  - {id: one, set: '${{ input.n }}'}\n  - {id: ok, approve: 'Go on with ${{ input.n }}?'}\n  - {id: two, set: '${{ steps.one.output + 1 }}'}\n";
pub const FAILS: &str = "name: fails\nresume: never\nsteps: [{id: a, run: exit 3, retry: {max_attempts: 1}}]\n";

/// A daemon with an API, and whoever asks it.
pub struct Ground {
    pub db: Db,
    pub files: Files,
    pub worker: Worker,
    pub site: String,
    pub client: Client,
}

pub fn client(headers: HeaderMap) -> Client {
    // A second call fails harmlessly.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().default_headers(headers).build().unwrap()
}

pub fn tokens() -> String {
    let one = |(name, scope): (&str, &str)| {
        let hash: String = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        format!("[http_tokens.{name}]\nsha256 = \"{hash}\"\nscope = \"{scope}\"\n")
    };
    [("looker", "read"), ("app", "enqueue"), ("ops", "operate")].map(one).concat()
}

pub fn spec(db: &Db, files: &Files) -> Spec {
    std::fs::write(files.path("stepd.toml"), tokens()).unwrap();
    Spec::new(db, files).http().env("STEPD_CONFIG", files.path("stepd.toml").display())
}

impl Ground {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With more in its configuration.
    pub async fn with(more: &str) -> Self {
        Self::before("", more).await
    }

    /// With keys before its tables, and tables.
    pub async fn before(keys: &str, tables: &str) -> Self {
        let (db, files) = (Db::new().await, Files::new([ASKS, FAILS]));
        let spec = spec(&db, &files);
        std::fs::write(files.path("stepd.toml"), [keys, &tokens(), tables].concat()).unwrap();
        let mut worker = spec.ready().await;
        let site = worker.site().await;
        Self { db, files, worker, site, client: client(HeaderMap::new()) }
    }

    /// With a token, which is its own name.
    pub async fn post(&self, token: &str, path: &str, body: Value) -> Response {
        let request = self.client.post(format!("{}/api/v1{path}", self.site)).bearer_auth(token).json(&body);
        request.send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}/api/v1{path}", self.site)).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    pub async fn enqueued(&self, workflow: &str, input: Value) -> String {
        let answer = self.post("app", "/runs", json!({"workflow": workflow, "input": input})).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }
}

/// A problem with its status, and with words in which it is told.
pub async fn is_problem(answer: Response, status: u16, words: &str) {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.status().as_u16(), status);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["status"], status);
    assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
}

#[tokio::test]
async fn a_request_s_trace_context_and_its_keys_go_with_the_run_and_what_is_no_context_does_not() {
    let g = Ground::new().await;
    let enqueue = async |context: &str, body: Value| {
        let asked = g.client.post(format!("{}/api/v1/runs", g.site)).bearer_auth("app").header("traceparent", context);
        let told: Value = asked.json(&body).send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        told["id"].as_str().unwrap().to_owned()
    };
    let (theirs, other) = (
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    let body = json!({"workflow": "asks", "input": {"n": 1}});
    let of = async |id: &str| -> (Option<String>, Option<String>) {
        let sql = format!("SELECT traceparent, concurrency_key FROM stepd.runs WHERE id = '{id}'");
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&g.db.pool).await.unwrap()
    };
    assert_eq!(of(&enqueue(theirs, body.clone()).await).await, (Some(theirs.into()), None));
    assert_eq!(of(&enqueue("no context", body.clone()).await).await, (None, None), "it is not handed on");
    let mut own = body;
    (own["traceparent"], own["concurrency_key"]) = (json!(other), json!("customer 7"));
    let run = enqueue(theirs, own).await;
    assert_eq!(of(&run).await, (Some(other.into()), Some("customer 7".into())), "the body comes first");
    // What happened to it comes in pages.
    g.db.exec(format!("SELECT stepd.pause('{run}', 'wait'), stepd.unpause('{run}')")).await;
    let all = g.get(&format!("/runs/{run}/events")).await;
    let page = g.get(&format!("/runs/{run}/events?limit=1")).await;
    assert_eq!((&page["events"][0], all["next"].is_null()), (&all["events"][0], true));
    let next = g.get(&format!("/runs/{run}/events?limit=1&cursor={}", page["next"])).await;
    assert_eq!(next["events"][0], all["events"][1]);
    assert_eq!(
        g.get(&format!("/runs/{run}/events?newest=true&limit=1")).await["events"][0]["seq"],
        all["events"].as_array().unwrap().last().unwrap()["seq"]
    );
}

#[tokio::test]
async fn a_run_is_enqueued_once_by_its_key_looked_at_approved_and_ends() {
    let g = Ground::new().await;
    let create = async || {
        let body = json!({"workflow": "asks", "input": {"n": 41}, "labels": {"of": "test"}});
        let request =
            g.client.post(format!("{}/api/v1/runs", g.site)).bearer_auth("app").header("Idempotency-Key", "k");
        let answer = request.json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned())
    };
    let (first, again) = (create().await, create().await);
    assert_eq!((first.0, again.0), (201, 200));
    assert_eq!(first.1, again.1);
    let run = first.1;
    g.db.reaches(&run, "waiting", SOON).await;
    assert_eq!(g.get("/waiting").await["waiting"][0]["prompt"], "Go on with 41?");
    let told = g.get(&format!("/runs/{run}")).await;
    assert!(told["why"].as_str().unwrap().contains("waiting for approval"), "{told}");
    let answer = g.post("ops", &format!("/runs/{run}/answer"), json!({"approved": true, "note": "fine"})).await;
    assert_eq!(answer.json::<Value>().await.unwrap()["step"], "ok");
    g.db.reaches(&run, "completed", SOON).await;
    let told = g.get(&format!("/runs/{run}")).await;
    assert_eq!((&told["output"]["two"], &told["unique_key"]), (&json!(42), &json!("k")));
    let steps = g.get(&format!("/runs/{run}/steps?outputs=true")).await;
    let keys: Vec<&str> = steps["steps"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["one", "ok", "two"]);
    let trail = g.get(&format!("/runs/{run}/history")).await;
    let approved = trail["history"].as_array().unwrap().iter().find(|l| l["event"] == "approved").unwrap();
    assert!(approved["by_whom"].as_str().unwrap().ends_with("/ops"), "the token is named: {approved}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_problem_that_says_what_to_do() {
    let g = Ground::new().await;
    is_problem(g.post("app", "/runs", json!({"workflow": "asks", "input": {"n": "x"}})).await, 422, "/n").await;
    is_problem(g.post("app", "/runs", json!({"workflow": "aks"})).await, 422, "unknown workflow").await;
    is_problem(g.post("app", "/runs", json!({"workfow": "asks"})).await, 422, "workfow").await;
    is_problem(g.post("app", "/runs", json!({"workflow": "asks", "input": {"n": 1}, "priority": 10})).await, 422, "")
        .await;
    let nobody = uuid::Uuid::now_v7();
    is_problem(g.post("ops", &format!("/runs/{nobody}/cancel"), json!({})).await, 404, "").await;
    is_problem(g.post("ops", "/runs/none/cancel", json!({})).await, 400, "the path").await;
    is_problem(g.post("ops", &format!("/runs/{nobody}/cancle"), json!({})).await, 400, "cancle").await;
    is_problem(g.post("ops", "/actions", json!({"verb": "cancel", "filter": {}})).await, 400, "every run").await;
    let get = async |path: &str| g.client.get(format!("{}{path}", g.site)).send().await.unwrap();
    is_problem(get("/api/v1/runs?stat=failed").await, 400, "stat").await;
    is_problem(get("/api/v1/runs?state=dead").await, 400, "dead").await;
    is_problem(get("/api/v1/runs?limit=0").await, 400, "limit").await;
    is_problem(get("/api/v2").await, 404, "nothing here").await;
    is_problem(g.client.delete(format!("{}/api/v1/runs", g.site)).send().await.unwrap(), 405, "cannot be done").await;
    let text = g.client.post(format!("{}/api/v1/runs", g.site)).bearer_auth("app").body("{}").send().await.unwrap();
    is_problem(text, 415, "JSON").await;
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 0);
}

#[tokio::test]
async fn a_token_opens_what_its_scope_says_and_nothing_more() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let bare =
        g.client.post(format!("{}/api/v1/runs", g.site)).json(&json!({"workflow": "asks"})).send().await.unwrap();
    is_problem(bare, 401, "needs a token").await;
    is_problem(g.post("looker", "/runs", json!({"workflow": "asks", "input": {"n": 1}})).await, 403, "`read`").await;
    is_problem(g.post("app", &format!("/runs/{run}/cancel"), json!({})).await, 403, "`operate`").await;
    is_problem(g.post("guessed", "/runs", json!({"workflow": "asks"})).await, 401, "not known").await;
    let misled = g.client.get(format!("{}/api/v1/runs", g.site)).header("Host", "evil.example").send().await.unwrap();
    is_problem(misled, 421, "evil.example").await;
    let page = g.client.post(format!("{}/api/v1/runs/{run}/cancel", g.site)).bearer_auth("ops");
    let page = page.header("Origin", "http://evil.example").json(&json!({})).send().await.unwrap();
    is_problem(page, 403, "origin").await;
    let large = json!({"workflow": "asks", "input": {"n": 1, "x": "x".repeat(20 << 20)}}).to_string();
    // The server does not read it all, and a client that is still writing may see no more than that.
    wait_until("it is too large", SOON, async || {
        let request = g.client.post(format!("{}/api/v1/runs", g.site)).bearer_auth("app").body(large.clone());
        let answer = request.header("Content-Type", "application/json").send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() == 413)
    })
    .await;
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 1);
    assert!(g.post("ops", &format!("/runs/{run}/cancel"), json!({"reason": "a test"})).await.status().is_success());
    g.db.reaches(&run, "cancelled", SOON).await;
}

#[tokio::test]
async fn many_runs_are_counted_first_and_acted_on_only_if_the_count_still_holds() {
    let g = Ground::new().await;
    for _ in 0..3 {
        let run = g.enqueued("fails", json!({})).await;
        g.db.reaches(&run, "failed", SOON).await;
    }
    let many =
        |expect: Value| json!({"verb": "retry", "filter": {"state": "failed", "workflow": "fails"}, "expect": expect});
    let counted: Value = g.post("ops", "/actions", many(Value::Null)).await.json().await.unwrap();
    assert_eq!((&counted["matching"], &counted["done"]), (&json!(3), &json!(0)));
    is_problem(g.post("ops", "/actions", many(json!(2))).await, 409, "3 runs match").await;
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.history WHERE event = 'retried'").await, 0);
    let done: Value = g.post("ops", "/actions", many(json!(3))).await.json().await.unwrap();
    assert_eq!(done["done"], 3);
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.history WHERE event = 'retried'").await, 3);
}

#[tokio::test]
async fn pages_of_runs_leave_none_out_and_show_none_twice() {
    let g = Ground::new().await;
    g.db.exec("INSERT INTO stepd.jobs (workflow, input, run_at) SELECT 'asks', '{\"n\": 1}', now() + interval '1 day' FROM generate_series(1, 25)").await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = g.get(&format!("/runs?limit=10&state=scheduled{cursor}")).await;
        seen.extend(page["runs"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.windows(2).all(|w| w[0] > w[1]), "newest first");
}

#[tokio::test]
async fn the_description_names_every_path_and_is_openapi_three_one() {
    let g = Ground::new().await;
    let document = g.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    for path in ["/api/v1/runs", "/api/v1/runs/{id}", "/api/v1/runs/{id}/{verb}", "/api/v1/actions", "/api/v1/stream"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, told) in methods.as_object().unwrap() {
            assert!(told["responses"]["4XX"].is_object() && told["summary"].is_string(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn it_is_ready_while_it_can_work_and_alive_also_when_postgres_is_away() {
    let g = Ground::new().await;
    let status = async |path: &str| g.client.get(format!("{}{path}", g.site)).send().await.unwrap().status().as_u16();
    assert_eq!((status("/healthz").await, status("/readyz").await), (200, 200));
    // Away, for this one: nobody may connect any more, and whoever is connected is thrown out.
    let (name, beside) = (&g.db.name, g.db.beside());
    beside.exec(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    beside.exec(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    wait_until("it is not ready", SOON, async || status("/readyz").await == 503).await;
    assert_eq!(status("/healthz").await, 200);
    beside.exec(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    wait_until("it is ready again", SOON, async || status("/readyz").await == 200).await;
}

#[tokio::test]
async fn beyond_this_machine_it_does_not_listen_without_a_token() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    let mut worker = Spec::new(&db, &files).env("STEPD_HTTP_LISTEN", "0.0.0.0:0").start();
    worker.ends(SOON).await;
    assert!(worker.log().contains("there is no token"), "{}", worker.log());
}

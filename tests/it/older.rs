//! The endpoints of the older system, with its exact shapes.

use std::collections::BTreeSet;

use reqwest::header::HeaderMap;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::http::{client, tokens};
use crate::support::outside::Afu9Servers;
use crate::support::{Db, Files, SOON, Spec, Worker, wait_until};

const ISSUE: &str = r#"{"name": "issue_to_branch", "description": "An issue becomes a branch", "steps": [
    {"name": "fetch_issue", "tool": "github.getIssue", "params": {"owner": "${repo.owner}", "number": "${input.issue_number}"}, "assign": "issue"},
    {"name": "left_out", "tool": "github.never", "params": {"x": "${issue.title}"}, "if": "${issue.closed}"},
    {"name": "create_branch", "tool": "github.createBranch", "params": {"branch": "fix/${issue.number}"}, "assign": "branch"}]}"#;
pub const NATIVE: &str = "name: native\ninput: {required: [n], properties: {n: {type: integer}}}\nsteps:\n  - {id: ask, approve: 'Pay ${{ input.n }}?'}\n";

pub struct Ground {
    pub db: Db,
    pub files: Files,
    pub servers: Afu9Servers,
    pub worker: Worker,
    pub site: String,
    pub client: Client,
}

pub fn answer(tool: &str, args: &Value) -> Value {
    match tool {
        "getIssue" => json!({"number": 7, "title": "It breaks", "closed": false}),
        "hold" => json!({"state": "HOLD"}),
        "give" => args["value"].clone(),
        _ => json!({"done": tool}),
    }
}

pub fn spec(db: &Db, files: &Files, servers: &Afu9Servers, documents: bool) -> Spec {
    let switch = if documents { "http_documents = \"on\"\n" } else { "" };
    std::fs::write(files.path("stepd.toml"), [switch, &tokens(), &servers.sections(&["github", "t"])].concat())
        .unwrap();
    Spec::new(db, files).http().env("STEPD_CONFIG", files.path("stepd.toml").display())
}

pub fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

pub fn has_exactly(value: &Value, names: &str) {
    assert_eq!(keys(value), names.split_whitespace().collect(), "{value}");
}

const CAMEL: &str = "id workflowId status startedAt completedAt error triggeredBy githubRunId";
const SNAKE: &str = "id workflow_id status input output started_at completed_at error triggered_by github_run_id";

impl Ground {
    pub async fn with(documents: bool) -> Self {
        let (db, files, servers) = (Db::new().await, Files::new([NATIVE]), Afu9Servers::start(answer).await);
        std::fs::write(files.workflows().join("issue_to_branch.json"), ISSUE).unwrap();
        let mut worker = spec(&db, &files, &servers, documents).ready().await;
        let site = worker.site().await;
        Self { db, files, servers, worker, site, client: client(HeaderMap::new()) }
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Response {
        self.client.post(format!("{}/api{path}", self.site)).bearer_auth(token).json(&body).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(format!("{}/api{path}", self.site)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn ok(&self, path: &str) -> Value {
        let (status, told) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {told}");
        told
    }

    /// The status of an execution.
    pub async fn status(&self, id: &str) -> String {
        self.ok(&format!("/workflow/execution/{id}")).await["execution"]["status"].as_str().unwrap().to_owned()
    }

    pub async fn reaches(&self, id: &str, status: &str) {
        wait_until(&format!("{id} is {status}"), SOON, async || self.status(id).await == status).await;
    }

    /// Starts a workflow; the execution's id.
    pub async fn triggered(&self, workflow: &str, body: Value) -> String {
        let answer = self.post("app", &format!("/workflows/{workflow}/trigger"), body).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let place = answer.headers()["location"].to_str().unwrap().to_owned();
        has_exactly(&answer.json().await.unwrap(), "success message workflowId workflowName");
        place.rsplit('/').next().unwrap().to_owned()
    }

    pub async fn execute(&self, steps: Value, context: Value) -> Response {
        self.post("ops", "/workflow/execute", json!({"workflow": {"steps": steps}, "context": context})).await
    }
}

pub async fn refused(answer: Response, status: u16, error: &str) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/json");
    let given = answer.status().as_u16();
    let told: Value = answer.json().await.unwrap();
    assert_eq!((given, told["error"].as_str()), (status, Some(error)), "{told}");
    told
}

#[tokio::test]
async fn a_triggered_document_is_shown_in_both_shapes_with_what_each_step_was_given() {
    let g = Ground::with(false).await;
    let input = json!({"issue_number": 7, "repo": {"owner": "ada"}});
    let body = json!({"input": input, "triggeredBy": "ada@example.org", "githubRunId": "run-123"});
    let id = g.triggered("issue_to_branch", body).await;
    g.reaches(&id, "completed").await;
    assert_eq!(
        g.servers.heard()[0]["arguments"],
        json!({"owner": "ada", "number": "7"}),
        "input.repo is the context's"
    );

    let told = g.ok(&format!("/workflow/execution/{id}")).await;
    has_exactly(&told, "execution steps metadata");
    has_exactly(&told["execution"], &format!("{CAMEL} input output context"));
    let e = &told["execution"];
    assert_eq!((&e["id"], &e["workflowId"], &e["error"]), (&json!(id), &json!("issue_to_branch"), &Value::Null));
    assert_eq!((&e["triggeredBy"], &e["githubRunId"]), (&json!("ada@example.org"), &json!("run-123")));
    let variables = json!({"issue": answer("getIssue", &Value::Null), "branch": {"done": "createBranch"}});
    assert_eq!((&e["input"], &e["output"], &e["context"]["variables"]), (&input, &variables, &variables));
    assert!(e["startedAt"].as_str().unwrap().len() == "2025-12-11T20:00:00.000Z".len() && e["completedAt"].is_string());
    let steps = told["steps"].as_array().unwrap();
    has_exactly(&steps[0], "id name index status input output startedAt completedAt durationMs error retryCount");
    let shown: Vec<_> =
        steps.iter().map(|s| (&s["name"], &s["index"], &s["status"], &s["input"], &s["retryCount"])).collect();
    assert_eq!(
        shown[0],
        (&json!("fetch_issue"), &json!(0), &json!("completed"), &json!({"owner": "ada", "number": "7"}), &json!(0))
    );
    assert_eq!(
        shown[1],
        (&json!("left_out"), &json!(1), &json!("skipped"), &json!({"x": "${issue.title}"}), &json!(0))
    );
    assert_eq!(shown[2].3, &json!({"branch": "fix/7"}));
    assert_eq!(told["metadata"], json!({"totalSteps": 3, "completedSteps": 2, "failedSteps": 0, "skippedSteps": 1}));

    let row = g.ok(&format!("/executions/{id}")).await;
    has_exactly(
        &row,
        &format!("{SNAKE} context pause_metadata created_at updated_at workflow_name workflow_description steps"),
    );
    assert_eq!(
        (&row["workflow_name"], &row["workflow_description"]),
        (&json!("issue_to_branch"), &json!("An issue becomes a branch"))
    );
    assert_eq!((&row["context"], &row["pause_metadata"]), (&e["context"], &Value::Null));
    let step = &row["steps"][2];
    has_exactly(
        step,
        "id execution_id step_name step_index status input output started_at completed_at duration_ms error retry_count created_at updated_at",
    );
    assert_eq!(
        (&step["execution_id"], &step["step_name"], &step["step_index"]),
        (&json!(id), &json!("create_branch"), &json!(2))
    );
}

#[tokio::test]
async fn the_lists_have_the_older_shapes_and_their_paging() {
    let g = Ground::with(false).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let id = g.triggered("issue_to_branch", json!({"input": {"issue_number": n, "repo": {"owner": "o"}}})).await;
        g.reaches(&id, "completed").await;
        ids.insert(0, id);
    }
    let told = g.ok("/workflow/executions?limit=2").await;
    has_exactly(&told, "executions total");
    has_exactly(&told["executions"][0], CAMEL);
    assert_eq!((&told["total"], &told["executions"][0]["id"]), (&json!(2), &json!(ids[0])), "the newest first");
    let told = g.ok("/workflows/issue_to_branch/executions?limit=2&offset=1").await;
    has_exactly(&told, "executions total limit offset");
    has_exactly(&told["executions"][0], &format!("{SNAKE} total_steps completed_steps"));
    assert_eq!((&told["total"], &told["limit"], &told["offset"]), (&json!(3), &json!(2), &json!(1)));
    let rows: Vec<_> = told["executions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (&r["id"], &r["total_steps"], &r["completed_steps"]))
        .collect();
    assert_eq!(rows, [(&json!(ids[1]), &json!(3), &json!(2)), (&json!(ids[2]), &json!(3), &json!(2))]);
    assert_eq!(told["executions"][1]["input"]["issue_number"], 0, "what the context's input is");

    let told = g.ok("/workflows").await;
    has_exactly(&told, "workflows total");
    let [one, two] = told["workflows"].as_array().unwrap().as_slice() else { panic!("{told}") };
    has_exactly(one, "id name description definition version enabled created_at updated_at last_run");
    assert_eq!(
        (&one["id"], &one["description"], &one["enabled"]),
        (&json!("issue_to_branch"), &json!("An issue becomes a branch"), &json!(true))
    );
    assert_eq!(one["definition"], serde_json::from_str::<Value>(ISSUE).unwrap());
    has_exactly(&one["last_run"], "id status started_at completed_at triggered_by");
    assert_eq!((&one["last_run"]["id"], &one["last_run"]["status"]), (&json!(ids[0]), &json!("completed")));
    assert_eq!(
        (&two["id"], &two["last_run"], &two["definition"]["steps"][0]["id"]),
        (&json!("native"), &Value::Null, &json!("ask"))
    );
    assert_eq!(g.ok("/workflows/native").await["name"], "native");

    for (path, error) in [
        ("/workflow/executions?limit=0", "limit must be a whole number from 1 to 1000"),
        ("/workflows/native/executions?offset=x", "offset must be a whole number from 0 to 1000000"),
    ] {
        assert_eq!(g.get(path).await, (400, json!({"error": error})));
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_refused_in_the_older_words() {
    let g = Ground::with(false).await;
    let nobody = uuid::Uuid::now_v7();
    for path in [format!("/workflow/execution/{nobody}"), format!("/executions/{nobody}"), "/executions/no-id".into()] {
        assert_eq!(g.get(&path).await, (404, json!({"error": "Execution not found"})), "{path}");
    }
    assert_eq!(g.get("/workflows/none").await, (404, json!({"error": "Workflow not found"})));
    refused(g.post("app", "/workflows/none/trigger", json!({})).await, 404, "Workflow not found").await;
    let told =
        refused(g.post("app", "/workflows/native/trigger", json!({"input": {"n": "x"}})).await, 400, "Invalid input")
            .await;
    assert!(told["message"].as_str().unwrap().contains("/n"), "{told}");
    refused(
        g.post("looker", "/workflows/native/trigger", json!({})).await,
        403,
        "the token `looker` is good for `read`, and this needs `enqueue`",
    )
    .await;
    let id = g.triggered("native", json!({"input": {"n": 1}})).await;
    refused(g.post("ops", &format!("/executions/{id}/pause"), json!({})).await, 400, "pausedBy is required").await;
    refused(
        g.post("ops", &format!("/executions/{id}/resume"), json!({})).await,
        400,
        "resumedBy is required (user who approved resume)",
    )
    .await;
    refused(
        g.post("ops", &format!("/executions/{nobody}/pause"), json!({"pausedBy": "a"})).await,
        404,
        "Execution not found",
    )
    .await;
    let answer = g.post("app", &format!("/executions/{id}/pause"), json!({"pausedBy": "a"})).await;
    refused(answer, 403, "the token `app` is good for `enqueue`, and this needs `operate`").await;
    g.db.reaches(&id, "waiting", SOON).await;
    let answer = g.post("ops", &format!("/executions/{id}/resume"), json!({"resumedBy": "a"})).await;
    refused(answer, 400, "Cannot resume execution in status: running. Only paused executions can be resumed.").await;
    assert_eq!(
        g.db.state(&id).await,
        "waiting",
        "an approval of the native language is no pause: a resume answers none"
    );
    g.db.exec("UPDATE stepd_engine.workflows SET retired_at = now() WHERE name = 'native'").await;
    refused(g.post("app", "/workflows/native/trigger", json!({"input": {"n": 1}})).await, 400, "Workflow is disabled")
        .await;
    assert_eq!(g.ok("/workflows/native").await["enabled"], false);
}

#[tokio::test]
async fn a_pause_and_a_resume_are_real_and_say_who() {
    let g = Ground::with(false).await;
    let id = g.triggered("native", json!({"input": {"n": 1}})).await;
    g.db.reaches(&id, "waiting", SOON).await;
    let done: Value = g
        .post("ops", &format!("/executions/{id}/pause"), json!({"pausedBy": "a/b", "reason": "lunch"}))
        .await
        .json()
        .await
        .unwrap();
    has_exactly(&done, "success executionId status pausedBy pausedAt");
    assert_eq!((&done["status"], &done["pausedBy"]), (&json!("paused"), &json!("a/b")));
    g.db.exec(&format!("SELECT stepd.approve('{id}')")).await;
    assert_eq!((g.db.state(&id).await, g.status(&id).await), ("paused".into(), "paused".into()), "its answer is kept");
    refused(
        g.post("ops", &format!("/executions/{id}/pause"), json!({"pausedBy": "a"})).await,
        400,
        "Cannot pause execution in status: paused",
    )
    .await;
    let told = g.ok("/executions/paused").await;
    has_exactly(&told, "success count executions");
    let [one] = told["executions"].as_array().unwrap().as_slice() else { panic!("{told}") };
    has_exactly(one, "id workflowId status startedAt pauseMetadata context input");
    has_exactly(&one["pauseMetadata"], "pausedAt pausedBy reason");
    assert_eq!((&one["pauseMetadata"]["pausedBy"], &one["pauseMetadata"]["reason"]), (&json!("a/b"), &json!("lunch")));

    let done: Value =
        g.post("ops", &format!("/executions/{id}/resume"), json!({"resumedBy": "c"})).await.json().await.unwrap();
    has_exactly(&done, "success executionId status resumedBy resumedAt note");
    assert_eq!((&done["status"], &done["resumedBy"]), (&json!("running"), &json!("c")));
    g.reaches(&id, "completed").await;
    let pause = g.ok(&format!("/executions/{id}")).await["pause_metadata"].clone();
    assert_eq!((&pause["pausedBy"], &pause["resumedBy"]), (&json!("a/b"), &json!("c")));
    let whom: Vec<String> =
        g.db.all(format!(
            "SELECT by_whom FROM stepd.history WHERE run = '{id}' AND event IN ('paused', 'unpaused') ORDER BY seq"
        ))
        .await;
    assert!(whom[0].ends_with("/ops/a/b") && whom[1].ends_with("/ops/c"), "the token, and whom it named: {whom:?}");
    refused(
        g.post("ops", &format!("/executions/{id}/pause"), json!({"pausedBy": "a"})).await,
        400,
        "Cannot pause execution in status: completed",
    )
    .await;
    assert_eq!(g.ok("/executions/paused").await["count"], 0);
}

#[tokio::test]
async fn the_health_of_servers_is_asked_of_them() {
    let db = Db::new().await;
    let (files, servers) = (Files::new([NATIVE]), Afu9Servers::start(answer).await);
    let gone = "[mcp.gone]\nurl = \"http://127.0.0.1:9/\"\ndialect = \"afu9\"\n";
    let spec = spec(&db, &files, &servers, false);
    let config = files.path("stepd.toml");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + gone).unwrap();
    let mut worker = spec.ready().await;
    let site = worker.site().await;
    let told: Value =
        client(HeaderMap::new()).get(format!("{site}/api/mcp/health")).send().await.unwrap().json().await.unwrap();
    has_exactly(&told, "status servers timestamp");
    has_exactly(&told["servers"]["github"], "status server timestamp");
    has_exactly(&told["servers"]["gone"], "status server timestamp error");
    assert_eq!(
        (&told["status"], &told["servers"]["github"]["status"], &told["servers"]["gone"]["status"]),
        (&json!("degraded"), &json!("ok"), &json!("error"))
    );
}

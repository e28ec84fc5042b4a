//! Documents that a request brings along, run while it waits.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::older::{Ground, NATIVE, has_exactly, refused, spec};
use crate::support::{Files, SOON, Spec, wait_until};

#[tokio::test]
async fn a_hold_is_a_pause_that_a_resume_ends() {
    let g = Ground::with(true).await;
    let steps = json!([{"name": "look", "tool": "t.hold", "params": {}, "assign": "issue"},
        {"name": "go_on", "tool": "t.give", "params": {"value": "${input.x}"}, "assign": "gone"}]);
    let answer = g.execute(steps, json!({"variables": {}, "input": {"x": "y"}})).await;
    assert_eq!(answer.status(), StatusCode::OK, "it does not wait for a person");
    let told: Value = answer.json().await.unwrap();
    assert_eq!((&told["status"], &told["output"]), (&json!("paused"), &json!({"issue": {"state": "HOLD"}})));
    assert_eq!(told["error"], "HOLD state triggered - workflow paused pending human review");
    let id = told["executionId"].as_str().unwrap();
    let paused = g.ok("/executions/paused").await;
    let pause = &paused["executions"][0]["pauseMetadata"];
    assert_eq!((&pause["pausedBy"], &pause["pausedAtStepIndex"]), (&json!("system"), &json!(1)), "{paused}");
    assert_eq!(paused["executions"][0]["context"]["variables"]["issue"]["state"], "HOLD");
    let done = g.post("ops", &format!("/executions/{id}/resume"), json!({"resumedBy": "ada"})).await;
    assert_eq!(done.status(), StatusCode::OK);
    g.reaches(id, "completed").await;
    let row = g.ok(&format!("/executions/{id}")).await;
    assert_eq!((&row["output"]["gone"], &row["pause_metadata"]["resumedBy"]), (&json!("y"), &json!("ada")));
    assert_eq!(row["steps"].as_array().unwrap().len(), 2, "the guard's question is no step of the document");
}

#[tokio::test]
async fn a_document_by_request_runs_only_where_it_is_switched_on_and_only_with_tools() {
    let off = Ground::with(false).await;
    let told = refused(off.execute(json!([]), json!({})).await, 403, "Documents by HTTP are switched off").await;
    assert!(told["message"].as_str().unwrap().contains("http_documents"), "it names the key: {told}");

    let g = Ground::with(true).await;
    let step = json!({"name": "give", "tool": "t.give", "params": {"value": "${input.a}"}, "assign": "got"});
    let body = json!({"workflow": {"steps": [step]}, "context": {"variables": {"k": 1}, "input": {"a": 5}}, "triggeredBy": "ada", "githubRunId": "r1"});
    let answer = g.post("ops", "/workflow/execute", body).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let told: Value = answer.json().await.unwrap();
    has_exactly(&told, "executionId status output metadata");
    has_exactly(&told["metadata"], "startedAt completedAt durationMs stepsCompleted stepsTotal");
    assert_eq!((&told["status"], &told["output"]), (&json!("completed"), &json!({"k": 1, "got": "5"})));
    assert_eq!((&told["metadata"]["stepsCompleted"], &told["metadata"]["stepsTotal"]), (&json!(1), &json!(1)));
    let list = g.ok("/workflow/executions").await;
    let one = &list["executions"][0];
    assert_eq!(
        (&one["id"], &one["workflowId"]),
        (&told["executionId"], &Value::Null),
        "a document by request is of no workflow"
    );
    assert_eq!((&one["triggeredBy"], &one["githubRunId"]), (&json!("ada"), &json!("r1")));
    assert_eq!(g.ok("/workflows").await["total"], 2, "nor is what stands for it one");

    let failing = json!([{"name": "one", "tool": "t.give", "params": {"value": "x"}, "assign": "a"}, {"name": "two", "tool": "nobody.does", "params": {}}]);
    let told: Value = g.execute(failing, json!({"input": {}})).await.json().await.unwrap();
    has_exactly(&told, "executionId status output error metadata");
    assert_eq!(
        (&told["status"], &told["output"], &told["metadata"]["stepsCompleted"]),
        (&json!("failed"), &json!({"a": "x"}), &json!(1))
    );
    assert!(told["error"].as_str().unwrap().contains("nobody"), "{told}");

    let steps = "Invalid workflow: must include steps array";
    refused(g.post("ops", "/workflow/execute", json!({"context": {}})).await, 400, steps).await;
    refused(g.post("ops", "/workflow/execute", json!({"workflow": {"steps": 1}, "context": {}})).await, 400, steps)
        .await;
    let context = "Invalid context: must provide execution context";
    refused(g.post("ops", "/workflow/execute", json!({"workflow": {"steps": []}})).await, 400, context).await;
    let program = json!({"workflow": {"name": "p", "steps": [{"id": "a", "run": "touch /tmp/x"}]}, "context": {}});
    refused(
        g.post("ops", "/workflow/execute", program).await,
        400,
        "Invalid workflow: every step must be a call of a tool",
    )
    .await;
    let told = refused(
        g.execute(json!([{"name": "a", "tool": "t.x", "params": {}, "run": "true"}]), json!({})).await,
        400,
        "Invalid workflow",
    )
    .await;
    assert!(told["message"].as_str().unwrap().contains("run"), "{told}");
    let answer = g.post("app", "/workflow/execute", json!({"workflow": {"steps": []}, "context": {}})).await;
    refused(answer, 403, "the token `app` is good for `enqueue`, and this needs `operate`").await;
    let empty: Value = g.execute(json!([]), json!({})).await.json().await.unwrap();
    assert_eq!((&empty["status"], &empty["output"]), (&json!("completed"), &json!({})));
}

#[tokio::test]
async fn a_request_that_is_sent_again_with_its_key_finds_the_execution_and_one_that_does_not_wait_gets_its_id() {
    let g = Ground::with(true).await;
    let send = async |prefer: &str| {
        let body = json!({"workflow": {"steps": [{"name": "g", "tool": "t.give", "params": {"value": "x"}, "assign": "v"}]}, "context": {}});
        let request = g
            .client
            .post(format!("{}/api/workflow/execute", g.site))
            .bearer_auth("ops")
            .header("Idempotency-Key", "k 1");
        request.header("Prefer", prefer).json(&body).send().await.unwrap()
    };
    let first = send("respond-async").await;
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    let place = first.headers()["location"].to_str().unwrap().to_owned();
    let first: Value = first.json().await.unwrap();
    has_exactly(&first, "executionId status");
    let id = first["executionId"].as_str().unwrap();
    assert_eq!(place, format!("/api/workflow/execution/{id}"));
    g.reaches(id, "completed").await;
    let again: Value = send("wait=10").await.json().await.unwrap();
    assert_eq!((&again["executionId"], &again["output"]), (&json!(id), &json!({"v": "x"})));
    assert_eq!(g.servers.heard().len(), 1, "also after its end nothing runs anew");
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_does_not_cost_the_request_its_answer() {
    let mut g = Ground::with(true).await;
    // Whoever has the run dies when its first step is recorded; this server stays, and has no place for runs of its own meanwhile.
    let files = Files::new([NATIVE]);
    let config = files.path("stepd.toml");
    std::fs::write(&config, g.servers.sections(&["t"])).unwrap();
    g.worker.drain(SOON).await;
    let busy = spec(&g.db, &g.files, &g.servers, true).env("STEPD_QUEUES", "elsewhere");
    let mut looker = busy.ready().await;
    g.site = looker.site().await;
    let mut victim = Spec::new(&g.db, &files).lease(3).env("STEPD_CONFIG", config.display()).ready().await;
    let steps = json!([{"name": "one", "tool": "t.give", "params": {"value": "x"}, "assign": "a"},
        {"name": "two", "tool": "t.hold", "params": {}}, {"name": "three", "tool": "t.give", "params": {"value": "${a}"}, "assign": "b"}]);
    g.db.exec("CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON stepd_engine.checkpoints FOR EACH ROW EXECUTE FUNCTION public.slow()").await;
    let site = g.site.clone();
    let asking = tokio::spawn({
        let client = g.client.clone();
        let body = json!({"workflow": {"steps": steps}, "context": {}});
        async move {
            client.post(format!("{site}/api/workflow/execute")).bearer_auth("ops").json(&body).send().await.unwrap()
        }
    });
    wait_until("the first step is recorded", SOON, async || {
        g.db.count("SELECT count(*) FROM stepd.steps WHERE checkpoint").await > 0
    })
    .await;
    victim.kill9();
    let _heir = Spec::new(&g.db, &files).lease(3).env("STEPD_CONFIG", config.display()).ready().await;
    let answer = asking.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let told: Value = answer.json().await.unwrap();
    assert_eq!((&told["status"], &told["output"]), (&json!("completed"), &json!({"a": "x", "b": "x"})));
    assert_eq!(
        g.servers.heard().iter().filter(|call| call["tool"] == "give" && call["arguments"]["value"] == "x").count(),
        2,
        "a step that was recorded is not called again"
    );
}

#[tokio::test]
async fn a_server_that_ends_tells_who_waits_the_executions_id_and_the_execution_goes_on() {
    let mut g = Ground::with(true).await;
    g.db.exec("SELECT stepd.pause_queue('default')").await;
    let site = g.site.clone();
    let asking = tokio::spawn({
        let client = g.client.clone();
        let body = json!({"workflow": {"steps": []}, "context": {}});
        async move {
            client.post(format!("{site}/api/workflow/execute")).bearer_auth("ops").json(&body).send().await.unwrap()
        }
    });
    wait_until("it is enqueued", SOON, async || g.db.count("SELECT count(*) FROM stepd.jobs").await == 1).await;
    let request =
        g.client.post(format!("{}/api/workflow/execute", g.site)).bearer_auth("ops").header("Prefer", "wait=1");
    let answer = request.json(&json!({"workflow": {"steps": []}, "context": {}})).send().await.unwrap();
    let told = refused(answer, 504, "Failed to execute workflow").await;
    assert!(
        told["message"].as_str().unwrap().contains("queue") && told["executionId"].is_string(),
        "it says why: {told}"
    );
    g.worker.term();
    let told = refused(asking.await.unwrap(), 503, "Failed to execute workflow").await;
    let id = told["executionId"].as_str().unwrap().to_owned();
    g.worker.ends(SOON).await;
    g.db.exec("SELECT stepd.unpause_queue('default')").await;
    let _heir = spec(&g.db, &g.files, &g.servers, true).ready().await;
    g.db.reaches(&id, "completed", SOON).await;
}

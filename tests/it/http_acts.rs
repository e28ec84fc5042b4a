//! Acting by HTTP: each action does what the one of SQL and of the command line does, and the trail says who did it.

use serde_json::{Value, json};

use crate::http::{Ground, is_problem};
use crate::support::SOON;

async fn by(g: &Ground, run: &str, event: &str) -> String {
    g.db.one(format!("SELECT string_agg(by_whom, ',') FROM stepd.history WHERE run = '{run}' AND event = '{event}'"))
        .await
}

#[tokio::test]
async fn a_run_is_paused_goes_on_is_rejected_and_each_says_who_did_it() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&run, "waiting", SOON).await;
    let act = async |verb: &str, body: Value| g.post("ops", &format!("/runs/{run}/{verb}"), body).await;
    assert_eq!(act("pause", json!({"reason": "look first"})).await.json::<Value>().await.unwrap()["result"], "paused");
    g.db.reaches(&run, "paused", SOON).await;
    is_problem(act("pause", json!({"latest": true})).await, 400, "retry").await;
    assert!(act("unpause", json!({})).await.status().is_success());
    g.db.reaches(&run, "waiting", SOON).await;
    is_problem(act("unpause", json!({})).await, 409, "").await;
    is_problem(act("retry", json!({})).await, 409, "").await;
    let rejected = act("answer", json!({"approved": false, "note": "no"})).await;
    assert_eq!(rejected.json::<Value>().await.unwrap()["step"], "ok");
    g.db.step_reaches(&run, "ok", "failed", SOON).await;
    for event in ["paused", "unpaused", "rejected"] {
        assert!(by(&g, &run, event).await.ends_with("/ops"), "{event}");
    }
    assert!(act("cancel", json!({"reason": "enough"})).await.status().as_u16() < 500);
}

#[tokio::test]
async fn a_failed_run_is_retried_and_a_fork_replays_a_step_with_another_input() {
    let g = Ground::new().await;
    let run = g.enqueued("fails", json!({})).await;
    g.db.reaches(&run, "failed", SOON).await;
    for body in [json!({}), json!({"latest": true})] {
        assert!(g.post("ops", &format!("/runs/{run}/retry"), body).await.status().is_success());
        g.db.reaches(&run, "failed", SOON).await;
    }
    assert!(by(&g, &run, "retried").await.ends_with("/ops"));
    let first = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&first, "waiting", SOON).await;
    g.post("ops", &format!("/runs/{first}/answer"), json!({"approved": true})).await;
    g.db.reaches(&first, "completed", SOON).await;
    let path = format!("/runs/{first}/fork");
    let fork = |body: Value| g.post("ops", &path, body);
    let made: Value = fork(json!({"from_step": "ok", "input": {"n": 5}, "latest": true})).await.json().await.unwrap();
    let new = made["id"].as_str().unwrap().to_owned();
    assert_eq!(made["forked_from"], first.as_str());
    g.db.reaches(&new, "waiting", SOON).await;
    let steps = g.get(&format!("/runs/{new}/steps?outputs=true")).await;
    assert_eq!(steps["steps"][0]["output"], 1, "what was done before the step keeps its result: {steps}");
    assert_eq!(g.get(&format!("/runs/{new}")).await["input"]["n"], 5);
    assert!(by(&g, &new, "forked").await.ends_with("/ops"));
    is_problem(fork(json!({"from_step": "none"})).await, 422, "none").await;
    is_problem(fork(json!({})).await, 422, "from_step").await;
}

#[tokio::test]
async fn signals_and_events_need_no_more_than_what_enqueues() {
    let mut g = Ground::new().await;
    let flow = "name: waits\nsteps:\n  - {id: one, wait: go}\n  - {id: two, wait: went}\n";
    std::fs::write(g.files.workflows().join("waits.yaml"), flow).unwrap();
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    let run = g.enqueued("waits", json!({})).await;
    g.db.step_reaches(&run, "one", "waiting", SOON).await;
    is_problem(g.post("looker", &format!("/runs/{run}/signal"), json!({"name": "go"})).await, 403, "`enqueue`").await;
    assert!(
        g.post("app", &format!("/runs/{run}/signal"), json!({"name": "go", "payload": 1})).await.status().is_success()
    );
    g.db.step_reaches(&run, "two", "waiting", SOON).await;
    let reached: Value = g.post("app", "/events", json!({"name": "went"})).await.json().await.unwrap();
    assert_eq!(reached, json!({"runs": 1}));
    g.db.reaches(&run, "completed", SOON).await;
    assert!(by(&g, &run, "signalled").await.ends_with("/app"));
    is_problem(g.post("app", &format!("/runs/{run}/signal"), json!({"name": "go"})).await, 409, "").await;
}

#[tokio::test]
async fn a_queue_is_paused_limited_and_goes_on() {
    let g = Ground::new().await;
    g.post("ops", "/queues/default/pause", json!({})).await;
    let run = g.enqueued("fails", json!({})).await;
    assert_eq!(g.get("/queues").await["queues"][0]["name"], "default");
    let put = g
        .client
        .put(format!("{}/api/v1/queues/default/limit", g.site))
        .bearer_auth("ops")
        .json(&json!({"max_running": 3}));
    assert!(put.send().await.unwrap().status().is_success());
    assert_eq!(g.db.count("SELECT max_running::bigint FROM stepd_engine.queues WHERE name = 'default'").await, 3);
    assert_ne!(g.db.state(&run).await, "failed");
    g.post("ops", "/queues/default/unpause", json!({})).await;
    g.db.reaches(&run, "failed", SOON).await;
    is_problem(g.post("app", "/queues/default/pause", json!({})).await, 403, "`operate`").await;
    let who = g.db.one::<String>("SELECT by_whom FROM stepd_engine.events WHERE kind = 'queue_paused'").await;
    assert!(who.ends_with("/ops"), "{who}");
}

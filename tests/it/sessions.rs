//! Sessions: what several runs belong to, from the enqueuer to the log.

use serde_json::{Value, json};
use stepd::{Ctx, Halt, Stepd};

use crate::cli::{stepd, stepd_at};
use crate::http::{Ground, is_problem};
use crate::support::{Db, Files, SOON, Spec, wait_until};

const CHAT: &str = r#"
name: chat
resume: never
steps:
  - id: own
    run: echo "\"$STEPD_SESSION_ID\""; echo heard >&2
  - id: told
    set: "${{ run.session_id }}"
  - id: child
    workflow: answer
  - id: last
    if: input.fail
    run: exit 3
    retry: {max_attempts: 1}
output: "[steps.own.output, steps.told.output, steps.child.output]"
"#;

const ANSWER: &str = "name: answer\nsteps: [{id: s, set: \"${{ run.session_id }}\"}]\noutput: steps.s.output\n";

async fn session(db: &Db, run: &str) -> String {
    db.one(format!("SELECT coalesce(session_id, '-') FROM stepd.runs WHERE id = '{run}'")).await
}

#[tokio::test]
async fn a_session_goes_with_its_run_to_children_forks_retries_and_every_line_of_the_log() {
    let (db, files) = (Db::new().await, Files::new([CHAT, ANSWER]));
    let mut worker = Spec::new(&db, &files).env("STEPD_LOG_LEVEL", "info,stepd::stderr=debug").ready().await;
    let failed: String =
        db.one("SELECT stepd.enqueue('chat', '{\"fail\": true}', session_id => 'talk, 7')::text").await;
    let other: String = db
        .one("INSERT INTO stepd.jobs (workflow, input) VALUES ('chat', '{\"fail\": false}') RETURNING id::text")
        .await;
    db.reaches(&failed, "failed", SOON).await;
    db.reaches(&other, "completed", SOON).await;
    assert_eq!((session(&db, &failed).await, session(&db, &other).await), ("talk, 7".into(), "-".into()));
    assert_eq!(db.output(&other).await, r#"["",null,null]"#, "a run without a session has none");
    let told =
        "SELECT string_agg(output::text, ' ' ORDER BY seq) FROM stepd.steps WHERE state = 'completed' AND run = ";
    assert_eq!(db.one::<String>(format!("{told}'{failed}'")).await, r#""talk, 7" "talk, 7" "talk, 7""#);
    db.exec(format!("SELECT stepd.retry('{failed}')")).await;
    db.reaches(&failed, "failed", SOON).await;
    let fork: String = db.one(format!("SELECT stepd.fork('{failed}', 'told', '{{\"fail\": false}}')::text")).await;
    db.reaches(&fork, "completed", SOON).await;
    assert_eq!((session(&db, &failed).await, session(&db, &fork).await), ("talk, 7".into(), "talk, 7".into()));
    assert_eq!(db.output(&fork).await, r#"["talk, 7","talk, 7","talk, 7"]"#);
    let of_session = db.count("SELECT count(*) FROM stepd.runs WHERE session_id = 'talk, 7'").await;
    assert_eq!(of_session, 4, "the run, its fork, and a child of each");
    worker.drain(SOON).await;
    let lines: Vec<Value> = worker.log().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |run: &str| lines.iter().filter(|l| l["run.id"] == run).collect::<Vec<_>>();
    assert!(!of(&failed).is_empty() && of(&failed).iter().all(|l| l["session.id"] == "talk, 7"), "{}", worker.log());
    assert!(!of(&other).is_empty() && of(&other).iter().all(|l| l["session.id"].is_null()), "{}", worker.log());
}

#[tokio::test]
async fn runs_are_enqueued_with_a_session_and_found_by_it_from_the_shell() {
    let (db, files) = (Db::new().await, Files::new([ANSWER]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = stepd(&db, &["enqueue", "answer", "--session", "s-1"]).await.is(0).line();
    stepd(&db, &["enqueue", "answer"]).await.is(0);
    stepd(&db, &["enqueue", "answer", "--session", "s-2"]).await.is(0);
    db.all_ended(SOON).await;
    assert_eq!(stepd(&db, &["ls", "--session", "s-1", "-o", "id"]).await.is(0).line(), run);
    assert_eq!(stepd(&db, &["ls", "--session", "none", "-o", "id"]).await.is(0).line(), "");
    assert!(stepd(&db, &["show", &run]).await.is(0).out.contains("session    s-1"));
    let listed: Value =
        serde_json::from_str(&stepd(&db, &["ls", "--session", "s-2", "-o", "json"]).await.is(0).out).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["session_id"]), (1, &"s-2".into()));
    let file = files.workflows().join("w0.yaml");
    let file = file.to_str().unwrap();
    assert_eq!(stepd(&db, &["run", file, "--session", "tried"]).await.is(0).line(), "\"tried\"");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE session_id = 'tried'").await, 1);
    assert_eq!(stepd_at(None, &["run", file, "--ephemeral", "--session", "brief"]).is(0).line(), "\"brief\"");
    stepd(&db, &["enqueue", "answer", "--session", ""]).await.is(2).says("session_id_has_1_to_200_characters");
}

#[tokio::test]
async fn the_api_takes_a_session_and_finds_by_it() {
    let g = Ground::new().await;
    let body = json!({"workflow": "asks", "input": {"n": 1}, "session_id": "a,b"});
    let made: Value = g.post("app", "/runs", body).await.json().await.unwrap();
    g.enqueued("asks", json!({"n": 2})).await;
    let list = g.get("/runs?session=a%2Cb").await;
    assert_eq!((list["runs"].as_array().unwrap().len(), &list["runs"][0]["id"]), (1, &made["id"]));
    assert_eq!(list["runs"][0]["session_id"], "a,b");
    assert_eq!(g.get(&format!("/runs/{}", made["id"].as_str().unwrap())).await["session_id"], "a,b");
    let long = json!({"workflow": "asks", "input": {"n": 1}, "session_id": "x".repeat(201)});
    is_problem(g.post("app", "/runs", long).await, 422, "session_id_has_1_to_200_characters").await;
}

#[tokio::test]
async fn a_workflow_in_rust_knows_its_session() {
    async fn echo(ctx: &Ctx<'_>, _: Value) -> Result<Option<String>, Halt> {
        ctx.step_with("s", |step| async move { Ok(step.session_id.as_deref().map(str::to_owned)) }).await?;
        Ok(ctx.session_id().map(str::to_owned))
    }
    let db = Db::new().await;
    let stepd = Stepd::builder().database(&db.url).queue("own").workflow("echo", echo).start().await.unwrap();
    let run = stepd.enqueue("echo", &json!({})).session("s-9").await.unwrap();
    assert_eq!(stepd.result::<Option<String>>(run).await.unwrap().as_deref(), Some("s-9"));
    let steps = "SELECT output::text FROM stepd.steps";
    wait_until("the step is there", SOON, async || db.all::<String>(steps).await == ["\"s-9\""]).await;
}

#[tokio::test]
async fn the_ended_runs_of_a_session_are_found_by_their_index() {
    let db = Db::new().await;
    db.exec(
        "INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, ended_at, workflow, queue, input, labels, session_id)
         SELECT stepd_engine.uuid7(), 'completed', 1, 5, 0, 0, now(), now(), 'w', 'default', '{}', '{}', CASE WHEN n % 1000 = 0 THEN 's' || n % 5000 END
         FROM generate_series(1, 20000) n; ANALYZE stepd_engine.ended",
    )
    .await;
    let plan = db
        .all::<String>("EXPLAIN SELECT id, state FROM stepd.runs WHERE session_id = 's3000' ORDER BY id DESC LIMIT 50")
        .await;
    assert!(plan.iter().any(|l| l.contains("ended_session")), "{}", plan.join("\n"));
    let size: i64 = db.one("SELECT pg_relation_size('stepd_engine.ended_session')").await;
    assert!(size <= 16_384, "runs without a session are not in it: {size}");
}

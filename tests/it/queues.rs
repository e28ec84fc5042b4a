//! Pauses, limits, parked jobs.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const LIMITED: &str = r#"
name: limited
queue: narrow
resume: never
steps:
  - id: a
    run: sleep 0.15
  - id: pause
    sleep: 200ms
  - id: b
    run: sleep 0.15
"#;

const PLAIN: &str = r#"
name: plain
resume: never
steps:
  - id: a
    run: echo "$STEPD_RUN_ID" >> @DIR@/effects
"#;

#[tokio::test]
async fn a_paused_queue_starts_nothing_until_it_is_unpaused() {
    let (db, files) = (Db::new().await, Files::new([PLAIN]));
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("SELECT stepd.pause_queue('default')").await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'plain' FROM generate_series(1, 20)").await;
    db.exec("INSERT INTO stepd.jobs (workflow, queue) VALUES ('plain', 'other')").await;
    wait_until("the other queue is served", SOON, async || files.lines("effects").len() == 1).await;
    holds_for("nothing of the paused queue starts", Duration::from_millis(2_500), async || {
        files.lines("effects").len() == 1
    })
    .await;
    db.exec("SELECT stepd.unpause_queue('default')").await;
    db.all_ended(SOON).await;
    assert_eq!(files.counts("effects").len(), 21);
}

#[tokio::test]
async fn a_queues_limit_is_never_exceeded_by_two_workers() {
    let (db, files) = (Db::new().await, Files::new([LIMITED]));
    let workers = [Spec::new(&db, &files).ready().await, Spec::new(&db, &files).ready().await];
    db.exec("SELECT stepd.limit_queue('narrow', 3)").await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'limited' FROM generate_series(1, 30)").await;
    let mut most = 0;
    wait_until("all have ended", SOON, async || {
        let running = db.count("SELECT count(*) FROM stepd.jobs WHERE state IN ('queued', 'running')").await;
        most = most.max(running);
        db.count("SELECT count(*) FROM stepd.jobs").await == 0
    })
    .await;
    assert!((1..=3).contains(&most), "{most} at once");
    // The same from what the steps themselves say: how many ran at the moment at which each began?
    let overlap = db
        .count(
            "SELECT max((SELECT count(*) FROM stepd.steps o WHERE o.kind = 'run' AND o.started_at <= s.started_at AND o.ended_at > s.started_at))
             FROM stepd.steps s WHERE s.kind = 'run'",
        )
        .await;
    assert!(overlap <= 3, "{overlap} steps at once");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 30);
    drop(workers);
}

#[tokio::test]
async fn a_job_of_an_unknown_workflow_is_parked_and_runs_when_the_workflow_is_loaded() {
    let (db, files) = (Db::new().await, Files::new([PLAIN]));
    let mut worker = Spec::new(&db, &files).ready().await;
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    let run = db.enqueue("later", "{}").await;
    assert_eq!(db.state(&run).await, "held");
    holds_for("it is parked", Duration::from_millis(500), async || db.state(&run).await == "held").await;
    files.write("later.yaml", &PLAIN.replace("plain", "later"));
    worker.hup();
    worker.logs("\"reloaded\"").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(files.lines("effects"), [run]);
}

#[tokio::test]
async fn two_daemons_share_two_hundred_runs_and_do_each_once() {
    let (db, files) = (
        Db::new().await,
        Files::new([r#"
name: once
resume: never
steps:
  - id: a
    sql: INSERT INTO effects (run, step) VALUES ($1, 'a')
    params: ["${{ run.id }}"]
  - id: b
    run: echo "$STEPD_RUN_ID" >> @DIR@/effects
  - id: c
    sql: INSERT INTO effects (run, step) VALUES ($1, 'c')
    params: ["${{ run.id }}"]
"#]),
    );
    db.exec("CREATE TABLE effects (run text, step text)").await;
    let spec = Spec::new(&db, &files).concurrency(10);
    let mut workers = [spec.ready().await, spec.ready().await];
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'once' FROM generate_series(1, 200)").await;
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND epoch = 1").await, 200);
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 400);
    assert_eq!(db.count("SELECT count(*) FROM (SELECT DISTINCT run, step FROM effects) d").await, 400);
    let lines = files.counts("effects");
    assert!(lines.len() == 200 && lines.values().all(|n| *n == 1));
    assert_eq!(db.count("SELECT count(DISTINCT worker) FROM stepd_engine.ended").await, 2, "both worked");
    for worker in &mut workers {
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

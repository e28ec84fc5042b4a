//! The daemon's end under load.

use std::time::{Duration, Instant};

use crate::support::{Db, Files, SOON, Server, Spec, wait_until};
use stepd::postgres::StopMode;

const SHORT: &str = r#"
name: short
resume: never
steps:
  - id: a
    run: sleep 0.1
  - id: b
    sql: INSERT INTO effects (run) VALUES ($1)
    params: ["${{ run.id }}"]
  - id: c
    run: sleep 0.1; echo "$STEPD_RUN_ID" >> @DIR@/effects
"#;

const LONG: &str = r#"
name: long
resume: never
steps:
  - id: first
    run: echo first >> @DIR@/effects
  - id: long
    run: echo "$STEPD_EPOCH" >> @DIR@/long; if [ "$STEPD_EPOCH" = 1 ]; then sleep 60; fi
"#;

#[tokio::test]
async fn a_drain_under_load_leaves_nothing_claimed_and_counts_nothing() {
    let (db, files) = (Db::new().await, Files::new([SHORT]));
    db.exec("CREATE TABLE effects (run text)").await;
    let spec = Spec::new(&db, &files).concurrency(10);
    let mut worker = spec.ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'short' FROM generate_series(1, 120)").await;
    // Drained in the middle of it, again and again; another one goes on.
    for round in 1..=3 {
        wait_until("some are through", SOON, async || {
            db.count("SELECT count(*) FROM stepd_engine.ended").await >= 25 * round
        })
        .await;
        assert_eq!(worker.drain(SOON).await, Some(0));
        assert_eq!(
            db.count("SELECT count(*) FROM stepd.jobs WHERE state = 'running'").await,
            0,
            "nothing is left claimed"
        );
        assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0, "nobody is left registered");
        assert!(db.count("SELECT count(*) FROM stepd.jobs").await > 0, "there was load");
        worker = spec.ready().await;
    }
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND crashes = 0").await, 120);
    assert_eq!(db.count("SELECT count(*) FROM stepd.steps WHERE attempts <> 1").await, 0);
    assert_eq!(db.events("crashed").await + db.events("taken_over").await + db.events("attempt_failed").await, 0);
    assert_eq!(db.count("SELECT count(DISTINCT run) FROM effects").await, 120);
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 120);
    assert!(files.counts("effects").values().all(|n| *n == 1));
}

#[tokio::test]
async fn a_step_that_outlasts_the_grace_is_interrupted_and_its_run_taken_by_another_worker_uncounted() {
    let (db, files) = (Db::new().await, Files::new([LONG]));
    let mut first = Spec::new(&db, &files).grace(1).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    let mut second = Spec::new(&db, &files).ready().await;
    let mut told = sqlx::postgres::PgListener::connect(&db.url).await.unwrap();
    told.listen("stepd").await.unwrap();
    let began = Instant::now();
    assert_eq!(first.drain(SOON).await, Some(0));
    let took = began.elapsed();
    // A deployment is no crash: nobody waits for the others' next poll.
    tokio::time::timeout(SOON, told.recv()).await.expect("the others are told to look").unwrap();
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&took), "{took:?}");
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(files.lines("long"), ["1", "2"]);
    assert_eq!(files.lines("effects"), ["first"]);
    assert_eq!(db.count(format!("SELECT crashes::int8 FROM stepd.runs WHERE id = '{run}'")).await, 0);
    assert_eq!(
        db.count(format!("SELECT attempts::int8 FROM stepd.steps WHERE run = '{run}' AND key = 'long'")).await,
        1
    );
    assert_eq!(db.events("crashed").await + db.events("taken_over").await + db.events("attempt_failed").await, 0);
    assert_eq!(second.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (db, files) = (Db::new().await, Files::new([LONG]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    worker.term();
    worker.logs("\"stopping").await;
    worker.term();
    assert_eq!(worker.ends(Duration::from_secs(3)).await.code(), Some(1));
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_claim_that_is_answered_after_the_shutdown_began_is_given_back() {
    let (db, files) = (Db::new().await, Files::new([SHORT]));
    db.exec("CREATE TABLE effects (run text)").await;
    let mut worker = Spec::new(&db, &files).failpoints("claimer.after_claim=1:stop").ready().await;
    let run = db.enqueue("short", "{}").await;
    worker.stands_still(SOON).await;
    // Both signals are there when it goes on: it claims and shuts down at the same time.
    worker.term();
    worker.cont();
    assert_eq!(worker.ends(SOON).await.code(), Some(0));
    let state = db.state(&run).await;
    assert!(state == "queued" || state == "completed", "{state}");
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
    let _heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.events("crashed").await + db.events("taken_over").await, 0);
}

#[tokio::test]
async fn a_daemon_without_its_postgres_still_ends() {
    let mut server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([SHORT]));
    let mut worker = Spec::new(&db, &files).grace(1).ready().await;
    server.pg.stop(StopMode::Immediate);
    worker.logs("postgres is away").await;
    worker.term();
    worker.ends(SOON).await;
}

#[tokio::test]
async fn a_signal_that_comes_before_the_daemon_is_ready_is_not_lost() {
    let (db, files) = (Db::new().await, Files::new([SHORT]));
    let mut worker = Spec::new(&db, &files).start();
    worker.logs("\"registered\"").await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
}

#[tokio::test]
async fn a_cancel_during_the_drain_reaches_its_run_within_two_seconds() {
    let (db, files) = (Db::new().await, Files::new([LONG]));
    let mut worker = Spec::new(&db, &files).grace(60).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    worker.term();
    worker.logs("claiming nothing more").await;
    db.exec(format!("SELECT stepd.cancel('{run}')")).await;
    db.reaches(&run, "cancelled", Duration::from_secs(10)).await;
    // Nothing is left to be drained: it need not wait for the end of the grace time.
    assert_eq!(worker.ends(SOON).await.code(), Some(0));
}

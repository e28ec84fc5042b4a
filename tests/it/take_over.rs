//! Runs change hands, though somebody has locked some of them, and whoever dies in between.

use sqlx::Connection as _;
use stepd::db::liveness;
use stepd::model::WorkerId;
use uuid::Uuid;

use crate::support::{Db, Files, SOON, Spec, wait_until};

const SLOW: &str = "
name: slow
resume: never
steps:
  - id: first
    set: 1
  - id: second
    run: test -e @DIR@/there || sleep 60
";

#[tokio::test]
async fn a_run_that_somebody_has_locked_keeps_no_other_from_being_taken_over_and_follows_with_its_evidence() {
    let (db, files) = (Db::new().await, Files::new([SLOW]));
    let mut dead = Spec::new(&db, &files).ready().await;
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(db.enqueue("slow", "{}").await);
    }
    for run in &runs {
        db.step_reaches(run, "second", "running", SOON).await;
    }
    let mut operator = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let lock = format!("BEGIN; SELECT FROM stepd.jobs WHERE id = '{}' FOR UPDATE", runs[0]);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut operator).await.unwrap();
    dead.kill9();
    std::fs::write(files.path("there"), "").unwrap();
    let _heir = Spec::new(&db, &files).ready().await;
    for run in &runs[1..] {
        db.reaches(run, "completed", SOON).await;
    }
    assert_eq!(db.state(&runs[0]).await, "running", "its row cannot be touched");
    sqlx::raw_sql("COMMIT").execute(&mut operator).await.unwrap();
    db.reaches(&runs[0], "completed", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE crashes = 1").await, 5);
    let told = "SELECT count(*) FROM stepd_engine.events WHERE kind = 'crashed' AND data::jsonb ->> 'found_by' IN ('lock', 'lease')
        AND data::jsonb ? 'host' AND data::jsonb -> 'steps' = '[\"second\"]'";
    assert_eq!(db.count(told).await, 5);
}

#[tokio::test]
async fn a_run_whose_worker_is_gone_without_a_take_over_is_brought_back_by_the_sweep() {
    let (db, files) = (Db::new().await, Files::new([SLOW]));
    let mut dead = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("slow", "{}").await;
    db.step_reaches(&run, "second", "running", SOON).await;
    dead.kill9();
    std::fs::write(files.path("there"), "").unwrap();
    // As if the sweeper had died that was to fetch it later.
    db.exec("DELETE FROM stepd_engine.workers").await;
    let mut heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    heir.logs("mended").await;
    wait_until("it is counted", SOON, async || db.events("crashed").await == 1).await;
}

/// A registration without a process: its marker stands, and nobody holds its lock.
async fn registered(db: &Db) -> WorkerId {
    let id = Uuid::new_v4();
    let row = "INSERT INTO stepd_engine.workers (id, host, pid, version, slots, beat) VALUES";
    db.exec(format!("{row} ('{id}', 'nowhere', 1, '0', 1, 7)")).await;
    db.exec(format!("INSERT INTO stepd_engine.worker_sessions (worker) VALUES ('{id}')")).await;
    WorkerId(id)
}

#[tokio::test]
async fn a_worker_that_has_beaten_since_it_was_suspected_is_not_taken_over_by_its_lock_either() {
    let db = Db::new().await;
    let victim = registered(&db).await;
    let mut sweeper = sqlx::PgConnection::connect(&db.url).await.unwrap();
    for (seen, taken) in [(6, false), (7, true), (7, false)] {
        let done = liveness::take_over(&mut sweeper, victim, true, seen, Uuid::new_v4()).await.unwrap();
        assert_eq!(done.is_some(), taken, "suspected at heartbeat {seen}");
    }
}

#[tokio::test]
async fn a_heartbeat_that_waited_for_a_take_over_does_not_believe_that_its_worker_is_registered() {
    let db = Db::new().await;
    let (victim, other) = (registered(&db).await, registered(&db).await);
    let mut sweeper = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let delete = format!("BEGIN; DELETE FROM stepd_engine.workers WHERE id = '{}'", victim.0);
    sqlx::raw_sql(sqlx::AssertSqlSafe(delete)).execute(&mut sweeper).await.unwrap();
    let mut session = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let facts = serde_json::json!({});
    let (seen, ()) = tokio::join!(liveness::tick(&mut session, victim, true, &facts, false), async {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("the heartbeat waits", SOON, async || db.count(waits).await == 1).await;
        sqlx::raw_sql("COMMIT").execute(&mut sweeper).await.unwrap();
    });
    assert_eq!(seen.unwrap().iter().map(|s| s.worker).collect::<Vec<_>>(), [other]);
}

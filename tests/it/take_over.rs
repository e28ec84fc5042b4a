//! Runs change hands, though somebody has locked some of them, and whoever dies in between.

use sqlx::Connection as _;

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

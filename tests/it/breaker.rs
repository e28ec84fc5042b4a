//! The circuit breaker of automatic resumes.

use std::time::Duration;

use sqlx::Connection as _;

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

/// The service is down until a file is there.
const CALLS: &str = r#"
name: calls
resume: {max_attempts: 10, initial: 100ms, max: 200ms}
steps:
  - id: before
    set: 1
  - id: call
    run: echo "$STEPD_RUN_ID" >> @DIR@/calls; test -e @DIR@/up
    retry: {max_attempts: 1}
"#;

#[tokio::test]
async fn a_step_that_keeps_failing_is_left_alone_but_for_probes_and_all_complete_when_it_works_again() {
    let (db, files) = (Db::new().await, Files::new([CALLS]));
    let spec = Spec::new(&db, &files);
    let _workers = [spec.ready().await, spec.ready().await];
    db.exec("UPDATE stepd_engine.settings SET breaker_probe = '3 s'").await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'calls' FROM generate_series(1, 12)").await;
    let open =
        "SELECT count(*) FROM stepd_engine.breakers WHERE closed_at IS NULL AND workflow = 'calls' AND target = 'call'";
    wait_until("the circuit is open", SOON, async || db.count(open).await == 1).await;
    wait_until("all stand still", SOON, async || {
        db.count("SELECT count(*) FROM stepd.jobs WHERE state = 'resuming'").await == 12
    })
    .await;
    let before = files.lines("calls").len();
    // Without it some forty would be made in this time; one probe may fall into it.
    holds_for("hardly a call", Duration::from_secs(2), async || files.lines("calls").len() <= before + 1).await;
    let why: String = db.one("SELECT stepd.why(id) FROM stepd.jobs ORDER BY id LIMIT 1").await;
    assert!(why.contains("failed at call, resume") && why.contains("resumes stand still since"), "{why}");
    wait_until("it is probed", SOON, async || files.lines("calls").len() > before).await;
    std::fs::write(files.path("up"), "").unwrap();
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 12);
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.breakers WHERE closed_at IS NULL").await, 0);
    db.exec("SELECT stepd_engine.repair(1000)").await;
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.breakers").await, 0);
}

#[tokio::test]
async fn a_few_failures_open_nothing_and_another_step_is_not_kept_back() {
    let (db, files) = (Db::new().await, Files::new([CALLS]));
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'calls' FROM generate_series(1, 4)").await;
    wait_until("they are resumed", SOON, async || files.lines("calls").len() >= 16).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.breakers").await, 0);
}

/// Three thousand runs that have failed at one step, their circuit open and its next probe due.
const STAND_STILL: &str = "
SET session_replication_role = replica;
INSERT INTO stepd.jobs (id, workflow, queue, priority, state, lane, target, due_at)
    SELECT stepd_engine.uuid7(), 'calls', 'default', 5, 'resuming', 3, 'call', now() - n * interval '1 ms' FROM generate_series(1, 3000) n;
SET session_replication_role = origin;
INSERT INTO stepd_engine.breakers (workflow, target, next_at) VALUES ('calls', 'call', now());";

#[tokio::test]
async fn while_a_probe_is_out_few_rows_are_written_and_a_row_that_somebody_has_locked_keeps_no_circuit_from_closing() {
    let db = Db::new().await;
    db.exec(STAND_STILL).await;
    let mut conn = sqlx::PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("SET lock_timeout = '2s'").execute(&mut conn).await.unwrap();
    let mut stage = async || -> i32 {
        sqlx::query_scalar("SELECT staged FROM stepd_engine.stage(2000)").fetch_one(&mut conn).await.unwrap()
    };
    assert_eq!([stage().await, stage().await, stage().await], [1, 0, 0], "the probe alone");
    let soon = "SELECT count(*) FROM stepd.jobs WHERE due_at < now() + interval '5 s'";
    assert_eq!(db.count(soon).await, 2, "one of each pass looks what becomes of it");
    db.exec(
        "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind)
             SELECT probe, 1, 1, now(), clock_timestamp(), 1, true, 'completed', 'call', 'run' FROM stepd_engine.breakers;
         UPDATE stepd.jobs SET due_at = now() WHERE due_at < now() + interval '5 s'",
    )
    .await;
    let mut somebody = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let lock = "BEGIN; SELECT FROM stepd.jobs WHERE ctid = (SELECT ctid FROM stepd.jobs WHERE due_at > now() LIMIT 1) FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut somebody).await.unwrap();
    assert_eq!([stage().await, stage().await, stage().await, stage().await], [2, 2000, 996, 0]);
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.breakers WHERE closed_at IS NULL").await, 0);
    let left = "SELECT count(*) FROM stepd.jobs WHERE state = 'resuming' AND due_at > now()";
    assert_eq!(db.count(left).await, 1, "what is locked comes when its own time has come");
}

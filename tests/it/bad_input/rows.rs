//! Rows that no INSERT makes: written by hand, by a superuser. At worst their own run is harmed.

use std::time::Duration;

use super::ECHO;
use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, holds_for};

async fn refused(db: &Db, set: &str) -> String {
    let sql = format!("UPDATE stepd.jobs SET {set}");
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&db.pool).await;
    done.expect_err(set).to_string()
}

#[tokio::test]
async fn what_would_harm_more_than_its_own_run_cannot_be_written() {
    let db = Db::new().await;
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    db.enqueue("unknown", "{}").await;
    for (set, constraint) in [
        ("epoch = -1", "jobs_counts_are_counts"),
        ("crashes = -1", "jobs_counts_are_counts"),
        ("streak = -3", "jobs_counts_are_counts"),
        ("resumes = -1", "jobs_counts_are_counts"),
        ("started_at = 'infinity'", "times_are_from_1970_to_2300"),
        ("ready_at = '-infinity'", "times_are_from_1970_to_2300"),
        ("first_started_at = '294276-12-31'", "times_are_from_1970_to_2300"),
        ("state = 'waiting', lane = 3, due_at = 'infinity'", "times_are_from_1970_to_2300"),
        ("state = 'running', lane = 4, worker = gen_random_uuid()", "jobs_lane_fits_state"),
        ("state = 'queued', lane = 3", "jobs_lane_fits_state"),
        ("state = 'completed', lane = 3", "jobs_lane_fits_state"),
        ("lane = 9", "jobs_lane"),
        ("state = 'running', lane = 0", "jobs_running_has_worker"),
        ("due_at = now()", "jobs_due_fits_state"),
        ("state = 'resuming', lane = 3", "jobs_timed_has_due"),
        ("error = 'no json'", "invalid input syntax for type json"),
        ("state = 'sleeping'", "invalid input value for enum stepd.run_state: \"sleeping\""),
    ] {
        let told = refused(&db, set).await;
        assert!(told.contains(constraint), "{set}: {told}");
    }
}

#[tokio::test]
async fn counts_at_their_end_stop_nobody_else() {
    let (db, files) = (Db::new().await, Files::new([ECHO, "name: slow\nsteps: [{id: s, run: sleep 60}]\n"]));
    let mut worker = Spec::new(&db, &files).ready().await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let (odd, good) = (db.enqueue("echo", "{}").await, db.enqueue("echo", "{}").await);
    db.exec(format!("UPDATE stepd.jobs SET epoch = 2147483647, resumes = 32767, crashes = 32767 WHERE id = '{odd}'"))
        .await;
    let mut worker = Spec::new(&db, &files).ready().await;
    db.reaches(&good, "completed", SOON).await;
    db.reaches(&odd, "completed", SOON).await;
    // And where its worker dies: the others that it had come back.
    let (odd, good) = (db.enqueue("slow", "{}").await, db.enqueue("slow", "{}").await);
    db.step_reaches(&odd, "s", "running", SOON).await;
    db.step_reaches(&good, "s", "running", SOON).await;
    db.exec(format!("UPDATE stepd.jobs SET epoch = 2147483647, crashes = 32767, streak = 32767 WHERE id = '{odd}'"))
        .await;
    worker.kill9();
    let _other = Spec::new(&db, &files).ready().await;
    db.reaches(&odd, "failed", SOON).await;
    db.step_reaches(&good, "s", "running", SOON).await;
    let code: String = db.one(format!("SELECT error_code FROM stepd.runs WHERE id = '{odd}'")).await;
    assert_eq!(code, "crash_loop");
}

#[tokio::test]
async fn what_a_run_said_before_its_crash_loop_keeps_no_run_of_its_dead_worker_from_coming_back() {
    let db = Db::new().await;
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    let (odd, good) = (db.enqueue("unknown", "{}").await, db.enqueue("unknown", "{}").await);
    let worker: String = db.one("SELECT gen_random_uuid()::text").await;
    db.exec(format!(
        "UPDATE stepd.jobs SET state = 'running', lane = 0, epoch = 1, started = true, worker = '{worker}'"
    ))
    .await;
    db.exec(format!("UPDATE stepd.jobs SET streak = 6, crashes = 6 WHERE id = '{odd}'")).await;
    for data in [r#"{"failure": {"message": "a\u0000b"}}"#, r#"{"n": 1e999999}"#] {
        db.exec(format!(
            "INSERT INTO stepd_engine.events (run, kind, key, attempt, data) VALUES ('{odd}', 'attempt_failed', 's', 1, '{data}')"
        ))
        .await;
    }
    let sql = format!("SELECT ROW(requeued, quarantined)::text FROM stepd_engine.requeue('{worker}', '{{}}', 4, 3)");
    assert_eq!(db.one::<String>(sql).await, "(1,1)");
    assert_eq!((db.state(&odd).await.as_str(), db.state(&good).await.as_str()), ("failed", "queued"));
}

#[tokio::test]
async fn a_state_that_this_version_does_not_know_is_left_alone_and_shown_as_it_is() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    let odd = db.enqueue("unknown", "{}").await;
    db.exec("ALTER TYPE stepd.run_state ADD VALUE 'hibernating'").await;
    db.exec(format!("UPDATE stepd.jobs SET state = 'hibernating', lane = 3 WHERE id = '{odd}'")).await;
    let mut worker = Spec::new(&db, &files).ready().await;
    let good = db.enqueue("echo", "{}").await;
    db.reaches(&good, "completed", SOON).await;
    holds_for("nothing touches it", Duration::from_secs(3), async || db.state(&odd).await == "hibernating").await;
    for args in [vec!["ls"], vec!["show", &odd], vec!["ls", "-o", "json"]] {
        assert!(stepd(&db, &args).await.is(0).out.contains("hibernating"), "{args:?}");
    }
    assert_eq!(stepd(&db, &["why", &odd]).await.is(0).line(), "hibernating");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_run_of_a_definition_that_is_not_there_fails_alone() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let (odd, good) = (db.enqueue("echo", "{}").await, db.enqueue("echo", "{}").await);
    db.exec(format!("UPDATE stepd.jobs SET definition = 4711 WHERE id = '{odd}'")).await;
    let mut worker = Spec::new(&db, &files).ready().await;
    db.reaches(&good, "completed", SOON).await;
    db.reaches(&odd, "failed", SOON).await;
    let told: String =
        db.one(format!("SELECT error_code || ': ' || error_message FROM stepd.runs WHERE id = '{odd}'")).await;
    assert_eq!(told, "definition: the definition of `echo` is gone; load its file again");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

//! Pauses of single runs: by the real daemon, over its restarts.

use std::time::Duration;

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

/// A step that ends when it is told to, and one after it.
const TWO_STEPS: &str = r#"
name: two_steps
resume: never
steps:
  - id: first
    run: "echo first >> @DIR@/effects; n=0; while [ ! -e @DIR@/go ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done"
  - id: second
    run: echo second >> @DIR@/effects
output: "'done'"
"#;

/// A branch that works and one that waits, and a wait after both.
const BRANCHES: &str = r#"
name: branches
resume: never
steps:
  - id: work
    needs: []
    run: "n=0; while [ ! -e @DIR@/go ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done; echo worked >> @DIR@/effects"
  - id: more
    needs: [work]
    run: echo more >> @DIR@/effects
  - id: ok
    needs: []
    approve: Go on?
  - id: end
    needs: [more, ok]
    set: 1
output: steps.ok.output.approved
"#;

fn go(files: &Files) {
    std::fs::write(files.path("go"), "").unwrap();
}

#[tokio::test]
async fn a_paused_run_stops_before_its_next_step_outlives_a_restart_and_completes_after_the_unpause() {
    let (db, files) = (Db::new().await, Files::new([TWO_STEPS]));
    let spec = Spec::new(&db, &files).concurrency(1);
    let mut worker = spec.ready().await;
    let run = db.enqueue("two_steps", "{}").await;
    db.step_reaches(&run, "first", "running", SOON).await;
    let done = stepd(&db, &["pause", &run, "-m", "the bank is down"]).await.is(0);
    assert_eq!(done.line(), format!("{run}  pause requested: the step that runs now ends first"));
    let why = stepd(&db, &["why", &run]).await.is(0).out;
    assert!(why.contains("; a pause has been requested by postgres"), "{why}");
    // The running step is not killed.
    holds_for("it still runs", Duration::from_millis(500), async || db.state(&run).await == "running").await;
    go(&files);
    db.reaches(&run, "paused", SOON).await;
    db.step_reaches(&run, "first", "completed", SOON).await;
    let why = stepd(&db, &["why", &run]).await.is(0).out;
    assert!(why.starts_with("paused by postgres since ") && why.contains("\"the bank is down\""), "{why}");

    // The only slot is free.
    let other = db.enqueue("two_steps", "{}").await;
    db.reaches(&other, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let _worker = spec.ready().await;
    holds_for("nothing takes it up", Duration::from_secs(1), async || db.state(&run).await == "paused").await;

    assert_eq!(stepd(&db, &["unpause", &run]).await.is(0).line(), format!("{run}  unpaused, queued"));
    db.reaches(&run, "completed", SOON).await;
    let effects = files.counts("effects");
    assert_eq!((effects["first"], effects["second"]), (2, 2), "each step of both runs once");
    let trail = format!("SELECT string_agg(event, ', ' ORDER BY seq) FROM stepd.history WHERE run = '{run}'");
    assert_eq!(
        db.one::<String>(trail).await,
        "run enqueued, run started, step started, pause requested, step completed, paused, unpaused, step started, step completed, run completed"
    );
    stepd(&db, &["pause", &run]).await.is(4).says("already ended as completed");
    stepd(&db, &["unpause", &run]).await.is(4).says("already ended as completed");
}

#[tokio::test]
async fn a_pause_without_notifications_reaches_a_running_run_within_two_seconds() {
    let (db, files) = (Db::new().await, Files::new([BRANCHES]));
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("UPDATE stepd_engine.settings SET notify = false").await;
    let run = db.enqueue("branches", "{}").await;
    db.step_reaches(&run, "work", "running", SOON).await;
    db.exec(format!("SELECT stepd.pause('{run}')")).await;
    // The wait beside the step that works returns at once, the step ends by itself, nothing follows it.
    tokio::time::timeout(Duration::from_millis(2_300), async {
        let asked = "SELECT count(*) FROM stepd_engine.signals WHERE kind = 'pause'";
        assert_eq!(db.count(asked).await, 1);
        std::future::pending::<()>().await;
    })
    .await
    .unwrap_err();
    go(&files);
    db.reaches(&run, "paused", SOON).await;
    assert_eq!(files.lines("effects"), ["worked"], "no step has started after the pause");
    // An answer that comes while it is paused is kept.
    stepd(&db, &["approve", &run]).await.is(0);
    holds_for("it stays paused", Duration::from_millis(500), async || db.state(&run).await == "paused").await;
    db.exec(format!("SELECT stepd.unpause('{run}')")).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(
        (db.output(&run).await.as_str(), files.lines("effects")),
        ("true", vec!["worked".into(), "more".into()])
    );
}

#[tokio::test]
async fn a_waiting_run_is_paused_at_once_and_waits_on_when_it_is_unpaused() {
    let (db, files) = (Db::new().await, Files::new([BRANCHES]));
    let _worker = Spec::new(&db, &files).ready().await;
    go(&files);
    let run = db.enqueue("branches", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(stepd(&db, &["pause", "@last"]).await.is(0).line(), format!("{run}  paused"));
    assert_eq!(stepd(&db, &["unpause", "@last"]).await.is(0).line(), format!("{run}  unpaused, waiting"));
    stepd(&db, &["unpause", "@last"]).await.is(4).says("SD012").says("is waiting; only a paused run can be unpaused");
    stepd(&db, &["approve", "@last"]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn a_pause_that_is_withdrawn_leaves_the_run_at_work() {
    let (db, files) = (Db::new().await, Files::new([TWO_STEPS]));
    let _worker = Spec::new(&db, &files).ready().await;
    for _ in 0..3 {
        let _ = std::fs::remove_file(files.path("go"));
        let run = db.enqueue("two_steps", "{}").await;
        db.step_reaches(&run, "first", "running", SOON).await;
        db.exec(format!("SELECT stepd.pause('{run}')")).await;
        assert_eq!(db.one::<String>(format!("SELECT stepd.unpause('{run}')")).await, "running");
        go(&files);
        // Whether its worker had heard of the pause already or not.
        let took = wait_until("it completes", SOON, async || db.state(&run).await == "completed").await;
        assert!(took < Duration::from_secs(10), "{took:?}: not by the sweep");
    }
}

#[tokio::test]
async fn a_pause_that_its_worker_did_not_live_to_carry_out_is_carried_out_by_the_next() {
    let (db, files) = (Db::new().await, Files::new([TWO_STEPS]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("two_steps", "{}").await;
    db.step_reaches(&run, "first", "running", SOON).await;
    db.exec(format!("SELECT stepd.pause('{run}')")).await;
    worker.kill9();
    let _other = Spec::new(&db, &files).ready().await;
    wait_until("the first step runs again", SOON, async || {
        db.count(format!("SELECT epoch::bigint FROM stepd.runs WHERE id = '{run}'")).await > 1
    })
    .await;
    // Its worker looks for requests at least every two seconds; the step takes longer.
    wait_until("it has been told, or paused before its claim", SOON, async || {
        files.counts("effects").get("first").is_some_and(|n| *n == 2) || db.state(&run).await == "paused"
    })
    .await;
    holds_for("the second step never runs", Duration::from_millis(2_500), async || {
        !files.counts("effects").contains_key("second")
    })
    .await;
    go(&files);
    db.reaches(&run, "paused", SOON).await;
    db.exec(format!("SELECT stepd.unpause('{run}')")).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(files.counts("effects")["second"], 1);
}

#[tokio::test]
async fn a_bulk_pause_counts_each_outcome_and_one_bad_run_does_not_stop_the_others() {
    let (db, files) = (Db::new().await, Files::new([TWO_STEPS, BRANCHES]));
    let _worker = Spec::new(&db, &files).concurrency(1).ready().await;
    let at_work = db.enqueue("two_steps", "{}").await;
    db.step_reaches(&at_work, "first", "running", SOON).await;
    // In a queue of their own that is shut, for a worker may claim a run before it has a slot for it.
    db.exec("SELECT stepd.pause_queue('later')").await;
    let later = "INSERT INTO stepd.jobs (workflow, queue) VALUES ('two_steps', 'later') RETURNING id::text";
    let queued: [String; 2] = [db.one(later).await, db.one(later).await];
    stepd(&db, &["pause", "--workflow", "two_steps"]).await.is(2).says("this would pause 3 runs").says("--yes");
    stepd(&db, &["pause", "--state", "completed", "--yes"])
        .await
        .is(2)
        .says("a run that is completed cannot be paused");
    // Somebody has locked one of them.
    let mut other = db.pool.acquire().await.unwrap();
    let lock = format!("SELECT FROM stepd.jobs WHERE id = '{}' FOR UPDATE", queued[0]);
    sqlx::raw_sql("BEGIN").execute(&mut *other).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *other).await.unwrap();
    let done = stepd(&db, &["pause", "--workflow", "two_steps", "--since", "1h", "--yes"]).await.is(1);
    let done = done.says("3 runs: 1 pause requested, 1 paused, 1 refused").says(&format!("{}  canceling", queued[0]));
    assert_eq!(done.out.lines().count(), 2, "{}", done.out);
    sqlx::raw_sql("ROLLBACK").execute(&mut *other).await.unwrap();
    drop(other);
    assert_eq!((db.state(&queued[0]).await, db.state(&queued[1]).await), ("held".into(), "paused".into()));
    db.exec("SELECT stepd.unpause_queue('later')").await;
    go(&files);
    db.reaches(&at_work, "paused", SOON).await;
    db.reaches(&queued[0], "completed", SOON).await;
    stepd(&db, &["unpause", "--workflow", "two_steps", "--yes"]).await.is(0).says("2 runs unpaused");
    db.all_ended(SOON).await;
}

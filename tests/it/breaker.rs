//! The circuit breaker of automatic resumes.

use std::time::Duration;

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

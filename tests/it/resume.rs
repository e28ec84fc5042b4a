//! Failures, retries and resumes across restarts.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, wait_until};

const FLAKY: &str = r#"
name: flaky
resume: never
steps:
  - id: first
    run: echo "$STEPD_RUN_ID first $STEPD_ATTEMPT" >> @DIR@/effects
  - id: second
    run: |
      echo "$STEPD_RUN_ID second $STEPD_ATTEMPT" >> @DIR@/effects
      test "$STEPD_ATTEMPT" -ge 3
    retry: {max_attempts: 4, backoff: constant, initial: 2s, jitter: 0}
  - id: third
    run: echo "$STEPD_RUN_ID third $STEPD_ATTEMPT" >> @DIR@/effects
"#;

/// Fails until a file is there; each failure is transient. Two attempts, then resumes.
const RESUMED: &str = r#"
name: resumed
resume: {max_attempts: 10, initial: 500ms, max: 500ms}
steps:
  - id: first
    run: echo "$STEPD_RUN_ID first" >> @DIR@/effects
  - id: second
    run: |
      echo "$STEPD_RUN_ID second" >> @DIR@/effects
      test -e @DIR@/there
    retry: {max_attempts: 2, backoff: constant, initial: 50ms, jitter: 0}
"#;

const FAILING: &str = r#"
name: failing
resume: never
steps:
  - id: first
    run: echo "$STEPD_RUN_ID first" >> @DIR@/effects
  - id: second
    run: |
      echo "$STEPD_RUN_ID second" >> @DIR@/effects
      test -e @DIR@/there
    retry: {max_attempts: 1}
"#;

fn times(files: &Files, text: &str) -> usize {
    files.lines("effects").iter().filter(|l| l.contains(text)).count()
}

#[tokio::test]
async fn retries_with_backoff_survive_a_restart_during_the_wait() {
    let (db, files) = (Db::new().await, Files::new([FLAKY]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("flaky", "{}").await;
    db.step_reaches(&run, "second", "waiting", SOON).await;
    worker.kill9();
    let failed = db.count("SELECT count(*) FROM stepd_engine.events WHERE kind = 'attempt_failed'").await;
    assert_eq!(failed, 1);
    let mut worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!((times(&files, "first"), times(&files, "third")), (1, 1));
    for attempt in 1..=3 {
        assert_eq!(times(&files, &format!("second {attempt}")), 1, "{:?}", files.lines("effects"));
    }
    // The pauses were kept, through the restart too.
    let gaps: Vec<f64> = db
        .all(format!(
            "SELECT extract(epoch FROM started_at - lag(ended_at) OVER (ORDER BY attempt))::float8 AS gap FROM stepd.attempts
             WHERE run = '{run}' AND key = 'second' AND state = 'failed' ORDER BY attempt OFFSET 1"
        ))
        .await;
    assert!(gaps.iter().all(|gap| (1.9..4.0).contains(gap)), "{gaps:?}");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE crashes > 0").await, 0, "it waited, and held nothing");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_failed_run_resumes_from_the_failed_step_with_one_attempt_each_time() {
    let (db, files) = (Db::new().await, Files::new([RESUMED]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("resumed", "{}").await;
    wait_until("it has failed", SOON, async || db.state(&run).await == "resuming").await;
    assert_eq!(times(&files, "second"), 2, "its own retries first");
    wait_until("three resumes have failed", SOON, async || {
        db.count(format!("SELECT resumes::int8 FROM stepd.runs WHERE id = '{run}'")).await >= 3
            && db.state(&run).await == "resuming"
    })
    .await;
    let resumes = db.count(format!("SELECT resumes::int8 FROM stepd.runs WHERE id = '{run}'")).await;
    let attempts = i64::try_from(times(&files, "second")).unwrap();
    assert!(
        (2 + resumes..=2 + resumes + 1).contains(&attempts),
        "one attempt for each of {resumes} resumes, not {attempts}"
    );
    std::fs::write(files.path("there"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(times(&files, "first"), 1, "finished steps never run again");
}

#[tokio::test]
async fn a_resume_survives_the_death_of_its_worker() {
    let (db, files) = (Db::new().await, Files::new([RESUMED.replace("500ms", "1s")]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("resumed", "{}").await;
    wait_until("it has failed", SOON, async || db.state(&run).await == "resuming").await;
    worker.kill9();
    std::fs::write(files.path("there"), "").unwrap();
    let _heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!((times(&files, "first"), times(&files, "second")), (1, 3));
}

#[tokio::test]
async fn an_operators_retry_of_a_failed_run_repeats_only_the_failed_step() {
    let (db, files) = (Db::new().await, Files::new([FAILING]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("failing", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    std::fs::write(files.path("there"), "").unwrap();
    assert_eq!(db.one::<String>(format!("SELECT stepd.retry('{run}')")).await, "queued");
    wait_until("it completes", SOON, async || db.state(&run).await == "completed").await;
    assert_eq!((times(&files, "first"), times(&files, "second")), (1, 2));
    assert_eq!(db.events("retried").await, 1);
}

#[tokio::test]
async fn a_definition_that_changed_under_a_waiting_run_does_not_change_the_run() {
    let text = |word: &str| {
        format!(
            "name: pinned\nsteps:\n  - id: nap\n    wait: go\n  - id: say\n    set: {{v: {word}}}\noutput: steps.say.output\n"
        )
    };
    let (db, files) = (Db::new().await, Files::new([text("old")]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let old = db.enqueue("pinned", "{}").await;
    db.reaches(&old, "waiting", SOON).await;
    files.write("w0.yaml", &text("new"));
    worker.hup();
    worker.logs("\"reloaded\"").await;
    let new = db.enqueue("pinned", "{}").await;
    db.reaches(&new, "waiting", SOON).await;
    // Not even a worker that has never seen the old file.
    worker.kill9();
    let mut worker = Spec::new(&db, &files).ready().await;
    db.exec("SELECT stepd.emit('go')").await;
    db.reaches(&old, "completed", SOON).await;
    db.reaches(&new, "completed", SOON).await;
    assert!(db.output(&old).await.contains("old") && db.output(&new).await.contains("new"));
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_wrong_file_at_a_reload_changes_nothing() {
    let (db, files) = (Db::new().await, Files::new([FAILING.replace("failing", "good").replace("test -e", ": ")]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let before: String = db.one("SELECT json_agg(w)::text FROM stepd.workflows w").await;
    files.write("w1.yaml", "name: second\nsteps:\n  - id: a\n    set: {x: 1}\n");
    files.write("w2.yaml", "name: wrong\nsteps:\n  - id: a\n    rnu: true\n");
    worker.hup();
    worker.logs("the old definitions stay").await;
    assert_eq!(db.one::<String>("SELECT json_agg(w)::text FROM stepd.workflows w").await, before);
    let run = db.enqueue("good", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    std::fs::remove_file(files.workflows().join("w2.yaml")).unwrap();
    worker.hup();
    worker.logs("\"reloaded\"").await;
    let run = db.enqueue("second", "{}").await;
    db.reaches(&run, "completed", Duration::from_secs(10)).await;
}

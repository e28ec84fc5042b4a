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
async fn a_retry_writes_no_attempt_a_second_time_and_hides_none() {
    let (db, files) =
        (Db::new().await, Files::new([FAILING.replace("{max_attempts: 1}", "{max_attempts: 2, initial: 20ms}")]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("failing", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    let retry = format!("SELECT stepd.retry('{run}')");
    db.exec(&*retry).await;
    wait_until("it fails again", SOON, async || {
        db.events("attempt_failed").await == 4 && db.state(&run).await == "failed"
    })
    .await;
    std::fs::write(files.path("there"), "").unwrap();
    db.exec(&*retry).await;
    wait_until("it completes", SOON, async || db.state(&run).await == "completed").await;
    let attempts = format!(
        "SELECT string_agg(attempt || ' ' || state, ', ' ORDER BY ended_at) FROM stepd.attempts WHERE run = '{run}' AND key = 'second'"
    );
    assert_eq!(db.one::<String>(attempts).await, "1 failed, 2 failed, 1 failed, 2 failed, 1 completed");
    let lines = format!("SELECT count(*) FROM stepd.history WHERE run = '{run}' AND event = 'attempt failed'");
    assert_eq!(db.count(lines).await, 4);
}

#[tokio::test]
async fn an_operators_retry_of_a_run_that_took_too_long_begins_its_timeout_anew() {
    let text =
        "name: late\nresume: never\ntimeout: 2s\nsteps:\n  - id: slow\n    run: test -e @DIR@/there || sleep 60\n";
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("late", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    let started = format!("SELECT started_at::text FROM stepd.runs WHERE id = '{run}'");
    let first: String = db.one(&*started).await;
    std::fs::write(files.path("there"), "").unwrap();
    db.exec(format!("SELECT stepd.retry('{run}')")).await;
    assert_eq!(db.one::<String>(&*started).await, first, "the views keep the first start");
    wait_until("it completes", SOON, async || db.state(&run).await == "completed").await;
    assert_eq!(db.one::<String>(&*started).await, first);
}

/// Waits for an event that wakes all at once; then a step that shows when it started and ended.
const WOKEN: &str = "
name: woken
resume: never
steps:
  - id: go
    wait: go
  - id: work
    run: sleep 0.3
";

#[tokio::test]
async fn a_run_with_a_huge_journal_keeps_neither_the_claimer_nor_other_runs_waiting() {
    let (db, files) = (Db::new().await, Files::new([WOKEN]));
    let _worker = Spec::new(&db, &files).ready().await;
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(db.enqueue("woken", "{}").await);
    }
    for run in &runs {
        db.reaches(run, "waiting", SOON).await;
    }
    let huge = &runs[0];
    // Two hundred megabytes, and two hundred thousand rows.
    db.exec(format!(
        "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
         SELECT '{huge}', 10 + n, 1, now(), now(), 1, true, 'completed', 'filler[' || n || ']', 'set', to_json(repeat('x', 1000))::text
         FROM generate_series(1, 200000) n"
    ))
    .await;
    db.exec("SELECT stepd.emit('go')").await;
    for run in &runs {
        db.reaches(run, "completed", SOON * 2).await;
    }
    let late = db
        .count(format!(
            "SELECT count(*) FROM stepd.steps s WHERE s.key = 'work' AND s.run <> '{huge}'
             AND s.ended_at > (SELECT h.started_at FROM stepd.steps h WHERE h.run = '{huge}' AND h.key = 'work')"
        ))
        .await;
    assert_eq!(late, 0, "small runs that waited for the huge one's records");
}

#[tokio::test]
async fn an_answer_of_another_shape_than_the_definition_expects_goes_by_its_steps_on_error() {
    let text = |name: &str, on_error: &str| {
        format!(
            "name: {name}\nresume: never\nsteps:\n  - id: go\n    wait: go\n    output: event.n + 1\n    on_error: {on_error}\n  \
             - id: then\n    set: 1\noutput: steps.then.output\n"
        )
    };
    let (db, files) = (Db::new().await, Files::new([text("lenient", "continue"), text("strict", "fail")]));
    let _worker = Spec::new(&db, &files).ready().await;
    let (lenient, strict) = (db.enqueue("lenient", "{}").await, db.enqueue("strict", "{}").await);
    db.reaches(&lenient, "waiting", SOON).await;
    db.reaches(&strict, "waiting", SOON).await;
    db.exec(r#"SELECT stepd.emit('go', '{"n": [1]}')"#).await;
    db.reaches(&lenient, "completed", SOON).await;
    db.reaches(&strict, "failed", SOON).await;
    let failure =
        format!("SELECT error_code || ' ' || (error -> 'details' ->> 'step') FROM stepd.runs WHERE id = '{strict}'");
    assert_eq!(db.one::<String>(failure).await, "expression go");
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
async fn of_two_daemons_with_two_versions_of_a_workflow_the_last_load_wins_and_a_reload_of_what_has_not_changed_is_none()
 {
    let text = |word: &str| {
        format!(
            "name: both\nsteps:\n  - id: nap\n    wait: go\n  - id: say\n    set: {word}\noutput: steps.say.output\n"
        )
    };
    let (db, old, new) = (Db::new().await, Files::new([text("old")]), Files::new([text("new")]));
    let mut first = Spec::new(&db, &old).ready().await;
    let begun = db.enqueue("both", "{}").await;
    db.reaches(&begun, "waiting", SOON).await;
    let mut second = Spec::new(&db, &new).ready().await;
    assert_eq!(second.logged("in place of another version"), 1);
    let row = "SELECT (w.definition, w.loaded_at)::text FROM stepd_engine.workflows w WHERE name = 'both'";
    let loaded: String = db.one(row).await;
    // A reload for the sake of another file.
    old.write("other.yaml", "name: other\nsteps: [{id: a, set: 1}]\n");
    first.hup();
    first.logs("\"reloaded\"").await;
    assert_eq!(db.one::<String>(row).await, loaded, "the later load stands");
    assert_eq!((first.logged("stay\""), first.logged("in place of")), (1, 0), "{}", first.log());
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workflows").await, 2);
    // A load of a file that has changed wins again.
    old.write("w0.yaml", &text("newest"));
    first.hup();
    first.logs("in place of another version").await;
    assert_ne!(db.one::<String>(row).await, loaded);
    // What has begun keeps its version, and whoever has it can run it.
    first.kill9();
    db.exec("SELECT stepd.emit('go')").await;
    db.reaches(&begun, "completed", SOON).await;
    assert_eq!(db.output(&begun).await, "\"old\"");
    assert_eq!(second.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_wrong_file_at_a_reload_changes_nothing() {
    let (db, files) = (Db::new().await, Files::new([FAILING.replace("failing", "good").replace("test -e", ": ")]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let before: String = db.one("SELECT json_agg(w)::text FROM stepd.workflows w").await;
    files.write("w1.yaml", "name: second\nsteps:\n  - id: a\n    set: {x: 1}\n");
    files.write("w2.yaml", "name: wrong\nsteps:\n  - id: a\n    rnu: true\n");
    worker.hup();
    worker.logs("everything stays as it was").await;
    assert_eq!(db.one::<String>("SELECT json_agg(w)::text FROM stepd.workflows w").await, before);
    let run = db.enqueue("good", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    std::fs::remove_file(files.workflows().join("w2.yaml")).unwrap();
    worker.hup();
    worker.logs("\"reloaded\"").await;
    let run = db.enqueue("second", "{}").await;
    db.reaches(&run, "completed", Duration::from_secs(10)).await;
}

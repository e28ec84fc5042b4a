//! `stepd run`: what is tried out runs here and now, and never on a production worker.

use std::process::Stdio;
use std::time::Duration;

use crate::cli::{ASK, BAD, HELLO, stepd, stepd_at};
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

#[tokio::test]
async fn run_needs_no_daemon_and_leaves_nothing_behind() {
    let (db, files) = (Db::new().await, Files::new([HELLO, BAD]));
    let path = |n: u32| files.workflows().join(format!("w{n}.yaml")).display().to_string();
    let done = stepd(&db, &["run", &path(0), "--input", r#"{"who":"you"}"#]).await.is(0);
    assert_eq!(done.line(), r#"{"to":"you","n":123456789012345678901234567890}"#);
    stepd(&db, &["run", &path(1)]).await.is(5).says("failed at boom");
    stepd(&db, &["run", &path(0), "--input", "{}"]).await.is(2).says("hello: the input does not match");
    stepd(&db, &["run", "nothing"]).await.is(3);
    let kept =
        "SELECT count(*) FROM stepd_engine.queues q JOIN stepd.runs r ON r.queue = q.name AND r.state = 'failed'";
    assert_eq!(db.count(kept).await, 1, "a failed run's queue, for a retry");
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.queues").await, 1);
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM stepd.workflows WHERE active").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE queue LIKE 'run-%'").await, 2);
}

#[tokio::test]
async fn what_is_tried_out_is_not_what_others_run() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let _worker = Spec::new(&db, &files).ready().await;
    let trial = Files::new(["name: hello\nsteps: [{id: here, run: 'echo trial'}]\noutput: steps.here.output\n"]);
    let path = trial.workflows().join("w0.yaml").display().to_string();
    assert_eq!(stepd(&db, &["run", &path]).await.is(0).line(), "\"trial\\n\"".replace("\\n", ""));
    let done = stepd(&db, &["enqueue", "hello", "--input", r#"{"who":"me"}"#, "--wait"]).await.is(0);
    assert!(done.out.contains("\"to\":\"me\""), "{}", done.out);
    // By its name, the one that the database knows.
    let done = stepd(&db, &["run", "hello", "--input", r#"{"who":"me"}"#]).await.is(0);
    assert!(done.out.contains("\"to\":\"me\""), "{}", done.out);
}

#[tokio::test]
async fn an_ephemeral_run_needs_no_database_and_says_what_it_lacks() {
    let files = Files::new([
        HELLO,
        ASK,
        "name: pay\nsteps: [{id: w, wait: paid}]\n",
        "name: db\nsteps: [{id: s, sql: SELECT 1}]\n",
        "name: again\nresume: {max_attempts: 3, initial: 10ms, max: 10ms}\nsteps:\n  - id: once\n    run: echo x >> @DIR@/once\n  - id: flaky\n    run: test -e @DIR@/there || { touch @DIR@/there; exit 1; }\n    retry: {max_attempts: 1}\n",
    ]);
    let path = |n: u32| files.workflows().join(format!("w{n}.yaml")).display().to_string();
    let run = |n: u32, input: &str| stepd_at(None, &["run", &path(n), "--ephemeral", "--input", input]);
    let done = run(0, r#"{"who":"you"}"#).is(0).says("nothing of this run is kept");
    assert_eq!(done.line(), r#"{"to":"you","n":123456789012345678901234567890}"#);
    run(1, "{}").is(5).says("no terminal to ask on");
    run(2, "{}").is(5).says("waits for the event `paid`");
    run(3, "{}").is(5).says("no database");
    run(4, "{}").is(0).says("resumes in");
    assert_eq!(files.lines("once"), ["x"], "a finished step never runs again");
    stepd_at(None, &["run", "hello", "--ephemeral"]).is(3);
}

#[tokio::test]
async fn an_interrupted_run_is_cancelled() {
    let (db, files) = (Db::new().await, Files::new(["name: long\nsteps: [{id: s, run: sleep 60}]\n"]));
    let path = files.workflows().join("w0.yaml");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_stepd"));
    command.arg("run").arg(&path).env("DATABASE_URL", &db.url).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    wait_until("the step runs", SOON, async || {
        db.count("SELECT count(*) FROM stepd.steps WHERE key = 's' AND state = 'running'").await == 1
    })
    .await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(SOON, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'cancelled'").await, 1);
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.queues").await, 0);
}

#[tokio::test]
async fn a_retry_of_what_was_tried_out_never_reaches_an_ordinary_worker_and_why_says_what_it_needs() {
    let (db, files) =
        (Db::new().await, Files::new(["name: bad\nsteps: [{id: boom, run: echo production >> @DIR@/ran}]\n"]));
    let trial = Files::new(["
name: bad
resume: never
steps:
  - id: boom
    run: test -e @DIR@/mended && echo trial >> @DIR@/ran
    retry: {max_attempts: 1}
"]);
    let path = trial.workflows().join("w0.yaml").display().to_string();
    stepd(&db, &["run", &path]).await.is(5).says("failed at boom");
    let run = stepd(&db, &["ls", "-o", "id"]).await.is(0).line();
    // Only tried out: no worker knows the workflow.
    stepd(&db, &["retry", &run]).await.is(3).says("unknown workflow \"bad\"");
    assert_eq!(db.state(&run).await, "failed");

    let _ordinary = Spec::new(&db, &files).ready().await;
    std::fs::write(trial.path("mended"), "").unwrap();
    stepd(&db, &["retry", &run]).await.is(0);
    holds_for("it waits", Duration::from_secs(2), async || db.state(&run).await == "queued").await;
    let queue: String = db.one(format!("SELECT queue FROM stepd.runs WHERE id = '{run}'")).await;
    let why = stepd(&db, &["why", &run]).await.is(0).out;
    assert_eq!(
        why.trim(),
        format!(
            "queued: no live worker serves queue {queue}, which only those serve that name it: stepd serve --queue {queue}"
        )
    );
    let _named = Spec::new(&db, &files).arg("--queue").arg(&queue).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(
        (trial.lines("ran"), files.lines("ran")),
        (vec!["trial".to_owned()], vec![]),
        "with the definition that was tried out"
    );
}

/// Leaves a line, and goes on when there is a file.
const DAILY: &str = "name: daily\nsteps:\n  - {id: work, run: 'echo work >> @DIR@/log; until test -e @DIR@/there; do sleep 0.05; done'}\n";

#[tokio::test]
async fn a_second_run_with_the_same_key_is_refused_skipped_or_waits_as_it_is_told() {
    let (db, files) = (Db::new().await, Files::new([DAILY]));
    let file = files.workflows().join("w0.yaml").display().to_string();
    let run = |then: &'static str| {
        let (db, file) = (db.clone(), file.clone());
        tokio::spawn(
            async move { stepd(&db, &["run", &file, "--key", "daily", "--on-conflict", then, "-o", "id"]).await },
        )
    };
    let first = run("reject");
    wait_until("the first is at work", SOON, async || files.lines("log").len() == 1).await;
    run("reject").await.unwrap().is(1).says("has the key daily and has not ended").says("--on-conflict queue");
    run("skip").await.unwrap().is(0).says("nothing was run");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 1);
    let (same, queued) = (run("return"), run("queue"));
    wait_until("all three look at the one run", SOON, async || {
        let looks =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'test'
            AND (query LIKE '-- Where a run stands%' OR query LIKE '%FROM stepd.waiting%')";
        db.count(looks).await == 3
    })
    .await;
    std::fs::write(files.path("there"), "").unwrap();
    let first = first.await.unwrap().is(0).line();
    assert_eq!(same.await.unwrap().is(0).line(), first, "it ends as the other");
    assert_ne!(queued.await.unwrap().is(0).line(), first);
    assert_eq!(files.lines("log").len(), 2);
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.queues").await, 0, "no queue is left behind");
}

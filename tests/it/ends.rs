//! What is done at the end of a run: undo, on_failure, finally; whoever dies on the way.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, wait_until};

/// Books three things, and then fails, or waits.
const SAGA: &str = r#"
name: saga
resume: never
retry: {max_attempts: 2, initial: 10ms}
steps:
  - id: a
    run: echo "$STEPD_RUN_ID do a" >> @DIR@/effects
    undo: {run: 'echo "$STEPD_RUN_ID undo a" >> @DIR@/effects'}
  - id: items
    map: [x, y]
    steps:
      - id: book
        run: echo "$STEPD_RUN_ID do $ITEM" >> @DIR@/effects
        env: {ITEM: "${{ item }}"}
        undo: {run: 'echo "$STEPD_RUN_ID undo $ITEM" >> @DIR@/effects', env: {ITEM: "${{ item }}"}}
  - id: hold
    if: input.hold
    wait: never
  - id: bad
    run: echo "$STEPD_RUN_ID do bad" >> @DIR@/effects; exit 64
    retry: {max_attempts: 1}
    undo: {run: 'echo "$STEPD_RUN_ID undo bad" >> @DIR@/effects'}
on_failure:
  - run: echo "$STEPD_RUN_ID failed $CODE" >> @DIR@/effects
    env: {CODE: "${{ error.code }}"}
finally:
  - run: echo "$STEPD_RUN_ID finally $STATE" >> @DIR@/effects
    env: {STATE: "${{ run.state }}"}
"#;

const WHOLE: [&str; 10] =
    ["do a", "do x", "do y", "do bad", "undo bad", "undo y", "undo x", "undo a", "failed exit_64", "finally failed"];

/// What a run has done, in order, each the first time that it was done.
fn did(files: &Files, run: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for line in files.lines("effects") {
        if let Some(what) = line.strip_prefix(&format!("{run} "))
            && !seen.contains(&what.to_owned())
        {
            seen.push(what.to_owned());
        }
    }
    seen
}

fn times(files: &Files, run: &str) -> usize {
    files.lines("effects").iter().filter(|line| line.starts_with(run)).count()
}

async fn error_code(db: &Db, run: &str) -> String {
    db.one(format!("SELECT coalesce(error_code, 'none') FROM stepd.runs WHERE id = '{run}'")).await
}

#[tokio::test]
async fn a_run_that_fails_for_good_is_undone_newest_first_and_cannot_be_retried() {
    let (db, files) = (Db::new().await, Files::new([SAGA]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("saga", r#"{"hold": false}"#).await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(did(&files, &run), WHOLE);
    assert_eq!(times(&files, &run), WHOLE.len());
    assert_eq!(error_code(&db, &run).await, "exit_64");
    let keys: Vec<String> =
        db.all(format!("SELECT key FROM stepd.steps WHERE run = '{run}' ORDER BY seq DESC LIMIT 7")).await;
    assert_eq!(
        keys,
        ["finally[0]", "on_failure[0]", "a.undo", "items[0].book.undo", "items[1].book.undo", "bad.undo", "(end)"]
    );
    let refused = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT stepd.retry('{run}')"))).execute(&db.pool).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("SD020") && refused.contains("have been undone"), "{refused}");
    assert_eq!(db.state(&run).await, "failed");
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("fork it") && !why.contains("retry"), "{why}");
    let events: Vec<String> = db
        .all(format!("SELECT event FROM stepd.history WHERE run = '{run}' AND event LIKE 'run %' ORDER BY seq"))
        .await;
    assert_eq!(events, ["run enqueued", "run started", "run ending", "run failed"]);
}

/// Kills a worker at the n-th pass of the point while it runs a fresh run, and has another finish it.
#[cfg(feature = "failpoints")]
async fn killed_at(db: &Db, files: &Files, point: &str, n: usize) -> bool {
    let mut doomed = Spec::new(db, files).failpoints(&format!("{point}={n}:kill")).start();
    doomed.logs("\"ready\"").await;
    let run = db.enqueue("saga", r#"{"hold": false}"#).await;
    wait_until("the worker dies, or the run ends", SOON, async || {
        !doomed.is_running() || db.state(&run).await == "failed"
    })
    .await;
    let died = !doomed.is_running();
    let at = format!("killed at {point} number {n}");
    if died {
        let mut heir = Spec::new(db, files).ready().await;
        db.reaches(&run, "failed", SOON).await;
        assert_eq!(heir.drain(SOON).await, Some(0), "{at}");
    } else {
        doomed.kill9();
    }
    assert_eq!(did(files, &run), WHOLE, "{at}");
    assert!(times(files, &run) <= WHOLE.len() + 1, "{at}: more than the one step in flight was repeated");
    assert_eq!(error_code(db, &run).await, "exit_64", "{at}");
    let open = format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND state IN ('running', 'waiting')");
    assert_eq!(db.count(open).await, 0, "{at}");
    died
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn killed_around_any_commit_a_saga_comes_to_the_same_end() {
    let (db, files) = (Db::new().await, Files::new([SAGA]));
    for point in ["writer.before_commit", "writer.after_commit"] {
        let mut n = 0;
        while killed_at(&db, &files, point, n + 1).await {
            n += 1;
        }
        assert!(n >= 12, "{point} was passed only {n} times");
    }
    assert_eq!(db.events("crash_loop").await, 0);
}

#[tokio::test]
async fn a_waiting_run_is_cancelled_by_way_of_a_worker_that_undoes_it() {
    let (db, files) = (Db::new().await, Files::new([SAGA]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("saga", r#"{"hold": true}"#).await;
    db.reaches(&run, "waiting", SOON).await;
    // Nobody is there: the request waits, durable.
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}', 'enough')")).await, "requested");
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "requested", "once more does no harm");
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("it is ending as cancelled"), "{why}");
    let _worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "cancelled", SOON).await;
    assert_eq!(did(&files, &run), ["do a", "do x", "do y", "undo y", "undo x", "undo a", "finally cancelled"]);
    assert_eq!(
        db.one::<String>(format!("SELECT state::text FROM stepd.steps WHERE run = '{run}' AND key = 'hold'")).await,
        "cancelled"
    );
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("enough"), "{why}");
}

#[tokio::test]
async fn a_paused_run_that_is_cancelled_is_undone_and_one_that_has_not_begun_ends_at_once() {
    let (db, files) = (Db::new().await, Files::new([SAGA]));
    let worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("saga", r#"{"hold": true}"#).await;
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(db.one::<String>(format!("SELECT stepd.pause('{run}')")).await, "paused");
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "requested");
    db.reaches(&run, "cancelled", SOON).await;
    assert!(did(&files, &run).contains(&"undo a".to_owned()));
    drop(worker);
    db.exec("SELECT stepd.pause_queue('default')").await;
    let fresh = db.enqueue("saga", "{}").await;
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{fresh}')")).await, "cancelled");
    assert_eq!(db.state(&fresh).await, "cancelled");
    assert_eq!(times(&files, &fresh), 0);
}

const SLOW: &str = r#"
name: slow
resume: never
timeout: @LIMIT@
steps:
  - id: a
    run: sleep 600
    undo: {run: 'echo "$STEPD_RUN_ID undo a" >> @DIR@/effects; test -e @DIR@/go || sleep 2'}
finally:
  - run: echo "$STEPD_RUN_ID $STATE $CODE" >> @DIR@/effects
    env: {STATE: "${{ run.state }}", CODE: "${{ error.code }}"}
"#;

#[tokio::test]
async fn a_step_that_is_broken_off_is_undone_by_a_cancel_and_by_the_run_s_time_limit() {
    let (db, files) = (Db::new().await, Files::new([SLOW.replace("@LIMIT@", "1h")]));
    files.write("limited.yaml", &SLOW.replace("@LIMIT@", "500ms").replace("name: slow", "name: limited"));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("slow", "{}").await;
    db.step_reaches(&run, "a", "running", SOON).await;
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "requested");
    db.step_reaches(&run, "a.undo", "running", SOON).await;
    // Neither a second cancel nor the limit stops what is done at the end.
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "requested");
    db.reaches(&run, "cancelled", SOON).await;
    assert_eq!(did(&files, &run), ["undo a", "cancelled cancelled"]);
    let limited = db.enqueue("limited", "{}").await;
    db.step_reaches(&limited, "a.undo", "running", SOON).await;
    let refused = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT stepd.cancel('{limited}')"))).execute(&db.pool).await;
    assert!(refused.unwrap_err().to_string().contains("is ending as failed"));
    db.reaches(&limited, "failed", SOON).await;
    assert_eq!(did(&files, &limited), ["undo a", "failed timeout"]);
    assert_eq!(error_code(&db, &limited).await, "timeout");
}

#[tokio::test]
async fn a_drain_in_the_middle_of_an_undo_hands_the_rest_on_and_a_handler_may_wait() {
    let text = SLOW
        .replace("@LIMIT@", "500ms")
        .replace("test -e @DIR@/go || sleep 2", "test -e @DIR@/go || sleep 600")
        .replace("finally:\n", "finally:\n  - {wait: closed, timeout: 1h}\n");
    let (db, files) = (Db::new().await, Files::new([text]));
    let mut worker = Spec::new(&db, &files).grace(0).ready().await;
    let run = db.enqueue("slow", "{}").await;
    db.step_reaches(&run, "a.undo", "running", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(db.state(&run).await, "queued");
    std::fs::write(files.path("go"), "").unwrap();
    let _worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "waiting", SOON).await;
    db.step_reaches(&run, "finally[0]", "waiting", SOON).await;
    db.exec(format!("SELECT stepd.signal('{run}', 'closed')")).await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(did(&files, &run), ["undo a", "failed timeout"]);
}

#[tokio::test]
async fn a_failed_run_without_undo_is_retried_and_its_end_is_done_again() {
    let text = "
name: told
resume: never
steps:
  - {id: ok, run: 'echo \"$STEPD_RUN_ID ok\" >> @DIR@/effects'}
  - {id: try, run: 'test -e @DIR@/there', retry: {max_attempts: 1}}
on_failure: [{run: 'echo \"$STEPD_RUN_ID told\" >> @DIR@/effects'}]
finally: [{id: bye, run: 'echo \"$STEPD_RUN_ID bye\" >> @DIR@/effects'}]
";
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("told", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    db.exec(format!("SELECT stepd.retry('{run}')")).await;
    wait_until("it has failed once more", SOON, async || files.lines("effects").len() == 5).await;
    db.reaches(&run, "failed", SOON).await;
    std::fs::write(files.path("there"), "").unwrap();
    db.exec(format!("SELECT stepd.retry('{run}')")).await;
    db.reaches(&run, "completed", SOON).await;
    let lines = files.lines("effects");
    let words: Vec<&str> = lines.iter().map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["ok", "told", "bye", "told", "bye", "bye"]);
}

#[tokio::test]
async fn a_run_that_kills_its_workers_is_undone_before_it_is_given_up() {
    // The step kills the worker; its undo does not.
    let text = "
name: killer
resume: never
steps:
  - {id: a, run: 'echo \"$STEPD_RUN_ID do\" >> @DIR@/effects; kill -9 $(cat @DIR@/pid); sleep 60', undo: {run: 'echo \"$STEPD_RUN_ID undo\" >> @DIR@/effects'}}
";
    let (db, files) = (Db::new().await, Files::new([text]));
    let mut run = String::new();
    for _ in 0..10 {
        let mut worker = Spec::new(&db, &files).start();
        std::fs::write(files.path("pid"), worker.pid().to_string()).unwrap();
        if run.is_empty() {
            worker.logs("\"ready\"").await;
            run = db.enqueue("killer", "{}").await;
        }
        wait_until("it dies, or the run ends", SOON, async || !worker.is_running() || db.state(&run).await == "failed")
            .await;
        if worker.is_running() {
            break;
        }
    }
    db.reaches(&run, "failed", Duration::from_secs(60)).await;
    assert_eq!(did(&files, &run), ["do", "undo"]);
    assert_eq!(error_code(&db, &run).await, "crash_loop");
}

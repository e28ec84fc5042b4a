//! What people and other programs ask of runs: cancels, signals, events, approvals.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, Worker, holds_for, wait_until};

const SLOW: &str = r#"
name: slow
resume: never
steps:
  - id: long
    run: echo began >> @DIR@/effects; sleep 60; echo ended >> @DIR@/effects
  - id: after
    run: echo after >> @DIR@/effects
"#;

const WAITING: &str = r#"
name: waiting
resume: never
steps:
  - id: paid
    wait: paid
    match: {order: "${{ input.order }}"}
    timeout: 60s
  - id: result
    set: {got: "${{ steps.paid.output }}"}
output: steps.result.output
"#;

/// A wait beside a branch that works: the run is not suspended.
const BESIDE: &str = r#"
name: beside
resume: never
steps:
  - id: work
    needs: []
    run: "n=0; while [ ! -e @DIR@/enough ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done; echo worked >> @DIR@/effects"
  - id: paid
    needs: []
    wait: paid
    timeout: 60s
  - id: note
    needs: [paid]
    run: echo heard >> @DIR@/effects
  - id: end
    needs: [work, note]
    set: {got: "${{ steps.paid.output }}"}
output: steps.end.output
"#;

/// Two waits beside each other.
const TWO: &str = r#"
name: two
resume: never
steps:
  - id: a
    needs: []
    wait: a
  - id: b
    needs: []
    approve: Go on?
  - id: end
    needs: [a, b]
    set: {a: "${{ steps.a.output }}"}
output: steps.end.output
"#;

const APPROVED: &str = r#"
name: approved
resume: never
steps:
  - id: ask
    approve: Really?
    timeout: 60s
  - id: go
    run: echo went >> @DIR@/effects
"#;

/// Far longer than a request takes on a machine that has nothing else to do (the figures say how long), and far shorter
/// than what would bring it about otherwise: a lease that ends, a sweep, the end of the step.
const PROMPTLY: Duration = Duration::from_secs(10);

async fn ground() -> (Db, Files, Worker) {
    let (db, files) = (Db::new().await, Files::new([SLOW, WAITING, BESIDE, TWO, APPROVED]));
    let worker = Spec::new(&db, &files).ready().await;
    (db, files, worker)
}

#[tokio::test]
async fn a_cancel_reaches_a_running_step_and_kills_it() {
    let (db, files, mut worker) = ground().await;
    let run = db.enqueue("slow", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}', 'enough')")).await, "requested");
    let took = wait_until("it is cancelled", SOON, async || db.state(&run).await == "cancelled").await;
    eprintln!("a cancel reached a running step after {took:?}");
    assert!(took < PROMPTLY, "{took:?}");
    assert_eq!(files.lines("effects"), ["began"]);
    assert_eq!(
        db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND state = 'cancelled'")).await,
        1
    );
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(files.lines("effects"), ["began"]);
}

#[tokio::test]
async fn a_cancel_without_notifications_reaches_a_running_step() {
    let (db, _files, _worker) = ground().await;
    db.exec("UPDATE stepd_engine.settings SET notify = false").await;
    let run = db.enqueue("slow", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    db.exec(format!("SELECT stepd.cancel('{run}')")).await;
    let took = wait_until("it is cancelled", SOON, async || db.state(&run).await == "cancelled").await;
    eprintln!("a cancel without NOTIFY reached a running step after {took:?}");
    assert!(took < PROMPTLY, "{took:?}");
}

#[tokio::test]
async fn a_cancel_ends_queued_waiting_and_scheduled_runs_at_once() {
    let (db, files, mut worker) = ground().await;
    let waiting = db.enqueue("waiting", r#"{"order": 1}"#).await;
    db.reaches(&waiting, "waiting", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let queued = db.enqueue("slow", "{}").await;
    let scheduled: String = db
        .one("INSERT INTO stepd.jobs (workflow, run_at) VALUES ('slow', now() + interval '1 hour') RETURNING id::text")
        .await;
    for run in [&waiting, &queued, &scheduled] {
        assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "cancelled");
        assert_eq!(db.state(run).await, "cancelled");
    }
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("SELECT stepd.emit('paid', '{\"order\": 1}')").await;
    holds_for("nothing of them starts", Duration::from_secs(1), async || files.lines("effects").is_empty()).await;
    assert_eq!(db.state(&waiting).await, "cancelled");
}

#[tokio::test]
async fn an_event_wakes_the_runs_that_it_fits_and_no_others() {
    let (db, _files, _worker) = ground().await;
    let (one, two) = (db.enqueue("waiting", r#"{"order": 1}"#).await, db.enqueue("waiting", r#"{"order": 2}"#).await);
    db.reaches(&one, "waiting", SOON).await;
    db.reaches(&two, "waiting", SOON).await;
    assert_eq!(db.count(r#"SELECT stepd.emit('paid', '{"order": 2, "x": 7}')"#).await, 1);
    db.reaches(&two, "completed", SOON).await;
    assert!(db.output(&two).await.contains('7'));
    assert_eq!(db.state(&one).await, "waiting");
}

#[tokio::test]
async fn an_event_and_a_signal_that_came_before_the_wait_are_received() {
    let (db, _files, _worker) = ground().await;
    db.exec(r#"SELECT stepd.emit('paid', '{"order": 5, "via": "event"}')"#).await;
    let late = db.enqueue("waiting", r#"{"order": 5}"#).await;
    db.reaches(&late, "completed", SOON).await;
    assert!(db.output(&late).await.contains("event"));
    // In the transaction of the INSERT, before anyone can have claimed it.
    let run: String = db
        .one(
            r#"WITH j AS (INSERT INTO stepd.jobs (workflow, input) VALUES ('waiting', '{"order": 6}') RETURNING id) SELECT id::text FROM j"#,
        )
        .await;
    db.exec(format!(r#"SELECT stepd.signal('{run}', 'paid', '{{"order": 6, "via": "signal"}}')"#)).await;
    db.reaches(&run, "completed", SOON).await;
    assert!(db.output(&run).await.contains("signal"));
}

#[tokio::test]
async fn signals_sent_at_any_moment_are_received_once() {
    let (db, _files, _worker) = ground().await;
    let mut runs = Vec::new();
    for n in 0..60 {
        let run = db.enqueue("waiting", &format!(r#"{{"order": {n}}}"#)).await;
        // Around the very moment at which the wait is recorded and the run suspended.
        if n % 3 == 0 {
            wait_until("the wait is recorded", SOON, async || {
                db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}'")).await > 0
            })
            .await;
        }
        db.exec(format!(r#"SELECT stepd.signal('{run}', 'paid', '{{"order": {n}}}')"#)).await;
        runs.push(run);
    }
    // Far below the time of the repair: nothing may have been missed.
    db.all_ended(Duration::from_secs(5)).await;
    for run in &runs {
        assert_eq!(db.state(run).await, "completed");
    }
    assert_eq!(db.events("event_received").await, 60);
}

#[tokio::test]
async fn approvals_given_at_any_moment_are_received() {
    let (db, _files, _worker) = ground().await;
    for _ in 0..40 {
        let run = db.enqueue("approved", "{}").await;
        wait_until("the question is recorded", SOON, async || {
            db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND state = 'waiting'")).await > 0
        })
        .await;
        db.exec(format!("SELECT stepd.approve('{run}')")).await;
    }
    db.all_ended(Duration::from_secs(5)).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 40);
}

#[tokio::test]
async fn a_signal_is_received_while_another_branch_of_the_run_works() {
    let (db, files, _worker) = ground().await;
    let run = db.enqueue("beside", "{}").await;
    db.step_reaches(&run, "paid", "waiting", SOON).await;
    db.step_reaches(&run, "work", "running", SOON).await;
    db.exec(format!(r#"SELECT stepd.signal('{run}', 'paid', '{{"n": 1}}')"#)).await;
    let took = wait_until("it was heard", SOON, async || files.lines("effects") == ["heard"]).await;
    assert!(took < PROMPTLY, "{took:?}");
    std::fs::write(files.path("enough"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(files.lines("effects"), ["heard", "worked"]);
}

#[tokio::test]
async fn a_signal_that_came_before_the_wait_is_received_while_another_branch_works() {
    let (db, files, mut worker) = ground().await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let run = db.enqueue("beside", "{}").await;
    db.exec(format!(r#"SELECT stepd.signal('{run}', 'paid', '{{"n": 1}}')"#)).await;
    let _worker = Spec::new(&db, &files).ready().await;
    let took = wait_until("it was heard", SOON, async || files.lines("effects") == ["heard"]).await;
    eprintln!("an early signal was heard in a working run after {took:?}");
    assert!(took < PROMPTLY, "{took:?}");
    std::fs::write(files.path("enough"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn a_run_with_two_waits_keeps_the_first_answer_while_it_waits_for_the_second() {
    let (db, files, mut worker) = ground().await;
    let run = db.enqueue("two", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    db.exec(format!(r#"SELECT stepd.signal('{run}', 'a', '{{"n": 42}}')"#)).await;
    db.step_reaches(&run, "a", "completed", SOON).await;
    db.reaches(&run, "waiting", SOON).await;
    worker.kill9();
    let _heir = Spec::new(&db, &files).ready().await;
    db.exec(format!("SELECT stepd.approve('{run}', 'b')")).await;
    db.reaches(&run, "completed", SOON).await;
    assert!(db.output(&run).await.contains("42"));
}

#[tokio::test]
async fn an_approval_goes_on_and_a_rejection_fails_the_run() {
    let (db, files, _worker) = ground().await;
    let (yes, no) = (db.enqueue("approved", "{}").await, db.enqueue("approved", "{}").await);
    db.reaches(&yes, "waiting", SOON).await;
    db.reaches(&no, "waiting", SOON).await;
    db.exec(format!("SELECT stepd.reject('{no}', note => 'no')")).await;
    db.reaches(&no, "failed", SOON).await;
    assert_eq!(db.one::<String>(format!("SELECT error_code FROM stepd.runs WHERE id = '{no}'")).await, "rejected");
    assert!(files.lines("effects").is_empty());
    db.exec(format!("SELECT stepd.approve('{yes}')")).await;
    db.reaches(&yes, "completed", SOON).await;
    assert_eq!(files.lines("effects"), ["went"]);
}

#[tokio::test]
async fn an_answer_is_told_to_the_worker_whose_run_it_is_and_to_no_other() {
    use stepd::db::waits::{self, Request};
    use stepd::model::{StepKey, WorkerId};
    let (db, _files, mut worker) = ground().await;
    let run = db.enqueue("two", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let (holder, other) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    db.exec(format!(
        "SELECT stepd.approve('{run}', 'b'); UPDATE stepd.jobs SET state = 'running', lane = 2, worker = '{holder}' WHERE id = '{run}'"
    ))
    .await;
    let waits = [(run.parse().unwrap(), StepKey::new("b"))];
    let told = async |worker| waits::requests(&db.pool, WorkerId(worker), &[], &waits).await.unwrap();
    assert!(matches!(told(holder).await.as_slice(), [Request::Answer(..)]));
    assert!(told(other).await.is_empty());
}

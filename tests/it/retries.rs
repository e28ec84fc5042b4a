//! Retries are counted once, however often the run is suspended between them.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, wait_until};

#[tokio::test]
async fn pauses_that_suspend_the_run_do_not_give_a_step_fresh_attempts() {
    let db = Db::new().await;
    let files = Files::new([
        "name: stubborn\nresume: never\nretry: {max_attempts: 3, backoff: constant, initial: 1500ms, jitter: 0}\n\
         steps: [{id: tool, run: echo tried >> @DIR@/log; exit 3}]",
    ]);
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("stubborn", "{}").await;
    db.reaches(&run, "failed", Duration::from_secs(20)).await;
    assert_eq!(files.lines("log").len(), 3);
}

#[tokio::test]
async fn a_run_whose_time_is_up_while_a_failed_step_is_about_to_be_tried_again_fails() {
    let db = Db::new().await;
    let files = Files::new(["name: late\nresume: never\ntimeout: 1s\nsteps: [{id: slow, run: sleep 60}]"]);
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("late", "{}").await;
    db.reaches(&run, "failed", Duration::from_secs(20)).await;
    let code = format!("SELECT error_code FROM stepd.runs WHERE id = '{run}'");
    assert_eq!(db.one::<String>(code).await, "timeout");
}

#[tokio::test]
async fn a_death_after_a_steps_last_attempt_gives_it_no_fresh_ones_and_an_operators_retry_does() {
    let db = Db::new().await;
    let files = Files::new(["
name: spent
resume: never
steps:
  - id: bad
    run: echo tried >> @DIR@/log; exit 3
    retry: {max_attempts: 2, initial: 10ms, max: 10ms}
  - id: slow
    needs: []
    run: test -e @DIR@/there || sleep 60
"]);
    let mut dead = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("spent", "{}").await;
    // The run has not failed yet: its other step is at work.
    db.step_reaches(&run, "slow", "running", SOON).await;
    db.step_reaches(&run, "bad", "failed", SOON).await;
    dead.kill9();
    std::fs::write(files.path("there"), "").unwrap();
    let _heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(files.lines("log").len(), 2);
    db.exec(format!("SELECT stepd.retry('{run}')")).await;
    wait_until("the retry has spent its attempts", SOON, async || files.lines("log").len() == 4).await;
    db.reaches(&run, "failed", SOON).await;
}

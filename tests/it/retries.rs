//! Retries are counted once, however often the run is suspended between them.

use std::time::Duration;

use crate::support::{Db, Files, Spec};

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

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

//! `repeat` to its bound, and past it when an operator says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use stepd::{Ctx, Error, Halt, Stepd, Workflow};

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, wait_until};

/// Asks at most three times whether a file holds as many lines as it has asked.
const POLL: &str = "
name: poll
resume: never
steps:
  - id: poll
    repeat:
      steps:
        - id: look
          run: echo \"$N\" >> @DIR@/looked; while test -e @DIR@/hold; do sleep 0.02; done; test -e @DIR@/there && echo true || echo false
          env: {N: \"${{ index }}\"}
      until: steps.look.output
      max: 3
    output: index
output: steps.poll.output
";

async fn fails(db: &Db, run: &str, iterations: i64) {
    let told = format!(
        "SELECT count(*) FROM stepd.runs WHERE id = '{run}' AND state = 'failed' AND error_code = 'repeat_exhausted' AND error_message LIKE '%repeated {iterations} times%'"
    );
    wait_until(&format!("it fails after {iterations} iterations"), SOON, async || db.count(&*told).await == 1).await;
}

#[tokio::test]
async fn a_repeat_that_came_to_its_bound_goes_on_from_there_for_as_often_again_when_its_run_is_retried() {
    let (db, files) = (Db::new().await, Files::new([POLL]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("poll", "{}").await;
    fails(&db, &run, 3).await;
    assert_eq!(files.lines("looked"), ["0", "1", "2"]);
    stepd(&db, &["retry", &run]).await.is(0);
    fails(&db, &run, 6).await;
    assert_eq!(files.lines("looked")[3..], ["3", "4", "5"], "nothing is done again");
    // A worker that dies in between takes nothing of what was granted with it.
    std::fs::write(files.path("hold"), "").unwrap();
    stepd(&db, &["retry", &run]).await.is(0);
    db.step_reaches(&run, "poll[6].look", "running", SOON).await;
    wait_until("it has looked", SOON, async || files.counts("looked").contains_key("6")).await;
    worker.kill9();
    std::fs::remove_file(files.path("hold")).unwrap();
    let _heir = Spec::new(&db, &files).ready().await;
    fails(&db, &run, 9).await;
    assert_eq!(files.counts("looked")["6"], 2, "the one that was under way");
    std::fs::write(files.path("there"), "").unwrap();
    stepd(&db, &["retry", &run]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "9");
}

#[tokio::test]
async fn a_repeat_whose_step_failed_is_given_no_more_iterations_by_a_retry() {
    let text = POLL.replace("test -e @DIR@/there && echo true || echo false", "test -e @DIR@/there && echo false");
    let (db, files) = (Db::new().await, Files::new([text.replace("env:", "retry: {max_attempts: 1}\n          env:")]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("poll", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    std::fs::write(files.path("there"), "").unwrap();
    stepd(&db, &["retry", &run]).await.is(0);
    fails(&db, &run, 3).await;
    assert_eq!(files.lines("looked"), ["0", "0", "1", "2"]);
}

#[tokio::test]
async fn in_rust_it_is_the_same() {
    struct Counted(AtomicUsize);
    async fn poll(counted: &Arc<Counted>, ctx: &Ctx<'_>, enough: usize) -> Result<usize, Halt> {
        let round = async |ctx: Ctx<'_>, n: usize| {
            let look = || async move { Ok(counted.0.fetch_add(1, Ordering::SeqCst)) };
            ctx.step("look", look).await?;
            Ok((n >= enough).then_some(n))
        };
        ctx.repeat("poll", round).at_most(3).await
    }
    let db = Db::new().await;
    let counted = Arc::new(Counted(0.into()));
    let stepd = Stepd::builder().database(&db.url).queue("own").register(Workflow::with("poll", counted.clone(), poll));
    let stepd = stepd.start().await.unwrap();
    let run = stepd.enqueue("poll", &json!(7)).await.unwrap();
    for looked in [3, 6] {
        let Err(Error::Failed { failure, .. }) = stepd.result::<usize>(run).await else { panic!("it must fail") };
        assert_eq!((&*failure.code, counted.0.load(Ordering::SeqCst)), ("repeat_exhausted", looked));
        db.exec(format!("SELECT stepd.retry('{run}')")).await;
    }
    assert_eq!(stepd.result::<usize>(run).await.unwrap(), 7);
    assert_eq!(counted.0.load(Ordering::SeqCst), 8, "each round is gone through once");
    assert!(stepd.shutdown().await);
}

//! The plainest way through.

use crate::support::{Db, Files, SOON, Spec};

const HELLO: &str = "
name: hello
steps:
  - id: greet
    run: echo \"hello $WHO\"
    env: {WHO: \"${{ input.who }}\"}
  - id: result
    set: {said: \"${{ steps.greet.output }}\"}
output: steps.result.output
";

#[tokio::test]
async fn an_inserted_row_becomes_a_finished_run() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("hello", r#"{"who": "world"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert!(db.output(&run).await.contains("hello world"), "{}", db.output(&run).await);
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
}

//! Workflows in Rust that start others: children in runs of their own.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use stepd::{Builder, Client, Ctx, Error, Failure, Halt, RunId, Stepd, Workflow};

use crate::support::{Db, Files, SOON, Spec, wait_until};

fn on(db: &Db) -> Builder {
    Stepd::builder().database(&db.url).queue("own")
}

/// Fails for 0, waits for a word where it is 100 or more, and doubles.
async fn double(ctx: &Ctx<'_>, n: u64) -> Result<u64, Halt> {
    if n >= 100 {
        ctx.wait::<Value>("word", "word").await?;
    }
    ctx.step("double", || async move { if n == 0 { Err(Failure::permanent("zero", "no zero")) } else { Ok(n * 2) } })
        .await
}

async fn children_of(db: &Db, run: RunId) -> Vec<String> {
    db.all(format!("SELECT id::text FROM stepd.runs WHERE parent = '{run}' ORDER BY id")).await
}

#[tokio::test]
async fn a_child_s_output_comes_back_in_its_own_type_and_its_failure_as_one_that_can_be_caught() {
    async fn parent(ctx: &Ctx<'_>, n: u64) -> Result<(u64, String, Vec<u64>), Halt> {
        let one = ctx.child("one", "double", n).await?;
        let none = ctx.child::<u64>("none", "double", 0).caught().await?.unwrap_err();
        let each = async |ctx: Ctx<'_>, n: u64| ctx.child("each", "double", n).await;
        let all = ctx.map("all", 1..=20, each).max_parallel(20).await?;
        Ok((one, none.code.into(), all))
    }
    let db = Db::new().await;
    let stepd = on(&db).workflow("double", double).workflow("parent", parent).start().await.unwrap();
    let run = stepd.enqueue("parent", &4).await.unwrap();
    let (one, none, all): (u64, String, Vec<u64>) = stepd.result(run).await.unwrap();
    assert_eq!((one, &*none, all), (8, "child_failed", (1..=20).map(|n| n * 2).collect()));
    assert_eq!(children_of(&db, run).await.len(), 22);
    assert!(stepd.shutdown().await);
}

#[tokio::test]
async fn a_child_that_takes_too_long_is_cancelled_and_a_detached_one_goes_its_own_way() {
    async fn parent(ctx: &Ctx<'_>, _: Value) -> Result<(String, RunId), Halt> {
        let limit = Duration::from_millis(300);
        let late = ctx.child::<u64>("late", "double", 100).timeout(limit).caught().await?.unwrap_err();
        let apart = ctx.child::<u64>("apart", "double", 101).detached().await?;
        Ok((late.code.into(), apart))
    }
    let db = Db::new().await;
    let stepd = on(&db).workflow("double", double).workflow("parent", parent).start().await.unwrap();
    let run = stepd.enqueue("parent", &json!({})).await.unwrap();
    let (late, apart): (String, RunId) = stepd.result(run).await.unwrap();
    assert_eq!(late, "timeout");
    let children = children_of(&db, run).await;
    assert_eq!(children[1], apart.to_string());
    db.reaches(&children[0], "cancelled", SOON).await;
    db.reaches(&children[1], "waiting", SOON).await;
    stepd.signal(apart, "word", &json!({})).await.unwrap();
    assert_eq!(stepd.result::<u64>(apart).await.unwrap(), 202);
    // A workflow that is not there, for good.
    let lost = async |ctx: &Ctx<'_>, _: Value| ctx.child::<u64>("lost", "doubel", 1).await;
    let other = Stepd::builder().database(&db.url).queue("other").workflow("lost", lost).start().await.unwrap();
    let run = other.enqueue("lost", &json!({})).await.unwrap();
    let Err(Error::Failed { failure, .. }) = other.result::<u64>(run).await else { panic!("it must fail") };
    assert!(failure.code == "unknown_workflow" && failure.message.contains("\"double\""), "{failure}");
    assert!(other.shutdown().await && stepd.shutdown().await);
}

#[tokio::test]
async fn a_file_s_workflow_is_a_child_like_any_other() {
    let file = "name: plain\nsteps: [{id: a, set: \"${{ input.n + 1 }}\"}]\noutput: steps.a.output\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let _daemon = Spec::new(&db, &files).ready().await;
    let parent = async |ctx: &Ctx<'_>, n: u64| ctx.child::<u64>("plain", "plain", json!({"n": n})).await;
    let stepd = on(&db).workflow("parent", parent).start().await.unwrap();
    let run = stepd.enqueue("parent", &6).await.unwrap();
    assert_eq!(stepd.result::<u64>(run).await.unwrap(), 7);
    assert!(stepd.shutdown().await);
}

/// Leaves a line before its child and one after it.
struct Effects(PgPool);

impl Effects {
    async fn leave(&self, step: &str) -> Result<(), Failure> {
        sqlx::query("INSERT INTO effects VALUES ($1)").bind(step).execute(&self.0).await?;
        Ok(())
    }

    async fn work(&self, ctx: &Ctx<'_>, n: u64) -> Result<u64, Halt> {
        ctx.step("before", || self.leave("before")).await?;
        let doubled = ctx.child("child", "double", n).await?;
        ctx.step("after", || self.leave("after")).await?;
        Ok(doubled)
    }
}

/// The binary that is killed: this test program, started again with nothing but this.
#[tokio::test]
#[ignore = "the child process of a_process_that_is_killed_…, which starts it"]
async fn the_process_that_is_killed() {
    let url = std::env::var("DATABASE_URL").unwrap();
    let effects = Effects(PgPool::connect(&url).await.unwrap());
    let builder = Stepd::builder().queue("own").workflow("double", double);
    let _stepd = builder.register(Workflow::with("work", effects, Effects::work)).start().await.unwrap();
    std::future::pending::<()>().await;
}

fn process(db: &Db) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["library_children::the_process_that_is_killed", "--exact", "--ignored"]).env("DATABASE_URL", &db.url);
    command.stdout(std::process::Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn a_process_that_is_killed_while_a_run_waits_for_its_child_leaves_one_child_and_the_next_goes_on() {
    let db = Db::new().await;
    db.exec("CREATE TABLE effects (step text)").await;
    let mut first = process(&db);
    let known = "SELECT count(*) FROM stepd.workflows WHERE name = 'work'";
    wait_until("the workflow is registered", SOON, async || db.count(known).await == 1).await;
    let client = Client::new(&db.url).unwrap();
    let run = client.enqueue("work", &100).await.unwrap();
    db.step_reaches(&run.to_string(), "child", "waiting", SOON).await;
    let child = children_of(&db, run).await.remove(0);
    db.step_reaches(&child, "word", "waiting", SOON).await;
    first.kill().await.unwrap();
    // The child goes on, and ends, in the next process; its parent hears of it there.
    db.exec(format!("SELECT stepd.signal('{child}', 'word')")).await;
    let mut second = process(&db);
    assert_eq!(client.result::<u64>(run).await.unwrap(), 200);
    assert_eq!(children_of(&db, run).await, [child]);
    let effects: Vec<String> = db.all("SELECT step || count(*) FROM effects GROUP BY step ORDER BY 1").await;
    assert_eq!(effects, ["after1", "before1"]);
    second.kill().await.unwrap();
}

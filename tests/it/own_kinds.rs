//! The library for those who go further: kinds of one's own in workflow files, loops, forks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use stepd::{BoxFuture, Builder, Ctx, Error, Failure, Flow, Halt, Step, StepCx, StepOutput, Stepd, Workflow};

use crate::support::{Db, Files, SOON};

fn on(db: &Db) -> Builder {
    Stepd::builder().database(&db.url).queue("own")
}

/// Greets, and says how long the greeting is.
struct Greet;

impl Step for Greet {
    fn kind(&self) -> &'static str {
        "greet"
    }

    fn raw(&self) -> &'static [&'static str] {
        &["text", "length"]
    }

    fn run<'a>(&'a self, _: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let name = params["name"].as_str().ok_or_else(|| Failure::permanent("no_name", "`name` is missing"))?;
            let text = format!("hello {name}");
            let raw = json!({"text": text, "length": text.len()});
            Ok(Flow::Done(StepOutput { raw, default: text.into() }))
        })
    }
}

const GREETING: &str = "
name: greeting
steps:
  - id: plain
    greet: {name: \"${{ input.name }}\"}
  - id: length
    greet: {name: \"${{ input.name }}!\"}
    output: length
    retry: {max_attempts: 2}
  - id: none
    greet: {}
    on_error: continue
output: '[steps.plain.output, steps.length.output, steps.none.error.code]'
";

#[tokio::test]
async fn a_kind_of_ones_own_is_a_key_in_workflow_files() {
    let (db, files) = (Db::new().await, Files::new([GREETING]));
    let start = || on(&db).kind(Greet).workflow_files(files.workflows()).start();
    let stepd = start().await.unwrap();
    let run = stepd.enqueue("greeting", &json!({"name": "Ada"})).await.unwrap();
    assert_eq!(stepd.result::<Value>(run).await.unwrap(), json!(["hello Ada", 10, "no_name"]));
    // A run that is pinned to a definition of before finds its kind, too.
    let later = stepd
        .enqueue("greeting", &json!({"name": "Bob"}))
        .run_at(chrono::Utc::now() + chrono::TimeDelta::days(1))
        .await
        .unwrap();
    db.exec(format!("UPDATE stepd.jobs SET definition = 1 WHERE id = '{later}'")).await;
    assert!(stepd.shutdown().await);
    files.write("w0.yaml", &GREETING.replace("[steps.plain", "[1, steps.plain"));
    let stepd = start().await.unwrap();
    db.exec(format!("UPDATE stepd.jobs SET due_at = now() WHERE id = '{later}'")).await;
    assert_eq!(stepd.result::<Value>(later).await.unwrap(), json!(["hello Bob", 10, "no_name"]));
    assert!(stepd.shutdown().await);
}

#[tokio::test]
async fn a_mistake_in_such_a_file_is_told_as_any_other() {
    let db = Db::new().await;
    for (step, told) in [
        ("greeet: {name: x}", "did you mean `greet`?"),
        ("greet: Ada", "`greet` must be a mapping, not text"),
        ("greet: {}\n    nmae: x", "a `greet` step has no key `nmae`"),
        ("greet: {}\n    output: lenght", "`lenght` is not known here"),
        ("greet: {}\n    set: 1", "exclude each other"),
        ("greet: {name: \"${{ inptu.x }}\"}", "did you mean `input`?"),
    ] {
        let files = Files::new([format!("name: a\nsteps:\n  - id: one\n    {step}\n")]);
        let error = on(&db).kind(Greet).workflow_files(files.workflows()).start().await.unwrap_err();
        assert!(matches!(error, Error::Configuration(_)) && error.to_string().contains(told), "{step}: {error}");
    }
    // Without the kind the file is wrong.
    let files = Files::new([GREETING]);
    let error = on(&db).workflow_files(files.workflows()).start().await.unwrap_err();
    assert!(error.to_string().contains("it has no kind"), "{error}");
}

async fn poll(asked: &Arc<AtomicU32>, ctx: &Ctx<'_>, needed: u32) -> Result<String, Halt> {
    ctx.repeat("poll", |ctx, round| async move {
        let seen = ctx.step("ask", || async { Ok(asked.fetch_add(1, Ordering::SeqCst) + 1) }).await?;
        if seen < needed {
            ctx.sleep("pause", Duration::from_millis(150)).await?;
            return Ok(None);
        }
        Ok(Some(format!("round {round}, asked {seen}")))
    })
    .at_most(5)
    .await
}

#[tokio::test]
async fn a_loop_goes_round_until_it_has_a_result_and_repeats_no_finished_step() {
    let db = Db::new().await;
    let asked = Arc::new(AtomicU32::new(0));
    let stepd = on(&db).register(Workflow::with("poll", asked.clone(), poll)).start().await.unwrap();
    let run = stepd.enqueue("poll", &3).await.unwrap();
    // It sleeps, and is run from its top, twice.
    assert_eq!(stepd.result::<String>(run).await.unwrap(), "round 2, asked 3");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let keys: Vec<String> =
        db.all(format!("SELECT key FROM stepd.steps WHERE run = '{run}' ORDER BY key COLLATE \"C\"")).await;
    assert_eq!(keys, ["poll", "poll[0].ask", "poll[0].pause", "poll[1].ask", "poll[1].pause", "poll[2].ask"]);
    let endless = stepd.enqueue("poll", &1_000).await.unwrap();
    let Err(Error::Failed { failure, .. }) = stepd.result::<String>(endless).await else { panic!("it must end") };
    assert_eq!(failure.code, "repeat_exhausted");
    assert_eq!(asked.load(Ordering::SeqCst), 8, "five rounds more");
    assert!(stepd.shutdown().await);
}

#[tokio::test]
async fn a_run_of_rust_code_is_forked_by_the_library() {
    async fn add(ctx: &Ctx<'_>, n: i64) -> Result<i64, Halt> {
        let one = ctx.step("one", || async move { Ok(n + 1) }).await?;
        ctx.step("two", || async move { Ok(one * 10 + n) }).await
    }
    let db = Db::new().await;
    let stepd = on(&db).workflow("add", add).start().await.unwrap();
    let run = stepd.enqueue("add", &1).await.unwrap();
    assert_eq!(stepd.result::<i64>(run).await.unwrap(), 21);
    let fork = stepd.fork(run, "two").input(&5).await.unwrap();
    assert_eq!(stepd.result::<i64>(fork).await.unwrap(), 25, "the first step's result is kept, the input is new");
    assert_eq!(stepd.result::<i64>(stepd.fork(run, "one").latest().await.unwrap()).await.unwrap(), 21);
    assert!(stepd.fork(run, "three").await.unwrap_err().to_string().contains("SD017"));
    assert!(stepd.shutdown().await);
}

#[tokio::test]
async fn the_example_of_a_kind_of_ones_own_runs() {
    let example = std::path::Path::new(env!("CARGO_BIN_EXE_stepd")).with_file_name("examples").join("own_kind");
    let db = Db::new().await;
    let mut command = tokio::process::Command::new(&example);
    command.env("DATABASE_URL", &db.url).kill_on_drop(true);
    let done = tokio::time::timeout(SOON, command.output()).await.unwrap();
    let done = done.unwrap_or_else(|e| panic!("{}: {e}; cargo build --example own_kind", example.display()));
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && said.contains(r#"{"celsius":21.0,"comfortable":true}"#), "{said}");
}

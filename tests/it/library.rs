//! The library: workflows in Rust, in somebody's own binary.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use stepd::{
    BoxFuture, Builder, Class, Ctx, Error, Failure, Flow, Halt, OnInterrupt, ResumePolicy, RunId, Step, StepCx,
    StepOutput, Stepd, Workflow,
};
use tokio::sync::Notify;

use crate::support::collector::Collector;
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

fn on(db: &Db) -> Builder {
    Stepd::builder().database(&db.url).queue("own")
}

async fn double(ctx: &Ctx<'_>, n: u64) -> Result<u64, Halt> {
    ctx.step("double", || async move { Ok(n * 2) }).await
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    note: Option<String>,
    skus: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    order: Order,
    key: String,
    parcels: Vec<(String, usize)>,
    dear: bool,
}

async fn fulfil(ctx: &Ctx<'_>, order: Order) -> Result<Receipt, Halt> {
    let key = ctx.step_with("charge", |step| async move { Ok(step.idempotency_key().to_string()) }).await?;
    let pack = async |ctx: Ctx<'_>, sku: String| ctx.step("pack", || async { Ok((sku.clone(), sku.len())) }).await;
    let parcels = ctx.map("items", order.skus.clone(), pack).max_parallel(2).await?;
    let part = ctx.part("mail");
    let (dear, ()) = tokio::join!(async { part.step("charge", || async { Ok(true) }).await }, async {
        assert_eq!(ctx.run_id(), part.run_id())
    },);
    Ok(Receipt { order, key, parcels, dear: dear? })
}

#[tokio::test]
async fn inputs_and_outputs_are_the_functions_own_types() {
    let db = Db::new().await;
    let stepd = on(&db).workflow("fulfil", fulfil).start().await.unwrap();
    let order =
        Order { id: 7, note: Some("\"ü\" 🫖".into()), skus: vec!["tea".into(), "cup".into(), "spoon".into()] };
    let run = stepd.enqueue("fulfil", &order).label("order", 7).priority(2).await.unwrap();
    let receipt: Receipt = stepd.result(run).await.unwrap();
    let parcels = order.skus.iter().map(|s| (s.clone(), s.len())).collect();
    assert_eq!(receipt, Receipt { order, key: format!("{run}/charge"), parcels, dear: true });
    let keys: Vec<String> = db.all(format!("SELECT key FROM stepd.steps WHERE run = '{run}' ORDER BY key")).await;
    assert_eq!(keys, ["charge", "items", "items[0].pack", "items[1].pack", "items[2].pack", "mail.charge"]);
    let wrong = stepd.result::<u64>(run).await.unwrap_err();
    assert!(matches!(&wrong, Error::Json(why) if why.contains("asked for")), "{wrong}");
    let counted = "stepd_runs_ended_total{workflow=\"fulfil\",state=\"completed\"} 1";
    wait_until("it is counted", SOON, async || stepd.metrics().lines().any(|line| line == counted)).await;
    assert!(stepd.shutdown().await);
}

#[tokio::test]
async fn an_input_that_the_code_does_not_take_fails_the_run_at_once_and_is_never_tried_again() {
    let db = Db::new().await;
    let stepd = on(&db).workflow("fulfil", fulfil).start().await.unwrap();
    let run = stepd.enqueue("fulfil", &json!({"id": "seven"})).await.unwrap();
    let Err(Error::Failed { failure, .. }) = stepd.result::<Receipt>(run).await else { panic!("it must fail") };
    assert_eq!(failure.code, "invalid_input");
    assert!(failure.message.contains("`fulfil`") && failure.message.contains("seven"), "{failure}");
    let tried = format!("SELECT resumes + epoch FROM stepd.runs WHERE id = '{run}'");
    assert_eq!(db.one::<i32>(tried).await, 1, "one claim, no resume");
}

/// What the workflow of the killed process needs.
struct Effects(PgPool);

impl Effects {
    async fn leave(&self, step: &str) -> Result<(), Failure> {
        sqlx::query("INSERT INTO effects VALUES ($1)").bind(step).execute(&self.0).await?;
        Ok(())
    }

    async fn work(&self, ctx: &Ctx<'_>, _: Value) -> Result<String, Halt> {
        ctx.step("first", || self.leave("first")).await?;
        ctx.step_with("second", |step| async move {
            self.leave("second").await?;
            if step.epoch == 1 {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
        .await?;
        ctx.step("third", || self.leave("third")).await?;
        Ok("done".into())
    }
}

/// The binary that is killed: this test program, started again with nothing but this.
#[tokio::test]
#[ignore = "the child of a_run_whose_process_is_killed_…, which starts it"]
async fn the_process_that_is_killed() {
    let url = std::env::var("DATABASE_URL").unwrap();
    let effects = Effects(PgPool::connect(&url).await.unwrap());
    let workflow = Workflow::with("work", effects, Effects::work);
    let _stepd = Stepd::builder().queue("own").register(workflow).start().await.unwrap();
    std::future::pending::<()>().await;
}

fn child(db: &Db) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["library::the_process_that_is_killed", "--exact", "--ignored"]).env("DATABASE_URL", &db.url);
    command.stdout(std::process::Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn a_run_whose_process_is_killed_goes_on_in_the_next_from_its_last_checkpoint() {
    let db = Db::new().await;
    db.exec("CREATE TABLE effects (step text)").await;
    let mut first = child(&db);
    let known = "SELECT count(*) FROM stepd.workflows WHERE name = 'work'";
    wait_until("the workflow is registered", SOON, async || db.count(known).await == 1).await;
    let client = stepd::Client::new(&db.url).unwrap();
    let run = client.enqueue("work", &json!({})).await.unwrap();
    db.step_reaches(&run.to_string(), "second", "running", SOON).await;
    first.kill().await.unwrap();
    let mut second = child(&db);
    assert_eq!(client.result::<String>(run).await.unwrap(), "done");
    let effects: Vec<String> = db.all("SELECT step || count(*) FROM effects GROUP BY step ORDER BY 1").await;
    assert_eq!(effects, ["first1", "second2", "third1"], "what was finished is not done again, what was under way is");
    assert_eq!(db.one::<i32>(format!("SELECT crashes FROM stepd.runs WHERE id = '{run}'")).await, 1);
    second.kill().await.unwrap();
}

async fn patient(ctx: &Ctx<'_>, order: u64) -> Result<Vec<String>, Halt> {
    ctx.sleep("nap", Duration::from_millis(300)).await?;
    let paid: Value = ctx.wait("paid", "payment").matching(json!({"order": order})).await?;
    let signal: String = ctx.wait("word", "word").timeout(Duration::from_secs(60)).await?;
    let yes = ctx.approve("release", format!("Release order {order}?")).await?;
    let no = ctx.approve("gift", "Wrap it?").caught().await?.unwrap_err();
    let late = ctx.wait::<Value>("late", "never").timeout(Duration::from_millis(50)).caught().await?.unwrap_err();
    Ok(vec![paid["by"].to_string(), signal, yes.note.unwrap_or_default(), no.code.into(), late.code.into()])
}

#[tokio::test]
async fn sleeps_events_signals_and_approvals_hold_nothing_and_give_what_was_answered() {
    let db = Db::new().await;
    let stepd = on(&db).workflow("patient", patient).concurrency(1).start().await.unwrap();
    let run = stepd.enqueue("patient", &7).await.unwrap();
    let id = run.to_string();
    db.reaches(&id, "waiting", SOON).await;
    db.step_reaches(&id, "paid", "waiting", SOON).await;
    db.exec(r#"SELECT stepd.emit('payment', '{"order": 8, "by": "nobody"}')"#).await;
    // The one slot is free while it waits.
    db.reaches(&id, "waiting", SOON).await;
    let other = stepd.enqueue("patient", &9).await.unwrap();
    db.step_reaches(&other.to_string(), "paid", "waiting", SOON).await;
    stepd.cancel(other, None).await.unwrap();
    assert!(matches!(stepd.result::<Value>(other).await, Err(Error::Cancelled { run }) if run == other));
    db.exec(r#"SELECT stepd.emit('payment', '{"order": 7, "by": "card"}')"#).await;
    db.step_reaches(&id, "word", "waiting", SOON).await;
    stepd.signal(run, "word", &"sesame").await.unwrap();
    db.step_reaches(&id, "release", "waiting", SOON).await;
    stepd.approve(run, None, Some("go")).await.unwrap();
    db.step_reaches(&id, "gift", "waiting", SOON).await;
    stepd.reject(run, Some("gift"), None).await.unwrap();
    let words: Vec<String> = stepd.result(run).await.unwrap();
    assert_eq!(words, [r#""card""#, "sesame", "go", "rejected", "timeout"]);
    assert!(stepd.shutdown().await);
}

#[tokio::test]
async fn a_map_runs_as_many_items_at_once_as_it_says_and_repeats_no_finished_one_after_a_failure() {
    struct Meter {
        now: AtomicU32,
        most: AtomicU32,
        calls: AtomicU32,
    }
    impl Meter {
        async fn squares(&self, ctx: &Ctx<'_>, n: u64) -> Result<Vec<u64>, Halt> {
            ctx.map("all", 0..n, |ctx, i| async move {
                ctx.step("square", || async move {
                    self.calls.fetch_add(1, Ordering::SeqCst);
                    let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                    self.most.fetch_max(now, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    self.now.fetch_sub(1, Ordering::SeqCst);
                    Ok(i * i)
                })
                .await?;
                // Once, the last item fails after all others have ended.
                ctx.step_with("last", |step| async move {
                    if i == 11 && step.epoch == 1 {
                        return Err(Failure::transient("flaky", "not the first time"));
                    }
                    Ok(i * i)
                })
                .attempts(1)
                .await
            })
            .max_parallel(4)
            .await
        }
    }
    let db = Db::new().await;
    let meter = Arc::new(Meter { now: 0.into(), most: 0.into(), calls: 0.into() });
    let squares = async |meter: &Arc<Meter>, ctx: &Ctx<'_>, n: u64| meter.squares(ctx, n).await;
    let soon = ResumePolicy { max_attempts: 3, initial: Duration::from_millis(50), max: Duration::from_millis(50) };
    let stepd = on(&db).register(Workflow::with("squares", meter.clone(), squares).resume(soon)).start().await.unwrap();
    let run = stepd.enqueue("squares", &12).await.unwrap();
    let squares: Vec<u64> = stepd.result(run).await.unwrap();
    assert_eq!(squares, (0..12).map(|i| i * i).collect::<Vec<u64>>());
    assert_eq!((meter.most.load(Ordering::SeqCst), meter.calls.load(Ordering::SeqCst)), (4, 12));
    assert_eq!(db.one::<i32>(format!("SELECT resumes FROM stepd.runs WHERE id = '{run}'")).await, 1);
}

#[tokio::test]
async fn each_binary_runs_its_own_workflows_and_a_daemon_beside_them_claims_none() {
    let (db, files) = (Db::new().await, Files::new(["name: plain\nsteps:\n  - id: a\n    set: 1\n"]));
    let _daemon = Spec::new(&db, &files).ready().await;
    let one = on(&db).workflow("one", double).start().await.unwrap();
    let two = Stepd::builder().database(&db.url).queue("two").workflow("two", double).start().await.unwrap();
    let mut runs = Vec::new();
    for n in 0..20_u64 {
        runs.push((n, one.enqueue("one", &n).await.unwrap()));
        runs.push((n, one.enqueue("two", &n).await.unwrap()));
    }
    let plain = db.enqueue("plain", "{}").await;
    for (n, run) in runs {
        assert_eq!(two.result::<u64>(run).await.unwrap(), n * 2);
    }
    db.reaches(&plain, "completed", SOON).await;
    let workers = "SELECT count(DISTINCT worker) || ' of ' || count(*) FROM stepd_engine.ended WHERE epoch = 1 GROUP BY workflow ORDER BY workflow";
    assert_eq!(db.all::<String>(workers).await, ["1 of 20", "1 of 1", "1 of 20"]);
    assert_eq!(db.count("SELECT count(DISTINCT worker) FROM stepd_engine.ended").await, 3);
    // Without its binary a run waits, and says for what.
    assert!(two.shutdown().await);
    let run = one.enqueue("two", &1).await.unwrap().to_string();
    holds_for("nobody else takes it", Duration::from_millis(600), async || db.state(&run).await == "queued").await;
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains("two"), "{why}");
}

/// Steps that a test lets go.
struct Doors {
    entered: Notify,
    open: Notify,
}

async fn through(doors: &Arc<Doors>, ctx: &Ctx<'_>, _: Value) -> Result<i32, Halt> {
    ctx.step_with("door", |step| async move {
        doors.entered.notify_one();
        if step.epoch == 1 {
            doors.open.notified().await;
        }
        Ok(step.epoch)
    })
    .await?;
    ctx.step_with("after", |step| async move { Ok(step.epoch) }).await
}

#[tokio::test]
async fn a_shutdown_lets_steps_end_and_gives_the_rest_to_the_next_process_without_counting_it() {
    for grace in [Duration::from_secs(20), Duration::ZERO] {
        let db = Db::new().await;
        let doors = Arc::new(Doors { entered: Notify::new(), open: Notify::new() });
        let begin = || on(&db).register(Workflow::with("through", doors.clone(), through)).grace(grace).start();
        let first = begin().await.unwrap();
        let run = first.enqueue("through", &json!({})).await.unwrap();
        doors.entered.notified().await;
        let client = first.client().clone();
        let shutdown = first.shutdown();
        if grace.is_zero() {
            shutdown.await;
        } else {
            tokio::pin!(shutdown);
            let early = tokio::time::timeout(Duration::from_millis(200), &mut shutdown).await;
            assert!(early.is_err(), "it waits for steps as long as it may");
            doors.open.notify_one();
            assert!(shutdown.await);
        }
        // What has not begun stays for the next.
        let later = client.enqueue("through", &json!({})).await.unwrap();
        let states: Vec<String> = db.all("SELECT state::text FROM stepd.runs ORDER BY id").await;
        assert_eq!(states, [if grace.is_zero() { "queued" } else { "completed" }, "queued"]);
        let second = begin().await.unwrap();
        doors.open.notify_one();
        let ended_by: i32 = second.result(run).await.unwrap();
        assert_eq!(ended_by > 1, grace.is_zero());
        assert_eq!(second.result::<i32>(later).await.unwrap(), 1);
        assert_eq!(db.count("SELECT sum(crashes + resumes) FROM stepd.runs").await, 0);
        assert!(second.shutdown().await);
    }
}

#[tokio::test]
async fn what_is_enqueued_in_a_transaction_is_there_only_if_that_commits() {
    let db = Db::new().await;
    let stepd = on(&db).workflow("double", double).start().await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    let gone = stepd.enqueue_in(&mut tx, "double", &1).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    let run = stepd.enqueue_in(&mut tx, "double", &2).unique_key("two").await.unwrap();
    assert_eq!(stepd.enqueue_in(&mut tx, "double", &3).unique_key("two").await.unwrap(), run);
    assert!(matches!(stepd.result::<u64>(run).await, Err(Error::Unknown { .. })), "not before the commit");
    tx.commit().await.unwrap();
    assert_eq!(stepd.result::<u64>(run).await.unwrap(), 4);
    assert!(matches!(stepd.result::<u64>(gone).await, Err(Error::Unknown { run }) if run == gone));
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 1);
    let unknown = stepd.enqueue("duoble", &1).await.unwrap_err();
    assert!(matches!(&unknown, Error::Database(e) if e.sqlstate().as_deref() == Some("SD001")), "{unknown}");
}

#[derive(Debug, thiserror::Error)]
#[error("the card was declined")]
struct Declined;

impl From<Declined> for Failure {
    fn from(error: Declined) -> Self {
        Self::permanent("declined", error.to_string())
    }
}

async fn errors(tried: &Arc<AtomicU32>, ctx: &Ctx<'_>, _: Value) -> Result<(), Halt> {
    let io = ctx
        .step("io", || async {
            tried.fetch_add(1, Ordering::SeqCst);
            let _ = std::fs::read("/there/is/none")?;
            Ok(())
        })
        .retry(stepd::RetryPolicy { max_attempts: 2, initial: Duration::ZERO, ..Default::default() })
        .caught()
        .await?
        .unwrap_err();
    assert_eq!((&*io.code, tried.swap(10, Ordering::SeqCst)), ("error", 2), "{io}");
    // A failure stays what it is on its way through anyhow.
    let inside = |n: u32| if n > 0 { Err(anyhow::Error::from(Failure::permanent("own", "x"))) } else { Ok(()) };
    let own = ctx.step("anyhow", || async move { Ok(inside(1)?) }).caught().await?.unwrap_err();
    assert_eq!(&*own.code, "own");
    let late = ctx.step::<(), _, _>("late", std::future::pending).timeout(Duration::from_millis(20)).attempts(1);
    assert_eq!(&*late.caught().await?.unwrap_err().code, "timeout");
    let decline = |tried: Arc<AtomicU32>| async move {
        tried.fetch_add(1, Ordering::SeqCst);
        Err::<(), _>(Declined)
    };
    ctx.step("charge", || async { Ok(decline(tried.clone()).await?) }).on_interrupt(OnInterrupt::Fail).await
}

#[tokio::test]
async fn the_applications_errors_become_failures_with_the_class_and_code_that_it_gives_them() {
    let db = Db::new().await;
    let tried = Arc::new(AtomicU32::new(0));
    let stepd = on(&db).register(Workflow::with("errors", tried.clone(), errors)).start().await.unwrap();
    let run = stepd.enqueue("errors", &json!({})).await.unwrap();
    let Err(Error::Failed { failure, .. }) = stepd.result::<()>(run).await else { panic!("it must fail") };
    assert_eq!((failure.class, failure.to_string().as_str()), (Class::Permanent, "declined: the card was declined"));
    assert_eq!(tried.load(Ordering::SeqCst), 11, "a permanent failure is not tried again");
    let step: String = db.one(format!("SELECT step FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(step, "charge");
}

struct Shout;

impl Step for Shout {
    fn kind(&self) -> &'static str {
        "shout"
    }

    fn run<'a>(&'a self, _: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let text = params["text"].as_str().ok_or_else(|| Failure::permanent("no_text", "`text` is missing"))?;
            Ok(Flow::Done(StepOutput::plain(text.to_uppercase().into())))
        })
    }
}

#[tokio::test]
async fn a_kind_of_ones_own_serves_rust_code_and_a_call_to_a_standard_one_is_a_step_like_any_other() {
    async fn shout(ctx: &Ctx<'_>, text: String) -> Result<String, Halt> {
        let loud: String = ctx.call("loud", "shout", json!({"text": text})).await?;
        let said: Value = ctx.call("said", "exec", json!({"argv": ["echo", loud]})).await?;
        Ok(said.as_str().unwrap_or_default().trim().to_owned())
    }
    let db = Db::new().await;
    let stepd = on(&db).workflow("shout", shout).kind(Shout).start().await.unwrap();
    let run: RunId = stepd.enqueue("shout", &"hello").await.unwrap();
    assert_eq!(stepd.result::<String>(run).await.unwrap(), "HELLO");
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start_with_the_next_step() {
    let db = Db::new().await;
    let bare = || Stepd::builder().database(&db.url);
    for (builder, word) in [
        (bare().workflow("double", double), "name one that only this binary serves"),
        (bare().queue("default"), "everybody's"),
        (bare().queue("a").workflow("x", double).workflow("x", double), "two workflows have the name `x`"),
        (bare().queue("a").register(Workflow::new("x", double).queue("b")), ".queue(\"b\")"),
        (bare().queue("a").workflow_files("/there/is/none"), "/there/is/none"),
        (bare().queue("a").lease(Duration::from_secs(1)), "3s or more"),
        (Stepd::builder().database("nonsense").queue("a"), "postgres://"),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, Error::Configuration(_)) && error.to_string().contains(word), "{error}");
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd.workflows").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.queues").await, 0);
}

#[tokio::test]
async fn the_example_crashes_at_its_first_start_and_ends_the_run_at_its_second() {
    // Beside the binary: `cargo test` builds the examples; with `--test it` alone, `cargo build --example library` does.
    let example = std::path::Path::new(env!("CARGO_BIN_EXE_stepd")).with_file_name("examples").join("library");
    let (db, collector) = (Db::new().await, Collector::start().await);
    let start = async || {
        let mut command = tokio::process::Command::new(&example);
        command.env("DATABASE_URL", &db.url).kill_on_drop(true);
        command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", collector.place()));
        let done = tokio::time::timeout(SOON, command.output()).await.unwrap();
        let done = done.unwrap_or_else(|e| panic!("{}: {e}; cargo build --example library", example.display()));
        (done.status.success(), String::from_utf8(done.stdout).unwrap())
    };
    let (ended_well, said) = start().await;
    assert!(!ended_well && said.contains("reserve:") && said.contains("the power goes out"), "{said}");
    let (ended_well, said) = start().await;
    assert!(ended_well && said.contains(r#"Receipt { charge: "paid", parcels: ["a parcel with tea""#), "{said}");
    assert!(!said.contains("reserve:"), "a finished step never runs again: {said}");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE crashes = 1").await, 1);
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    for name in ["invoke_workflow fulfil", "charge", "charge (attempt 1)"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

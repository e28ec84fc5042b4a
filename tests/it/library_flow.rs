//! Flow control and schedules of workflows in Rust.

use std::time::Duration;

use serde_json::{Value, json};
use stepd::{
    Builder, CatchUp, Concurrency, Ctx, Error, Halt, Overlap, Rate, Schedule, Stepd, Unique, WhenFull, Workflow,
};

use crate::support::{Db, SOON, wait_until};

fn on(db: &Db) -> Builder {
    Stepd::builder().database(&db.url).queue("own")
}

async fn held(ctx: &Ctx<'_>, _: Value) -> Result<(), Halt> {
    ctx.wait::<Value>("go", "go").await?;
    Ok(())
}

#[tokio::test]
async fn a_workflow_in_rust_says_what_its_runs_may_do_together() {
    let db = Db::new().await;
    let noop = |name: &str| Workflow::new(name, nothing);
    let stepd = on(&db)
        .register(Workflow::new("one", held).unique(Unique::key("input.order").and("input.kind")))
        .register(noop("ever").unique(Unique::key("input.order").forever()))
        .register(noop("few").rate(Rate::limit(2, Duration::from_secs(3_600)).key("input.to")))
        .register(
            Workflow::new("pair", busy).concurrency(Concurrency::limit(1).key("input.k").when_full(WhenFull::Skip)),
        )
        .register(noop("nightly").schedule(
            Schedule::cron("15 2 1 1 *").timezone("Europe/Berlin").overlap(Overlap::Queue).catch_up(CatchUp::All),
        ))
        .start()
        .await
        .unwrap();
    let first = stepd.enqueue("one", &json!({"order": 7, "kind": "x"})).await.unwrap();
    assert_eq!(stepd.enqueue("one", &json!({"order": 7, "kind": "x"})).await.unwrap(), first);
    assert_ne!(stepd.enqueue("one", &json!({"order": 7, "kind": "y"})).await.unwrap(), first);

    let once = stepd.enqueue("ever", &json!({"order": 7})).await.unwrap();
    stepd.result::<Value>(once).await.unwrap();
    assert_eq!(stepd.enqueue("ever", &json!({"order": 7})).await.unwrap(), once, "also after its end");

    for to in ["a", "a", "a", "b"] {
        stepd.enqueue("few", &json!({"to": to})).await.unwrap();
    }
    wait_until("as many as the rate allows", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'few' AND state = 'completed'").await == 3
    })
    .await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'few' AND state = 'held'").await, 1);

    let running = stepd.enqueue("pair", &json!({"k": 1})).await.unwrap();
    db.reaches(&running.to_string(), "running", SOON).await;
    let skipped = stepd.enqueue("pair", &json!({"k": 1})).await.unwrap();
    let error = stepd.result::<Value>(skipped).await.unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    let known =
        "SELECT concat_ws(' ', cron, timezone, overlap, catch_up) FROM stepd.schedules WHERE workflow = 'nightly'";
    assert_eq!(db.one::<String>(known).await, "15 2 1 1 * Europe/Berlin queue all");
    assert!(stepd.shutdown().await);

    // The next binary says something else: what the code says now holds.
    let stepd = on(&db).register(noop("ever")).register(noop("nightly")).start().await.unwrap();
    assert_eq!(db.count("SELECT count(*) FROM stepd.schedules").await, 0);
    assert_eq!(
        db.count("SELECT count(*) FROM stepd_engine.workflows WHERE name = 'ever' AND flow IS NOT NULL").await,
        0
    );
    assert!(stepd.shutdown().await);
}

async fn nothing(_: &Ctx<'_>, _: Value) -> Result<(), Halt> {
    Ok(())
}

async fn busy(ctx: &Ctx<'_>, _: Value) -> Result<(), Halt> {
    ctx.step("busy", || async {
        std::future::pending::<()>().await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_setting_that_makes_no_sense_is_refused_at_the_start_with_the_workflow_and_the_way_out() {
    let db = Db::new().await;
    let minute = Duration::from_secs(60);
    let made = || Workflow::new("sync", nothing);
    for (workflow, why) in [
        (
            made().unique(Unique::key("order_id")),
            "`order_id` of `unique` is no path into the input, such as `input.order_id`",
        ),
        (made().concurrency(Concurrency::limit(0)), "the limit of `concurrency` is 0; give it 1 to 100000"),
        (made().concurrency(Concurrency::limit(1).key("input")), "`input` of `concurrency` is no path"),
        (made().rate(Rate::limit(1, Duration::ZERO)), "`rate` per 0ns: give it more than nothing and at most 31 days"),
        (made().rate(Rate::limit(1, minute * 60 * 24 * 32)), "at most 31 days"),
        (
            made().schedule(Schedule::cron("* * * *")),
            "`* * * *` in UTC cannot be a schedule: a schedule has five fields",
        ),
        (made().schedule(Schedule::cron("@daily").timezone("Berlin")), "there is no time zone `Berlin`"),
        (made().schedule(Schedule::cron("@daily").catch_up(CatchUp::All)), "say Overlap::Queue or Overlap::Allow"),
    ] {
        let error = on(&db).register(workflow).start().await.unwrap_err().to_string();
        assert!(error.starts_with("workflow `sync`: ") && error.contains(why), "{error}");
    }
}

//! The daemon is killed right after each commit of a run: between a checkpoint and the next step.

#![cfg(feature = "failpoints")]

use super::ground::{Answer, Ground};
use crate::support::{SOON, Spec, Worker, wait_until};

const AT: &str = "writer.after_commit";

/// Lets a run go on until it has ended or its worker has died: says yes to whatever it asks.
async fn goes_on(g: &Ground, run: &str, worker: &mut Worker) -> bool {
    wait_until("it ends, or its worker dies", SOON, async || {
        let asks =
            format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND kind = 'approve' AND state = 'waiting'");
        if g.db.count(asks).await > 0 {
            let yes = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT stepd.approve('{run}')")));
            // It may have been answered a moment ago.
            let _ = yes.execute(&g.db.pool).await;
        }
        !worker.is_running() || matches!(&*g.db.state(run).await, "completed" | "failed")
    })
    .await;
    worker.is_running()
}

/// Kills a worker after the n-th commit of a fresh run and has another finish it. False: there are not so many.
async fn killed_after(g: &Ground, n: usize, spec: &Spec, run: impl AsyncFnOnce() -> String) -> (String, bool) {
    let mut doomed = spec.clone().failpoints(&format!("{AT}={n}:kill")).ready().await;
    let run = run().await;
    if goes_on(g, &run, &mut doomed).await {
        return (run, false);
    }
    let mut heir = spec.ready().await;
    assert!(goes_on(g, &run, &mut heir).await);
    assert_eq!(heir.drain(SOON).await, Some(0));
    (run, true)
}

#[tokio::test]
async fn killed_after_any_commit_an_order_is_fulfilled() {
    let g = Ground::new().await;
    let mut order = 0;
    loop {
        order += 1;
        g.packed(order, "T").await;
        let (run, died) = killed_after(&g, order as usize, &g.spec(), async || g.order(order, 100_001).await).await;
        let at = format!("killed after commit {order}");
        assert_eq!(g.db.state(&run).await, "completed", "{at}");
        assert_eq!(g.written(&format!("order {order}")).await, 1, "{at}");
        let asked = g.services.asked(&run).len();
        assert!((2..=3).contains(&asked), "{at}: {asked} requests");
        for key in ["reserve", "charge"] {
            assert!(!g.services.asked(&format!("{run}/{key}")).is_empty(), "{at}");
        }
        if !died {
            break;
        }
    }
    assert!(order >= 6, "only {order} commits");
}

#[tokio::test]
async fn killed_after_any_commit_an_order_that_fails_is_taken_back() {
    let g = Ground::new().await;
    g.services.answer("/charges", Answer::Status(402));
    let mut order = 0;
    loop {
        order += 1;
        let (run, died) = killed_after(&g, order as usize, &g.spec(), async || g.order(order, 5).await).await;
        let at = format!("killed after commit {order}");
        assert_eq!(g.error(&run).await, "http_402", "{at}");
        assert_eq!(g.undone(&run).await, ["charge.undo", "reserve.undo", "on_failure[0]"], "{at}");
        let asked: Vec<String> = g.services.asked(&run).into_iter().map(|a| a.what).collect();
        let mut once = asked.clone();
        once.dedup();
        let expected = [
            format!("PUT /reservations/{run}"),
            "POST /charges".into(),
            "POST /refunds".into(),
            format!("DELETE /reservations/{run}"),
        ];
        assert_eq!(once, expected, "{at}");
        assert!(asked.len() <= 5, "{at}: more than the one that was in flight was sent again: {asked:?}");
        assert_eq!(g.db.count(format!("SELECT count(*) FROM app.notices WHERE run = '{run}'")).await, 1, "{at}");
        if !died {
            break;
        }
    }
    assert!(order >= 8, "only {order} commits");
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'notify_ops'").await, i64::from(order));
}

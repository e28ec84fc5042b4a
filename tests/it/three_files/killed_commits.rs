//! The daemon is killed right after each commit of a run: between a checkpoint and the next step.

#![cfg(feature = "failpoints")]

use super::backup;
use super::ground::{Answer, Ground};
use super::index::Index;
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

#[tokio::test]
async fn killed_after_any_commit_documents_are_indexed() {
    let index = Index::new().await;
    let g = &index.ground;
    let mut n = 0;
    loop {
        n += 1;
        let prefix = format!("p{n}");
        let (run, died) = killed_after(g, n, &g.spec(), async || index.start(&prefix).await).await;
        let at = format!("killed after commit {n}");
        assert_eq!(g.db.state(&run).await, "completed", "{at}");
        let mut calls = index.called(&format!("{prefix} list"));
        for doc in 0..2 {
            let key = format!("{prefix}-{doc}");
            assert_eq!(g.written(&format!("doc {key}")).await, 1, "{at}: {key}");
            calls += index.called(&format!("{key} docs[{doc}].text")) + index.read(&key);
        }
        // Both documents may have been under way.
        assert!((5..=7).contains(&calls), "{at}: {calls} calls");
        if !died {
            break;
        }
    }
    assert!(n >= 5, "only {n} commits");
}

#[tokio::test]
async fn killed_after_any_commit_a_backup_is_made() {
    let g = Ground::new().await;
    g.program("pg_dump", "touch \"$3\"; echo dumped >> @DIR@/did");
    g.program("find", "echo pruned >> @DIR@/did");
    let mut n = 0;
    loop {
        n += 1;
        let before = g.files.lines("did").len();
        let (run, died) = killed_after(&g, n, &g.spec(), async || backup::start(&g).await).await;
        let at = format!("killed after commit {n}");
        assert_eq!(g.db.state(&run).await, "completed", "{at}");
        let mut did = g.files.lines("did").split_off(before);
        let (count, told) = (did.len(), g.services.asked(&run).len());
        did.dedup();
        assert_eq!(did, ["dumped", "pruned"], "{at}");
        assert!(count + told <= 4 && told >= 1, "{at}: {count} programs, {told} requests");
        if !died {
            break;
        }
    }
    assert!(n >= 4, "only {n} commits");
}

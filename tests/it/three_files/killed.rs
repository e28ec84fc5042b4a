//! The daemon is killed while `fulfil_order` is at work: in each of its steps, and in each thing that takes it back. Each run stands in
//! another step when the one daemon of them all dies.

use super::ground::{Answer, Ground};
use crate::support::SOON;

const STEPS: [&str; 6] = ["order", "reserve", "release", "charge", "packed", "ship"];

#[tokio::test]
async fn killed_in_each_step_of_it_an_order_is_fulfilled_and_no_step_that_was_done_is_done_again() {
    let g = Ground::new().await;
    let mut worker = g.worker().await;
    g.services.answer(r#""sku":"sku-2""#, Answer::Never);
    g.services.answer(r#"{"order":4"#, Answer::Never);
    let mut runs = vec![String::new()];
    for order in 2..=6 {
        runs.push(g.order(order, if order == 3 { 100_001 } else { 5 }).await);
    }
    g.db.step_reaches(&runs[1], "reserve", "running", SOON).await;
    g.db.step_reaches(&runs[2], "release", "waiting", SOON).await;
    g.db.step_reaches(&runs[3], "charge", "running", SOON).await;
    g.db.step_reaches(&runs[4], "packed", "waiting", SOON).await;
    g.db.step_reaches(&runs[5], "packed", "waiting", SOON).await;
    g.db.exec("INSERT INTO app.orders VALUES (1, 'sku-1', 2, 5, 'new')").await;
    let lock = g.lock("app.orders").await;
    g.packed(6, "T6").await;
    runs[0] = g.fulfil(1, 1).await;
    g.db.step_reaches(&runs[5], "ship", "running", SOON).await;
    g.db.step_reaches(&runs[0], "order", "running", SOON).await;
    worker.kill9();
    drop(lock);
    g.services.recover();

    // What people do meanwhile counts.
    g.db.exec(format!("SELECT stepd.approve('{}')", runs[2])).await;
    for order in 1..=5 {
        g.packed(order, &format!("T{order}")).await;
    }
    let _heir = g.worker().await;
    for (n, (step, run)) in STEPS.iter().zip(&runs).enumerate() {
        let order = n + 1;
        g.db.reaches(run, "completed", SOON).await;
        let waits = matches!(*step, "release" | "packed");
        // A wait is answered in its own row; what follows it is the second claim's.
        g.went_on_from(run, if waits { STEPS[n + 1] } else { step }).await;
        let crashes = format!("SELECT crashes::bigint FROM stepd.runs WHERE id = '{run}'");
        assert_eq!(
            g.db.count(crashes).await,
            i64::from(!waits),
            "a run that waits has no worker that could die: {step}"
        );
        for (what, key) in [("PUT", "reserve"), ("POST /charges", "charge")] {
            let asked = g.services.asked(&format!("{run}/{key}"));
            assert_eq!(asked.len(), if key == *step { 2 } else { 1 }, "{key} of the run killed in {step}: {asked:?}");
            assert!(asked.iter().all(|a| a.what.starts_with(what) && a.body == asked[0].body), "{asked:?}");
        }
        assert_eq!(g.services.asked(run).len(), if matches!(*step, "reserve" | "charge") { 3 } else { 2 });
        assert_eq!(g.written(&format!("order {order}")).await, 1, "shipped once: {step}");
        let tracking: String = g.db.one(format!("SELECT tracking FROM app.orders WHERE id = {order}")).await;
        assert_eq!(tracking, format!("T{order}"));
    }
}

#[tokio::test]
async fn killed_in_each_undo_the_rest_is_undone_after_it_and_what_was_undone_is_not_undone_again() {
    let g = Ground::new().await;
    let mut worker = g.worker().await;
    let mut runs = Vec::new();
    for order in 1..=3 {
        runs.push(g.order(order, 5).await);
        g.db.step_reaches(&runs[runs.len() - 1], "packed", "waiting", SOON).await;
    }
    g.services.answer(format!("/refunds {}/", runs[0]), Answer::Never);
    g.services.answer(format!("DELETE /reservations/{}", runs[1]), Answer::Never);
    let lock = g.lock("app.notices").await;
    for run in &runs {
        g.db.exec(format!("UPDATE stepd_engine.checkpoints SET due_at = now() WHERE run = '{run}' AND key = 'packed'; UPDATE stepd.jobs SET due_at = now() WHERE id = '{run}'; SELECT stepd_engine.wake()")).await;
    }
    g.db.step_reaches(&runs[0], "charge.undo", "running", SOON).await;
    g.db.step_reaches(&runs[1], "reserve.undo", "running", SOON).await;
    // The third waits for its child, which is at work.
    g.db.step_reaches(&runs[2], "on_failure[0]", "waiting", SOON).await;
    let child: String = g.db.one(format!("SELECT id::text FROM stepd.runs WHERE parent = '{}'", runs[2])).await;
    g.db.step_reaches(&child, "tell", "running", SOON).await;
    worker.kill9();
    drop(lock);
    g.services.recover();
    let _heir = g.worker().await;
    for (n, run) in runs.iter().enumerate() {
        g.db.reaches(run, "failed", SOON).await;
        assert_eq!(g.error(run).await, "timeout");
        assert_eq!(g.undone(run).await, ["charge.undo", "reserve.undo", "on_failure[0]"]);
        let count = |what: &str| g.services.asked(run).iter().filter(|a| a.what.starts_with(what)).count();
        assert_eq!(count("POST /refunds"), if n == 0 { 2 } else { 1 }, "run {n}");
        assert_eq!(count("DELETE"), if n == 1 { 2 } else { 1 }, "run {n}");
        assert_eq!((count("PUT"), count("POST /charges")), (1, 1), "nothing of the run itself is done again");
        assert_eq!(g.db.count(format!("SELECT count(*) FROM app.notices WHERE run = '{run}'")).await, 1);
        for (what, key) in [("DELETE", "reserve.undo"), ("POST /refunds", "charge.undo")] {
            let asked: Vec<_> = g.services.asked(run).into_iter().filter(|a| a.what.starts_with(what)).collect();
            assert!(asked.iter().all(|a| a.key == format!("{run}/{key}") && a.body == asked[0].body), "{asked:?}");
        }
    }
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'notify_ops'").await, 3);
}

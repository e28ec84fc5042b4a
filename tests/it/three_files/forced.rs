//! Each step of `fulfil_order` is made to fail for good in turn.

use serde_json::Value;

use super::ground::{Answer, Ground};
use crate::support::SOON;

/// The step that fails, its order, the failure's code, and what is then asked of the services, newest first.
const EACH: [(&str, u32, &str, &[&str]); 6] = [
    ("order", 1, "expression", &[]),
    ("reserve", 2, "http_409", &["DELETE"]),
    ("release", 3, "rejected", &["DELETE"]),
    ("charge", 4, "http_402", &["POST /refunds", "DELETE"]),
    ("packed", 5, "timeout", &["POST /refunds", "DELETE"]),
    ("ship", 6, "sql_23514", &["POST /refunds", "DELETE"]),
];

/// Lets the step of that order fail: the services' answers stand already.
async fn fail(g: &Ground, step: &str, run: &str) {
    match step {
        "release" => {
            g.db.step_reaches(run, step, "waiting", SOON).await;
            g.db.exec(format!("SELECT stepd.reject('{run}')")).await;
        }
        // Five days are over.
        "packed" => {
            g.db.reaches(run, "waiting", SOON).await;
            g.db.exec(format!("UPDATE stepd_engine.checkpoints SET due_at = now() WHERE run = '{run}' AND key = 'packed'; UPDATE stepd.jobs SET due_at = now() WHERE id = '{run}'; SELECT stepd_engine.wake()")).await;
        }
        "ship" => {
            g.db.step_reaches(run, "packed", "waiting", SOON).await;
            // What Postgres refuses by a constraint.
            g.packed(6, "lost").await;
        }
        _ => {}
    }
}

#[tokio::test]
async fn whichever_step_fails_all_that_had_begun_is_undone_newest_first_and_the_operators_are_told() {
    let g = Ground::new().await;
    g.services.answer(r#""sku":"sku-2""#, Answer::Status(409));
    g.services.answer(r#"{"order":4"#, Answer::Status(402));
    let _worker = g.worker().await;
    let mut runs = Vec::new();
    for (step, order, ..) in EACH {
        let cents = if step == "release" { 100_001 } else { 5 };
        // Of the first one there is no order.
        runs.push(if step == "order" { g.fulfil(order, order).await } else { g.order(order, cents).await });
    }
    for ((step, _, code, taken_back), run) in EACH.iter().zip(&runs) {
        fail(&g, step, run).await;
        g.db.reaches(run, "failed", SOON).await;
        assert_eq!(g.error(run).await, *code, "{step}");
        let failed: String =
            g.db.one(format!("SELECT string_agg(key, ' ') FROM stepd.steps WHERE run = '{run}' AND state = 'failed'"))
                .await;
        assert_eq!(failed, *step);
        let undone: Vec<String> = taken_back
            .iter()
            .map(|what| if *what == "DELETE" { "reserve.undo" } else { "charge.undo" })
            .chain(["on_failure[0]"])
            .map(str::to_owned)
            .collect();
        assert_eq!(g.undone(run).await, undone, "{step}");
        undone_by_the_services(&g, step, run, taken_back);
        told(&g, step, code, run).await;
    }
    // One child each, no run left, nothing shipped.
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'notify_ops'").await, 6);
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.jobs").await, 0);
    assert_eq!(g.db.count("SELECT count(*) FROM app.written").await, 0);
}

/// Each undo was asked for once, in that order. `step.idempotency_key` in it is that of the step that it undoes; the header is its own, as
/// it is another request.
fn undone_by_the_services(g: &Ground, step: &str, run: &str, expected: &[&str]) {
    let asked = g.services.asked(run);
    let undos: Vec<_> = asked.iter().filter(|a| a.what.starts_with("DELETE") || a.what.ends_with("/refunds")).collect();
    assert_eq!(undos.len(), expected.len(), "{step}: {asked:?}");
    for (undo, expected) in undos.iter().zip(expected) {
        assert!(undo.what.starts_with(expected) && undo.key.ends_with(".undo"), "{step}: {asked:?}");
        match *expected {
            "DELETE" => {
                assert_eq!((&*undo.what, &*undo.body), (&*format!("DELETE /reservations/{run}"), ""), "{step}");
            }
            _ => assert_eq!(undo.body, format!(r#"{{"key":"{run}/charge"}}"#), "{step}"),
        }
    }
    let last_deed = asked.iter().rposition(|a| a.what.starts_with("PUT") || a.what.ends_with("/charges"));
    let first_undo = asked.iter().position(|a| a.what.starts_with("DELETE") || a.what.ends_with("/refunds"));
    assert!(first_undo.is_none() || last_deed < first_undo, "{step}: {asked:?}");
}

/// The child was told once, of this run, with the failure and the step that it was.
async fn told(g: &Ground, step: &str, code: &str, run: &str) {
    let errors: Vec<Value> = g.db.all(format!("SELECT error FROM app.notices WHERE run = '{run}'")).await;
    let [error] = &errors[..] else { panic!("{step}: {errors:?}") };
    assert_eq!((&error["code"], &error["details"]["step"]), (&code.into(), &step.into()), "{error}");
}

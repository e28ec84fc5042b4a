//! `fulfil_order`, to its end.

use super::ground::{Answer, Ground};
use crate::cli::stepd;
use crate::support::SOON;

#[tokio::test]
async fn an_order_is_reserved_released_charged_packed_and_shipped() {
    let g = Ground::new().await;
    let _worker = g.worker().await;
    // The first is dear and must be released by a person; the first charge of the second is turned away.
    g.services.answer(r#"{"order":2"#, Answer::Once(503));
    let g = &g;
    let dear = g.order(1, 100_001).await;
    let plain = g.order(2, 100_000).await;
    g.db.step_reaches(&dear, "release", "waiting", SOON).await;
    let why: String = g.db.one(format!("SELECT stepd.why('{dear}')")).await;
    assert!(why.contains("Release order 1?"), "{why}");
    assert!(g.services.asked(r#"{"order":1"#).is_empty(), "nothing is charged before");
    stepd(&g.db, &["approve", &dear, "--note", "known customer"]).await.is(0);
    for (order, run) in [(1, &dear), (2, &plain)] {
        g.db.step_reaches(run, "packed", "waiting", SOON).await;
        g.packed(order, &format!("T{order}")).await;
        g.db.reaches(run, "completed", SOON).await;
        let asked: Vec<_> = g.services.asked(run).into_iter().map(|a| (a.what, a.key, a.body)).collect();
        let reserved = (
            format!("PUT /reservations/{run}"),
            format!("{run}/reserve"),
            format!(r#"{{"sku":"sku-{order}","qty":2}}"#),
        );
        let cents = if order == 1 { 100_001 } else { 100_000 };
        let charged =
            ("POST /charges".to_owned(), format!("{run}/charge"), format!(r#"{{"order":{order},"cents":{cents}}}"#));
        let expected = if order == 1 { vec![reserved, charged] } else { vec![reserved, charged.clone(), charged] };
        assert_eq!(asked, expected, "the second charge has the key of the first");
        let status: String =
            g.db.one(format!("SELECT concat_ws(' ', status, tracking) FROM app.orders WHERE id = {order}")).await;
        assert_eq!(status, format!("shipped T{order}"));
        assert_eq!(g.written(&format!("order {order}")).await, 1);
    }
    let skipped = format!("SELECT state::text FROM stepd.steps WHERE run = '{plain}' AND key = 'release'");
    assert_eq!(g.db.one::<String>(skipped).await, "skipped");
    assert_eq!(g.db.count("SELECT count(*) FROM app.notices").await, 0);
}

#[tokio::test]
async fn an_order_is_fulfilled_once_at_a_time_and_a_customer_s_orders_one_after_the_other() {
    let g = Ground::new().await;
    let _worker = g.worker().await;
    g.db.exec("INSERT INTO app.orders VALUES (1, 'sku-1', 1, 10, 'new'), (2, 'sku-2', 1, 10, 'new')").await;
    let lock = g.lock("app.orders").await;
    let first = g.fulfil(1, 1).await;
    g.db.step_reaches(&first, "order", "running", SOON).await;
    let twice =
        r#"INSERT INTO stepd.jobs (workflow, input) VALUES ('fulfil_order', '{"order_id": 1, "customer_id": 9}')"#;
    assert!(sqlx::query(twice).execute(&g.db.pool).await.is_err(), "order 1 is being fulfilled already");
    let (second, other) = (g.fulfil(2, 1).await, g.fulfil(3, 2).await);
    g.db.step_reaches(&other, "order", "running", SOON).await;
    assert_eq!(g.db.state(&second).await, "held");
    // While the first waits to be packed, the customer's next order may go on. The other one's is not there.
    lock.rollback().await.unwrap();
    g.db.step_reaches(&first, "packed", "waiting", SOON).await;
    g.db.step_reaches(&second, "packed", "waiting", SOON).await;
    g.packed(1, "T").await;
    g.db.reaches(&first, "completed", SOON).await;
    g.db.reaches(&other, "failed", SOON).await;
    // And when the first has ended, the order may be fulfilled once more.
    g.fulfil(1, 9).await;
}

#[tokio::test]
async fn an_order_that_is_refused_or_cancelled_is_taken_back() {
    let g = Ground::new().await;
    let _worker = g.worker().await;
    let refused = g.order(1, 200_000).await;
    g.db.step_reaches(&refused, "release", "waiting", SOON).await;
    g.db.exec(format!("SELECT stepd.reject('{refused}', note => 'too dear')")).await;
    g.db.reaches(&refused, "failed", SOON).await;
    assert_eq!(g.error(&refused).await, "rejected");
    assert_eq!(g.undone(&refused).await, ["reserve.undo", "on_failure[0]"]);
    let cancelled = g.order(2, 10).await;
    g.db.step_reaches(&cancelled, "packed", "waiting", SOON).await;
    g.db.exec(format!("SELECT stepd.cancel('{cancelled}')")).await;
    g.db.reaches(&cancelled, "cancelled", SOON).await;
    // Nobody is told of what somebody has wanted.
    assert_eq!(g.undone(&cancelled).await, ["charge.undo", "reserve.undo"]);
    assert_eq!(g.db.count(format!("SELECT count(*) FROM app.notices WHERE run = '{cancelled}'")).await, 0);
}

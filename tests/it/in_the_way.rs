//! Somebody's transaction stands open, and has locked what a daemon needs: only that waits.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stepd::db::claims::{self, ClaimRequest};
use stepd::model::{RunState, WorkerId};
use stepd::rules::state::Fence;
use uuid::Uuid;

use crate::http::client;
use crate::support::{Db, Files, SOON, Spec, wait_until, writes};

const HOLD: &str = "name: hold\nsteps:\n  - {id: a, run: 'until [ -e @DIR@/go ]; do sleep 0.02; done'}\n";
const QUICK: &str = "name: quick\nsteps:\n  - {id: a, set: 1}\n";

/// A session with an open transaction that has locked these rows of `stepd.jobs`.
async fn locks(db: &Db, runs: &[String]) -> PgConnection {
    let mut somebody = PgConnection::connect(&db.url).await.unwrap();
    let lock = format!("BEGIN; SELECT FROM stepd.jobs WHERE id IN ('{}') FOR UPDATE", runs.join("', '"));
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut somebody).await.unwrap();
    somebody
}

#[tokio::test]
async fn runs_that_somebody_has_locked_keep_no_other_of_their_worker_from_being_recorded() {
    let (db, files) = (Db::new().await, Files::new([HOLD, QUICK]));
    // So few places have one writer.
    let mut worker = Spec::new(&db, &files).concurrency(20).ready().await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(db.enqueue("hold", "{}").await);
    }
    for run in &held {
        db.step_reaches(run, "a", "running", SOON).await;
    }
    let somebody = locks(&db, &held).await;
    std::fs::write(files.path("go"), "").unwrap();
    worker.logs("records wait behind somebody's lock").await;
    for _ in 0..5 {
        db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 20)").await;
        wait_until("the others end", SOON, async || {
            db.count("SELECT count(*) FROM stepd.jobs WHERE workflow = 'quick'").await == 0
        })
        .await;
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs WHERE workflow = 'hold'").await, 6);
    somebody.close().await.unwrap();
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 106);
    assert_eq!(worker.logged("records wait behind somebody's lock"), 1, "said once");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_locked_run_that_is_due_does_not_make_the_stager_turn_without_a_pause() {
    let waits = "name: waits\nsteps:\n  - {id: a, wait: go, timeout: 1s, on_error: continue}\n";
    let (db, files) = (Db::new().await, Files::new([waits]));
    let mut worker = Spec::new(&db, &files).http().ready().await;
    let site = worker.site().await;
    let passes = async || {
        let page = client(HeaderMap::new()).get(format!("{site}/metrics")).send().await.unwrap().text().await.unwrap();
        let line = page
            .lines()
            .find(|l| l.starts_with("stepd_service_passes_total") && l.contains("stager") && l.contains("ok"));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).expect("the stager's passes are told")
    };
    let run = db.enqueue("waits", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    let somebody = locks(&db, std::slice::from_ref(&run)).await;
    wait_until("it is due", SOON, async || {
        db.count("SELECT count(*) FROM stepd.jobs WHERE due_at < clock_timestamp()").await == 1
    })
    .await;
    let (before, began) = (passes().await, std::time::Instant::now());
    wait_until("some time has passed", SOON, async || began.elapsed() > Duration::from_secs(1)).await;
    let made = passes().await - before;
    let most = 40.0 * began.elapsed().as_secs_f64();
    assert!(made > 0.0 && made < most, "{made} passes in {:?}", began.elapsed());
    somebody.close().await.unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// A workflow that is loaded, by nobody that is there.
async fn loaded(db: &Db) {
    db.exec(
        "INSERT INTO stepd_engine.definitions (hash, workflow, body) VALUES ('w', 'w', 'name: w');
         INSERT INTO stepd_engine.workflows (name, definition) SELECT 'w', id FROM stepd_engine.definitions",
    )
    .await;
}

const ME: WorkerId = WorkerId(Uuid::from_u128(0xe));

/// A worker that claims all that is there.
async fn claims_all(db: &Db) -> Vec<claims::ClaimedRow> {
    db.exec(format!(
        "INSERT INTO stepd_engine.workers (id, host, pid, version, slots, lease_ms) VALUES ('{}', 'h', 1, 'v', 1, 500) ON CONFLICT DO NOTHING",
        ME.0
    ))
    .await;
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    let pairs = [(("default".into(), 5), (chrono::DateTime::UNIX_EPOCH, Uuid::nil()))];
    let definitions = json!({});
    let all = ClaimRequest { worker: ME, want: 100, new: 25, definitions: &definitions, serves: None, pairs: &pairs };
    claims::claim(&mut conn, &all).await.unwrap()
}

#[tokio::test]
async fn what_is_small_as_it_is_stored_and_large_as_text_does_not_come_with_the_claim() {
    let db = Db::new().await;
    loaded(&db).await;
    let numbers = "jsonb_build_object('a', (SELECT jsonb_agg('1e131071'::numeric) FROM generate_series(1, 80)))";
    db.exec(format!("INSERT INTO stepd.jobs (workflow, input) SELECT 'w', {numbers} FROM generate_series(1, 20)"))
        .await;
    db.exec("INSERT INTO stepd.jobs (workflow, input) VALUES ('w', '{\"n\": 1}')").await;
    let rows = claims_all(&db).await;
    assert_eq!(rows.len(), 21);
    assert_eq!(rows.iter().filter(|r| r.claimed.input.is_some()).count(), 1);
}

#[tokio::test]
async fn a_run_that_was_given_back_before_it_began_has_not_started_and_one_that_had_begun_has() {
    let db = Db::new().await;
    loaded(&db).await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'w' FROM generate_series(1, 2)").await;
    let claimed = claims_all(&db).await;
    assert_eq!(claimed.len(), 2);
    let begun = claimed[0].claimed.lease.run();
    db.exec(format!("UPDATE stepd.jobs SET started = true WHERE id = '{begun}'")).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs WHERE started_at IS NOT NULL").await, 2);
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    for row in &claimed {
        let lease = &row.claimed.lease;
        let mut batch = writes::batch(lease.run().0, Fence { worker: lease.worker(), epoch: lease.epoch() });
        writes::transition(&mut batch, RunState::Queued, None);
        assert!(batch.commit(&mut conn, ME.0).await.unwrap().is_empty());
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs WHERE state = 'queued'").await, 2);
    let started: Vec<String> = db.all("SELECT id::text FROM stepd.jobs WHERE started_at IS NOT NULL").await;
    assert_eq!(started, [begun.to_string()]);
}

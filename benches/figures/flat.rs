//! Flatness: drain and pickup beside much of something, against those of a fresh database in the same run.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use super::pickup::latencies;
use super::report::{Report, Target, listed, median, quantile};
use super::round::{self, JOBS, NOOP};
use super::server::Db;
use super::worker::{Kind, Worker};

/// Jobs that pass before drain and pickup are looked at again.
const CHURN: u32 = 5_000_000;

/// Runs that have ended.
const HISTORY: u32 = 10_000_000;

/// Jobs that are scheduled for tomorrow; runs that wait until tomorrow.
const RESTING: u32 = 1_000_000;

/// Of those that wait, as many are due within one second.
const DUE: u32 = 100_000;

/// Queues that the jobs are spread over.
const QUEUES: u32 = 10_000;

/// Jobs a tenth of a second, while a transaction is held open.
const HELD_LOAD: u32 = 1_000;

/// Drain and pickup of one database.
struct Look {
    drains: Vec<f64>,
    pickups: Vec<f64>,
}

impl Look {
    async fn at(bench: &Bench, db: &Db, row: &str, queues: u32) -> Result<Self> {
        let mut drains = Vec::new();
        for _ in 0..3 {
            drains.push(round::noops(bench, db, row).await?.rate);
        }
        let worker = Worker::start(&bench.server, db, Kind::Files, 100).await?;
        let pickups = latencies(db, "noop", 300, queues as usize).await?;
        worker.stop().await?;
        Ok(Self { drains, pickups })
    }

    async fn fresh(bench: &Bench) -> Result<Self> {
        let db = bench.server.database().await?;
        Self::at(bench, &db, NOOP, 0).await
    }

    /// Reports this against `fresh`, each within `slack` of it.
    fn tell(&self, what: &str, fresh: &Self, slack: f64, report: &mut Report) {
        let both = format!("{}; fresh {}", listed(&self.drains), listed(&fresh.drains));
        let ratio = median(&self.drains) / median(&fresh.drains);
        report.add(&format!("drain {what} / fresh"), ratio, "", Some(Target::AtLeast(1.0 - slack)), both);
        let p = |of: &Self, share| quantile(&of.pickups, share);
        let both = format!(
            "p50 {:.2}, p99 {:.2}; fresh {:.2}, {:.2} ms",
            p(self, 0.5),
            p(self, 0.99),
            p(fresh, 0.5),
            p(fresh, 0.99)
        );
        let ratio = p(self, 0.5) / p(fresh, 0.5);
        report.add(&format!("pickup {what} / fresh"), ratio, "", Some(Target::AtMost(1.0 + slack)), both);
    }
}

/// After five million jobs.
pub async fn churn(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let fresh = Look::fresh(bench).await?;
    for _ in 0..CHURN / (5 * JOBS) {
        round::run(bench, &db, Kind::Files, NOOP, 5 * JOBS).await?;
    }
    Look::at(bench, &db, NOOP, 0).await?.tell("after 5 M jobs", &fresh, 0.15, report);
    Ok(())
}

/// With ten million ended runs.
pub async fn history(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let fresh = Look::fresh(bench).await?;
    round::noops(bench, &db, NOOP).await?;
    copy(&db, "stepd_engine.ended", "id", HISTORY).await?;
    db.execute("CHECKPOINT").await?;
    Look::at(bench, &db, NOOP, 0).await?.tell("with 10 M ended", &fresh, 0.15, report);
    Ok(())
}

/// Copies one row of a table, with other ids in the place of its id, all older than it; the same ids in each table.
async fn copy(db: &Db, table: &str, id: &str, n: u32) -> Result<()> {
    let mut conn = db.connect().await?;
    let columns: String = sqlx::query_scalar(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attname <> $2",
    )
    .bind(table)
    .bind(id)
    .fetch_one(&mut conn)
    .await?;
    db.execute(&format!(
        "INSERT INTO {table} ({id}, {columns})
         SELECT (lpad(to_hex(1700000000000 + i), 12, '0') || substr(md5(i::text), 1, 20))::uuid, {columns}
         FROM (SELECT * FROM {table} LIMIT 1) one, generate_series(1, {n}) i"
    ))
    .await
}

/// With a million jobs for tomorrow.
pub async fn scheduled(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let fresh = Look::fresh(bench).await?;
    db.execute(&format!(
        "INSERT INTO stepd.jobs (workflow, run_at) SELECT 'noop', now() + interval '1 day' FROM generate_series(1, {RESTING})"
    ))
    .await?;
    db.execute("CHECKPOINT").await?;
    Look::at(bench, &db, NOOP, 0).await?.tell("with 1 M scheduled", &fresh, 0.15, report);
    Ok(())
}

/// With a million runs that sleep; then a tenth of them wakes within one second.
pub async fn waiting(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let fresh = Look::fresh(bench).await?;
    // Those that will wake have slept by themselves; the others are copies of one of them.
    db.execute(&format!("INSERT INTO stepd.jobs (workflow) SELECT 'nap' FROM generate_series(1, {DUE})")).await?;
    let worker = Worker::start(&bench.server, &db, Kind::Files, 1_000).await?;
    while db.number("SELECT EXISTS (SELECT FROM stepd.jobs WHERE lane = 0)::int").await? > 0.0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    worker.stop().await?;
    db.execute("CREATE TABLE nappers AS SELECT id, clock_timestamp() AS at FROM stepd.jobs; ANALYZE nappers").await?;
    db.execute("ALTER TABLE stepd.jobs DISABLE TRIGGER USER").await?;
    copy(&db, "stepd.jobs", "id", RESTING - DUE).await?;
    copy(&db, "stepd_engine.checkpoints", "run", RESTING - DUE).await?;
    db.execute("ALTER TABLE stepd.jobs ENABLE TRIGGER USER").await?;
    db.execute("CHECKPOINT").await?;
    Look::at(bench, &db, NOOP, 0).await?.tell("with 1 M waiting", &fresh, 0.15, report);
    wake(bench, &db, &fresh, report).await
}

async fn wake(bench: &Bench, db: &Db, fresh: &Look, report: &mut Report) -> Result<()> {
    let worker = Worker::start(&bench.server, db, Kind::Files, 1_000).await?;
    // Far enough ahead for the two updates.
    let due = db.number("SELECT extract(epoch FROM clock_timestamp() + interval '20 s')").await?;
    db.execute(&format!(
        "UPDATE nappers SET at = to_timestamp({due} + random());
         UPDATE stepd.jobs j SET due_at = n.at FROM nappers n WHERE j.id = n.id;
         UPDATE stepd_engine.checkpoints c SET due_at = n.at FROM nappers n WHERE c.run = n.id"
    ))
    .await?;
    while db.number("SELECT extract(epoch FROM clock_timestamp())").await? < due {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pickups = latencies(db, "noop", 100, 0).await?;
    let awake = "SELECT count(*) FROM nappers n JOIN stepd_engine.ended e ON e.id = n.id";
    while db.number(awake).await? < f64::from(DUE) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let last = "SELECT extract(epoch FROM max(e.ended_at)) FROM nappers n JOIN stepd_engine.ended e ON e.id = n.id";
    let took = db.number(last).await? - due;
    worker.stop().await?;
    report.plain("100,000 due in one second, all ended", took, "s", "from the first one's due time");
    let note = format!("p99 {:.1}", quantile(&pickups, 0.99));
    report.plain("pickup meanwhile p50", quantile(&pickups, 0.5), "ms", note);
    let ratio = f64::from(DUE) / took / median(&fresh.drains);
    report.plain("woken runs a second / fresh drain", ratio, "", format!("{:.0} runs/s", f64::from(DUE) / took));
    Ok(())
}

/// Jobs spread over ten thousand queues.
pub async fn queues(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let fresh = Look::fresh(bench).await?;
    let row = format!("'noop', 'q' || i % {QUEUES}, NULL");
    Look::at(bench, &db, &row, QUEUES).await?.tell("over 10,000 queues", &fresh, 0.15, report);
    Ok(())
}

/// Beside a transaction that has been open under load.
pub async fn held(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let fresh = Look::fresh(bench).await?;
    let mut holder = db.connect().await?;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()").execute(&mut holder).await?;
    let worker = Worker::start(&bench.server, &db, Kind::Files, 1_000).await?;
    let (place, began, mut jobs) = (db.place().await?, Instant::now(), 0);
    let add = format!("INSERT INTO stepd.jobs (workflow) SELECT 'noop' FROM generate_series(1, {HELD_LOAD})");
    let mut every = tokio::time::interval(Duration::from_millis(100));
    while began.elapsed() < Duration::from_secs(60 * bench.held_minutes) {
        every.tick().await;
        db.execute(&add).await?;
        jobs += HELD_LOAD;
    }
    db.ended(&place, jobs).await?;
    worker.stop().await?;
    let what = format!("{} min into an open transaction", bench.held_minutes);
    let look = Look::at(bench, &db, NOOP, 0).await?;
    look.tell(&what, &fresh, 0.3, report);
    report.plain("jobs in that time", f64::from(jobs), "", "");
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await?;
    Ok(())
}

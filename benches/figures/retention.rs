//! Retention: a million ended runs go while a daemon works; what that takes from it, whom it keeps waiting, and what it leaves behind.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use super::pickup::latencies;
use super::report::{Report, Target, listed, median, quantile};
use super::round::{self, NOOP};
use super::server::Db;
use super::worker::{Kind, Worker};

/// Old runs, with two steps and a line of history each.
const OLD: u32 = 1_000_000;

/// Everything that was enqueued before 2024 is old.
const LEFT: &str = "SELECT count(*)::float8 FROM stepd_engine.ended WHERE id < '018f0000-0000-0000-0000-000000000000'";

async fn fill(db: &Db) -> Result<()> {
    db.execute(&format!(
        "INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels,
            output, last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
         SELECT (lpad(to_hex(1700000000000 + i), 12, '0') || '7' || substr(md5(i::text), 1, 19))::uuid, 'completed', 1, 5, 0, 0, now(), now(),
            now() - interval '2 days', 'noop', 'default', '{{\"customer\": 42}}', '{{}}', '{{\"ok\": true}}', 3, 1, now(), 'c', 'set', '1'
         FROM generate_series(1, {OLD}) i"
    ))
    .await?;
    db.execute(
        "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
         SELECT e.id, k, 1, now(), now(), 1, true, 'completed', 'step' || k, 'http', '{\"status\": 200}'
         FROM stepd_engine.ended e, generate_series(1, 2) k WHERE e.ended_at < now() - interval '1 day'",
    )
    .await?;
    db.execute(
        "INSERT INTO stepd_engine.events (run, kind, key) SELECT id, 'attempt_failed', 'step1' FROM stepd_engine.ended WHERE ended_at < now() - interval '1 day'",
    )
    .await?;
    db.execute("ANALYZE").await?;
    db.execute("CHECKPOINT").await
}

/// Bytes of the tables that history is made of.
async fn bytes(db: &Db) -> Result<f64> {
    db.number(
        "SELECT sum(pg_total_relation_size(t))::float8 FROM unnest('{stepd_engine.ended,stepd_engine.checkpoints,stepd_engine.events}'::regclass[]) t",
    )
    .await
}

/// The part of the rows of these tables that are dead.
const DEAD: &str = "SELECT max(n_dead_tup::float8 / greatest(1, n_live_tup + n_dead_tup)) FROM pg_stat_user_tables
    WHERE schemaname = 'stepd_engine' AND relname IN ('ended', 'checkpoints', 'events')";

/// Three drains beside a second daemon that keeps everything, three beside one that keeps an hour; then until all that is old is gone.
pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    round::noops(bench, &db, NOOP).await?;
    fill(&db).await?;
    let (mut before, mut beside) = (Vec::new(), Vec::new());
    let keeps = Worker::start(&bench.server, &db, Kind::Files, 1_000).await?;
    let filled = bytes(&db).await?;
    for _ in 0..3 {
        before.push(round::noops(bench, &db, NOOP).await?.rate);
    }
    let calm = latencies(&db, "noop", 300, 0).await?;
    keeps.stop().await?;
    let large = bytes(&db).await?;
    let began = Instant::now();
    let prunes = Worker::keeping(&bench.server, &db, "1h").await?;
    for _ in 0..3 {
        beside.push(round::noops(bench, &db, NOOP).await?.rate);
    }
    let pruned = latencies(&db, "noop", 300, 0).await?;
    while db.number(LEFT).await? > 0.0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = began.elapsed().as_secs_f64();
    prunes.stop().await?;
    let note = format!("{}; without {}", listed(&beside), listed(&before));
    report.add(
        "drain while 1 M runs go / before",
        median(&beside) / median(&before),
        "",
        Some(Target::AtLeast(0.85)),
        note,
    );
    let p99 = |of: &[f64]| quantile(of, 0.99);
    let note = format!("p99 {:.2}; without {:.2} ms", p99(&pruned), p99(&calm));
    report.add("pickup p99 while they go / before", p99(&pruned) / p99(&calm), "", Some(Target::AtMost(2.0)), note);
    report.plain(
        "ended runs removed a second",
        f64::from(OLD) / took,
        "",
        "with their steps and lines, all of it in four rests and one work",
    );
    // What went is room for what comes, once autovacuum has been there: it looks once a minute.
    while db.number(DEAD).await? > 0.1 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    fill(&db).await?;
    // The drains beside it have left as much as those before.
    let again = bytes(&db).await? / (2.0 * large - filled);
    report.add(
        "size after another million / before",
        again,
        "",
        Some(Target::AtMost(1.3)),
        "the same rows once more, after autovacuum, no VACUUM by hand",
    );
    Ok(())
}

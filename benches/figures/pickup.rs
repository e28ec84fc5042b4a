//! Pickup: single INSERTs on an idle daemon, 20 to 50 ms apart.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, quantile};
use super::server::Db;
use super::worker::{Kind, Worker, micros};

/// The first ones warm caches and plans up.
pub const WARM: usize = 20;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let worker = Worker::start(&bench.server, &db, Kind::Code, 100).await?;
    let found = latencies(&db, "code_1", if bench.full { 3_000 } else { 600 }, 0).await?;
    worker.stop().await?;
    report.add(
        "pickup p50",
        quantile(&found, 0.5),
        "ms",
        Some(Target::AtMost(0.8)),
        "commit seen by the client to step",
    );
    report.add("pickup p99", quantile(&found, 0.99), "ms", Some(Target::AtMost(1.5)), "");
    report.plain("pickup max", quantile(&found, 1.0), "ms", "");
    Ok(())
}

/// The latencies of `n` INSERTs, in ms; each goes to one of a number of queues, or to the workflow's own.
pub async fn latencies(db: &Db, workflow: &str, n: usize, queues: usize) -> Result<Vec<f64>> {
    let mut conn = db.connect().await?;
    let place = db.place().await?;
    let mut commits = Vec::with_capacity(n);
    let sql = "INSERT INTO stepd.jobs (workflow, queue) VALUES ($1, $2) RETURNING id::text";
    for i in 0..n + WARM {
        tokio::time::sleep(Duration::from_micros(fastrand::u64(20_000..50_000))).await;
        let queue = (queues > 0).then(|| format!("q{}", fastrand::usize(0..queues)));
        let id: String = sqlx::query_scalar(sql).bind(workflow).bind(queue).fetch_one(&mut conn).await?;
        if i >= WARM {
            commits.push((id, i64::try_from(micros())?));
        }
    }
    db.ended(&place, u32::try_from(n + WARM)?).await?;
    since(db, &place, &commits).await
}

/// From commits, in µs since 1970, to the starts of those runs, in ms.
pub async fn since(db: &Db, place: &str, commits: &[(String, i64)]) -> Result<Vec<f64>> {
    // Rust code says it by the clock of this machine; of a file the engine does, by the database's.
    let sql = "SELECT id::text, CASE workflow WHEN 'code_1' THEN (last_output::json ->> 0)::bigint
            ELSE (extract(epoch FROM last_started_at) * 1000000)::bigint END
        FROM stepd_engine.ended WHERE id >= $1::uuid";
    let mut conn = db.connect().await?;
    let starts: HashMap<String, i64> =
        sqlx::query_as(sql).bind(place).fetch_all(&mut conn).await?.into_iter().collect();
    #[allow(clippy::cast_precision_loss)]
    let ms = commits.iter().filter_map(|(id, at)| Some((starts.get(id)? - at) as f64 / 1_000.0));
    Ok(ms.collect())
}

//! Pickup: single INSERTs on an idle daemon, 20 to 50 ms apart.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, quantile};
use super::server::Db;
use super::worker::{Kind, Worker, micros};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let worker = Worker::start(&bench.server, &db, Kind::Code, 100).await?;
    let found = latencies(&db, if bench.full { 3_000 } else { 600 }).await?;
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

/// The latencies of `n` INSERTs, in ms.
async fn latencies(db: &Db, n: usize) -> Result<Vec<f64>> {
    let mut conn = db.connect().await?;
    let mut commits = Vec::with_capacity(n);
    for i in 0..n + 20 {
        tokio::time::sleep(Duration::from_micros(fastrand::u64(20_000..50_000))).await;
        let id: String = sqlx::query_scalar("INSERT INTO stepd.jobs (workflow) VALUES ('code_1') RETURNING id::text")
            .fetch_one(&mut conn)
            .await?;
        // The first ones warm caches and plans up.
        if i >= 20 {
            commits.push((id, micros()));
        }
    }
    db.emptied().await?;
    let starts: std::collections::HashMap<String, i64> =
        sqlx::query_as("SELECT id::text, (last_output::json ->> 0)::bigint FROM stepd_engine.ended")
            .fetch_all(&mut conn)
            .await?
            .into_iter()
            .collect();
    #[allow(clippy::cast_precision_loss)]
    let ms = commits.iter().filter_map(|(id, at)| Some((*starts.get(id)? - i64::try_from(*at).ok()?) as f64 / 1_000.0));
    Ok(ms.collect())
}

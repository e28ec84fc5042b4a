//! Idle: a daemon that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target};
use super::worker::{Kind, Worker};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let worker = Worker::start(&bench.server, &db, Kind::Files, 100).await?;
    // Its workers' transactions are not the daemon's.
    bench.server.autovacuum(false).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let span = if bench.full { 300 } else { 30 };
    let (cpu, statements) = (worker.cpu()?, db.cost().await?.1);
    tokio::time::sleep(Duration::from_secs(span)).await;
    let (cpu, statements) = (worker.cpu()? - cpu, db.cost().await?.1 - statements);
    bench.server.autovacuum(true).await?;
    // Between the two looks lie the sleep of the second look, and the statements of the looking itself.
    #[allow(clippy::cast_precision_loss)]
    let span = span as f64 + 1.1;
    report.add("idle, memory", worker.memory("VmRSS")?, "MB", Some(Target::AtMost(15.0)), "");
    let own = 2.0;
    report.add("idle, statements", (statements - own) / span, "1/s", Some(Target::AtMost(2.0)), "transactions");
    report.add("idle, CPU", cpu / span * 100.0, "% of a core", Some(Target::AtMost(0.2)), "");
    worker.stop().await
}

//! Memory: 10,000 runs in flight.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target};
use super::worker::{Kind, Worker};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (name, kind, workflow) in [
        ("memory, 10,000 Rust runs that hold", Kind::Code, "code_hold"),
        ("memory, 10,000 Rust runs at work", Kind::Code, "code_10"),
        ("memory, 10,000 file runs at work", Kind::Files, "ten"),
    ] {
        let db = bench.server.database().await?;
        let runs = if workflow == "code_hold" { 10_000 } else { 30_000 };
        db.execute(&format!("INSERT INTO stepd.jobs (workflow) SELECT '{workflow}' FROM generate_series(1, {runs})"))
            .await?;
        let worker = Worker::start(&bench.server, &db, kind, 10_000).await?;
        if workflow == "code_hold" {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let held = db.number("SELECT count(*) FROM stepd.jobs WHERE state = 'running'").await?;
            report.plain("runs in flight", held, "", "");
        }
        db.emptied().await?;
        report.add(name, worker.memory("VmHWM")?, "MB at most", Some(Target::AtMost(60.0)), "");
        worker.stop().await?;
    }
    Ok(())
}

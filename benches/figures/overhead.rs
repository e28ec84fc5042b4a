//! Overhead: a step `run: "true"` against the bare process, each alone.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::Bench;
use super::report::{Report, median, quantile};
use super::worker::{Kind, Worker};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let worker = Worker::start(&bench.server, &db, Kind::Files, 100).await?;
    let bare: Vec<f64> = (0..200)
        .map(|_| {
            let began = Instant::now();
            // As the step does it, but for the pipes and the process group.
            let _ = Command::new("bash").args(["--noprofile", "--norc", "-eo", "pipefail", "-c", "true"]).status();
            began.elapsed().as_secs_f64() * 1_000.0
        })
        .collect();
    db.execute("INSERT INTO stepd.jobs (workflow) VALUES ('process')").await?;
    db.emptied().await?;
    worker.stop().await?;
    let sql = "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - started_at)) * 1000 FROM stepd_engine.checkpoints WHERE kind = 'run'";
    let step = db.number(sql).await?;
    let whole = "SELECT extract(epoch FROM ended_at - started_at) * 1000 / 200 FROM stepd_engine.ended";
    let whole = db.number(whole).await?;
    report.plain("bare process", median(&bare), "ms", format!("p99 {:.2}", quantile(&bare, 0.99)));
    report.plain("`run: true`, the step", step - median(&bare), "ms more", format!("{step:.2} ms"));
    report.plain("`run: true`, with its commit", whole - median(&bare), "ms more", format!("{whole:.2} ms"));
    Ok(())
}

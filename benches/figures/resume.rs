//! Resume: two workers, one is killed with SIGKILL; until the other starts the first step of a run that was not its own.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use super::report::{Report, Target, quantile};
use super::server::Db;
use super::worker::{Kind, Worker, micros};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let mut workers = vec![
        Worker::start(&bench.server, &db, Kind::Code, 100).await?,
        Worker::start(&bench.server, &db, Kind::Code, 100).await?,
    ];
    let mut found = Vec::new();
    for _ in 0..if bench.full { 30 } else { 7 } {
        found.push(one_kill(bench, &db, &mut workers).await?);
    }
    for worker in workers {
        worker.stop().await?;
    }
    report.add(
        "resume p50",
        quantile(&found, 0.5),
        "ms",
        Some(Target::AtMost(700.0)),
        format!("{} kills", found.len()),
    );
    report.add("resume max", quantile(&found, 1.0), "ms", Some(Target::AtMost(2_000.0)), "");
    Ok(())
}

/// Kills one of two workers, and starts another; until the one that is left starts a step of a run that was not its own, in ms.
pub async fn one_kill(bench: &Bench, db: &Db, workers: &mut Vec<Worker>) -> Result<f64> {
    db.execute("INSERT INTO stepd.jobs (workflow) SELECT 'code_slow' FROM generate_series(1, 60)").await?;
    tokio::time::sleep(Duration::from_millis(500 + fastrand::u64(0..1_000))).await;
    // The one that holds more: an idle worker's death shows nothing.
    let holder = "SELECT w.pid FROM stepd.jobs j JOIN stepd_engine.workers w ON w.id = j.worker GROUP BY w.pid ORDER BY count(*) DESC LIMIT 1";
    let pid = db.number(holder).await?;
    let place = workers.iter().position(|w| (f64::from(w.pid) - pid).abs() < 0.5).unwrap_or(0);
    let victim = workers.remove(place);
    let (at, pid) = (micros(), victim.pid);
    victim.kill().await?;
    // Runs of the victim have a step by it, and the taker's steps come later.
    let sql = format!(
        "SELECT (min((c.output::json ->> 0)::bigint) - {at}) / 1000.0 FROM stepd_engine.checkpoints c
         WHERE c.kind = 'code' AND c.state = 'completed' AND (c.output::json ->> 0)::bigint > {at} AND (c.output::json ->> 1)::bigint <> {pid}
           AND EXISTS (SELECT FROM stepd_engine.checkpoints v WHERE v.run = c.run AND v.state = 'completed' AND (v.output::json ->> 1)::bigint = {pid})"
    );
    let mut ms = 0.0;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        ms = db.number(&sql).await?;
        if ms > 0.0 {
            break;
        }
    }
    (ms > 0.0).then_some(()).context("nobody took the runs over in 10 s")?;
    eprintln!("    {ms:.0} ms");
    // The rest is not waited for.
    db.execute("SELECT stepd.cancel(id) FROM stepd.jobs").await?;
    workers.push(Worker::start(&bench.server, db, Kind::Code, 100).await?);
    db.emptied().await?;
    Ok(ms)
}

//! One round: jobs that were inserted before, from the first claim to the last end, and what they cost.

use anyhow::Result;

use super::Bench;
use super::server::Db;
use super::worker::{Kind, Worker};

/// Jobs of a round of no-ops.
pub const JOBS: u32 = 100_000;

/// A no-op's workflow, queue and priority.
pub const NOOP: &str = "'noop', NULL, NULL";

/// What one round came to; each a job.
pub struct Round {
    /// Jobs a second.
    pub rate: f64,
    /// Bytes.
    pub wal: f64,
    pub commits: f64,
    /// µs, like the next.
    pub server_cpu: f64,
    pub daemon_cpu: f64,
}

/// A round of [`JOBS`] no-ops.
pub async fn noops(bench: &Bench, db: &Db, row: &str) -> Result<Round> {
    let round = run(bench, db, Kind::Files, row, JOBS).await?;
    eprintln!("    {:.0} jobs/s", round.rate);
    Ok(round)
}

/// Puts jobs in, starts a daemon that has a thousand in flight, and waits until all have ended.
pub async fn run(bench: &Bench, db: &Db, kind: Kind, row: &str, jobs: u32) -> Result<Round> {
    let place = db.place().await?;
    db.execute(&format!(
        "INSERT INTO stepd.jobs (workflow, queue, priority) SELECT {row} FROM generate_series(1, {jobs}) i"
    ))
    .await?;
    db.execute("CHECKPOINT").await?;
    let before = db.cost().await?;
    let cpu = bench.server.cpu()?;
    let worker = Worker::start(&bench.server, db, kind, 1_000).await?;
    db.ended(&place, jobs).await?;
    let (server_cpu, daemon_cpu) = (bench.server.cpu()? - cpu, worker.cpu()?);
    let after = db.cost().await?;
    worker.stop().await?;
    let jobs = f64::from(jobs);
    Ok(Round {
        rate: db.drained_per_second(&place).await?,
        wal: (after.0 - before.0) / jobs,
        commits: (after.1 - before.1) / jobs,
        server_cpu: server_cpu * 1e6 / jobs,
        daemon_cpu: daemon_cpu * 1e6 / jobs,
    })
}

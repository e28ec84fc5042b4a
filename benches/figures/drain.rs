//! Drain: jobs of one `set` step inserted before; from the first claim to the last end.

use anyhow::Result;

use super::report::{Report, Target, median};
use super::server::Db;
use super::worker::{Kind, Worker};
use super::{Bench, floor};

/// Jobs of one round.
const JOBS: u32 = 100_000;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.full { 10 } else { 3 };
    let db = bench.server.database().await?;
    let (mut floor_cpu, mut server_cpu, mut daemon_cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rates, mut floors, mut wal, mut commits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (floor, cpu) = floor::jobs_per_second(bench).await?;
        floors.push(floor);
        floor_cpu.push(cpu);
        let round = round(bench, &db, "SELECT 'noop', NULL, NULL").await?;
        rates.push(round.rate);
        wal.push(round.wal);
        commits.push(round.commits);
        server_cpu.push(round.server_cpu);
        daemon_cpu.push(round.daemon_cpu);
    }
    let (rate, floor) = (median(&rates), median(&floors));
    let ratios: Vec<f64> = rates.iter().zip(&floors).map(|(r, f)| r / f).collect();
    report.plain("floor A, n = 500, 2 clients", floor, "jobs/s", listed(&floors));
    report.plain("drain", rate, "jobs/s", listed(&rates));
    report.add("drain / floor", median(&ratios), "", Some(Target::AtLeast(0.7)), "");
    report.plain("floor, CPU a job", median(&floor_cpu), "µs", "Postgres alone");
    let both = format!("Postgres {:.1} + daemon {:.1}", median(&server_cpu), median(&daemon_cpu));
    report.plain("drain, CPU a job", median(&server_cpu) + median(&daemon_cpu), "µs", both);
    report.add("drain, WAL a job", median(&wal), "B", Some(Target::AtMost(950.0)), "");
    report.add("drain, transactions a job", median(&commits), "", Some(Target::AtMost(0.01)), "");
    let spread = round(bench, &db, "SELECT 'noop', 'q' || i % 5, (i / 5 % 3)::smallint").await?.rate;
    report.plain("drain, 5 queues x 3 priorities", spread / rate, "of drain", format!("{spread:.0} jobs/s"));
    let last = round(bench, &db, "SELECT 'noop', NULL, NULL").await?.rate;
    let churned = f64::from(JOBS) * f64::from(rounds + 1) / 1e6;
    let first = if rates.len() > 4 { median(&rates[..3]) } else { rates[0] };
    report.add(
        "drain after churn / first",
        last / first,
        "",
        Some(Target::AtLeast(0.85)),
        format!("{churned:.1} M jobs before"),
    );
    let hot = db
        .number("SELECT n_tup_hot_upd / nullif(n_tup_upd, 0)::float8 FROM pg_stat_user_tables WHERE relname = 'jobs'")
        .await?;
    report.add("claims that were HOT", hot, "", Some(Target::AtLeast(0.95)), "");
    Ok(())
}

/// What one round came to.
struct Round {
    rate: f64,
    wal: f64,
    commits: f64,
    /// µs a job, like the next.
    server_cpu: f64,
    daemon_cpu: f64,
}

async fn round(bench: &Bench, db: &Db, row: &str) -> Result<Round> {
    db.execute(&format!("INSERT INTO stepd.jobs (workflow, queue, priority) {row} FROM generate_series(1, {JOBS}) i"))
        .await?;
    db.execute("CHECKPOINT").await?;
    let since = db.now().await?;
    let before = db.cost().await?;
    let cpu = bench.server.cpu()?;
    let worker = Worker::start(&bench.server, db, Kind::Files, 1_000).await?;
    db.emptied().await?;
    let (server_cpu, daemon_cpu) = (bench.server.cpu()? - cpu, worker.cpu()?);
    let after = db.cost().await?;
    worker.stop().await?;
    let jobs = f64::from(JOBS);
    let rate = db.drained_per_second(since).await?;
    eprintln!("    {rate:.0} jobs/s");
    let micros = 1e6 / jobs;
    Ok(Round {
        rate,
        wal: (after.0 - before.0) / jobs,
        commits: (after.1 - before.1) / jobs,
        server_cpu: server_cpu * micros,
        daemon_cpu: daemon_cpu * micros,
    })
}

fn listed(values: &[f64]) -> String {
    values.iter().map(|v| format!("{v:.0}")).collect::<Vec<_>>().join(" ")
}

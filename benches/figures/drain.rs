//! Drain: jobs of one `set` step inserted before; from the first claim to the last end.

use anyhow::Result;

use super::report::{Report, Target, listed, median};
use super::round::{self, JOBS, NOOP};
use super::{Bench, floor};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.full { 10 } else { 3 };
    let db = bench.server.database().await?;
    let (mut floor_cpu, mut server_cpu, mut daemon_cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rates, mut floors, mut wal, mut commits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (floor, cpu) = floor::jobs_per_second(bench).await?;
        floors.push(floor);
        floor_cpu.push(cpu);
        let round = round::noops(bench, &db, NOOP).await?;
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
    let spread = round::noops(bench, &db, "'noop', 'q' || i % 5, (i / 5 % 3)::smallint").await?.rate;
    report.plain("drain, 5 queues x 3 priorities", spread / rate, "of drain", format!("{spread:.0} jobs/s"));
    let last = round::noops(bench, &db, NOOP).await?.rate;
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

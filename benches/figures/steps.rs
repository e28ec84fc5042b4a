//! Steps: runs of ten no-op steps, 1,000 in flight, each checkpoint acknowledged after COMMIT before the next step.

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, listed, median};
use super::round;
use super::worker::Kind;

/// Runs of one round.
pub const RUNS: u32 = 30_000;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.full { 5 } else { 3 };
    for (name, kind, workflow, target) in
        [("steps, Rust code", Kind::Code, "code_10", 90_000.0), ("steps, workflow file", Kind::Files, "ten", 50_000.0)]
    {
        let db = bench.server.database().await?;
        let (mut rates, mut cpus, mut wal, mut commits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut servers, mut daemons) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let round = round::run(bench, &db, kind, &format!("'{workflow}', NULL, NULL"), RUNS).await?;
            let (server, daemon) = (round.server_cpu / 10.0, round.daemon_cpu / 10.0);
            eprintln!("    {:.0} steps/s, CPU a step: Postgres {server:.1} + daemon {daemon:.1} µs", round.rate * 10.0);
            rates.push(round.rate * 10.0);
            cpus.push(server + daemon);
            servers.push(server);
            daemons.push(daemon);
            wal.push(round.wal / 10.0);
            commits.push(round.commits / 10.0);
        }
        report.add(name, median(&rates), "steps/s", Some(Target::AtLeast(target)), listed(&rates));
        let both = format!("Postgres {:.1} + daemon {:.1}", median(&servers), median(&daemons));
        report.plain(&format!("{name}, CPU a step"), median(&cpus), "µs", both);
        report.plain(
            &format!("{name}, WAL a step"),
            median(&wal),
            "B",
            format!("{:.4} transactions", median(&commits)),
        );
    }
    Ok(())
}

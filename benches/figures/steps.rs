//! Steps: runs of ten no-op steps, 1,000 in flight, each checkpoint acknowledged after COMMIT before the next step.

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, median};
use super::worker::{Kind, Worker};

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.full { 5 } else { 3 };
    for (name, kind, workflow, target) in
        [("steps, Rust code", Kind::Code, "code_10", 90_000.0), ("steps, workflow file", Kind::Files, "ten", 50_000.0)]
    {
        let db = bench.server.database().await?;
        let mut cpus = Vec::new();
        let (mut rates, mut wal, mut commits) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let runs = 30_000.0;
            db.execute(&format!(
                "INSERT INTO stepd.jobs (workflow) SELECT '{workflow}' FROM generate_series(1, {runs})"
            ))
            .await?;
            db.execute("CHECKPOINT").await?;
            let since = db.now().await?;
            let before = db.cost().await?;
            let server = bench.server.cpu()?;
            let worker = Worker::start(&bench.server, &db, kind, 1_000).await?;
            db.emptied().await?;
            let (cpu, server) = (worker.cpu()?, bench.server.cpu()? - server);
            let after = db.cost().await?;
            worker.stop().await?;
            let rate = db.drained_per_second(since).await? * 10.0;
            let micros = 1e5 / runs;
            eprintln!(
                "    {rate:.0} steps/s, CPU a step: Postgres {:.1} + daemon {:.1} µs",
                server * micros,
                cpu * micros
            );
            cpus.push((server + cpu) * micros);
            rates.push(rate);
            wal.push((after.0 - before.0) / runs / 10.0);
            commits.push((after.1 - before.1) / runs / 10.0);
        }
        let note = rates.iter().map(|v| format!("{v:.0}")).collect::<Vec<_>>().join(" ");
        report.add(name, median(&rates), "steps/s", Some(Target::AtLeast(target)), note);
        report.plain(&format!("{name}, CPU a step"), median(&cpus), "µs", "Postgres and daemon");
        report.plain(
            &format!("{name}, WAL a step"),
            median(&wal),
            "B",
            format!("{:.4} transactions", median(&commits)),
        );
    }
    Ok(())
}

//! Inputs and outputs of ten megabytes: how time and memory grow with them.

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, listed, median};
use super::server::Db;
use super::worker::Worker;

/// Megabytes of an input; the largest is four times the smallest.
const SIZES: [f64; 3] = [2.5, 5.0, 10.0];

/// Gives back what it is given: as the step's checkpoint, and as the run's output.
const ECHO: &str = "name: echo\nsteps:\n  - id: same\n    set: ${{ input }}\noutput: steps.same.output\n";

/// Looks at nothing.
const IGNORE: &str = "name: ignore\nsteps:\n  - id: a\n    set: 1\n";

/// Runs at once, while one daemon has as many places as it has by default.
const MANY: u32 = 100;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let folder = bench.server.folder.path().join("large");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("echo.yaml"), ECHO)?;
    std::fs::write(folder.join("ignore.yaml"), IGNORE)?;
    let rounds = if bench.full { 20 } else { 5 };
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for size in SIZES {
        let db = bench.server.database().await?;
        prepared(&db, size).await?;
        let worker = Worker::on_folder(&db, &folder, 100).await?;
        let mut rounds_ms = Vec::new();
        for _ in 0..rounds {
            db.execute("INSERT INTO stepd.jobs (workflow, input) SELECT 'echo', input FROM large").await?;
            db.emptied().await?;
            let ms = "SELECT extract(epoch FROM ended_at - started_at) * 1000 FROM stepd_engine.ended ORDER BY id DESC LIMIT 1";
            rounds_ms.push(db.number(ms).await?);
        }
        memory.push(worker.memory("VmHWM")?);
        worker.stop().await?;
        times.push(median(&rounds_ms));
    }
    let growth = times[2] / times[0] * SIZES[0] / SIZES[2];
    report.plain("10 MB in and out", times[2], "ms", format!("at {SIZES:?} MB: {}", listed(&times)));
    let note = "cost of a megabyte, against that of a run a quarter as large";
    report.add("10 MB in and out, growth", growth, "", Some(Target::AtMost(1.2)), note);
    report.plain("10 MB in and out, memory", memory[2], "MB at most", listed(&memory));
    at_once(bench, &folder, report).await
}

/// A hundred inputs of 10 MB that were there before: what a claim brings, and what the daemon holds of it.
async fn at_once(bench: &Bench, folder: &std::path::Path, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    prepared(&db, SIZES[2]).await?;
    let worker = Worker::on_folder(&db, folder, 100).await?;
    worker.stop().await?;
    db.execute(&format!(
        "INSERT INTO stepd.jobs (workflow, input) SELECT 'ignore', input FROM large, generate_series(1, {MANY})"
    ))
    .await?;
    let worker = Worker::on_folder(&db, folder, 100).await?;
    db.emptied().await?;
    let took = "SELECT extract(epoch FROM max(ended_at) - min(started_at)) FROM stepd_engine.ended";
    report.plain("100 runs of 10 MB at once", db.number(took).await?, "s", "from the first claim to the last end");
    report.plain("100 runs of 10 MB at once, memory", worker.memory("VmHWM")?, "MB at most", "100 places");
    worker.stop().await
}

/// A table with one input of that size, which compression does not make smaller.
async fn prepared(db: &Db, megabytes: f64) -> Result<()> {
    db.execute(&format!(
        "CREATE TABLE large AS SELECT jsonb_build_object('s', string_agg(md5(random()::text), '')) AS input
         FROM generate_series(1, ({megabytes} * 1e6 / 32)::integer)"
    ))
    .await
}

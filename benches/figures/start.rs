//! Start: from exec to ready, the database migrated, 200 definitions.

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, median};
use super::worker::Worker;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let folder = bench.server.folder.path().join("many");
    std::fs::create_dir_all(&folder)?;
    for i in 0..200 {
        let steps: String = (0..5)
            .map(|s| format!("  - id: s{s}\n    set: ${{{{ input.value }}}} and {s}\n    retry: {{max_attempts: 4}}\n"))
            .collect();
        let text = format!("name: many_{i}\ninput: {{properties: {{value: {{type: string}}}}}}\nsteps:\n{steps}");
        std::fs::write(folder.join(format!("many_{i}.yaml")), text)?;
    }
    let (mut first, mut ready) = (0.0, Vec::new());
    for round in 0..6 {
        let worker = Worker::on_folder(&db, &folder, 100).await?;
        let ms = worker.ready.as_secs_f64() * 1_000.0;
        if round == 0 {
            first = ms
        } else {
            ready.push(ms)
        }
        worker.stop().await?;
    }
    report.add(
        "start, 200 definitions",
        median(&ready),
        "ms",
        Some(Target::AtMost(150.0)),
        format!("new ones {first:.0} ms"),
    );
    Ok(())
}

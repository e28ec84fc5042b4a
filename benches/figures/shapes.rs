//! Large runs: their time grows with what they hold, and no faster.

use std::fmt::Write as _;

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, listed, median};
use super::worker::Worker;

/// A shape, the sizes that it is run at (the largest is four times the smallest), and its file at a size.
type Shape = (&'static str, [u32; 3], fn(u32) -> String);

const SHAPES: [Shape; 3] = [
    ("steps in a file", [250, 500, 1_000], sequence),
    ("items of a map", [2_500, 5_000, 10_000], items),
    ("child runs of a map", [250, 500, 1_000], children),
];

/// Ten times as large: as much as anybody has asked for.
const HUGE: [Shape; 3] = [
    ("steps in a file", [2_500, 5_000, 10_000], sequence),
    ("items of a map", [25_000, 50_000, 100_000], items),
    ("child runs of a map", [2_500, 5_000, 10_000], children),
];

/// Large runs.
pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    grown(bench, SHAPES, if bench.full { 5 } else { 3 }, report).await
}

/// Huge ones.
pub async fn huge(bench: &Bench, report: &mut Report) -> Result<()> {
    grown(bench, HUGE, 3, report).await
}

/// One run's time and its daemon's memory at each size. What one more costs at the largest size, against the smallest: 1 is linear.
async fn grown(bench: &Bench, shapes: [Shape; 3], rounds: u32, report: &mut Report) -> Result<()> {
    for (name, sizes, file) in shapes {
        let folder = bench.server.folder.path().join(format!("{name} {}", sizes[2]).replace(' ', "_"));
        std::fs::create_dir_all(&folder)?;
        for n in sizes {
            std::fs::write(folder.join(format!("w{n}.yaml")), file(n))?;
        }
        std::fs::write(folder.join("one.yaml"), "name: one\nsteps:\n  - id: a\n    set: 1\n")?;
        let db = bench.server.database().await?;
        let (mut times, mut memory) = (Vec::new(), Vec::new());
        for n in sizes {
            let mut rounds_ms = Vec::new();
            let worker = Worker::on_folder(&db, &folder, 100).await?;
            for _ in 0..rounds {
                db.execute(&format!("INSERT INTO stepd.jobs (workflow) VALUES ('w{n}')")).await?;
                db.emptied().await?;
                let ms = format!(
                    "SELECT extract(epoch FROM ended_at - started_at) * 1000 FROM stepd_engine.ended WHERE workflow = 'w{n}' ORDER BY id DESC LIMIT 1"
                );
                rounds_ms.push(db.number(&ms).await?);
            }
            memory.push(worker.memory("VmHWM")?);
            worker.stop().await?;
            times.push(median(&rounds_ms));
        }
        let most = sizes[2];
        report.plain(&format!("{most} {name}"), times[2], "ms", format!("at {sizes:?}: {}", listed(&times)));
        let growth = times[2] / times[0] * f64::from(sizes[0]) / f64::from(most);
        report.add(
            &format!("{most} {name}, growth"),
            growth,
            "",
            Some(Target::AtMost(1.2)),
            "cost of one, against that of a run a quarter as large",
        );
        report.plain(&format!("{most} {name}, memory"), memory[2], "MB at most", listed(&memory));
    }
    Ok(())
}

fn sequence(n: u32) -> String {
    let mut text = format!("name: w{n}\nsteps:\n");
    for i in 0..n {
        let _ = writeln!(text, "  - id: s{i}\n    set: {i}");
    }
    text
}

fn items(n: u32) -> String {
    format!(
        "name: w{n}\nsteps:\n  - id: all\n    map: ${{{{ range(0, {n}) }}}}\n    max_parallel: 16\n    steps:\n      - id: a\n        set: ${{{{ item }}}}\noutput: steps.all.count\n"
    )
}

fn children(n: u32) -> String {
    format!(
        "name: w{n}\nsteps:\n  - id: all\n    map: ${{{{ range(0, {n}) }}}}\n    max_parallel: 16\n    steps:\n      - id: a\n        workflow: one\noutput: steps.all.count\n"
    )
}

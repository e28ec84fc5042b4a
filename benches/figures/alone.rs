//! One run alone: 1,000 steps in sequence against 1,000 single-row commits by pgbench.

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, median};
use super::worker::{Kind, Worker};

const TABLE: &str = "CREATE TABLE single (run uuid NOT NULL, seq integer NOT NULL, started_at timestamptz NOT NULL, ended_at timestamptz,
    state stepd.step_state NOT NULL, key text NOT NULL, kind text NOT NULL, output text, PRIMARY KEY (run, key))";
const SCRIPT: &str = r"\set n random(1, 2000000000)
INSERT INTO single VALUES ('01a00000-0000-7000-8000-000000000001', :n, now(), now(), 'completed', 's' || :n || random(), 'code', '1');
";

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    db.execute(TABLE).await?;
    let worker = Worker::start(&bench.server, &db, Kind::Code, 100).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..if bench.full { 9 } else { 5 } {
        theirs.push(bench.server.pgbench(&db, SCRIPT, 1, 1_000)?.1 * 1_000.0);
        db.execute("INSERT INTO stepd.jobs (workflow) VALUES ('code_1000')").await?;
        db.emptied().await?;
        let ms =
            "SELECT extract(epoch FROM ended_at - started_at) * 1000 FROM stepd_engine.ended ORDER BY id DESC LIMIT 1";
        ours.push(db.number(ms).await?);
    }
    worker.stop().await?;
    report.plain("1,000 single-row commits", median(&theirs), "ms", "pgbench");
    report.plain("1,000 steps alone", median(&ours), "ms", "");
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| o / t).collect();
    report.add("1,000 steps alone / commits", median(&ratios), "", Some(Target::AtMost(1.3)), "");
    Ok(())
}

//! Insert: what the trigger that completes a row costs, beside the same rows without it.

use std::time::Instant;

use anyhow::Result;

use super::Bench;
use super::report::{Report, median};

/// The same rows as the trigger makes, in a table with the same columns, checks and indexes.
const BARE: &str = "CREATE TABLE bare (LIKE stepd.jobs INCLUDING ALL) WITH (fillfactor = 50)";
const ROW: &str = "INSERT INTO bare (id, workflow, queue, priority, created_by)";
const VALUES: &str = "gen_random_uuid(), 'noop', 'default', 5, 'postgres'";

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    db.execute(BARE).await?;
    let (mut ours, mut theirs, mut one, mut bare_one) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        db.execute("TRUNCATE stepd.jobs, bare; CHECKPOINT").await?;
        let began = Instant::now();
        db.execute(&format!("{ROW} SELECT {VALUES} FROM generate_series(1, 100000)")).await?;
        theirs.push(began.elapsed().as_secs_f64() * 10.0);
        let began = Instant::now();
        db.execute("INSERT INTO stepd.jobs (workflow) SELECT 'noop' FROM generate_series(1, 100000)").await?;
        ours.push(began.elapsed().as_secs_f64() * 10.0);
        bare_one.push(bench.server.pgbench(&db, &format!("{ROW} VALUES ({VALUES});"), 1, 2_000)?.1 * 1_000.0);
        let script = "INSERT INTO stepd.jobs (workflow) VALUES ('noop');";
        one.push(bench.server.pgbench(&db, script, 1, 2_000)?.1 * 1_000.0);
    }
    let (ours, theirs, one, bare_one) = (median(&ours), median(&theirs), median(&one), median(&bare_one));
    report.plain("insert in bulk", ours, "µs a row", format!("bare {theirs:.1}: x {:.2}", ours / theirs));
    report.plain("insert of one row", one, "µs", format!("bare {bare_one:.0}: x {:.2}", one / bare_one));
    Ok(())
}

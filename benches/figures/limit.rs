//! Throughput under a limit, ten at once, of steps that are short and of ordinary ones. What is lost of the ideal is the time from a run's end to the next's start.

use anyhow::Result;

use super::Bench;
use super::report::{Report, Target, listed, median};
use super::worker::{Kind, LIMIT, LONG_MS, SHORT_MS, Worker};

/// A round takes so long at the ideal.
const ROUND_MS: u32 = 4_000;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (name, workflow, ms, daemons) in [
        ("20 ms under a queue's limit, one daemon", "code_short", SHORT_MS, 1),
        ("20 ms under a queue's limit, four daemons", "code_short", SHORT_MS, 4),
        ("20 ms under a key's limit, one daemon", "code_keyed_short", SHORT_MS, 1),
        ("20 ms under a key's limit, four daemons", "code_keyed_short", SHORT_MS, 4),
        ("200 ms under a queue's limit, one daemon", "code_long", LONG_MS, 1),
        ("200 ms under a queue's limit, four daemons", "code_long", LONG_MS, 4),
        ("200 ms under a key's limit, one daemon", "code_keyed_long", LONG_MS, 1),
        ("200 ms under a key's limit, four daemons", "code_keyed_long", LONG_MS, 4),
    ] {
        let ideal = f64::from(LIMIT) * 1_000.0 / f64::from(ms);
        let runs = ROUND_MS * LIMIT / ms;
        let db = bench.server.database().await?;
        let mut workers = Vec::new();
        for _ in 0..daemons {
            workers.push(Worker::start(&bench.server, &db, Kind::Code, 100).await?);
        }
        if !workflow.contains("keyed") {
            db.execute(&format!("SELECT stepd.limit_queue('figures', {LIMIT})")).await?;
        }
        let (mut rates, mut claims, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if bench.full { 5 } else { 3 } {
            let place = db.place().await?;
            db.execute(&format!(
                "INSERT INTO stepd.jobs (workflow) SELECT '{workflow}' FROM generate_series(1, {runs})"
            ))
            .await?;
            db.ended(&place, runs).await?;
            rates.push(db.drained_per_second(&place).await?);
            let ms = |of: &str| {
                format!(
                    "SELECT 1000 * avg(extract(epoch FROM {of}))::float8 FROM stepd_engine.ended WHERE id >= '{place}'"
                )
            };
            claims.push(db.number(&ms("started_at - ready_at")).await?);
            spans.push(db.number(&ms("ended_at - started_at")).await?);
        }
        for worker in workers {
            worker.stop().await?;
        }
        let (claim, span) = (median(&claims), median(&spans));
        let free = f64::from(LIMIT) * 1_000.0 / median(&rates) - claim - span;
        let note = format!(
            "{} of {ideal:.0} runs/s; a place is free for {free:.1} ms, claimed {claim:.1} ms later, and held for {span:.1} ms",
            listed(&rates)
        );
        report.add(name, median(&rates) / ideal, "of the ideal", Some(Target::AtLeast(0.8)), note);
    }
    Ok(())
}

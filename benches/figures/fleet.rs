//! Fifty worker processes on one database.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Bench;
use super::report::{Report, Target, quantile};
use super::resume;
use super::server::{Db, Server};
use super::worker::{Kind, Worker};

const WORKERS: u32 = 50;

/// Places of each of them: together as many as the one daemon of the drain has.
const PLACES: usize = 20;

const JOBS: u32 = 100_000;

pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    // A server with room for them: each may open a connection or two beside those that it holds.
    let server = Server::with_connections(WORKERS * 12).await?;
    let bench = Bench { server, full: bench.full, held_minutes: bench.held_minutes };
    let one = drained(&bench, 1, 1_000, report).await?;
    let all = drained(&bench, WORKERS, PLACES, report).await?;
    report.plain("fleet, drain by 50 / by one", all / one, "", format!("{all:.0} and {one:.0} jobs/s"));
    killed(&bench, report).await
}

async fn started(bench: &Bench, db: &Db, kind: Kind, n: u32, places: usize) -> Result<Vec<Worker>> {
    let starting = (0..n).map(|_| Worker::start(&bench.server, db, kind, places));
    futures_util::future::try_join_all(starting).await
}

/// What so many cost while there is nothing to do, for a fleet; then how fast they drain.
async fn drained(bench: &Bench, n: u32, places: usize, report: &mut Report) -> Result<f64> {
    let db = bench.server.database().await?;
    let began = Instant::now();
    let workers = started(bench, &db, Kind::Files, n, places).await?;
    if n > 1 {
        report.plain("fleet, 50 started at once, all ready", began.elapsed().as_secs_f64(), "s", "");
        idle(bench, &db, &workers, report).await?;
    }
    let place = db.place().await?;
    db.execute(&format!("INSERT INTO stepd.jobs (workflow) SELECT 'noop' FROM generate_series(1, {JOBS})")).await?;
    db.ended(&place, JOBS).await?;
    let rate = db.drained_per_second(&place).await?;
    if n > 1 {
        let shares =
            "SELECT min(n)::float8 / max(n) FROM (SELECT count(*) AS n FROM stepd_engine.ended GROUP BY worker) w";
        report.plain("fleet, the least of a worker's jobs / the most", db.number(shares).await?, "", "");
    }
    for worker in workers {
        worker.stop().await?;
    }
    Ok(rate)
}

async fn idle(bench: &Bench, db: &Db, workers: &[Worker], report: &mut Report) -> Result<()> {
    // What they opened to begin with is let go of after half a minute without use.
    tokio::time::sleep(Duration::from_secs(40)).await;
    bench.server.autovacuum(false).await?;
    let each = f64::from(WORKERS);
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'stepd%'";
    let sessions = db.number(sessions).await?;
    let cpu = |workers: &[Worker]| workers.iter().map(Worker::cpu).sum::<Result<f64>>();
    let looking = -db.cost().await?.1 + db.cost().await?.1;
    let (began, server, daemons, statements) = (Instant::now(), bench.server.cpu()?, cpu(workers)?, db.cost().await?.1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let statements = db.cost().await?.1 - statements - looking;
    let span = began.elapsed().as_secs_f64();
    let (server, daemons) = ((bench.server.cpu()? - server) / span, (cpu(workers)? - daemons) / span);
    bench.server.autovacuum(true).await?;
    let memory = workers.iter().map(|w| w.memory("VmRSS")).sum::<Result<f64>>()? / each;
    report.add("fleet, idle, connections of a worker", sessions / each, "", Some(Target::AtMost(6.0)), "");
    report.add("fleet, idle, statements of a worker", statements / span / each, "1/s", Some(Target::AtMost(2.0)), "");
    let of_daemons = format!("and {:.1} % of the 50 daemons", daemons * 100.0);
    report.plain("fleet, idle, CPU of Postgres", server * 100.0, "% of a core", of_daemons);
    report.plain("fleet, idle, memory of a worker", memory, "MB", "");
    Ok(())
}

/// One of fifty is killed, again and again: the other forty-nine look for it at the same time, and one of them has its runs.
async fn killed(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    // Whoever is taken over while it lives registers anew.
    let registered = "SELECT last_value FROM stepd_engine.worker_number";
    let before = db.number(registered).await?;
    let mut workers = started(bench, &db, Kind::Code, WORKERS, PLACES).await?;
    let mut found = Vec::new();
    for _ in 0..if bench.full { 30 } else { 7 } {
        found.push(resume::one_kill(bench, &db, &mut workers).await?);
    }
    let again = db.number(registered).await? - before - f64::from(WORKERS);
    for worker in workers {
        worker.stop().await?;
    }
    let kills = f64::from(u32::try_from(found.len())?);
    ensure!(
        (again - kills).abs() < 0.5,
        "after {kills} kills {again} workers have registered: living ones were taken over"
    );
    let note = format!("{kills} kills; nobody who lived was taken over");
    report.add("fleet, resume p50", quantile(&found, 0.5), "ms", Some(Target::AtMost(700.0)), note);
    report.add("fleet, resume max", quantile(&found, 1.0), "ms", Some(Target::AtMost(2_000.0)), "");
    Ok(())
}

//! The peers: the same loads on other engines, each at the best settings found, in turn with stepd. `benches/peers/run`.

mod process;
mod stage;

use std::time::Duration;

use anyhow::Result;

use super::pickup::{self, WARM};
use super::report::{self, Report, Target, listed, median, quantile};
use super::round::{self, JOBS, NOOP};
use super::worker::{Kind, Worker};
use super::{Bench, resume, steps};
use process::{Home, micros_of};
use stage::Stage;

/// What is measured, by name.
pub const FIGURES: [&str; 4] = ["drain", "steps", "pickup", "kill"];

const ROUNDS: usize = 3;
/// Jobs of the pickup figure.
const SINGLES: usize = 300;
/// So long another worker may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One peer.
pub struct Peer {
    name: &'static str,
    /// What `--of` calls it.
    id: &'static str,
    /// Its worker: a script of `benches/peers`, or the Rust program.
    worker: &'static str,
    /// The script that puts jobs in.
    feed: &'static str,
    /// Is anything left? A query; where there is none, the last handler's end counts.
    left: Option<&'static str>,
    /// Jobs of a drain: some minutes would pass with as many as the others.
    jobs: u32,
    /// Runs of ten steps; `None`: it has no durable steps.
    runs: Option<u32>,
    /// By how much stepd is to be faster, in draining and in steps.
    targets: (Option<f64>, Option<f64>),
}

const GRAPHILE_LEFT: &str = "EXISTS (SELECT FROM graphile_worker._private_jobs)";

const PEERS: [Peer; 5] = [
    Peer {
        name: "graphile_worker (Rust)",
        id: "graphile_worker_rs",
        worker: process::CRATE,
        feed: "graphile.mjs",
        left: Some(GRAPHILE_LEFT),
        jobs: JOBS,
        runs: None,
        targets: (Some(1.4), None),
    },
    Peer {
        name: "Graphile Worker",
        id: "graphile",
        worker: "graphile.mjs",
        feed: "graphile.mjs",
        left: Some(GRAPHILE_LEFT),
        jobs: JOBS,
        runs: None,
        targets: (Some(1.8), None),
    },
    Peer {
        name: "pg-boss",
        id: "pg-boss",
        worker: "pg-boss.mjs",
        feed: "pg-boss.mjs",
        left: Some("EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')"),
        jobs: JOBS,
        runs: None,
        targets: (None, None),
    },
    Peer {
        name: "DBOS",
        id: "dbos",
        worker: "dbos.mjs",
        feed: "dbos.mjs",
        left: Some("EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))"),
        jobs: 5_000,
        runs: Some(1_000),
        targets: (None, Some(60.0)),
    },
    Peer {
        name: "Restate",
        id: process::RESTATE,
        worker: "restate.mjs",
        feed: "restate.mjs",
        left: None,
        jobs: 10_000,
        runs: Some(2_000),
        targets: (None, Some(20.0)),
    },
];

const OURS: &str = "stepd";

/// The values of one figure, stepd's first.
type Values = Vec<(&'static str, Vec<f64>)>;

fn values(peers: &[&'static Peer]) -> Values {
    std::iter::once(OURS).chain(peers.iter().map(|p| p.name)).map(|name| (name, Vec::new())).collect()
}

/// The figures that are asked for, of the peers that are asked for and there.
pub async fn measure(bench: &Bench, only: &[String], of: &[String], report: &mut Report) -> Result<()> {
    let home = Home::find()?;
    let known = |o: &&String| PEERS.iter().all(|p| p.id != o.as_str());
    if let Some(unknown) = of.iter().find(known) {
        anyhow::bail!("there is no peer `{unknown}`; there are {}", PEERS.map(|p| p.id).join(", "));
    }
    let mut peers: Vec<&'static Peer> = Vec::new();
    for peer in PEERS.iter().filter(|p| of.is_empty() || of.iter().any(|o| o == p.id)) {
        match home.lacks(peer) {
            None => peers.push(peer),
            Some(lack) => {
                eprintln!("SKIPPED {}: {lack}", peer.name);
                report.plain(&format!("skipped: {}", peer.name), 1.0, "", lack);
            }
        }
    }
    for figure in FIGURES.iter().filter(|f| only.is_empty() || only.iter().any(|o| o == *f)) {
        eprintln!("{figure} (load {})", report::load());
        match *figure {
            "drain" => drain(bench, &home, &peers, report).await?,
            "steps" => ten_steps(bench, &home, &peers, report).await?,
            "pickup" => pickups(bench, &home, &peers, report).await?,
            _ => kills(bench, &home, &peers, report).await?,
        }
    }
    Ok(())
}

async fn drain(bench: &Bench, home: &Home, peers: &[&'static Peer], report: &mut Report) -> Result<()> {
    let (mut rate, mut wal, mut commits, mut cpu) = (values(peers), values(peers), values(peers), values(peers));
    for _ in 0..ROUNDS {
        let db = bench.server.database().await?;
        let mut rounds = vec![round::noops(bench, &db, NOOP).await?];
        for peer in peers {
            rounds.push(Stage::filled(bench, home, peer, "noop", peer.jobs).await?.drained().await?);
            eprintln!("    {}: {:.0} jobs/s", peer.name, rounds[rounds.len() - 1].rate);
        }
        for (i, round) in rounds.iter().enumerate() {
            rate[i].1.push(round.rate);
            wal[i].1.push(round.wal);
            commits[i].1.push(round.commits);
            cpu[i].1.push(round.server_cpu + round.daemon_cpu);
        }
    }
    let targets: Vec<_> = peers.iter().map(|p| p.targets.0.map(Target::AtLeast)).collect();
    compare("drain", "jobs/s", &rate, &targets, report);
    for (figure, unit, values) in [("WAL a job", "B", &wal), ("commits a job", "", &commits), ("CPU a job", "µs", &cpu)]
    {
        // What has a store of its own costs Postgres nothing.
        let stored = |name: &str| peers.iter().all(|p| p.name != name || p.left.is_some());
        for (name, values) in values.iter().filter(|(name, _)| stored(name) || unit.starts_with("µs")) {
            report.plain(&format!("{figure}: {name}"), median(values), unit, listed(values));
        }
    }
    Ok(())
}

async fn ten_steps(bench: &Bench, home: &Home, peers: &[&'static Peer], report: &mut Report) -> Result<()> {
    let peers: Vec<&'static Peer> = peers.iter().copied().filter(|p| p.runs.is_some()).collect();
    let (mut rate, mut code) = (values(&peers), Vec::new());
    for _ in 0..ROUNDS {
        for (kind, row, into) in
            [(Kind::Files, "'ten', NULL, NULL", &mut rate[0].1), (Kind::Code, "'code_10', NULL, NULL", &mut code)]
        {
            let db = bench.server.database().await?;
            into.push(round::run(bench, &db, kind, row, steps::RUNS).await?.rate * 10.0);
        }
        for (i, peer) in peers.iter().enumerate() {
            let stage = Stage::filled(bench, home, peer, "ten", peer.runs.unwrap_or_default()).await?;
            rate[i + 1].1.push(stage.drained().await?.rate * 10.0);
            eprintln!("    {}: {:.0} steps/s", peer.name, rate[i + 1].1[rate[i + 1].1.len() - 1]);
        }
    }
    let targets: Vec<_> = peers.iter().map(|p| p.targets.1.map(Target::AtLeast)).collect();
    compare("steps", "steps/s", &rate, &targets, report);
    report.plain("steps: stepd, Rust code", median(&code), "steps/s", listed(&code));
    Ok(())
}

async fn pickups(bench: &Bench, home: &Home, peers: &[&'static Peer], report: &mut Report) -> Result<()> {
    let (mut half, mut tail) = (values(peers), values(peers));
    for _ in 0..ROUNDS {
        let mut found = vec![ours(bench, home).await?];
        for peer in peers {
            found.push(Stage::idle(bench, home, peer, 1).await?.pickups(SINGLES + WARM).await?);
            eprintln!("    {}: {:.2} ms", peer.name, median(&found[found.len() - 1]));
        }
        for (i, found) in found.iter().enumerate() {
            half[i].1.push(median(found));
            tail[i].1.push(quantile(found, 0.99));
        }
    }
    let targets = vec![Some(Target::AtMost(1.0)); peers.len()];
    compare("pickup p50", "ms", &half, &targets, report);
    compare("pickup p99", "ms", &tail, &targets, report);
    Ok(())
}

/// stepd's pickups, of jobs that come from the client that feeds the peers.
async fn ours(bench: &Bench, home: &Home) -> Result<Vec<f64>> {
    let db = bench.server.database().await?;
    let worker = Worker::start(&bench.server, &db, Kind::Code, 100).await?;
    let (place, n) = (db.place().await?, SINGLES + WARM);
    let added = home.once("stepd.mjs", &["trickle", &n.to_string()], &db.url, &[]).await?;
    db.ended(&place, u32::try_from(n)?).await?;
    worker.stop().await?;
    let commits = added.iter().skip(WARM).map(|words| Ok((words[1].clone(), micros_of(&words[2])?)));
    let found = pickup::since(&db, &place, &commits.collect::<Result<Vec<_>>>()?).await?;
    eprintln!("    {OURS}: {:.2} ms", median(&found));
    Ok(found)
}

async fn kills(bench: &Bench, home: &Home, peers: &[&'static Peer], report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(Worker::start(&bench.server, &db, Kind::Code, 100).await?);
    }
    let mut found = Vec::new();
    for _ in 0..ROUNDS {
        found.push(resume::one_kill(bench, &db, &mut workers).await?);
    }
    for worker in workers {
        worker.stop().await?;
    }
    report.plain("after kill -9: stepd", median(&found), "ms", listed(&found));
    for peer in peers {
        let mut found = Vec::new();
        for _ in 0..ROUNDS {
            let Some(ms) = Stage::idle(bench, home, peer, 2).await?.one_kill(PATIENCE).await? else { break };
            found.push(ms);
        }
        let name = format!("after kill -9: {}", peer.name);
        match found.len() {
            ROUNDS => report.plain(&name, median(&found), "ms", listed(&found)),
            _ => report.plain(&name, f64::INFINITY, "ms", format!("not in {} s", PATIENCE.as_secs())),
        }
    }
    Ok(())
}

/// All values of all, and stepd's against each peer's in the same round.
fn compare(figure: &str, unit: &'static str, all: &Values, targets: &[Option<Target>], report: &mut Report) {
    for (name, values) in all {
        report.plain(&format!("{figure}: {name}"), median(values), unit, listed(values));
    }
    for ((name, theirs), target) in all[1..].iter().zip(targets) {
        let ratios: Vec<f64> = all[0].1.iter().zip(theirs).map(|(o, t)| o / t).collect();
        report.add(&format!("{figure}: stepd / {name}"), median(&ratios), "", *target, listed(&ratios));
    }
}

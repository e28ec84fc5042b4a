//! A peer on a database of its own, ready to be measured.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::Peer;
use super::process::{Home, Process, RESTATE, micros_of};
use crate::pickup::WARM;
use crate::round::Round;
use crate::server::Db;
use crate::{Bench, worker};

/// The longest drain.
const DRAIN: Duration = Duration::from_secs(180);

/// A peer's database, its server where it has one, its workers.
pub struct Stage<'a> {
    bench: &'a Bench,
    home: &'a Home,
    peer: &'static Peer,
    db: Db,
    jobs: u32,
    env: Vec<(&'static str, String)>,
    server: Option<Process>,
    workers: Vec<Process>,
    _folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    /// With a number of workers and no jobs.
    pub async fn idle(bench: &'a Bench, home: &'a Home, peer: &'static Peer, workers: usize) -> Result<Self> {
        let mut stage = Self::new(bench, home, peer, 0).await?;
        stage.prepared(workers).await?;
        while stage.workers.len() < workers {
            stage.work().await?;
        }
        Ok(stage)
    }

    /// With jobs, and a worker that has not seen them.
    pub async fn filled(bench: &'a Bench, home: &'a Home, peer: &'static Peer, kind: &str, jobs: u32) -> Result<Self> {
        let mut stage = Self::new(bench, home, peer, jobs).await?;
        stage.prepared(0).await?;
        for worker in &stage.workers {
            worker.signal(Signal::SIGSTOP)?;
        }
        stage.once(peer.feed, &["fill", kind, &jobs.to_string()]).await?;
        stage.db.execute("ANALYZE").await?;
        stage.db.execute("CHECKPOINT").await?;
        Ok(stage)
    }

    async fn new(bench: &'a Bench, home: &'a Home, peer: &'static Peer, jobs: u32) -> Result<Self> {
        let env = vec![("PEER_PORTS", free_ports(4).join(",")), ("PEER_EXPECT", jobs.to_string())];
        let (db, folder) = (bench.server.empty_database().await?, tempfile::tempdir()?);
        let mut server = None;
        if peer.id == RESTATE {
            let folder = folder.path().display().to_string();
            let mut process = home.start(peer.worker, &["serve", &folder], &db.url, &env)?;
            process.ready().await?;
            server = Some(process);
        }
        Ok(Self { bench, home, peer, db, jobs, env, server, workers: Vec::new(), _folder: folder })
    }

    /// Its schema; a server learns of its handlers from a worker that is there.
    async fn prepared(&mut self, workers: usize) -> Result<()> {
        if self.server.is_some() && workers < 2 {
            self.work().await?;
        } else if self.server.is_some() {
            // The second one waits for the first one's address.
            self.work().await?;
            self.work().await?;
        }
        let program = if self.server.is_some() { self.peer.feed } else { self.peer.worker };
        self.once(program, &["prepare"]).await
    }

    async fn once(&self, program: &str, args: &[&str]) -> Result<()> {
        self.home.once(program, args, &self.db.url, &self.env).await.map(|_| ())
    }

    async fn work(&mut self) -> Result<()> {
        let mut worker = self.home.start(self.peer.worker, &["work"], &self.db.url, &self.env)?;
        worker.ready().await?;
        self.workers.push(worker);
        Ok(())
    }

    fn cpu(&self) -> Result<f64> {
        self.workers.iter().chain(&self.server).map(Process::cpu).sum()
    }

    /// From the first handler's start until nothing is left.
    pub async fn drained(mut self) -> Result<Round> {
        let before = self.db.cost().await?;
        let (server_cpu, cpu) = (self.bench.server.cpu()?, self.cpu()?);
        for worker in &self.workers {
            worker.signal(Signal::SIGCONT)?;
        }
        if self.workers.is_empty() {
            self.work().await?;
        }
        let done = self.workers[0].hears("done", DRAIN).await?.context("the jobs were not done in time")?;
        let (first, mut last) = (micros_of(&done[1])?, micros_of(&done[2])?);
        if let Some(left) = self.peer.left {
            while self.db.number(&format!("({left})::int")).await? > 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            last = i64::try_from(worker::micros())?;
        }
        let (server_cpu, cpu) = (self.bench.server.cpu()? - server_cpu, self.cpu()? - cpu);
        let after = self.db.cost().await?;
        let jobs = f64::from(self.jobs);
        #[allow(clippy::cast_precision_loss)]
        let seconds = (last - first) as f64 / 1e6;
        Ok(Round {
            rate: jobs / seconds,
            wal: (after.0 - before.0) / jobs,
            commits: (after.1 - before.1) / jobs,
            server_cpu: server_cpu * 1e6 / jobs,
            daemon_cpu: cpu * 1e6 / jobs,
        })
    }

    /// From each single job's commit to its start, in ms.
    pub async fn pickups(mut self, n: usize) -> Result<Vec<f64>> {
        let added = self.home.once(self.peer.feed, &["trickle", &n.to_string()], &self.db.url, &self.env).await?;
        let mut starts = HashMap::new();
        while starts.len() < n {
            let words = self.workers[0].hears("start", DRAIN).await?.context("a job was not started")?;
            starts.insert(words[1].clone(), micros_of(&words[2])?);
        }
        #[allow(clippy::cast_precision_loss)]
        let latency = |words: &Vec<String>| Ok((starts[&words[1]] - micros_of(&words[2])?) as f64 / 1_000.0);
        added.iter().skip(WARM).map(latency).collect()
    }

    /// One job that takes a minute; its worker is killed; until the other one starts it, in ms. `None`: not in that time.
    pub async fn one_kill(mut self, patience: Duration) -> Result<Option<f64>> {
        self.once(self.peer.feed, &["fill", "hold", "1"]).await?;
        let [one, other] = &mut self.workers[..] else { anyhow::bail!("two workers are needed") };
        let holder = tokio::select! {
            heard = one.hears("start", DRAIN) => heard?.map(|_| 0),
            heard = other.hears("start", DRAIN) => heard?.map(|_| 1),
        };
        let holder = self.workers.remove(holder.context("the job was not started")?);
        tokio::time::sleep(Duration::from_millis(500)).await;
        holder.signal(Signal::SIGKILL)?;
        let at = i64::try_from(worker::micros())?;
        let Some(words) = self.workers[0].hears("start", patience).await? else { return Ok(None) };
        #[allow(clippy::cast_precision_loss)]
        let ms = (micros_of(&words[2])? - at) as f64 / 1_000.0;
        eprintln!("    {}: {ms:.0} ms", self.peer.name);
        Ok(Some(ms))
    }
}

/// Ports that nobody listens on, below those that connections are given.
fn free_ports(n: usize) -> Vec<String> {
    let first = fastrand::u16(20_000..30_000);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..).filter(free).take(n).map(|port| port.to_string()).collect()
}

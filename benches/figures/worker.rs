//! Daemons as processes of their own: the real binary with workflow files, or this program with workflows in Rust.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use stepd::{Concurrency, Ctx, Halt, Stepd, Workflow};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::daemon;
use super::server::{Db, Server};

/// The first argument that turns this program into a daemon.
pub const MODE: &str = "serve-code";

/// So many runs at once, where there is a limit …
pub const LIMIT: u32 = 10;

/// … and how long each of them takes: short ones, and ordinary ones.
pub const SHORT_MS: u32 = 20;
pub const LONG_MS: u32 = 200;

/// Which daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `stepd serve` with workflow files.
    Files,
    /// This program, with workflows in Rust.
    Code,
}

/// The workflow files: `noop` has one step, `ten` has ten, `process` runs a program 200 times, `nap` sleeps for a day.
pub fn write_workflows(folder: &Path) -> Result<()> {
    let steps = |n: usize, step: &str| (0..n).map(|i| format!("  - id: s{i}\n    {step}\n")).collect::<String>();
    let files =
        [("noop", 1, "set: 1"), ("ten", 10, "set: 1"), ("process", 200, "run: \"true\""), ("nap", 1, "sleep: 1d")];
    for (name, n, step) in files {
        let text = format!("name: {name}\nsteps:\n{}", steps(n, step));
        std::fs::create_dir_all(folder.join("workflows"))?;
        std::fs::write(folder.join("workflows").join(format!("{name}.yaml")), text)?;
    }
    Ok(())
}

/// A daemon as a child.
pub struct Worker {
    child: Child,
    pub pid: u32,
    /// From exec to the line that says ready.
    pub ready: Duration,
}

impl Worker {
    /// Starts a daemon on the workflows of the figures and waits until it is ready.
    pub async fn start(server: &Server, db: &Db, kind: Kind, concurrency: usize) -> Result<Self> {
        let folder = server.folder.path().join("workflows");
        let command = match kind {
            Kind::Files => daemon::serve(&stepd(), &folder, concurrency),
            Kind::Code => {
                let mut command = daemon::apart(&std::env::current_exe()?, &folder);
                command.args([MODE, &concurrency.to_string()]);
                command
            }
        };
        Self::spawn(command.into(), db).await
    }

    /// Starts a daemon on the workflows of the figures that keeps ended runs no longer than this.
    pub async fn keeping(server: &Server, db: &Db, span: &str) -> Result<Self> {
        let mut command = daemon::serve(&stepd(), &server.folder.path().join("workflows"), 1_000);
        command.env("STEPD_RETENTION__DEFAULT", span);
        Self::spawn(command.into(), db).await
    }

    /// Starts a daemon on the workflows of the figures that exports traces, where there is a collector.
    pub async fn telling(server: &Server, db: &Db, collector: Option<&str>) -> Result<Self> {
        let mut command = daemon::serve(&stepd(), &server.folder.path().join("workflows"), 1_000);
        command.envs(collector.map(|url| ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)));
        Self::spawn(command.into(), db).await
    }

    /// Starts `stepd serve` on a folder.
    pub async fn on_folder(db: &Db, folder: &Path, concurrency: usize) -> Result<Self> {
        Self::spawn(daemon::serve(&stepd(), folder, concurrency).into(), db).await
    }

    /// Starts `stepd serve` with an HTTP server at an address; it serves one queue, or all.
    pub async fn with_site(server: &Server, db: &Db, address: &str, queue: Option<&str>) -> Result<Self> {
        let folder = server.folder.path().join("workflows");
        let mut command = daemon::serve(&stepd(), &folder, 1_000);
        command.env("STEPD_HTTP_LISTEN", address);
        command.envs(queue.map(|queue| ("STEPD_QUEUES", queue)));
        Self::spawn(command.into(), db).await
    }

    async fn spawn(mut command: Command, db: &Db) -> Result<Self> {
        command.env("DATABASE_URL", &db.url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let began = Instant::now();
        let mut child = command.spawn()?;
        let pid = child.id().context("the daemon has no pid")?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            if line.contains("\"ready\"") {
                let ready = began.elapsed();
                #[expect(clippy::disallowed_methods, reason = "ends with the daemon whose lines it reads")]
                tokio::spawn(async move {
                    while let Ok(Some(line)) = lines.next_line().await {
                        if line.contains("\"ERROR\"") {
                            eprintln!("  daemon: {line}");
                        }
                    }
                });
                return Ok(Self { child, pid, ready });
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!("the daemon ended before it was ready: {said}")
    }

    /// SIGTERM, and the exit code must be 0.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await??;
        ensure!(status.success(), "the daemon stopped with {status}");
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> Result<()> {
        self.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.child.wait().await?;
        Ok(())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(self.pid)?), signal)?)
    }

    /// A field of `/proc/PID/status` in MB (`VmRSS`, `VmHWM`).
    pub fn memory(&self, field: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|l| l.strip_prefix(field)).context("no such field")?;
        let kb: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kb / 1024.0)
    }

    /// CPU used so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(self.pid)
    }
}

/// The binary, or another one to compare with.
pub fn stepd() -> PathBuf {
    std::env::var_os("FIGURES_STEPD").map_or_else(|| env!("CARGO_BIN_EXE_stepd").into(), Into::into)
}

/// CPU that a process has used so far, in seconds.
pub fn cpu_of(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").context("stat")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    // utime and stime, in ticks of 10 ms.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// A workflow in Rust: a number of steps, each of which may take its time.
struct Steps {
    keys: Vec<String>,
    pause: Duration,
}

impl Steps {
    async fn run(&self, ctx: &Ctx<'_>, _: serde_json::Value) -> Result<(), Halt> {
        let (pid, pause) = (std::process::id(), self.pause);
        for key in &self.keys {
            ctx.step::<(u64, u32), _, _>(key, || async move {
                // The wall clock, which this process and the measuring one share.
                let at = micros();
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                Ok((at, pid))
            })
            .await?;
        }
        Ok(())
    }
}

/// Microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "compared with the times of the database on the same machine")]
pub fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0))
}

fn code(name: &str, steps: usize, pause: Duration) -> Workflow {
    let keys = (0..steps).map(|i| format!("s{i}")).collect();
    Workflow::with(name, Steps { keys, pause }, Steps::run)
}

/// This program as a daemon.
pub async fn serve(args: &[String]) -> Result<()> {
    stepd::telemetry::logs::start("json", "info");
    let limited = |name, ms: u32| code(name, 1, Duration::from_millis(ms.into()));
    let daemon = Stepd::builder()
        .queue("figures")
        .concurrency(args.first().context("concurrency")?.parse()?)
        .register(code("code_1", 1, Duration::ZERO))
        .register(code("code_10", 10, Duration::ZERO))
        .register(code("code_1000", 1_000, Duration::ZERO))
        .register(code("code_slow", 500, Duration::from_millis(20)))
        .register(limited("code_short", SHORT_MS))
        .register(limited("code_long", LONG_MS))
        .register(limited("code_keyed_short", SHORT_MS).concurrency(Concurrency::limit(LIMIT)))
        .register(limited("code_keyed_long", LONG_MS).concurrency(Concurrency::limit(LIMIT)))
        .register(code("code_hold", 1, Duration::from_secs(8)))
        .start()
        .await?;
    // Before it says ready: whoever has read that may stop it.
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tracing::info!("ready");
    term.recv().await;
    ensure!(daemon.shutdown().await, "something was left behind");
    Ok(())
}

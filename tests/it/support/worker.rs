//! The daemon as a child process that can be killed, stopped and drained.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use stepd::os::pre_exec::{ChildSetup, before_exec};
use stepd::os::proc;
use stepd::os::spawner::{self, Owned};
use tempfile::TempDir;

use super::{Db, Files, SOON, wait_until};

/// How to run a daemon.
#[derive(Clone)]
pub struct Spec {
    binary: PathBuf,
    url: String,
    workflows: PathBuf,
    env: Vec<(String, String)>,
    args: Vec<String>,
    within: Vec<String>,
}

impl Spec {
    /// A daemon with default settings.
    pub fn new(db: &Db, files: &Files) -> Self {
        let binary = env!("CARGO_BIN_EXE_stepd").into();
        Self {
            binary,
            url: db.url.clone(),
            workflows: files.workflows(),
            env: Vec::new(),
            args: Vec::new(),
            within: Vec::new(),
        }
    }

    /// Another build of it.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.to_owned();
        self
    }

    /// Started by another program, which becomes the daemon: words before its own.
    #[must_use]
    pub fn within(mut self, words: Vec<String>) -> Self {
        self.within = words;
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl ToString) -> Self {
        self.env.push((key.to_owned(), value.to_string()));
        self
    }

    /// `name=N:kill, …`.
    #[must_use]
    pub fn failpoints(self, points: &str) -> Self {
        self.env("STEPD_FAILPOINTS", points)
    }

    /// Seconds without a heartbeat after which others may take over.
    #[must_use]
    pub fn lease(self, seconds: u32) -> Self {
        self.env("STEPD_LEASE_SECONDS", seconds)
    }

    /// Seconds that running steps are given at a shutdown.
    #[must_use]
    pub fn grace(self, seconds: u32) -> Self {
        self.env("STEPD_GRACE_SECONDS", seconds)
    }

    /// Runs at once.
    #[must_use]
    pub fn concurrency(self, n: u32) -> Self {
        self.env("STEPD_CONCURRENCY", n)
    }

    /// With an HTTP server, on a port of its own.
    #[must_use]
    pub fn http(self) -> Self {
        self.env("STEPD_HTTP_LISTEN", "127.0.0.1:0")
    }

    /// One more argument of `stepd serve`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// HTTP alone.
    #[must_use]
    pub fn without_work(mut self) -> Self {
        self.workflows = PathBuf::new();
        self.arg("--no-work")
    }

    /// Starts the daemon; does not wait for anything.
    pub fn start(&self) -> Worker {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut words = self.within.iter().map(PathBuf::from).chain([self.binary.clone()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("serve").args(&self.args);
        if !self.workflows.as_os_str().is_empty() {
            command.arg("--workflows").arg(&self.workflows);
        }
        for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("STEPD_")) {
            if key != "STEPD_POSTGRES_BIN" {
                command.env_remove(key);
            }
        }
        for (key, _) in std::env::vars_os().filter(|(k, _)| super::is_of_traces(k)) {
            command.env_remove(key);
        }
        command.env("DATABASE_URL", &self.url).env("STEPD_LOG_FORMAT", "json").env_remove("RUST_LOG");
        command.env("STEPD_HTTP_LISTEN", "off");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        // When the test process itself is killed, nothing stays behind.
        before_exec(&mut command, ChildSetup { parent_death: Some(Signal::SIGKILL), ..ChildSetup::default() });
        let (child, owned) = spawner::spawn(command).unwrap();
        Worker { child, _owned: owned, dir, number: MADE.fetch_add(1, Ordering::SeqCst), ended: None }
    }

    /// Starts the daemon and waits until it is registered and ready to claim.
    pub async fn ready(&self) -> Worker {
        let mut worker = self.start();
        worker.logs("\"ready\"").await;
        worker
    }
}

/// A daemon at work. Dropping it kills it and its process group; when the test has failed, its log is shown.
pub struct Worker {
    child: Child,
    _owned: Owned,
    dir: TempDir,
    number: u32,
    ended: Option<ExitStatus>,
}

impl Worker {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            kill(Pid::from_raw(self.pid()), signal).unwrap();
        }
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How many lines of its log hold a text.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|l| l.contains(text)).count()
    }

    /// Where its HTTP server is: `http://127.0.0.1:4711`.
    pub async fn site(&mut self) -> String {
        self.logs("\"listening\"").await;
        let log = self.log();
        let line = log.lines().find(|l| l.contains("\"listening\"")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("http://{}", line["address"].as_str().unwrap())
    }

    /// Waits for a text in its log; panics, with its log, when the daemon ends first or does not say it soon.
    pub async fn logs(&mut self, text: &str) {
        let began = Instant::now();
        while self.logged(text) == 0 {
            let waits = self.is_running() && began.elapsed() < SOON;
            assert!(waits || self.logged(text) > 0, "worker {} has not logged {text}:\n{}", self.number, self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has it not ended yet?
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended.is_none()
    }

    /// kill -9, and nothing of it is left when this returns (its steps' processes aside: its guard sees to them).
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended = Some(self.child.wait().unwrap());
    }

    /// SIGSTOP; returns when it stands still.
    pub async fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        self.stands_still(SOON).await;
    }

    /// Waits until it is stopped: by [`Worker::stop`], or by a failpoint.
    pub async fn stands_still(&self, limit: Duration) {
        wait_until(&format!("worker {} stands still", self.number), limit, async || {
            proc::stat(self.pid()).is_some_and(|s| s.state == 'T')
        })
        .await;
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGTERM.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGHUP: reload.
    pub fn hup(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Waits for its end.
    pub async fn ends(&mut self, limit: Duration) -> ExitStatus {
        let number = self.number;
        wait_until(&format!("worker {number} ends"), limit, async || !self.is_running()).await;
        self.ended.unwrap()
    }

    /// SIGTERM, then waits for its end: the exit code.
    pub async fn drain(&mut self, limit: Duration) -> Option<i32> {
        self.term();
        self.ends(limit).await.code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- log of worker {} (pid {}) ---\n{end}", self.number, self.pid());
        }
    }
}

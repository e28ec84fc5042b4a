//! A really booted systemd, in a container of namespaces; see `systemd-boot.sh`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stepd::os::pre_exec::{ChildSetup, before_exec};
use stepd::os::proc;
use stepd::os::spawner::{self, Owned};
use tempfile::TempDir;

/// Clean halt, for systemd as process 1: SIGRTMIN+3.
const HALT: i32 = 37;

/// The container. Dropping it ends it.
pub struct Booted {
    dir: TempDir,
    cgroup: PathBuf,
    child: Child,
    _owned: Owned,
    init: i32,
}

impl Booted {
    /// Boots; `None`, said aloud, where that cannot be done. `units` is a folder, `mounts` are `(source, target)`.
    pub fn start(units: &Path, mounts: &[(PathBuf, &str)]) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let cgroups =
            cgroup2().filter(|_| nix::unistd::geteuid().is_root() && Path::new("/lib/systemd/systemd").exists());
        let Some(cgroups) = cgroups else {
            eprintln!("SKIPPED: no systemd can be booted here; that needs root, systemd, and a cgroup2 hierarchy");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("stepd-boot").tempdir_in("/var/tmp").unwrap();
        let name = format!("stepd-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::SeqCst));
        let cgroup = cgroups.join(name);
        std::fs::create_dir(&cgroup).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/systemd-boot.sh");
        let mut command = Command::new("bash");
        command.arg(script).arg(dir.path()).arg(&cgroup).arg(units).stdin(Stdio::null());
        command.args(mounts.iter().map(|(source, target)| format!("{}:{target}", source.display())));
        let parent_death = Some(Signal::SIGKILL);
        before_exec(&mut command, ChildSetup { new_session: true, parent_death, ..ChildSetup::default() });
        let (child, owned) = spawner::spawn(command).unwrap();
        let mut booted = Self { dir, cgroup, child, _owned: owned, init: 0 };
        booted.wait_for_init();
        Some(booted)
    }

    fn wait_for_init(&mut self) {
        let began = Instant::now();
        let parent = self.child.id();
        while began.elapsed() < Duration::from_secs(30) {
            let children =
                std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            let init = children.split_whitespace().next().and_then(|pid| pid.parse::<i32>().ok());
            let is_systemd =
                |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "systemd");
            if let Some(init) = init.filter(|pid| is_systemd(*pid)) {
                self.init = init;
                let state = self.run(&["systemctl", "is-system-running"]);
                if ["running", "degraded"].contains(&text(&state.stdout).trim()) {
                    return;
                }
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the boot failed:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("systemd does not come up:\n{}", self.console());
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("console.log")).unwrap_or_default()
    }

    /// Runs a command inside.
    pub fn run(&self, command: &[&str]) -> Output {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.init.to_string(), "-m", "-u", "-i", "-p", "-C", "env", "-i"]);
        nsenter.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "SYSTEMD_PAGER=cat"]);
        nsenter.args(command).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command inside that must succeed; what it says.
    #[track_caller]
    pub fn ok(&self, command: &[&str]) -> String {
        let done = self.run(command);
        assert!(
            done.status.success(),
            "{command:?}: {}{}\n{}",
            text(&done.stdout),
            text(&done.stderr),
            text(&self.run(&["journalctl", "-u", "stepd", "-n", "60", "--no-pager"]).stdout)
        );
        text(&done.stdout)
    }

    /// A property of the unit.
    pub fn property(&self, name: &str) -> String {
        self.ok(&["systemctl", "show", "stepd", "-P", name]).trim().to_owned()
    }

    /// The journal of the unit.
    pub fn journal(&self) -> String {
        self.ok(&["journalctl", "-u", "stepd", "--no-pager", "-o", "cat"])
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, content: &str) {
        let script = "mkdir -p \"$(dirname \"$1\")\"; printf %s \"$2\" > \"$1\"";
        self.ok(&["sh", "-c", script, "sh", path, content]);
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.run(&["journalctl", "-u", "stepd", "-n", "80", "--no-pager"]);
            eprintln!("--- journal ---\n{}", text(&journal.stdout));
        }
        let began = Instant::now();
        // SAFETY of the id: init lives until its parent, our child, has been waited for.
        let halted = Command::new("kill").args([format!("-{HALT}"), self.init.to_string()]).status();
        while halted.is_ok() && began.elapsed() < Duration::from_secs(10) && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if matches!(self.child.try_wait(), Ok(None)) && proc::stat(self.init).is_some() {
            let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
            let _ = self.child.wait();
        }
        remove_cgroups(&self.cgroup);
    }
}

/// From the leaves to the root.
fn remove_cgroups(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        remove_cgroups(&entry.path());
    }
    let _ = std::fs::remove_dir(path);
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mut at = mounts.lines().filter_map(|l| {
        let mut words = l.split(' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    at.next()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

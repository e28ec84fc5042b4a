//! `run` and `exec`: a program as a step.
//!
//! One attempt is one process in a session of its own, and everything that it starts. What its code
//! is given stands in [`program`]; the parts of its life:
//!
//! - [`attempt`] spawns it, feeds and reads its pipes, and waits: for its end, or for the stop.
//! - [`folder`] is where it starts: its own, empty, and gone afterwards.
//! - [`usage`] holds it to its limits.
//! - [`kill`] ends all that an attempt has started. A process belongs to the attempt when it descends
//!   from the attempt's process, or shares its session or group, or carries the attempt's marker in
//!   its environment ([`MARKER`]); so double forks and sessions of their own do not hide it. Where an
//!   author's program clears its environment, leaves the session and forks twice, it does escape.
//! - [`guard`] is a small process beside the daemon that kills what is left when the daemon dies.
//!
//! An attempt ends with its main process: when that has exited, output is read for [`LINGER`] more
//! where something still holds the pipes, and whatever still runs is killed. A service that must
//! outlive its step belongs to the machine's service manager.

mod attempt;
mod folder;
mod guard;
mod kept;
mod kill;
#[cfg(test)]
mod limits_tests;
mod lines;
mod output;
mod program;
#[cfg(test)]
mod tests;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::model::Failure;
use crate::rules::limits::Limits;

use super::short::Shortage;
use super::step::{BoxFuture, Flow, Step, StepCx};

use guard::Guard;
pub use guard::{guard_main, kill_marked_on_end_of_input};
pub(super) use kept::{Kept, Launcher};
use program::Program;

/// The environment variable that marks every process of an attempt.
const MARKER: &str = "STEPD_ATTEMPT_TOKEN";
/// How long output is still read after the main process has exited while something else holds its
/// pipes: enough for the end of a pipeline, too short to wait for a daemon.
const LINGER: Duration = Duration::from_secs(1);
/// How long the killing of a tree may take before the attempt ends without it: a process in
/// uninterruptible sleep (a dead NFS server) cannot be killed by anybody.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How processes are run.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The time between TERM and KILL.
    pub grace: Duration,
    /// The most bytes of stdout; a program that writes more is killed and fails with `too_large`.
    pub output_limit: usize,
    /// What the programs of one step may use; a step may have less.
    pub limits: Limits,
    /// Names of environment variables that are handed on besides the usual ones.
    pub pass_env: Vec<String>,
    /// Set-user-id programs (`sudo`, `ping`) give a step nothing.
    pub no_new_privs: bool,
    /// The command that runs [`guard_main`]; empty means no guard. Only the program knows which of its
    /// arguments leads there, so that the default is none: see [`ProcessOptions::own_guard`].
    pub guard: Vec<OsString>,
}

impl ProcessOptions {
    /// The running binary with the hidden argument `guard`: for a `main` that calls [`guard_main`]
    /// when it sees that argument.
    #[must_use]
    pub fn own_guard() -> Vec<OsString> {
        // The link leads to the running binary even when its file has been replaced.
        vec!["/proc/self/exe".into(), "guard".into()]
    }
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            output_limit: 16 << 20,
            limits: Limits::default(),
            pass_env: Vec::new(),
            no_new_privs: true,
            guard: Vec::new(),
        }
    }
}

/// What all process steps of a daemon share.
struct Processes {
    options: ProcessOptions,
    /// The environment that every program gets, before its own.
    base: Vec<(OsString, OsString)>,
    /// Random, so that no other daemon's processes are mistaken for ours.
    token: String,
    attempts: AtomicU64,
    /// Where the folders of attempts are.
    folder: PathBuf,
    guard: Guard,
    short: Shortage,
}

impl Processes {
    fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }

    /// The marker's value for an attempt. The last byte ends it: no value is the beginning of another.
    fn marker(&self, number: u64) -> String {
        format!("{}.{number}.", self.token)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        folder::remove(&self.folder);
    }
}

/// `run`: a shell script. `program.rs` lists its parameters.
#[derive(Clone)]
pub struct Run(Arc<Processes>);

/// `exec`: a program and its arguments. `program.rs` lists its parameters.
#[derive(Clone)]
pub struct Exec(Arc<Processes>);

/// The two kinds, with one guard between them.
#[must_use]
pub fn kinds(options: ProcessOptions) -> (Run, Exec) {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let base = program::base_environment(&options.pass_env);
    let guard = Guard::new(options.guard.clone(), &token);
    let folder = folder::of_daemon(&token);
    let (attempts, short) = (AtomicU64::new(0), Shortage::of("program", "started"));
    let shared = Arc::new(Processes { options, base, token, attempts, folder, guard, short });
    (Run(Arc::clone(&shared)), Exec(shared))
}

impl Run {
    /// Starts programs that outlive an attempt, under the same guard.
    pub(super) fn launcher(&self) -> Launcher {
        Launcher::new(Arc::clone(&self.0))
    }
}

impl Step for Run {
    fn kind(&self) -> &'static str {
        "run"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move { attempt::run(&self.0, cx, Program::script(cx, params)?).await })
    }

    fn stop_grace(&self) -> Option<Duration> {
        Some(stop_grace(&self.0))
    }
}

impl Step for Exec {
    fn kind(&self) -> &'static str {
        "exec"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move { attempt::run(&self.0, cx, Program::argv(params)?).await })
    }

    fn stop_grace(&self) -> Option<Duration> {
        Some(stop_grace(&self.0))
    }
}

fn stop_grace(shared: &Processes) -> Duration {
    shared.options.grace + KILL_LIMIT + LINGER
}

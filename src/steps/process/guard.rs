//! The guard: a small process beside the daemon that kills what the daemon's steps have started, when
//! the daemon is gone.
//!
//! The kernel kills a step's main process together with the daemon (parent-death signal), but not
//! what that process has started in turn. The guard reads a pipe whose other end the daemon holds:
//! when that ends, however the daemon came to its end, everything that carries the daemon's marker
//! is killed, and the guard leaves. It is the same binary with a hidden argument, started with
//! the first process step.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::os::pre_exec::{ChildSetup, before_exec};
use crate::os::spawner::Owned;
use crate::steps::short;

use super::folder;
use super::kill::{Target, kill_all};

/// Tells the guard whom it guards.
const TOKEN: &str = "STEPD_GUARD_TOKEN";
/// How often a guard that has ended is replaced: one that cannot run at all must not cost a fork with
/// every step.
const STARTS: u32 = 3;
/// How long the guard tries, and how long it goes on looking after it has found nothing: a child may
/// have been between fork and exec, without a marker yet.
const TRIES: Duration = Duration::from_secs(10);
const AFTERWARDS: Duration = Duration::from_millis(200);

/// The daemon's end.
pub(super) struct Guard {
    command: Vec<OsString>,
    token: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Its stdin is the pipe; nobody writes to it.
    process: Option<(Child, Owned)>,
    starts: u32,
}

impl Guard {
    pub(super) fn new(command: Vec<OsString>, token: &str) -> Self {
        Self { command, token: token.to_owned(), state: Mutex::default() }
    }

    /// Starts the guard if none runs. Only on the spawner's thread. A guard that cannot be started is
    /// a warning: steps run all the same, and their main processes still die with the daemon.
    pub(super) fn ensure(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.process.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None))) {
            return;
        }
        if self.command.is_empty() || state.starts >= STARTS {
            return;
        }
        state.starts += 1;
        state.process = match self.spawn() {
            Ok(process) => Some(process),
            // The machine is short of something; so is the step, which waits for it.
            Err(error) if short::passes(&error) => {
                state.starts -= 1;
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the guard of process steps cannot be started: grandchildren of steps would outlive a killed daemon");
                None
            }
        };
    }

    fn spawn(&self) -> io::Result<(Child, Owned)> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env_clear().env(TOKEN, &self.token).current_dir("/");
        command.envs(std::env::var_os("TMPDIR").map(|place| ("TMPDIR", place)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A session of its own: Ctrl-C at the terminal must not end the guard before the daemon.
        before_exec(&mut command, ChildSetup { new_session: true, close_inherited: true, ..ChildSetup::default() });
        let child = command.spawn()?;
        let owned = Owned::new(child.id());
        Ok((child, owned))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some((mut child, owned)) = state.process.take() else { return };
        drop(child.stdin.take());
        // It takes its last look around; somebody must wait for it, but not the one who drops us.
        let _ = std::thread::Builder::new().name("stepd-guard".into()).spawn(move || {
            let _ = child.wait();
            drop(owned);
        });
    }
}

/// The guard's own program: waits until stdin ends, then kills all that the daemon's steps left
/// behind. To be called by `main`, before anything else, for the hidden argument `guard`.
#[must_use]
pub fn guard_main() -> ExitCode {
    let Some(token) = std::env::var(TOKEN).ok().filter(|t| t.len() >= 16 && t.bytes().all(|b| b.is_ascii_hexdigit()))
    else {
        return ExitCode::from(2);
    };
    let dead = kill_marked_on_end_of_input(&token, io::stdin());
    // A daemon that was killed has not tidied up.
    folder::remove(&folder::of_daemon(&token));
    if dead { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for the end of `input`, then kills every process that carries the marker of the daemon
/// with that token; returns whether none is left.
pub fn kill_marked_on_end_of_input(token: &str, mut input: impl Read) -> bool {
    let mut byte = [0];
    loop {
        match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let target = Target::marked(None, &format!("{token}."));
    let until = Instant::now() + AFTERWARDS;
    loop {
        let dead = kill_all(&target, TRIES);
        if Instant::now() >= until {
            return dead;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

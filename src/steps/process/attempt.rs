//! One attempt: spawn, feed, read, wait, clean up.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::model::{Failure, code};
use crate::os::aside::aside;
use crate::os::pre_exec::{ChildSetup, before_exec};
use crate::os::spawner::{self, Owned};
use crate::rules::limits::{Limits, Resource};
use crate::steps::calls::Calling;
use crate::steps::short;
use crate::steps::step::{Flow, StepCx, StopReason};

use super::folder::Folder;
use super::kill::{self, Target, kill_all};
use super::output::{self, Capture, Details, TooLarge};
use super::program::{self, Program};
use super::usage::{self, Exceeded};
use super::{KILL_LIMIT, LINGER, MARKER, Processes};

/// Runs the program to its end.
pub(super) async fn run(shared: &Arc<Processes>, cx: &StepCx, program: Program) -> Result<Flow, Failure> {
    let mut call = cx.call(false);
    program.describe(&mut call);
    let done = to_its_end(shared, cx, &mut call, program).await;
    if let Ok(Flow::Done(output)) = &done {
        call.output(|| output.default.to_string());
    }
    call.end(&done);
    done
}

async fn to_its_end(
    shared: &Arc<Processes>,
    cx: &StepCx,
    call: &mut Calling,
    mut program: Program,
) -> Result<Flow, Failure> {
    let stdin = program.stdin.take();
    let limits = program.limits.within(shared.options.limits).map_err(|resource| beyond(resource, shared))?;
    program.limits = limits;
    let identity = program::identity(cx, call.context(cx));
    let mut running = Running::spawn(shared, program, identity, stdin.is_some(), Some(cx)).await?;
    if let Some(pid) = running.child.id() {
        call.set("process.pid", pid);
    }
    let (mut out, mut err) = (Capture::whole(shared.options.output_limit, &cx.log), Capture::ends(&cx.log));
    let end = running.drive(stdin, &mut out, &mut err, (shared.options.grace, limits), cx).await;
    match end {
        End::Exited(status) => {
            if let Some(code) = status.code() {
                call.set("process.exit.code", code);
            }
            match Exceeded::by_signal(&limits, status.signal(), status.code()) {
                Some(exceeded) => Err(killed(exceeded, out, err)),
                None => output::result(status, out, err).map(Flow::Done),
            }
        }
        End::Exceeded(exceeded) => Err(killed(exceeded, out, err)),
        End::Stopped(reason) => Err(stopped(reason).with_details(Details::new(out, err).json(None, None))),
        End::TooLarge => {
            let limit = shared.options.output_limit;
            let message =
                format!("the program wrote more than {limit} bytes to stdout: write to a file, or raise the limit");
            Err(Failure::permanent(code::TOO_LARGE, message).with_details(Details::new(out, err).json(None, None)))
        }
        End::Broken(error) => Err(Failure::transient(code::INTERNAL, format!("cannot wait for the program: {error}"))),
    }
}

fn killed(exceeded: Exceeded, out: Capture, err: Capture) -> Failure {
    let mut details = Details::new(out, err).json(None, None);
    details["limit"] = exceeded.details();
    exceeded.failure().with_details(details)
}

fn beyond(resource: Resource, shared: &Processes) -> Failure {
    let most = shared.options.limits.of(resource).map(|most| resource.shown(most)).unwrap_or_default();
    let message = format!(
        "parameter `limits` of the step asks for more {} than [limits] of this worker's configuration allows ({most}): lower the one, or raise the other",
        resource.words()
    );
    Failure::permanent(code::INVALID_PARAMS, message)
}

fn stopped(reason: StopReason) -> Failure {
    match reason {
        StopReason::Timeout => Failure::transient(code::TIMEOUT, "the program was killed: its time was up"),
        StopReason::Cancelled => Failure::transient(code::INTERRUPTED, "the program was killed: the run is cancelled"),
        StopReason::LeaseLost => Failure::transient(code::INTERRUPTED, "the program was killed: the lease is lost"),
        StopReason::GivenBack => {
            Failure::transient(code::INTERRUPTED, "the program was killed: the daemon lets go of the run")
        }
        StopReason::Paused => Failure::transient(code::INTERRUPTED, "the program was killed: the run is paused"),
    }
}

/// How the main process came to its end.
enum End {
    Exited(ExitStatus),
    Stopped(StopReason),
    TooLarge,
    Exceeded(Exceeded),
    Broken(io::Error),
}

/// Everything that an attempt has started. Dropped while armed (the attempt's future was dropped), it
/// kills all of it.
struct Tree {
    target: Target,
    armed: bool,
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // The group at once; the search for the others blocks too long for a drop.
        if let Some(leader) = self.target.leader.filter(|_| !self.target.reaped) {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
        let target = self.target.clone();
        let _ = std::thread::Builder::new().name("stepd-kill".into()).spawn(move || kill_all(&target, KILL_LIMIT));
    }
}

/// Fields are dropped in this order: the tree is killed while the child still holds its id, and its folder goes last.
pub(super) struct Running {
    tree: Tree,
    pub(super) child: Child,
    _owned: Owned,
    _folder: Option<Folder>,
}

impl Running {
    /// Starts a program; `identity` is what its environment says of whom it works for. An attempt's has a folder of its own; what
    /// is kept beyond it (`None`) starts in the daemon's.
    pub(super) async fn spawn(
        shared: &Arc<Processes>,
        program: Program,
        identity: impl Iterator<Item = (&'static str, String)>,
        feeds: bool,
        attempt: Option<&StepCx>,
    ) -> Result<Self, Failure> {
        let name = program.argv[0].clone();
        let number = shared.next_attempt();
        let marker = shared.marker(number);
        let folder = attempt.map(|_| Folder::new(&shared.folder, number)).transpose();
        let mut folder = folder.map_err(|error| no_folder(shared, &error))?;
        let mut command = command(shared, program, identity, (&marker, folder.as_ref()));
        command.stdin(if feeds { Stdio::piped() } else { Stdio::null() });
        let began = Instant::now();
        while let Err(error) = spawner::ready() {
            Self::wait(shared, &name, &error, began, attempt).await?;
        }
        loop {
            let (given, held, marker, room) = (command, Arc::clone(shared), marker.clone(), folder);
            let runtime = tokio::runtime::Handle::current();
            // All of it on the permanent thread; a caller that is gone by then drops an armed tree there.
            let spawned = spawner::run(move || {
                let mut given = given;
                held.guard.ensure();
                kill::adopt_orphans();
                let _runtime = runtime.enter();
                match Self::fork(&mut given, &marker) {
                    Ok(running) => Ok(Self { _folder: room, ..running }),
                    Err(error) => Err(Box::new((given, room, error))),
                }
            });
            let spawned = spawned.await.map_err(|error| spawn_failure(&name, &error))?;
            match spawned {
                Ok(running) => {
                    shared.short.over();
                    return Ok(running);
                }
                Err(failed) => {
                    let (again, room, error) = *failed;
                    Self::wait(shared, &name, &error, began, attempt).await?;
                    (command, folder) = (again, room);
                }
            }
        }
    }

    /// Waits for a place, for what could not be started. An attempt that is stopped meanwhile has nothing to end; of one that has been
    /// started the program is asked to.
    async fn wait(
        shared: &Processes,
        name: &str,
        error: &io::Error,
        since: Instant,
        attempt: Option<&StepCx>,
    ) -> Result<(), Failure> {
        let stop = async {
            match attempt {
                Some(cx) => cx.stop.stopped().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            again = shared.short.wait(error, since) => again.then_some(()).ok_or_else(|| spawn_failure(name, error)),
            reason = stop => Err(stopped(reason)),
        }
    }

    fn fork(command: &mut Command, marker: &str) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the program has no id"))?;
        let leader = i32::try_from(pid).map_err(io::Error::other)?;
        let tree = Tree { target: Target::marked(Some(leader), marker), armed: true };
        Ok(Self { tree, child, _owned: Owned::new(pid), _folder: None })
    }

    async fn drive(
        &mut self,
        stdin: Option<Vec<u8>>,
        out: &mut Capture,
        err: &mut Capture,
        (grace, limits): (Duration, Limits),
        cx: &StepCx,
    ) -> End {
        let pipes = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let mut io = pin!(exchange(pipes, stdin, out, err));
        let mut io_done = false;
        let mut stop = pin!(cx.stop.stopped());
        let target = self.tree.target.clone();
        let mut exceeded = pin!(usage::exceeded(&target, limits));
        let end = loop {
            tokio::select! {
                biased;
                reason = &mut stop => break End::Stopped(reason),
                exceeded = &mut exceeded => break End::Exceeded(exceeded),
                done = &mut io, if !io_done => match done {
                    Ok(()) => io_done = true,
                    Err(TooLarge) => break End::TooLarge,
                },
                status = self.child.wait() => break match status {
                    Ok(status) => End::Exited(status),
                    Err(error) => End::Broken(error),
                },
            }
        };
        // After `TooLarge` the exchange is over; polling it again would panic.
        io_done |= matches!(end, End::TooLarge);
        let mut forced = !matches!(end, End::Exited(_));
        if matches!(end, End::Stopped(_)) {
            self.terminate(grace, &mut io_done, io.as_mut()).await;
        }
        if matches!(end, End::Exited(_)) && !io_done {
            // Something still holds the pipes. It may finish its last words, and is killed then.
            io_done = timeout(LINGER, io.as_mut()).await.is_ok();
            forced = !io_done;
        }
        self.kill_rest(forced, !matches!(end, End::Exited(_))).await;
        if !io_done {
            // All that held the pipes is dead: what they still contain is read without waiting.
            let _ = timeout(LINGER, io).await;
        }
        end
    }

    /// Asks the group to end, and gives it the time to. It is read meanwhile, or it might block on its output.
    async fn terminate(
        &mut self,
        grace: Duration,
        io_done: &mut bool,
        mut io: std::pin::Pin<&mut impl Future<Output = Result<(), TooLarge>>>,
    ) {
        if let Some(leader) = self.tree.target.leader {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGTERM);
        }
        let child = &mut self.child;
        let _ = timeout(grace, async {
            loop {
                tokio::select! {
                    _ = child.wait() => break,
                    _ = io.as_mut(), if !*io_done => *io_done = true,
                }
            }
        })
        .await;
    }

    /// Kills what is left of the tree, and waits for the main process if that is still to be done.
    pub(super) async fn kill_rest(&mut self, forced: bool, waits: bool) {
        self.tree.target.reaped = !waits || self.child.id().is_none();
        if forced || kill::leftovers(&self.tree.target) {
            let target = self.tree.target.clone();
            let dead = aside(move || kill_all(&target, KILL_LIMIT)).await.unwrap_or(false);
            if !dead {
                tracing::warn!(leader = ?self.tree.target.leader, "a step's process does not die: it is left behind");
            }
        }
        if waits && timeout(LINGER, self.child.wait()).await.is_ok() {
            self.tree.target.reaped = true;
        }
        self.tree.armed = false;
    }
}

fn command(
    shared: &Processes,
    program: Program,
    identity: impl Iterator<Item = (&'static str, String)>,
    (marker, folder): (&str, Option<&Folder>),
) -> Command {
    let options = &shared.options;
    let mut command = std::process::Command::new(&program.argv[0]);
    command.args(&program.argv[1..]).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    command.envs(shared.base.iter().map(|(name, value)| (name, value)));
    if let Some(folder) = folder {
        command.current_dir(folder.path()).env("TMPDIR", folder.path());
    }
    for (name, value) in &program.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.envs(identity).env(MARKER, marker);
    if let Some(cwd) = &program.cwd {
        command.current_dir(cwd);
    }
    let setup = ChildSetup {
        new_session: true,
        parent_death: Some(Signal::SIGKILL),
        no_new_privs: options.no_new_privs,
        no_core: true,
        close_inherited: true,
        private_files: true,
        ceilings: usage::ceilings(&program.limits),
    };
    before_exec(&mut command, setup);
    Command::from(command)
}

type Pipes = (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>);

/// Feeds stdin and reads the two outputs, until all three are at their end.
async fn exchange(pipes: Pipes, stdin: Option<Vec<u8>>, out: &mut Capture, err: &mut Capture) -> Result<(), TooLarge> {
    let (to, from, errors) = pipes;
    let feed = async {
        if let (Some(mut pipe), Some(bytes)) = (to, stdin) {
            // A program need not read its input: a broken pipe is no failure.
            let _ = pipe.write_all(&bytes).await;
        }
        Ok(())
    };
    let read_out = async {
        match from {
            Some(pipe) => out.read(pipe, true).await,
            None => Ok(()),
        }
    };
    let read_err = async {
        match errors {
            Some(pipe) => err.read(pipe, false).await,
            None => Ok(()),
        }
    };
    futures_util::try_join!(feed, read_out, read_err).map(drop)
}

fn no_folder(shared: &Processes, error: &io::Error) -> Failure {
    let place = shared.folder.display();
    let message =
        format!("cannot make the step a folder of its own in {place}: {error}; TMPDIR says where such folders are");
    Failure::transient(code::SPAWN, message)
}

fn spawn_failure(name: &str, error: &io::Error) -> Failure {
    let message = format!("cannot start `{name}`: {error}");
    match short::passes(error) {
        true => Failure::transient(code::SPAWN, message),
        false => Failure::permanent(code::SPAWN, message),
    }
}

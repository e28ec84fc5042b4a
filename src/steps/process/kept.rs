//! Programs that outlive an attempt: servers that steps talk to. The daemon keeps them, and they end with it, with everything that
//! they have started: by [`Kept::end`], by a drop, or by the guard.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::model::Failure;

use super::Processes;
use super::attempt::Running;
use super::program::Program;

/// Starts such programs.
#[derive(Clone)]
pub(in crate::steps) struct Launcher(Arc<Processes>);

/// A program at work. Dropped, it is killed.
pub(in crate::steps) struct Kept(Running);

/// The program's ends of its pipes.
pub(in crate::steps) struct Pipes {
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
}

impl Launcher {
    pub(super) fn new(shared: Arc<Processes>) -> Self {
        Self(shared)
    }

    /// Starts a program: the environment is that of `run` and `exec` steps, and `env` on top of it.
    pub(in crate::steps) async fn start(
        &self,
        argv: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<(Kept, Pipes), Failure> {
        let env = env.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        let program = Program { argv: argv.to_vec(), env, ..Program::default() };
        let mut running = Running::spawn(&self.0, program, std::iter::empty(), true, None).await?;
        let child = &mut running.child;
        let pipes = Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        Ok((Kept(running), pipes))
    }
}

impl Kept {
    /// How it ended, if it has.
    pub(in crate::steps) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.child.try_wait().ok().flatten()
    }

    /// Gives it time to end by itself (its input has been closed), then kills it and all that it has started.
    pub(in crate::steps) async fn end(mut self, patience: Duration) {
        let left = timeout(patience, self.0.child.wait()).await.is_ok();
        self.0.kill_rest(!left, !left).await;
    }
}

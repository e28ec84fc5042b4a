//! A thread that lives as long as the process, to spawn children from.
//!
//! Linux sends a parent-death signal when the spawning *thread* ends, not the process: a child
//! spawned from a worker of a thread pool would be killed when the pool shrinks.
//!
//! It also keeps the list of the children that somebody in this process waits for ([`Owned`]). Where the
//! process adopts orphans (as a subreaper, or as process 1 of a container), the others are the orphans.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

static THREAD: Mutex<Option<Sender<Job>>> = Mutex::new(None);
static OWNED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A child of this process that is no orphan: keep it until the child has been waited for.
#[derive(Debug)]
pub struct Owned(u32);

impl Owned {
    /// Lists a child. To be called within [`run`] or [`run_blocking`], right after the spawn.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        OWNED.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        Self(pid)
    }

    /// Is that child listed?
    #[must_use]
    pub fn contains(pid: u32) -> bool {
        OWNED.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        OWNED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Spawns a child from the permanent thread, blocking.
///
/// # Errors
/// What the system says.
pub fn spawn(mut command: Command) -> io::Result<(Child, Owned)> {
    run_blocking(move || {
        let child = command.spawn()?;
        let owned = Owned::new(child.id());
        Ok((child, owned))
    })
    .flatten()
}

/// Runs `work` on the permanent thread and blocks until it is done. Work is done one piece after
/// another: it should only fork, not wait.
///
/// # Errors
/// The thread could not be started, or the work panicked.
pub fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tx, rx) = channel();
    submit(Box::new(move || drop(tx.send(work()))))?;
    rx.recv().map_err(|_| panicked())
}

/// Runs `work` on the permanent thread and awaits its result. A caller that is dropped meanwhile
/// drops the result too, on the permanent thread.
///
/// # Errors
/// The thread could not be started, or the work panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    submit(Box::new(move || drop(tx.send(work()))))?;
    rx.await.map_err(|_| panicked())
}

/// Starts the permanent thread where it does not run yet: then [`run`] does not fail for want of one.
///
/// # Errors
/// The thread could not be started.
pub fn ready() -> io::Result<()> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if thread.is_none() {
        *thread = Some(start()?);
    }
    Ok(())
}

fn panicked() -> io::Error {
    io::Error::other("the spawning thread's work panicked")
}

fn submit(job: Job) -> io::Result<()> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = match thread.as_ref() {
        Some(sender) => sender,
        None => thread.insert(start()?),
    };
    sender.send(job).map_err(|_| io::Error::other("the spawning thread is gone"))
}

fn start() -> io::Result<Sender<Job>> {
    let (tx, rx) = channel::<Job>();
    std::thread::Builder::new().name("stepd-spawn".into()).spawn(move || {
        // The sender is never dropped, so this never ends; a panic must not end it either, for it
        // would take every child along.
        for job in rx {
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })?;
    Ok(tx)
}

//! No process, no memory or no file descriptor is left for a program or a connection: the machine's trouble, which uses up no attempt of
//! the step's author. The step waits for it, for a while.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOMEM, ETXTBSY};

/// A limit that stands for longer is one that somebody has to raise: then the attempt fails, and says so.
const WAITS: Duration = Duration::from_secs(60);

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(200);

/// Does it pass? (`ETXTBSY`: the program's file is being written.)
pub(super) fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAGAIN | ENOMEM | EMFILE | ENFILE | ETXTBSY))
}

/// Says once that steps wait, and once that they do not any more.
#[derive(Debug)]
pub(super) struct Shortage {
    /// What cannot be, and what cannot be done to it: "program", "started".
    what: (&'static str, &'static str),
    lasts: AtomicBool,
}

impl Shortage {
    /// None so far: `thing`s can be `done`.
    pub(super) const fn of(thing: &'static str, done: &'static str) -> Self {
        Self { what: (thing, done), lasts: AtomicBool::new(false) }
    }

    /// It could not be done. Resolves when it is to be tried again; false: it has waited for long enough.
    pub(super) async fn wait(&self, error: &io::Error, since: Instant) -> bool {
        if !passes(error) || since.elapsed() > WAITS {
            return false;
        }
        // A file that is being written is no shortage.
        if error.raw_os_error() != Some(ETXTBSY) && !self.lasts.swap(true, Ordering::Relaxed) {
            let (thing, done) = self.what;
            tracing::warn!(%error, "no {thing} can be {done}: the limit of processes, memory or files is reached; steps wait for a minute");
        }
        tokio::time::sleep(AGAIN).await;
        true
    }

    /// It was done.
    pub(super) fn over(&self) {
        if self.lasts.load(Ordering::Relaxed) && self.lasts.swap(false, Ordering::Relaxed) {
            let (thing, done) = self.what;
            tracing::info!("{thing}s can be {done} again");
        }
    }
}

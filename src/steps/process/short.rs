//! No process, no memory or no file descriptor is left for a program: the machine's trouble, which uses up no attempt of the step's
//! author. The program waits for it, for a while.

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

/// Says once that programs wait, and once that they do not any more.
#[derive(Debug, Default)]
pub(super) struct Shortage(AtomicBool);

impl Shortage {
    /// A program could not be started. Resolves when it is to be tried again; false: it has waited for long enough.
    pub(super) async fn wait(&self, error: &io::Error, since: Instant) -> bool {
        if !passes(error) || since.elapsed() > WAITS {
            return false;
        }
        // A file that is being written is no shortage.
        if error.raw_os_error() != Some(ETXTBSY) && !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "no program can be started: the limit of processes, memory or files is reached; steps wait for a minute");
        }
        tokio::time::sleep(AGAIN).await;
        true
    }

    /// A program was started.
    pub(super) fn over(&self) {
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("programs can be started again");
        }
    }
}

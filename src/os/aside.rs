//! Work that blocks, beside the runtime's threads.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Does it on a thread of its own; where the system gives none (the limit of processes), in place: then this thread's other tasks wait,
/// and nothing is left undone. (Tokio's `spawn_blocking` panics there.) `None`: it panicked.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |of: &Mutex<Option<_>>| of.lock().unwrap_or_else(PoisonError::into_inner).take();
    let of_thread = work.clone();
    let started = std::thread::Builder::new().name("stepd-aside".into()).spawn(move || {
        if let Some(work) = take(&of_thread) {
            let _ = tell.send(work());
        }
    });
    match started {
        Ok(_) => told.await.ok(),
        Err(_) => take(&work).map(|work| work()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_aside_and_what_panics_there_is_none() {
        let here = std::thread::current().id();
        assert_ne!(aside(|| std::thread::current().id()).await, Some(here));
        assert_eq!(aside(|| -> u8 { panic!("work that fails") }).await, None);
    }
}

//! What is done to many runs at once. It belongs to the server, not to the request: whoever hangs up has it done all the same.

use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::problem::Problem;

/// At once: the other connections for acting are for who acts on one run.
const AT_ONCE: usize = 1;

/// The work under way.
pub(super) struct Bulk {
    work: Mutex<JoinSet<()>>,
    places: Semaphore,
}

impl Default for Bulk {
    fn default() -> Self {
        Self { work: Mutex::default(), places: Semaphore::new(AT_ONCE) }
    }
}

impl Bulk {
    /// A place for it, while nobody else has it.
    pub(super) fn place(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Problem> {
        let full = |_| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this server is acting on many runs already")
                .hint("wait until that is done, then count anew")
        };
        self.places.try_acquire().map_err(full)
    }

    /// Does the work to its end, also where nobody waits for it any more.
    pub(super) async fn done<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let (tell, told) = oneshot::channel();
        {
            let mut all = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            while all.try_join_next().is_some() {}
            all.spawn(async move {
                // An error: nobody waits for it.
                let _ = tell.send(work.await);
            });
        }
        let broken = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this server ended before all was done");
        told.await.map_err(broken)
    }

    /// Resolves when nothing is under way any more.
    pub(super) async fn ended(&self) {
        let mut all = std::mem::take(&mut *self.work.lock().unwrap_or_else(PoisonError::into_inner));
        while all.join_next().await.is_some() {}
    }
}

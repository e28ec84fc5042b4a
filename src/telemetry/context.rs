//! What this thread works on just now: the run, the step and the attempt that log lines name.
//!
//! Not spans: ten thousand runs in flight would hold two of them each, and pay for them at every poll. A place is eight words
//! in the future that it belongs to; only a line that is really written looks at it. So lines of libraries have it, too.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use crate::model::{RunId, StepKey, WorkerId};

use super::step_log::StepLog;

/// Whose work it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The run.
    pub run: RunId,
    /// The registration that has it.
    pub worker: WorkerId,
    /// What the run belongs to together with other runs.
    pub session_id: Option<Arc<str>>,
    /// The step, and its attempt.
    pub step: Option<(StepKey, u32)>,
    /// Where the attempt writes.
    pub log: StepLog,
}

thread_local! {
    static HERE: Cell<Option<Place>> = const { Cell::new(None) };
}

/// Puts a place in, and takes it out again, also when the work panics.
struct Entered<'a> {
    place: &'a mut Option<Place>,
    before: Option<Place>,
}

impl<'a> Entered<'a> {
    fn new(place: &'a mut Option<Place>) -> Self {
        let before = HERE.replace(place.take());
        Self { place, before }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.place = HERE.replace(self.before.take());
    }
}

/// Does work as the work of a place. A large future is handed over pinned, lest it be kept twice.
pub async fn within<F: Future>(place: Option<Place>, work: F) -> F::Output {
    let mut work = pin!(work);
    let mut place = place;
    poll_fn(move |cx| {
        let _entered = Entered::new(&mut place);
        work.as_mut().poll(cx)
    })
    .await
}

/// The place of the work at hand: for a task that goes on with it elsewhere.
#[must_use]
pub fn here() -> Option<Place> {
    let place = HERE.take();
    HERE.set(place.clone());
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(attempt: u32) -> Option<Place> {
        let (run, worker) = (RunId(uuid::Uuid::now_v7()), WorkerId(uuid::Uuid::new_v4()));
        Some(Place { run, worker, session_id: None, step: Some((StepKey::new("a"), attempt)), log: StepLog::default() })
    }

    fn attempt() -> Option<u32> {
        here().and_then(|p| p.step).map(|s| s.1)
    }

    #[tokio::test]
    async fn each_future_of_a_task_has_its_own_place_and_none_is_left_behind() {
        let one = |n| {
            within(place(n), async move {
                for _ in 0..3 {
                    assert_eq!(attempt(), Some(n));
                    tokio::task::yield_now().await;
                }
            })
        };
        let outer = async {
            tokio::join!(one(1), one(2));
            assert_eq!(attempt(), Some(9));
        };
        within(place(9), outer).await;
        assert_eq!(attempt(), None);
    }

    #[tokio::test]
    async fn a_panic_leaves_no_place_behind() {
        let panics = std::panic::AssertUnwindSafe(within(place(1), async { panic!("on purpose") }));
        assert!(futures_util::FutureExt::catch_unwind(panics).await.is_err());
        assert_eq!(attempt(), None);
    }
}

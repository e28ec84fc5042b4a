//! What reaches a running run from outside: a stop, a pause, and answers to its waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{Failure, Payload, StepKey};
use crate::steps::{StopReason, StopSignal, StopTrigger, stop_pair};

/// What keeps a run in memory, keeps it for no longer; most often it is kept again before that is over.
const HURRY: Duration = Duration::from_secs(1);

/// The answer to a waiting step.
pub type Answer = Result<Payload, Failure>;

/// One run's inbox, shared by its runner and by the services that hear of requests.
#[derive(Debug)]
pub struct Inbox {
    trigger: StopTrigger,
    signal: StopSignal,
    pausing: AtomicBool,
    answers: Mutex<HashMap<StepKey, Answer>>,
    arrived: Notify,
    waits: Mutex<Vec<StepKey>>,
    at_work: AtomicUsize,
    /// The run is kept in memory for the sake of answers that are expected soon.
    hurried: Mutex<Option<Instant>>,
    /// What may still stop a run that is about to end: its worker's end, and the loss of its lease.
    last: OnceLock<Box<(StopTrigger, StopSignal)>>,
    /// Has one of these been said? 0, or the reason's number.
    must: AtomicUsize,
}

/// An attempt at work, until it is dropped.
#[derive(Debug)]
pub struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Inbox {
    fn default() -> Self {
        let (trigger, signal) = stop_pair();
        Self {
            trigger,
            signal,
            pausing: AtomicBool::new(false),
            answers: Mutex::default(),
            arrived: Notify::new(),
            waits: Mutex::default(),
            at_work: AtomicUsize::new(0),
            hurried: Mutex::default(),
            last: OnceLock::new(),
            must: AtomicUsize::new(0),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    /// Tells the run to stop.
    pub fn stop(&self, reason: StopReason) {
        let must = match reason {
            StopReason::LeaseLost => 1,
            StopReason::GivenBack => 2,
            StopReason::Cancelled | StopReason::Timeout | StopReason::Paused => 0,
        };
        if must > 0 {
            let _ = self.must.compare_exchange(0, must, Ordering::AcqRel, Ordering::Acquire);
        }
        self.trigger.stop(reason);
        self.pass_on();
    }

    /// The run is about to end: neither a cancel nor its time limit stops what is done then.
    pub(super) fn begin_end(&self) {
        let _ = self.last.set(Box::new(stop_pair()));
        self.pass_on();
    }

    fn pass_on(&self) {
        // Whoever comes second, the one who begins the end or the one who says stop, finds what the other has left.
        let Some(last) = self.last.get() else { return };
        match self.must.load(Ordering::Acquire) {
            1 => last.0.stop(StopReason::LeaseLost),
            2 => last.0.stop(StopReason::GivenBack),
            _ => {}
        }
    }

    /// The run's stop signal.
    #[must_use]
    pub fn signal(&self) -> &StopSignal {
        self.last.get().map_or(&self.signal, |last| &last.1)
    }

    /// Tells the run to start no further step, and to let go when what is at work has ended.
    pub fn pause(&self) {
        self.pausing.store(true, Ordering::Release);
        self.arrived.notify_waiters();
    }

    /// … and not to wait for that: what is at work is broken off. What is done at a run's end is not.
    pub fn pause_now(&self) {
        self.pause();
        self.stop(StopReason::Paused);
    }

    /// Has it been told so?
    #[must_use]
    pub fn is_pausing(&self) -> bool {
        self.pausing.load(Ordering::Acquire)
    }

    /// Resolves when it is told so.
    pub(super) async fn paused(&self) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.is_pausing() {
                return;
            }
            arrived.await;
        }
    }

    /// For a while its answers are worth looking for often.
    pub(super) fn hurry(&self) {
        *locked(&self.hurried) = Some(Instant::now());
    }

    /// Has it been told so a moment ago?
    #[must_use]
    pub fn is_hurried(&self) -> bool {
        locked(&self.hurried).is_some_and(|at| at.elapsed() < HURRY)
    }

    /// Counts an attempt.
    pub fn begin_work(&self) -> AtWork<'_> {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(&self.at_work)
    }

    /// How many attempts of the run's steps are at work: not those that wait for their records to be written.
    #[must_use]
    pub fn at_work(&self) -> usize {
        self.at_work.load(Ordering::Relaxed)
    }

    /// Delivers the answer to a waiting step.
    pub fn answer(&self, key: StepKey, answer: Answer) {
        if !locked(&self.waits).contains(&key) {
            return;
        }
        locked(&self.answers).insert(key, answer);
        self.arrived.notify_waiters();
    }

    /// The steps that wait in memory, for whoever looks whether they have been answered.
    #[must_use]
    pub fn waiting(&self) -> Vec<StepKey> {
        locked(&self.waits).clone()
    }

    pub(super) fn begin_wait(&self, key: StepKey) {
        // What an earlier wait of this step has left is no answer to this one.
        locked(&self.answers).remove(&key);
        locked(&self.waits).push(key);
    }

    pub(super) fn end_wait(&self, key: &StepKey) {
        locked(&self.waits).retain(|k| k != key);
        locked(&self.answers).remove(key);
    }

    /// Resolves with the step's answer.
    pub(super) async fn answered(&self, key: &StepKey) -> Answer {
        loop {
            // Enabled before the look, so that an answer between look and wait is not missed.
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(answer) = locked(&self.answers).remove(key) {
                return answer;
            }
            arrived.await;
        }
    }
}

//! The circuit breaker of one thing outside: a server of tools, a model's endpoint.
//!
//! It opens when [`FAILURES`] calls in a row have failed within [`WINDOW`], whosever they were. While it is open nobody calls; after its
//! rest one call tries, and the others wait until that has been answered. Work that finds it open waits, durably and holding
//! nothing, and no attempt of it is used up.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::model::{Class, Failure, code};

use super::step::{After, Flow, StepCx};

/// So many failures in a row open it.
const FAILURES: usize = 5;
/// They must lie in this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Those that wait for a call that tries look again after this time.
const LOOK: Duration = Duration::from_secs(2);

/// Of one thing.
#[derive(Debug)]
pub(super) struct Breaker {
    /// What it is, for people: `the MCP server `x``.
    name: String,
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: VecDeque<Instant>,
    /// It is open until then; afterwards one call may try.
    open_until: Option<Instant>,
    trying: bool,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls are made.
    Closed,
    /// The rest is over: one call may try, or is trying.
    Trying,
    /// Nobody calls.
    Open,
}

impl Circuit {
    /// 0 closed, 1 open.
    #[must_use]
    pub fn openness(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::Trying => 0.5,
            Self::Open => 1.0,
        }
    }
}

/// The right to make one call.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    tries: bool,
}

/// A call that may have been broken off says nothing about what it called.
impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.tries {
            self.breaker.state().trying = false;
        }
    }
}

impl Breaker {
    pub(super) fn new(name: String, rest: Duration) -> Self {
        Self { name, rest, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands now.
    pub(super) fn circuit(&self) -> Circuit {
        match self.state().open_until {
            None => Circuit::Closed,
            Some(until) if until <= Instant::now() => Circuit::Trying,
            Some(_) => Circuit::Open,
        }
    }

    /// May a call be made? If not, how long it is to wait.
    fn enter(&self) -> Result<Permit<'_>, Duration> {
        let mut state = self.state();
        let Some(until) = state.open_until else { return Ok(Permit { breaker: self, tries: false }) };
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() || state.trying {
            // Not all at the same moment.
            return Err(
                left.max(if state.trying { LOOK } else { Duration::ZERO }) + LOOK.mul_f64(fastrand::f64() / 4.0)
            );
        }
        state.trying = true;
        Ok(Permit { breaker: self, tries: true })
    }

    /// Makes a step's attempt, if it may be made; else the step waits. So does the one that tried, and has found it down.
    pub(super) async fn guard(
        &self,
        cx: &StepCx,
        attempt: impl Future<Output = Result<Flow, Failure>>,
    ) -> Result<Flow, Failure> {
        let kept = || cx.kept.clone().unwrap_or_default();
        let permit = match self.enter() {
            Ok(permit) => permit,
            Err(wait) => return Ok(self.wait(kept(), wait)),
        };
        let done = attempt.await;
        match (permit.done(&done), done) {
            (None, done) => done,
            (Some(rest), Ok(Flow::GoOn { keep, .. })) => Ok(self.wait(keep, rest)),
            (Some(rest), _) => Ok(self.wait(kept(), rest)),
        }
    }

    fn wait(&self, keep: Value, span: Duration) -> Flow {
        let message = format!("{} does not answer; it is left alone, and tried again after a while", self.name);
        let why = Failure::transient(code::CONNECTION, message);
        Flow::GoOn { keep, after: After::Pause { span, why } }
    }
}

impl Permit<'_> {
    /// How the call went. How long to wait, where it was one that tried and has found it down.
    fn done(self, done: &Result<Flow, Failure>) -> Option<Duration> {
        let breaker = self.breaker;
        let mut state = breaker.state();
        let down = match done {
            Err(failure) | Ok(Flow::GoOn { after: After::Failure(failure), .. }) => is_down(failure),
            Ok(_) => false,
        };
        if !down {
            state.failures.clear();
            if state.open_until.take().is_some() {
                tracing::info!("{} answers again: it is called as before", breaker.name);
            }
            return None;
        }
        let now = Instant::now();
        if self.tries {
            state.open_until = Some(now + breaker.rest);
            return Some(breaker.rest);
        }
        state.failures.retain(|at| now.duration_since(*at) < WINDOW);
        state.failures.push_back(now);
        if state.failures.len() >= FAILURES && state.open_until.is_none() {
            state.failures.clear();
            state.open_until = Some(now + breaker.rest);
            tracing::warn!(
                "{} has failed {FAILURES} times in a row: it is left alone for {:?}, and its steps wait",
                breaker.name,
                breaker.rest
            );
        }
        None
    }
}

/// Does a failure say that nothing answers there? One that says itself when to come again is an answer.
fn is_down(failure: &Failure) -> bool {
    failure.class == Class::Transient
        && failure.retry_after_ms.is_none()
        && (failure.code == code::CONNECTION || failure.code == code::TIMEOUT || failure.code.starts_with("http_5"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::step::StepOutput;
    use crate::steps::testing;

    async fn call(breaker: &Breaker, done: Result<(), Failure>) -> &'static str {
        let (cx, _stop) = testing::context();
        let attempt = async { done.map(|()| Flow::Done(StepOutput::plain(Value::Null))) };
        match breaker.guard(&cx, attempt).await {
            Ok(Flow::Done(_)) => "done",
            Ok(Flow::GoOn { after: After::Pause { .. }, .. }) => "waits",
            Err(_) => "failed",
            other => panic!("{other:?}"),
        }
    }

    fn down() -> Result<(), Failure> {
        Err(Failure::transient(code::CONNECTION, "refused"))
    }

    #[tokio::test(start_paused = true)]
    async fn after_five_failures_nobody_calls_until_one_tries_and_finds_it_up() {
        let breaker = Breaker::new("it".into(), Duration::from_secs(30));
        for _ in 0..FAILURES {
            assert_eq!(breaker.circuit(), Circuit::Closed);
            assert_eq!(call(&breaker, down()).await, "failed");
        }
        assert_eq!(breaker.circuit(), Circuit::Open);
        for _ in 0..3 {
            assert_eq!(call(&breaker, Ok(())).await, "waits");
        }
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(call(&breaker, Ok(())).await, "waits");
        tokio::time::advance(Duration::from_secs(1)).await;
        let trying = breaker.enter().unwrap();
        assert_eq!(breaker.circuit(), Circuit::Trying);
        assert_eq!(call(&breaker, Ok(())).await, "waits", "one at a time");
        drop(trying);
        assert_eq!(call(&breaker, down()).await, "waits", "what tries in vain uses up nothing");
        assert_eq!(call(&breaker, Ok(())).await, "waits", "and it rests again");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(call(&breaker, Ok(())).await, "done");
        assert_eq!(breaker.circuit(), Circuit::Closed);
        assert_eq!(call(&breaker, down()).await, "failed", "closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_between_a_long_time_and_what_is_no_silence_keep_it_closed() {
        let breaker = Breaker::new("it".into(), Duration::from_secs(30));
        for _ in 0..4 * FAILURES {
            for _ in 1..FAILURES {
                assert_eq!(call(&breaker, down()).await, "failed");
            }
            assert_eq!(call(&breaker, Ok(())).await, "done");
        }
        for _ in 0..4 * FAILURES {
            assert_eq!(call(&breaker, down()).await, "failed");
            tokio::time::advance(WINDOW / 4).await;
        }
        for failure in [
            Failure::transient(code::RATE_LIMITED, ""),
            Failure::permanent("http_501", ""),
            Failure::permanent(code::TOOL_ERROR, ""),
            Failure { retry_after_ms: Some(1), ..Failure::transient("http_503", "") },
        ] {
            for _ in 0..4 * FAILURES {
                assert_eq!(call(&breaker, Err(failure.clone())).await, "failed");
            }
        }
    }
}

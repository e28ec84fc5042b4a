//! The context of a run: what workflow code, interpreted or compiled, may ask for.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::model::{Failure, Payload, RunId, StepKey, StepState};
use crate::rules::policy::StepPolicy;
use crate::steps::Shape;

use super::halt::Halt;

/// What the run knows of itself.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// Its id.
    pub id: RunId,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// Its `run_at`.
    pub scheduled_for: DateTime<Utc>,
}

/// One step to be done.
pub struct Call<'a> {
    /// The step's name in its run; used once.
    pub key: StepKey,
    /// Its kind, a name in the registry.
    pub kind: &'a str,
    /// The parameters, evaluated anew for each attempt (they may name `step.attempt`).
    pub params: &'a (dyn Fn(u32) -> Result<Value, Failure> + Send + Sync),
    /// Retries, limits, what failure means.
    pub policy: &'a StepPolicy,
    /// Turns the raw result into the recorded output.
    pub shape: Shape,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    /// `Completed`, `Skipped`, or `Failed` (under `on_error: continue`).
    pub state: StepState,
    /// The output; null unless completed.
    pub output: Payload,
    /// The failure under `on_error: continue`.
    pub error: Option<Failure>,
}

/// The context of one run under one lease.
pub struct Ctx {
    info: RunInfo,
}

impl Ctx {
    /// What the run knows of itself.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Does a step: answers from its checkpoint, or runs it with its retries and records it.
    ///
    /// # Errors
    /// `Halt::Failed` when the step failed for good and its policy does not say continue; `Halt::Stopped` when the run must stop.
    pub async fn call(&self, call: Call<'_>) -> Result<StepDone, Halt> {
        let _ = call;
        todo!()
    }

    /// Records that a step is skipped (a decision is a checkpoint too).
    ///
    /// # Errors
    /// `Halt::Stopped` when the run must stop.
    pub async fn skip(&self, key: StepKey, kind: &str) -> Result<StepDone, Halt> {
        let _ = (key, kind);
        todo!()
    }

    /// Opens a step that is made of other steps (`map`): the first time `decide` is called and its
    /// answer recorded durably, later the recorded answer comes back. `Err(done)` in the inner result when the step has ended already.
    ///
    /// # Errors
    /// `Halt::Failed` when `decide` fails; `Halt::Stopped` when the run must stop.
    pub async fn open(
        &self,
        key: &StepKey,
        kind: &str,
        decide: impl FnOnce() -> Result<Payload, Failure> + Send,
    ) -> Result<Result<Payload, StepDone>, Halt> {
        let _ = (key, kind, decide);
        todo!()
    }

    /// Ends a step that `open` opened.
    ///
    /// # Errors
    /// `Halt::Failed` when the result is a failure and `policy` does not say continue; `Halt::Stopped` when the run must stop.
    pub async fn close(
        &self,
        key: &StepKey,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> Result<StepDone, Halt> {
        let _ = (key, result, policy);
        todo!()
    }
}

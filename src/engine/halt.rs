//! Why a workflow's code must return before its end.

use crate::model::{Failure, StepKey};

/// A step that failed for good.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFailure {
    /// The step; `None` where the workflow itself failed (its input, its output, its definition).
    pub key: Option<StepKey>,
    /// Why.
    pub failure: Failure,
}

/// The error type of everything that a [`super::Ctx`] does. Workflow code passes it on with `?`; the
/// runner decides what it means for the run.
#[derive(Clone, Debug, PartialEq)]
pub enum Halt {
    /// A step failed for good, or the workflow's own code did.
    Failed(StepFailure),
    /// The run is stopping (cancel, shutdown, lost lease, a sibling's failure): start nothing, return.
    Stopped,
}

impl Halt {
    /// A failure of the workflow itself, outside any step.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self::Failed(StepFailure { key: None, failure })
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::failed(failure)
    }
}

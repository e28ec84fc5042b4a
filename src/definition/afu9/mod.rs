//! Workflow documents of the AFU-9 system: JSON with `tool` steps, loaded as they are.
//!
//! They are run by an interpreter of their own (`engine::interpreter::afu9`), not translated into native steps: an AFU-9 run has one
//! set of variables that every step may overwrite, everything becomes text, and its two guards look at all variables between any two
//! steps. A native step sees results by id, keeps their types, and has no such place between steps; a translation would be near, and
//! this is exact. (`stepd import` makes that translation, for whoever wants to go on in the native language; see `native`.)
//!
//! A document says by `"compat"` which meaning it has: `documented` (the default) is what AFU-9's documentation promises,
//! `afu9-engine` what its engine really did. `typed_placeholders` and `unresolved` belong to the first.

mod condition;
mod context;
mod expression;
mod guard;
mod native;
mod read;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::model::{Failure, code};
use crate::rules::policy::{OnError, RetryPolicy, StepPolicy};

pub use condition::Condition;
pub use context::Context;
pub use guard::{hold, red};
pub use native::to_native;
pub(super) use read::{document, is_document};
pub use replay::{Begun, Replay, replay};

/// What is asked of a person when a run is on HOLD.
pub const HOLD: &str = "HOLD state triggered - workflow paused pending human review";

/// Which meaning a document has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// What the documentation of AFU-9 promises.
    #[default]
    Documented,
    /// What its engine did.
    Engine,
}

/// How placeholders are filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filling {
    /// Which meaning.
    pub compat: Compat,
    /// A placeholder that stands alone keeps numbers and booleans; else they become text.
    pub typed: bool,
    /// A placeholder that leads nowhere is left as it is; else the step fails.
    pub keep: bool,
}

/// A document, ready to run.
#[derive(Debug)]
pub struct Document {
    /// The steps, in order.
    pub steps: Vec<ToolStep>,
    /// How placeholders are filled in.
    pub filling: Filling,
    /// A failed step does not end the run.
    pub continue_on_error: bool,
    /// How long all steps together may take; waits for people do not count.
    pub timeout: Option<Duration>,
}

/// A step: one call of a tool.
#[derive(Debug)]
pub struct ToolStep {
    /// Its key: its name; where several have it, with their number behind it.
    pub key: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands in the document.
    pub line: usize,
    /// `server.tool`, as it stands there.
    pub tool: String,
    /// The arguments, with placeholders in their strings.
    pub params: Value,
    /// The variable that takes the result.
    pub assign: Option<String>,
    /// Whether it runs at all.
    pub condition: Option<Condition>,
    /// How it is tried again.
    pub retry: RetryPolicy,
}

impl ToolStep {
    /// The server and the tool.
    ///
    /// # Errors
    /// The text names none.
    pub fn target(&self) -> Result<(&str, &str), Failure> {
        let mut parts = self.tool.split('.');
        match (parts.next(), parts.next()) {
            (Some(server), Some(tool)) if !server.is_empty() && !tool.is_empty() => Ok((server, tool)),
            _ => Err(Failure::permanent(
                code::INVALID_PARAMS,
                format!("Invalid tool format: {}. Expected format: \"server.tool\"", self.tool),
            )),
        }
    }
}

impl Document {
    /// What governs the attempts of a step.
    #[must_use]
    pub fn policy(&self, step: &ToolStep) -> StepPolicy {
        let on_error = if self.continue_on_error { OnError::Continue } else { OnError::Fail };
        StepPolicy { retry: step.retry.clone(), on_error, ..StepPolicy::default() }
    }
}

#[cfg(test)]
mod tests;

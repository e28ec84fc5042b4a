//! `workflow`: another workflow as a step, in a run of its own.
//!
//! Parameters `{workflow, input, detached?, timeout_ms?}`. The child is an ordinary job; it is inserted once, whatever dies on the way,
//! and this run waits for its end, holding nothing. The output is the child's; a child that failed or was cancelled fails the step
//! (`child_failed`). When this run ends without it (cancelled, failed, or the step's `timeout` is over), the child is cancelled.
//! A detached child is not waited for and goes its own way: the output is `{run}`, its id.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{Failure, RunId, Wait};

use super::params::Params;
use super::step::{BoxFuture, Flow, Step, StepCx, StepOutput};

/// The kind's name.
pub const CHILD: &str = "workflow";

/// A child on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRequest {
    /// The workflow.
    pub workflow: String,
    /// Its input.
    pub input: Value,
    /// Does the step wait for its end?
    pub attached: bool,
}

/// The port to the runs.
pub trait Children: Send + Sync {
    /// The child of this step: inserted, if it is not there yet.
    fn spawn<'a>(&'a self, cx: &'a StepCx, request: ChildRequest) -> BoxFuture<'a, Result<RunId, Failure>>;
}

/// The kind `workflow`.
#[derive(Clone)]
pub struct Child(Arc<dyn Children>);

impl Child {
    /// The kind, with whoever inserts the runs.
    #[must_use]
    pub fn new(children: impl Children + 'static) -> Self {
        Self(Arc::new(children))
    }
}

impl Step for Child {
    fn kind(&self) -> &'static str {
        CHILD
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let mut params = Params::new(CHILD, params)?;
            let workflow = params.required("workflow")?;
            let input = params.take("input").unwrap_or_else(|| json!({}));
            let attached = params.take("detached") != Some(Value::Bool(true));
            let timeout = params.millis("timeout_ms")?;
            let run = self.0.spawn(cx, ChildRequest { workflow: workflow.clone(), input, attached }).await?;
            Ok(match attached {
                true => Flow::Suspend(Wait::Child { run, workflow, timeout }),
                false => Flow::Done(StepOutput { raw: json!({"output": {"run": run}}), default: json!({"run": run}) }),
            })
        })
    }
}

//! Runs an AFU-9 document: its steps one after the other, each a call of a tool, over one set of variables.
//!
//! The variables are a fold over the steps' results in their order, so the records alone say what they were at any step: nothing
//! is stored beside them. Between any two steps the guards look at them: HOLD asks a person once for each time that it comes up,
//! RED ends the run.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::definition::afu9::{Context, Document, HOLD, ToolStep, hold, red};
use crate::model::{Failure, Payload, StepKey, code};
use crate::rules::policy::StepPolicy;

use super::super::ctx::{Call, StepDone};
use super::super::halt::Halt;
use super::PLAIN;
use super::port::StepRunner;

/// The kind that calls tools.
const KIND: &str = "mcp";

/// Runs a document to its end; gives its variables.
pub(super) async fn run<R: StepRunner>(runner: &R, document: &Document, input: &Payload) -> Result<Payload, Halt> {
    let mut run = Run { runner, document, context: Context::of(input.value()?), asked: false, used: Duration::ZERO };
    run.guard(0).await?;
    for (place, step) in document.steps.iter().enumerate() {
        let output = run.step(step).await?;
        if let Some(variable) = &step.assign {
            run.context.assign(variable, output);
        }
        run.guard(place + 1).await?;
    }
    Ok(Payload::from_value(run.context.variables()))
}

struct Run<'a, R> {
    runner: &'a R,
    document: &'a Document,
    context: Context,
    /// A person has been asked about the HOLD that stands.
    asked: bool,
    /// How long the tools have worked, in this activation.
    used: Duration,
}

impl<R: StepRunner> Run<'_, R> {
    /// Looks at the variables, before the step of that place.
    async fn guard(&mut self, place: usize) -> Result<(), Halt> {
        if let Some(why) = red(&self.context) {
            return Err(Halt::failed(Failure::permanent(code::VERDICT, why)));
        }
        let on_hold = hold(&self.context);
        if on_hold && !self.asked {
            let params = |_| Ok(json!({"prompt": HOLD}));
            let key = StepKey::from(format!("hold[{place}]"));
            let policy = StepPolicy::default();
            self.runner
                .call(Call { key, kind: "approve", params: &params, policy: &policy, shape: PLAIN.clone() })
                .await?;
        }
        self.asked = on_hold;
        Ok(())
    }

    async fn step(&mut self, step: &ToolStep) -> Result<Value, Halt> {
        let key = StepKey::new(step.key.clone());
        if step.condition.as_ref().is_some_and(|c| !c.holds(&self.context)) {
            return Ok(Box::pin(self.runner.skip(key, KIND)).await?.output.value()?);
        }
        let params = self.params(step);
        let evaluate = |_| params.clone();
        let mut policy = self.document.policy(step);
        // What is left of the whole. Never nothing: the failure is that of a step, with its name.
        policy.total_timeout = self.document.timeout.map(|t| t.saturating_sub(self.used).max(Duration::from_millis(1)));
        let began = Instant::now();
        let call = Call { key, kind: KIND, params: &evaluate, policy: &policy, shape: PLAIN.clone() };
        let StepDone { output, .. } = self.runner.call(call).await?;
        self.used += began.elapsed();
        Ok(output.value()?)
    }

    fn params(&self, step: &ToolStep) -> Result<Value, Failure> {
        let (server, tool) = step.target()?;
        let args = self.context.fill(&step.params, self.document.filling)?;
        Ok(json!({"server": server, "tool": tool, "args": args}))
    }
}

//! `repeat`: the same steps again and again, until a condition holds.
//!
//! How many iterations have ended without it stands in the step's own record, as its decision, and is durable before the next one
//! begins: a resume goes on with that iteration. When they were all that `max` allows, and an operator has the run tried again, it may
//! go through as many more: what was done stays done.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::definition::{RepeatStep, Step};
use crate::expression::{Item, View};
use crate::model::{Failure, Payload, StepKey, code};
use crate::rules::policy::StepPolicy;
use crate::steps::BoxFuture;

use super::super::ctx::{Call, StepDone};
use super::super::halt::Halt;
use super::port::StepRunner;
use super::{Frame, PLAIN};

impl<R: StepRunner> Frame<'_, R> {
    /// Boxed: an iteration holds steps, which may be repeats.
    pub(super) fn repeat<'b>(
        &'b self,
        step: &'b Step,
        key: StepKey,
        repeat: &'b RepeatStep,
    ) -> BoxFuture<'b, Result<StepDone, Halt>> {
        Box::pin(async move {
            let decided = match self.runner.open(&key, "repeat", || Ok(so_far(0, 0))).await? {
                Ok(decided) => decided,
                Err(done) => return Ok(done),
            };
            let (mut index, mut from) = (iterations(&decided), count(&decided, FROM));
            if index.saturating_sub(from) >= repeat.max && self.runner.recorded(&key).is_some_and(|r| r.attempts == 0) {
                from = index;
                // At once: a crash in the next iteration takes nothing of it back.
                self.runner.decide_again(&key, so_far(index, from))?;
            }
            let result = loop {
                if index.saturating_sub(from) >= repeat.max {
                    break Err(exhausted(repeat, &key, index));
                }
                match self.iteration(step, &key, repeat, index).await? {
                    Ok(Some(output)) => break Ok(output),
                    Ok(None) => {}
                    Err(failure) => break Err(failure),
                }
                index += 1;
                // Durable before anything else of the run starts, as every record is.
                self.runner.decide_again(&key, so_far(index, from))?;
            };
            self.runner.close(&key, result, &self.policy(step)).await
        })
    }

    /// One iteration: its result, if it was the last one.
    async fn iteration(
        &self,
        step: &Step,
        key: &StepKey,
        repeat: &RepeatStep,
        index: usize,
    ) -> Result<Result<Option<Payload>, Failure>, Halt> {
        let own = format!("{key}[{index}]");
        if let Some(every) = repeat.every.filter(|_| index > 0) {
            self.pause(own.clone().into(), every).await?;
        }
        let catches = self.passes_over(step);
        let frame = Frame { catches, ..self.inside(self.scope_inside(&repeat.body, number(index)), own) };
        match frame.block(&repeat.body).await {
            Ok(()) => {}
            Err(Halt::Failed(failed)) if catches => return Ok(Err(failed.failure)),
            Err(halt) => return Err(halt),
        }
        Ok(match repeat.until.eval_bool(&View::of(&frame.scope)) {
            Ok(true) => frame.result(step, Some(&repeat.body)).map(Some),
            Ok(false) => Ok(None),
            Err(failure) => Err(failure),
        })
    }

    /// The pause before an iteration: a sleep like any other.
    async fn pause(&self, key: StepKey, span: Duration) -> Result<(), Halt> {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let params = move |_| Ok(json!({"ms": ms}));
        let policy = StepPolicy::default();
        let call = Call { key, kind: "sleep", params: &params, policy: &policy, shape: PLAIN.clone() };
        self.runner.call(call).await.map(|_| ())
    }
}

/// What an iteration knows of itself: its number.
pub(super) fn number(index: usize) -> Item {
    Item { name: "".into(), items: Arc::new(Value::Null), index }
}

/// Where the count of `max` begins anew.
const FROM: &str = "from";

fn so_far(iterations: usize, from: usize) -> Payload {
    Payload::from_value(&match from {
        0 => json!({"iterations": iterations}),
        _ => json!({"iterations": iterations, FROM: from}),
    })
}

/// How many iterations have ended without the condition.
pub(super) fn iterations(decision: &Payload) -> usize {
    count(decision, "iterations")
}

fn count(decision: &Payload, name: &str) -> usize {
    let told = || decision.value().ok()?.get(name)?.as_u64();
    told().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// Permanent: a resume would find the same iterations.
fn exhausted(repeat: &RepeatStep, key: &StepKey, iterations: usize) -> Failure {
    let message = format!(
        "`{key}` was repeated {iterations} times and `{}` does not hold: retry the run for {} times more, raise `max`, or pause longer with `every`",
        repeat.until.source(),
        repeat.max,
    );
    Failure::permanent(code::REPEAT_EXHAUSTED, message).with_details(json!({"iterations": iterations}))
}

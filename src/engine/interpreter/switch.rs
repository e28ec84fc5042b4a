//! `switch`: one of several lists of steps, chosen once. Its steps stand in the scope round it, whether they are run or not.

use serde_json::{Value, json};

use crate::definition::{Branch, Case, Kind, Step, SwitchStep};
use crate::expression::{LazyJson, StepView, View};
use crate::model::{Failure, Payload, StepKey, StepState};
use crate::steps::BoxFuture;

use super::super::ctx::StepDone;
use super::super::halt::Halt;
use super::Frame;
use super::port::StepRunner;

impl<R: StepRunner> Frame<'_, R> {
    /// Runs a switch: decides its branch once, and runs that. Boxed: a branch holds steps, which may be switches.
    pub(super) fn switch<'b>(
        &'b self,
        step: &'b Step,
        key: StepKey,
        switch: &'b SwitchStep,
    ) -> BoxFuture<'b, Result<StepDone, Halt>> {
        Box::pin(async move {
            let mut wrong = None;
            // What cannot be decided is recorded as null, no decision: how it ends is for the policy to say.
            let decide = || {
                Ok(self.choose(switch).unwrap_or_else(|failure| {
                    wrong = Some(failure);
                    Payload::null()
                }))
            };
            let mut decided = match self.runner.open(&key, "switch", decide).await? {
                Ok(decided) => decided,
                Err(done) => {
                    self.recall(step, &mut None);
                    return Ok(done);
                }
            };
            if decided.is_null() && wrong.is_none() {
                // A resume, after it could not be decided.
                match self.choose(switch) {
                    Ok(choice) => {
                        self.runner.decide_again(&key, choice.clone())?;
                        decided = choice;
                    }
                    Err(failure) => wrong = Some(failure),
                }
            }
            let result = match wrong {
                Some(failure) => Err(failure),
                None => self.branch(step, taken(switch, &decided)).await?,
            };
            self.pass_over(step);
            self.runner.close(&key, result, &self.policy(step)).await
        })
    }

    async fn branch(&self, step: &Step, taken: Option<&Branch>) -> Result<Result<Payload, Failure>, Halt> {
        let Some(branch) = taken else {
            self.pass_over(step);
            return Ok(self.result(step, None));
        };
        let catches = self.passes_over(step);
        let (prefix, scope) = (self.prefix.clone(), self.scope.clone());
        let frame = Frame { prefix, label: self.label.clone(), scope, undoes: self.undoes.clone(), catches, ..*self };
        match frame.block(&branch.body).await {
            Ok(()) => Ok(self.result(step, Some(&branch.body))),
            Err(Halt::Failed(failed)) if catches => Ok(Err(failed.failure)),
            Err(halt) => Err(halt),
        }
    }

    /// The decision, as it is recorded.
    fn choose(&self, switch: &SwitchStep) -> Result<Payload, Failure> {
        let view = View::of(&self.scope);
        let value = match &switch.value {
            None => String::new(),
            Some(expression) => match &*expression.eval(&view)? {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
        };
        for (place, branch) in switch.branches.iter().enumerate() {
            let fits = match &branch.case {
                Case::Is(text) => **text == *value,
                Case::When(condition) => condition.eval_bool(&view)?,
                Case::Default => true,
            };
            if fits {
                return Ok(Payload::from_value(&json!({"branch": place, "case": branch.case.name()})));
            }
        }
        Ok(Payload::from_value(&json!({"branch": null})))
    }

    /// The steps of a switch that have not been run are skipped, their output is null.
    pub(super) fn pass_over(&self, step: &Step) {
        if let Kind::Switch(switch) = &step.kind {
            switch.branches.iter().for_each(|branch| self.skipped(branch));
        }
    }

    fn skipped(&self, branch: &Branch) {
        for step in &branch.body.steps {
            self.scope.steps.fill(step.place, skipped());
            self.pass_over(step);
        }
    }
}

/// What expressions see of a step that was never run.
pub(super) fn skipped() -> StepView {
    StepView { state: StepState::Skipped, output: LazyJson::new(Payload::null()), error: None }
}

/// The branch of a recorded decision.
pub(super) fn taken<'s>(switch: &'s SwitchStep, decision: &Payload) -> Option<&'s Branch> {
    let place = decision.value().ok()?.get("branch")?.as_u64()?;
    switch.branches.get(usize::try_from(place).ok()?)
}

//! The run's budget: past it no call of a model starts, until a person has granted as much again.

use crate::model::{Failure, StepKey, StepRecord, StepState};
use crate::rules::budget::WhenSpent;
use crate::rules::policy::{OnError, StepPolicy};
use crate::steps::over_budget;

use super::super::attempt::AskBody;
use super::super::halt::Halt;
use super::{Ctx, plain_shape};

/// The steps that ask for more are called so, and numbered.
const KEY: &str = "budget[";

/// What has been asked so far.
#[derive(Default)]
pub(super) struct Asked {
    /// How often there was an answer. One that was no stands for this activation: an operator's retry asks again.
    answers: u32,
    refused: bool,
}

impl Ctx {
    /// Counts what earlier claims have used up, and what has been granted.
    pub(super) fn recall_usage(&mut self, records: &[StepRecord]) {
        let asked = self.asking.get_mut();
        for record in records {
            if let Some(usage) = record.usage.as_deref() {
                self.meter.recall(*usage);
            }
            if record.checkpoint && record.kind == "approve" && record.key.as_str().starts_with(KEY) {
                asked.answers += 1;
                if record.state == StepState::Completed {
                    self.meter.grant();
                }
            }
        }
    }

    /// Another call of a model may start: the inner error says that it may not. Where the run is to wait for an approval, it does, and all
    /// its branches with it.
    pub(in crate::engine) async fn within_budget(&self) -> Result<Result<(), Failure>, Halt> {
        loop {
            let (Some(spent), Some(budget)) = (self.meter.spent(), self.meter.budget()) else { return Ok(Ok(())) };
            if budget.action == WhenSpent::Fail {
                return Ok(Err(over_budget(&spent)));
            }
            // One branch asks; the others only wait for it, and the run may be suspended meanwhile.
            let aside = self.step_aside();
            let asking = tokio::select! {
                asking = self.asking.lock() => asking,
                () = self.failing() => return Err(Halt::Stopped),
                _ = self.inbox.signal().stopped() => return Err(Halt::Stopped),
                () = self.inbox.paused() => return Err(Halt::Stopped),
            };
            drop(aside);
            if asking.refused {
                return Ok(Err(over_budget(&format!("{spent}; more was refused"))));
            }
            if self.meter.spent().is_some() {
                self.ask_for_more(asking, &spent).await?;
            }
        }
    }

    async fn ask_for_more(&self, mut asked: tokio::sync::MutexGuard<'_, Asked>, spent: &str) -> Result<(), Halt> {
        let key = StepKey::new(format!("{KEY}{}]", asked.answers + 1));
        let prompt = format!("The run has used {spent}, its whole budget. Grant as much again?");
        let body = AskBody { prompt, schema: None, timeout: None, shape: plain_shape() };
        let policy = StepPolicy { on_error: OnError::Continue, ..StepPolicy::default() };
        let done = {
            let _aside = self.step_aside();
            Box::pin(self.resolve(key, "approve", &policy, &body)).await?
        };
        asked.answers += 1;
        match done.state {
            StepState::Completed => self.meter.grant(),
            _ => asked.refused = true,
        }
        Ok(())
    }
}

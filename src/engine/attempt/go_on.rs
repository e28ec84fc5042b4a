//! Attempts that are not done yet: what their kinds keep, what they ask people, what they wait for.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::model::{Failure, StepKey, StepRecord, StepState, Usage, code};
use crate::rules::policy::{OnError, OnInterrupt, StepPolicy};
use crate::steps::{After, Reply};
use crate::telemetry::redact;

use super::super::ctx::{Ctx, plain_shape};
use super::super::halt::Halt;
use super::super::journal::StepRow;
use super::super::kept::Kept;
use super::super::wait::Purpose;
use super::{AskBody, Next, hidden, interrupted, retry_of};

impl Ctx {
    /// What comes after an attempt that is not done. `attempt` is when it began, and what it has used up.
    pub(super) async fn carry_on(
        &self,
        record: &mut StepRecord,
        (mut keep, after): (Value, After),
        attempt: (DateTime<Utc>, Option<Usage>),
        first: u32,
        policy: &StepPolicy,
    ) -> Result<Next, Halt> {
        redact::hide_in(&mut keep);
        let before = Kept::of(record.decision.as_ref());
        let mut kept = Kept { spent_at: before.spent_at, kept: Some(keep).filter(|k| !k.is_null()), ..Kept::default() };
        let n = record.attempts;
        let next = match after {
            After::Now => Next::Attempt(n),
            After::Reply(question) => {
                kept.asks = Some((self.unused(&format!("{}.input", record.key)), question));
                Next::Ask(n)
            }
            After::Pause { span, why } => {
                let why = hidden(why);
                record.decision = kept.decision();
                if !self.fits(record, policy, span) {
                    return Ok(self.after_failure(record, attempt, why, first, policy));
                }
                let of = first + retry_of(record, policy).max_attempts - 1;
                let why = Some(why.message);
                return Ok(Next::Wait(Purpose::Retry { next: n, of, after: span, kept, why }));
            }
            After::Failure(failure) => {
                record.decision = kept.decision();
                return Ok(self.after_failure(record, attempt, hidden(failure), first, policy));
            }
        };
        record.decision = kept.decision();
        self.defer(StepRow { record: record.clone(), wait: None, due_in: None, fresh: false });
        self.settled().await?;
        Ok(next)
    }

    /// Asks what the step's decision says that it asks: an approval with a key of its own, so that it is answered, shown and recorded like
    /// any other.
    pub(super) async fn ask(&self, record: &mut StepRecord) -> Result<Result<Reply, Failure>, Halt> {
        let mut kept = Kept::of(record.decision.as_ref());
        let Some((key, question)) = kept.asks.clone() else { return Ok(Ok(Reply::Silence)) };
        let (schema, timeout) = (Some(question.schema), Some(question.timeout));
        let body = AskBody { prompt: question.prompt, schema, timeout, shape: plain_shape() };
        let policy = StepPolicy { on_error: OnError::Continue, ..StepPolicy::default() };
        let done = {
            let _aside = self.step_aside();
            Box::pin(self.resolve(StepKey::from(key), "approve", &policy, &body)).await?
        };
        kept.answered = true;
        record.decision = kept.decision();
        Ok(match (done.state, done.error) {
            (StepState::Completed, _) => {
                let mut said = done.output.value()?;
                Ok(Reply::Given(said.get_mut("answer").map(Value::take).unwrap_or_default()))
            }
            (_, Some(failure)) if failure.code == code::TIMEOUT => Ok(Reply::Silence),
            (_, Some(failure)) if failure.code != code::REJECTED => Err(failure),
            _ => Ok(Reply::Declined),
        })
    }

    /// Where a step goes on that was at work when its worker died. One that had asked, and one that has kept what it needs to go on, was not
    /// in the middle of anything.
    pub(super) async fn after_interrupt(&self, record: &StepRecord, policy: &StepPolicy) -> Result<Next, Halt> {
        let Kept { kept, asks, answered, .. } = Kept::of(record.decision.as_ref());
        let n = record.attempts;
        let again = if asks.is_some() { Next::Ask(n) } else { Next::Attempt(n) };
        if (asks.is_some() && !answered) || (asks.is_none() && kept.is_some()) {
            return Ok(again);
        }
        Ok(match policy.on_interrupt {
            OnInterrupt::Retry => again,
            OnInterrupt::Fail => Next::Finish(Err(interrupted(record, "and its author said `on_interrupt: fail`"))),
            OnInterrupt::Ask if self.may_run_again(record).await? => again,
            OnInterrupt::Ask => Next::Finish(Err(interrupted(record, "and it was decided not to run it again"))),
        })
    }

    /// `on_interrupt: ask` is an approval, too.
    async fn may_run_again(&self, record: &StepRecord) -> Result<bool, Halt> {
        let key = StepKey::new(format!("{}.interrupted[{}]", record.key, record.epoch));
        let prompt = format!("Step {} was running when its worker died. Run it again?", record.key);
        let body = AskBody { prompt, schema: None, timeout: None, shape: plain_shape() };
        let policy = StepPolicy { on_error: OnError::Continue, ..StepPolicy::default() };
        let _aside = self.step_aside();
        let done = Box::pin(self.resolve(key, "approve", &policy, &body)).await?;
        Ok(done.state == StepState::Completed)
    }
}

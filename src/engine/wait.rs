//! Waiting: in memory while something else of the run works, otherwise suspended by the runner.

use std::convert::Infallible;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::model::{Failure, Payload, StepRecord, StepState, Wait, code};

use super::ctx::Ctx;
use super::halt::Halt;
use super::inbox::Answer;
use super::journal::StepRow;
use super::kept::Kept;

/// A run in which everything waits is suspended at once, and its wait does not get this old in memory.
const SUSPENDED_BY_THEN: Duration = Duration::from_millis(20);

/// How a wait ended.
pub(super) enum Woken {
    /// Its time has come.
    Due,
    /// Somebody answered; the journal has it already.
    Answered(Answer),
}

/// Why a step waits. Recorded as the row's decision, so that a resume knows it.
pub(super) enum Purpose {
    /// For what its kind says.
    Wait(Wait),
    /// For the next attempt; or for the same one, which then says `why` it only waits.
    Retry { next: u32, of: u32, after: Duration, kept: Kept, why: Option<String> },
}

impl Purpose {
    fn due_in(&self) -> Option<Duration> {
        match self {
            Self::Wait(Wait::Sleep { span }) => Some(*span),
            Self::Wait(Wait::Event { timeout, .. } | Wait::Approval { timeout, .. } | Wait::Child { timeout, .. }) => {
                *timeout
            }
            Self::Retry { after, .. } => Some(*after),
        }
    }

    fn decision(&self) -> Value {
        match self {
            Self::Wait(Wait::Sleep { span }) => {
                json!({"wait": "sleep", "ms": u64::try_from(span.as_millis()).unwrap_or(u64::MAX)})
            }
            Self::Wait(Wait::Event { name, matches, .. }) => json!({"wait": "event", "event": name, "match": matches}),
            Self::Wait(Wait::Child { run, workflow, .. }) => json!({"wait": "child", "run": run, "workflow": workflow}),
            Self::Wait(Wait::Approval { prompt, schema: None, .. }) => json!({"wait": "approval", "prompt": prompt}),
            Self::Wait(Wait::Approval { prompt, schema, .. }) => {
                json!({"wait": "approval", "prompt": prompt, "schema": schema})
            }
            Self::Retry { next, of, kept, why, .. } => {
                let mut decision = json!({"wait": "retry", "attempt": next, "of": of});
                kept.add_to(&mut decision);
                if let Some(why) = why {
                    decision["why"] = why.as_str().into();
                }
                decision
            }
        }
    }
}

/// Is the recorded wait the pause before another attempt?
fn is_retry(decision: Option<&Payload>) -> bool {
    decision.is_some_and(|d| d.as_str().starts_with(r#"{"wait":"retry""#))
}

/// The attempt that such a pause leads to, and the last that it may.
pub(super) fn attempts_after(decision: Option<&Payload>) -> Option<(u32, u32)> {
    let decision = decision.filter(|d| is_retry(Some(d)))?.value().ok()?;
    let number = |name: &str| u32::try_from(decision.get(name)?.as_u64()?).ok();
    Some((number("attempt")?, number("of")?))
}

/// What [`Kept::spent_at`] has said.
pub(super) fn spent_at(decision: Option<&Payload>) -> Option<i64> {
    decision.and_then(|decision| Kept::of(Some(decision)).spent_at)
}

/// How the decision of a wait begins that is answered in the database.
const ANSWERABLE: [&str; 3] = [r#"{"wait":"event""#, r#"{"wait":"approval""#, CHILD];

const CHILD: &str = r#"{"wait":"child""#;

/// Waits for an event, an approval or a child are answered in the database; the row keeps its decision to say so.
pub(super) fn answerable(record: &StepRecord) -> bool {
    record.decision.as_ref().is_some_and(|d| ANSWERABLE.iter().any(|begin| d.as_str().starts_with(begin)))
}

/// Could its answer have come before it was recorded?
fn may_be_there(decision: Option<&Payload>) -> bool {
    decision.is_some_and(|d| d.as_str().starts_with(ANSWERABLE[0]) || d.as_str().starts_with(CHILD))
}

impl Ctx {
    /// Begins a wait: records it, and waits. Called while busy; the wait itself is not.
    pub(super) async fn begin_wait(&self, record: &mut StepRecord, purpose: Purpose) -> Result<Woken, Halt> {
        record.state = StepState::Waiting;
        record.epoch = self.epoch;
        record.decision = Some(Payload::from_value(&purpose.decision()));
        let due_in = purpose.due_in();
        let wait = match purpose {
            Purpose::Wait(wait) => Some(wait),
            Purpose::Retry { .. } => None,
        };
        self.defer(StepRow { record: record.clone(), wait, due_in, fresh: false });
        self.rejoin_wait(record, due_in).await
    }

    /// Goes on with a wait that is recorded already. `due_in` counts from now.
    pub(super) async fn rejoin_wait(&self, record: &StepRecord, due_in: Option<Duration>) -> Result<Woken, Halt> {
        let due = due_in.and_then(|d| Instant::now().checked_add(d));
        self.pause_busy(&record.key, due, answerable(record));
        let _again = Again(self, record);
        tokio::select! {
            biased;
            _ = self.inbox.signal().stopped() => Err(Halt::Stopped),
            () = self.failing() => Err(Halt::Stopped),
            () = self.inbox.paused() => Err(Halt::Stopped),
            answer = self.inbox.answered(&record.key) => Ok(Woken::Answered(answer)),
            never = self.look_for_kept(record) => match never {},
            () = sleep_until(due) => Ok(Woken::Due),
        }
    }

    /// What came before the wait began is looked for when the run suspends; one that does not, because
    /// another branch works, looks when its wait is recorded. The answer comes by way of the inbox.
    async fn look_for_kept(&self, record: &StepRecord) -> Infallible {
        if may_be_there(record.decision.as_ref()) {
            tokio::time::sleep(SUSPENDED_BY_THEN).await;
            let n = self.flush();
            // An error is told to the next operation of the run, too.
            if n == 0 || self.acks.reached(n).await.is_ok() {
                self.ports.journal.settle(self.info.id, vec![record.key.clone()]);
            }
        }
        std::future::pending().await
    }

    /// A wait that others may answer is over by time: unless an answer came first.
    pub(super) async fn expire_wait(&self, record: &StepRecord) -> Result<Answer, Halt> {
        // The row must be there before it can be ended.
        self.settled().await?;
        // Permanent: asking again is not what a time limit on an answer means.
        let failure = Failure::permanent(code::TIMEOUT, format!("nothing answered step `{}` in time", record.key));
        let answered = self
            .ports
            .journal
            .expire(self.info.id, (self.worker, self.epoch), record.key.clone(), failure.clone())
            .await;
        Ok(answered.unwrap_or(Err(failure)))
    }
}

/// Makes the run busy again when the wait ends, however it ends.
struct Again<'a>(&'a Ctx, &'a StepRecord);

impl Drop for Again<'_> {
    fn drop(&mut self) {
        self.0.resume_busy(&self.1.key);
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

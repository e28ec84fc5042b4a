//! From a step's key to its checkpoint: what its record says, its attempts, its waits.

mod body;
mod go_on;

use std::borrow::Cow;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::model::{Class, Failure, Payload, StepKey, StepRecord, StepState, Usage, code};
use crate::rules::policy::{OnInterrupt, RetryPolicy, StepPolicy};
use crate::rules::retry::next_attempt;
use crate::steps::{Reply, StopReason, stop_pair};
use crate::telemetry::context::{Place, within};
use crate::telemetry::failures::Failed;
use crate::telemetry::redact;
use crate::telemetry::step_log::Whose;

use super::ctx::{Attempted, Ctx, StepDone};
use super::halt::Halt;
use super::inbox::Answer;
use super::journal::NoteKind;
use super::kept::Kept;
use super::wait::{Purpose, Woken, answerable, attempts_after, spent_at};

pub(super) use body::AskBody;
use body::shape_answer;
pub(super) use body::{Body, CodeBody, KindBody};

/// A step that is still running after this long is recorded as running. Shorter ones cost one row, not two.
const START_NOTE_AFTER: Duration = Duration::from_millis(5);

/// What to do next with a step.
enum Next {
    Attempt(u32),
    /// A question to people, and then the attempt.
    Ask(u32),
    Wait(Purpose),
    Rejoin(Option<Duration>),
    Finish(Answer),
}

impl Ctx {
    /// The one way from a key to a result, for workflow files and for Rust code alike.
    pub(super) async fn resolve(
        &self,
        key: StepKey,
        kind: &str,
        policy: &StepPolicy,
        body: &dyn Body,
    ) -> Result<StepDone, Halt> {
        let _busy = self.begin(&key)?;
        // Boxed, like all that few steps come to: a step at work holds no room for it.
        let known = self.record_of(&key, kind)?.cloned().map(Box::new);
        if let Some(record) = &known
            && record.checkpoint
        {
            return self.answer_from_checkpoint(record, policy, body);
        }
        self.settled().await?;
        let (mut record, mut next, first) = match known {
            None => (self.record(key, kind, StepState::Running, self.ports.clock.now()), Next::Attempt(1), 1),
            Some(record) => {
                let mut record = *record;
                if record.attempts == 0 && spent_at(record.decision.as_ref()).is_some() {
                    // An operator's retry.
                    let kept = Kept::of(record.decision.as_ref());
                    record.decision = Kept { spent_at: None, ..kept }.decision();
                }
                let next = Box::pin(self.take_up(&record, policy)).await?;
                let first = first_attempt(&record, &next, policy);
                if matches!(next, Next::Attempt(_)) && matches!(record.state, StepState::Failed | StepState::Cancelled)
                {
                    // Taken up anew, by a resume or an operator: `total_timeout` begins anew, too.
                    record.started_at = self.ports.clock.now();
                }
                (record, next, first)
            }
        };
        let mut reply = None;
        loop {
            next = match next {
                Next::Attempt(n) => {
                    if body.spends()
                        && let Err(failure) = Box::pin(self.within_budget()).await?
                    {
                        return self.finish(record, Err(failure), policy);
                    }
                    // Asking for more, or for a reply, may have taken days: the run may be another's by now.
                    if body.spends() || reply.is_some() {
                        self.settled().await?;
                    }
                    let began = self.ports.clock.now();
                    let done = self.one_attempt(&mut record, n, policy, body, reply.take()).await?;
                    self.note_calls(&record);
                    let used = self.meter.take(&record.key);
                    if let Some(used) = used {
                        record.usage.get_or_insert_default().add(used);
                    }
                    match done.and_then(|done| self.within_limit(done)).map_err(hidden) {
                        Ok(Attempted::Done(output)) => {
                            return self.finish(record, Ok(redact::recorded(output)), policy);
                        }
                        Ok(Attempted::Committed(output)) => {
                            self.count_end(&record, StepState::Completed);
                            return Ok(StepDone { state: StepState::Completed, output, error: None });
                        }
                        Ok(Attempted::Suspend(wait)) => Next::Wait(Purpose::Wait(wait)),
                        Ok(Attempted::GoOn { keep, after }) => {
                            Box::pin(self.carry_on(&mut record, (keep, after), (began, used), first, policy)).await?
                        }
                        // Another branch has used it up meanwhile: whether to go on is asked before the attempt.
                        Err(failure) if failure.code == code::BUDGET_EXCEEDED && body.spends() => Next::Attempt(n),
                        Err(failure) => {
                            let spent_at = spent_at(record.decision.as_ref());
                            record.decision = Kept { spent_at, ..Kept::default() }.decision();
                            self.after_failure(&record, (began, used), failure, first, policy)
                        }
                    }
                }
                Next::Ask(n) => match Box::pin(self.ask(&mut record)).await? {
                    Ok(answer) => {
                        reply = Some(answer);
                        Next::Attempt(n)
                    }
                    Err(failure) => Next::Finish(Err(failure)),
                },
                Next::Wait(purpose) => {
                    let woken = Box::pin(self.begin_wait(&mut record, purpose)).await?;
                    Box::pin(self.after_wait(&record, woken, body)).await?
                }
                Next::Rejoin(due_in) => {
                    let woken = Box::pin(self.rejoin_wait(&record, due_in)).await?;
                    Box::pin(self.after_wait(&record, woken, body)).await?
                }
                Next::Finish(Ok(output)) if record.state == StepState::Waiting && answerable(&record) => {
                    // The answer's own row is the checkpoint already.
                    self.count_end(&record, StepState::Completed);
                    return Ok(StepDone { state: StepState::Completed, output, error: None });
                }
                Next::Finish(result) => return self.finish(record, result, policy),
            };
        }
    }

    fn answer_from_checkpoint(
        &self,
        record: &StepRecord,
        policy: &StepPolicy,
        body: &dyn Body,
    ) -> Result<StepDone, Halt> {
        let mut output = record.output.clone().unwrap_or_else(Payload::null);
        if record.state == StepState::Completed && answerable(record) {
            output = match shape_answer(record, body, &output) {
                Ok(output) => output,
                // As it would have been, had the answer come while the run was at work. The answer itself stays recorded.
                Err(failure) => return self.finish(record.clone(), Err(failure), policy),
            };
        }
        Ok(StepDone { state: record.state, output, error: record.error.clone() })
    }

    /// Where a step that has a record, but no checkpoint, goes on.
    async fn take_up(&self, record: &StepRecord, policy: &StepPolicy) -> Result<Next, Halt> {
        Ok(match record.state {
            // An interrupted attempt is repeated under its own number: the user's attempts count failures, not crashes.
            StepState::Running => self.after_interrupt(record, policy).await?,
            StepState::Waiting => {
                let left = record.due_in_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
                Next::Rejoin(left)
            }
            StepState::Failed if answerable(record) => {
                Next::Finish(Err(record.error.clone().unwrap_or_else(|| interrupted(record, "and left no reason"))))
            }
            // It had failed, and its worker died before the run could: that is no reason for fresh attempts. An operator's retry is one.
            StepState::Failed
                if record.attempts > 0 && spent_at(record.decision.as_ref()) == Some(self.resumes.into()) =>
            {
                Next::Finish(Err(record.error.clone().unwrap_or_else(|| interrupted(record, "and left no reason"))))
            }
            StepState::Failed | StepState::Cancelled | StepState::Completed | StepState::Skipped => {
                Next::Attempt(record.attempts + 1)
            }
        })
    }

    async fn after_wait(&self, record: &StepRecord, woken: Woken, body: &dyn Body) -> Result<Next, Halt> {
        Ok(match (woken, attempts_after(record.decision.as_ref())) {
            (Woken::Due, Some((next, _))) => {
                self.settled().await?;
                Next::Attempt(next)
            }
            (Woken::Due, None) if !answerable(record) => Next::Finish(Ok(Payload::null())),
            (Woken::Due, None) => {
                Next::Finish(self.expire_wait(record).await?.and_then(|answer| shape_answer(record, body, &answer)))
            }
            (Woken::Answered(answer), _) => Next::Finish(answer.and_then(|answer| shape_answer(record, body, &answer))),
        })
    }

    /// Retry or not: the one decision, by [`next_attempt`].
    fn after_failure(
        &self,
        record: &StepRecord,
        (began, used): (DateTime<Utc>, Option<Usage>),
        failure: Failure,
        first: u32,
        policy: &StepPolicy,
    ) -> Next {
        let retry = &*retry_of(record, policy);
        // Of a row that says less than the attempt at hand, this is the first.
        let attempt = record.attempts.saturating_sub(first) + 1;
        let pause =
            next_attempt(retry, &failure, attempt, fastrand::f64()).filter(|pause| self.fits(record, policy, *pause));
        self.ports.metrics.work.attempt_failed(&record.kind, &failure.code, pause.is_some());
        let now = self.ports.clock.now();
        let mut data = json!({
            "started_at": began, "ended_at": now, "failure": failure,
            "retry_in_ms": pause.map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
        });
        if let Some(used) = used {
            data["usage"] = serde_json::to_value(used).unwrap_or_default();
        }
        tracing::info!(
            step.key = %record.key, attempt = record.attempts, code = &*failure.code, error = &*failure.message,
            retry_in_ms = pause.map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)), "attempt failed"
        );
        self.ports.failures.tell(|| Failed {
            run: self.info.id,
            workflow: self.info.workflow.clone(),
            session_id: self.info.session_id.clone(),
            worker: self.worker,
            key: record.key.clone(),
            attempt: record.attempts,
            failure: failure.clone(),
            at: now,
            retry_in: pause,
        });
        let attempt = Some(record.attempts);
        self.note(NoteKind::AttemptFailed, Some(record.key.clone()), attempt, Payload::from_value(&data));
        match pause {
            Some(after) => {
                let kept = Kept::of(record.decision.as_ref());
                let (next, of) = (record.attempts + 1, first + retry.max_attempts - 1);
                Next::Wait(Purpose::Retry { next, of, after, kept, why: None })
            }
            None => Next::Finish(Err(failure)),
        }
    }

    fn within_limit(&self, done: Attempted) -> Result<Attempted, Failure> {
        match done {
            Attempted::Done(output) => self.sized(output).map(Attempted::Done),
            other => Ok(other),
        }
    }

    /// Does another attempt after this pause still lie within `total_timeout`?
    fn fits(&self, record: &StepRecord, policy: &StepPolicy, pause: Duration) -> bool {
        remaining(policy.total_timeout, record.started_at, self.ports.clock.now()).is_none_or(|left| pause < left)
    }

    /// One attempt under its limits. The outer error ends the run's activation, the inner one is the attempt's failure.
    async fn one_attempt(
        &self,
        record: &mut StepRecord,
        n: u32,
        policy: &StepPolicy,
        body: &dyn Body,
        reply: Option<Reply>,
    ) -> Result<Result<Attempted, Failure>, Halt> {
        record.attempts = n;
        record.state = StepState::Running;
        record.epoch = self.epoch;
        if let Some(decision) = record.decision.take() {
            let mut kept = Kept::of(Some(&decision));
            // A question that nobody has answered was another attempt's.
            kept.asks.take_if(|_| reply.is_none());
            kept.answered &= reply.is_some();
            record.decision = kept.decision();
        }
        let start_first = policy.on_interrupt != OnInterrupt::Retry || policy.undo || self.suspect;
        if start_first {
            // Whoever resumes must know that the step had begun.
            self.defer(super::journal::StepRow { record: record.clone(), wait: None, due_in: None, fresh: false });
            Box::pin(self.settled()).await?;
        }
        let limit = match (policy.timeout, remaining(policy.total_timeout, record.started_at, self.ports.clock.now())) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let grace = body.stop_grace();
        let (trigger, own) = if grace.is_some() { Some(stop_pair()).unzip() } else { (None, None) };
        let signal = own.unwrap_or_else(|| self.inbox.signal().clone());
        let record = &*record;
        let _at_work = self.inbox.begin_work();
        let work = std::panic::AssertUnwindSafe(body.attempt(self, record, n, (signal, reply)));
        let session_id = self.info.session_id.clone();
        let (run, worker, epoch) = (self.info.id, self.worker, self.epoch);
        let log = self.ports.logs.of(Whose { run, worker, epoch, key: record.key.clone(), attempt: n });
        let place = Place { run, worker, session_id, step: Some((record.key.clone(), n)), log };
        let work = within(Some(place), futures_util::FutureExt::catch_unwind(work));
        tokio::pin!(work);
        // Most steps of plain data are done at once, and need no watch.
        if let Poll::Ready(done) = futures_util::poll!(&mut work) {
            return Ok(unpanicked(done));
        }
        let note_after = (!start_first).then_some(START_NOTE_AFTER);
        let why = tokio::select! {
            biased;
            done = &mut work => return Ok(unpanicked(done)),
            why = Box::pin(self.ended_early(record, note_after, limit)) => why,
        };
        if let (Some(trigger), Some(grace)) = (trigger, grace) {
            trigger.stop(why);
            // The kind ends its own work; what it says then only matters where it tells more than "stopped".
            let said = tokio::time::timeout(grace, &mut work).await;
            if why == StopReason::Timeout
                && let Ok(Ok(Err(failure))) = said
            {
                return Ok(Err(timed_out(record, limit).with_details(failure.details.map_or(Value::Null, |d| *d))));
            }
        }
        match why {
            StopReason::Timeout => Ok(Err(timed_out(record, limit))),
            StopReason::Cancelled | StopReason::LeaseLost | StopReason::GivenBack | StopReason::Paused => {
                Err(Halt::Stopped)
            }
        }
    }

    /// Notes the start of a step that takes its time, and resolves when the attempt must end.
    async fn ended_early(
        &self,
        record: &StepRecord,
        note_after: Option<Duration>,
        limit: Option<Duration>,
    ) -> StopReason {
        let stopped = self.inbox.signal().stopped();
        tokio::pin!(stopped);
        let limit = limit.and_then(|l| tokio::time::Instant::now().checked_add(l));
        let timeout = async {
            match limit {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timeout);
        if let Some(after) = note_after {
            tokio::select! {
                biased;
                why = &mut stopped => return why,
                () = &mut timeout => return StopReason::Timeout,
                () = tokio::time::sleep(after) => self.note_start(record),
            }
        }
        tokio::select! {
            biased;
            why = stopped => why,
            () = timeout => StopReason::Timeout,
        }
    }
}

/// The attempt from which a step's retries are counted: neither a suspension between two of them nor a crash
/// gives a step fresh ones.
fn first_attempt(record: &StepRecord, next: &Next, policy: &StepPolicy) -> u32 {
    match next {
        Next::Attempt(_) | Next::Ask(_) if record.state == StepState::Running && !is_spent(record) => 1,
        Next::Attempt(n) | Next::Ask(n) => *n,
        Next::Wait(_) | Next::Rejoin(_) | Next::Finish(_) => attempts_after(record.decision.as_ref())
            .map_or(record.attempts, |(_, last)| (last + 1).saturating_sub(policy.retry.max_attempts).max(1)),
    }
}

/// Has the step only the one attempt that a resume gives?
fn is_spent(record: &StepRecord) -> bool {
    record.attempts > 0 && spent_at(record.decision.as_ref()).is_some()
}

/// The retries that a step has.
fn retry_of<'p>(record: &StepRecord, policy: &'p StepPolicy) -> Cow<'p, RetryPolicy> {
    if is_spent(record) { Cow::Owned(RetryPolicy::never()) } else { Cow::Borrowed(&policy.retry) }
}

fn interrupted(record: &StepRecord, then: &str) -> Failure {
    Failure {
        class: Class::Permanent,
        ..Failure::permanent(
            code::INTERRUPTED,
            format!("step `{}` was running when its worker died, {then}", record.key),
        )
    }
}

fn timed_out(record: &StepRecord, limit: Option<Duration>) -> Failure {
    let limit = limit.unwrap_or_default();
    Failure::transient(
        code::TIMEOUT,
        format!("attempt {} of step `{}` took longer than its limit of {limit:?}", record.attempts, record.key),
    )
}

/// What is left of a limit that began at `since`.
fn remaining(limit: Option<Duration>, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
    limit.map(|l| l.saturating_sub((now - since).to_std().unwrap_or_default()))
}

/// What a failure says is stored, shown and logged: no secret may be in it.
fn hidden(mut failure: Failure) -> Failure {
    if let std::borrow::Cow::Owned(message) = redact::hide(&failure.message) {
        failure.message = message;
    }
    if let Some(details) = failure.details.as_deref_mut() {
        redact::hide_in(details);
    }
    failure
}

type Unwound = Result<Result<Attempted, Failure>, Box<dyn std::any::Any + Send>>;

fn unpanicked(done: Unwound) -> Result<Attempted, Failure> {
    done.unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Failure::transient(
            code::PANIC,
            format!("the step's code panicked: {}", text.unwrap_or_else(|| "no message".into())),
        ))
    })
}

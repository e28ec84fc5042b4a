//! Runs one claimed job to the end of its activation: finished, failed, suspended, or given up.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;

use crate::model::{Claimed, Class, Failure, Payload, RunState, StepState, code};
use crate::rules::retry::next_resume;
use crate::steps::{BoxFuture, StopReason};
use crate::telemetry::redact;

use super::ctx::{Ctx, Ports, Quiet};
use super::ending::End;
use super::halt::{Halt, StepFailure};
use super::inbox::Inbox;
use super::journal::{CommitError, NoteKind, Transition};
use super::workflow::Workflow;

/// A wait that is due sooner than this is waited out in memory: a suspend and a claim would take about as long.
const LINGER: Duration = Duration::from_millis(100);

/// A run with many records that waits for a child is kept for as long as loading them again would take (about this for each): most often the child
/// ends sooner, and if not, nothing has cost twice what it must. Reloaded for each few of its ten thousand children, it would load millions.
const RELOAD: Duration = Duration::from_micros(30);

/// … and no longer: the slot may be what the child waits for.
const KEPT_AT_MOST: Duration = Duration::from_secs(1);

/// What is loaded sooner than this is not kept: an answer takes as long.
const WORTH_KEEPING: Duration = Duration::from_millis(20);

/// A run that this worker cannot run is left to others for this long.
const HAND_ON: Duration = Duration::from_secs(5);

/// All that an activation can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run is `completed`.
    Done,
    /// The run waits, and holds nothing here.
    Suspended,
    /// The run is `failed`.
    Failed,
    /// The run failed and will be resumed.
    Resuming,
    /// The run is `cancelled`.
    Cancelled,
    /// The run is paused, and holds nothing here.
    Paused,
    /// The run was given back; nothing counts.
    Interrupted,
    /// Another worker has it; nothing was written.
    LeaseLost,
}

impl Outcome {
    /// The word for it in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "completed",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Resuming => "resuming",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
            Self::Interrupted => "interrupted",
            Self::LeaseLost => "lease_lost",
        }
    }

    /// The state in which the run has ended, if it has.
    #[must_use]
    pub fn ends(self) -> Option<RunState> {
        match self {
            Self::Done => Some(RunState::Completed),
            Self::Failed => Some(RunState::Failed),
            Self::Cancelled => Some(RunState::Cancelled),
            Self::Suspended | Self::Resuming | Self::Paused | Self::Interrupted | Self::LeaseLost => None,
        }
    }
}

enum Turn<T> {
    Ended(Result<T, Halt>),
    Quiet(Option<Duration>),
    Stays(tokio::time::Instant),
}

/// Runs one claimed job. Consumes the lease.
pub async fn run(
    mut claimed: Box<Claimed>,
    workflow: Result<Arc<dyn Workflow>, Failure>,
    ports: Arc<Ports>,
    inbox: Arc<Inbox>,
) -> Outcome {
    let mut ctx = Ctx::new(&claimed, ports, inbox);
    // Boxed, like all that few runs come to, and what each comes to once: a run at work holds no room for it.
    if claimed.came_back()
        && let Err(outcome) = Box::pin(take_up(&mut ctx, &claimed)).await
    {
        return outcome;
    }
    let input = match claimed.input.take() {
        Some(input) => input,
        None => match Box::pin(load(&ctx, ctx.ports.journal.load_input(ctx.info.id))).await {
            Ok(input) => input,
            Err(outcome) => return outcome,
        },
    };
    if claimed.came_back()
        && let Some(end) = End::recorded(&ctx)
    {
        return Box::pin(at_end(&ctx, input, workflow, end)).await;
    }
    let workflow = match workflow {
        Ok(workflow) => workflow,
        Err(failure) if failure.class == Class::Permanent => {
            return Box::pin(end(&ctx, Transition::Fail { failure }, Outcome::Failed)).await;
        }
        Err(failure) => return Box::pin(hand_on(&ctx, failure)).await,
    };
    if let Some(budget) = workflow.budget() {
        ctx.meter.limit(budget.clone());
    }
    let deadline = run_deadline(&ctx, &claimed, &*workflow);
    let code = workflow.run(&ctx, input.clone());
    let ended = match drive(&ctx, code, deadline).await {
        Ok(ended) => ended.and_then(|output| ctx.sized(redact::recorded(output)).map_err(Halt::failed)),
        Err(outcome) => return outcome,
    };
    match ended {
        Ok(output) if !workflow.has_handlers() => {
            Box::pin(end(&ctx, Transition::Complete { output, last: None }, Outcome::Done)).await
        }
        ended => Box::pin(conclude(ctx, (&claimed, input), workflow, ended)).await,
    }
}

/// Polls the workflow's code until it ends; or until everything in it waits, and the run is suspended.
async fn drive<T>(
    ctx: &Ctx,
    code: BoxFuture<'_, Result<T, Halt>>,
    deadline: Option<tokio::time::Instant>,
) -> Result<Result<T, Halt>, Outcome> {
    let mut alarm = deadline;
    let code = AssertUnwindSafe(code).catch_unwind();
    tokio::pin!(code);
    loop {
        let until = ctx.kept_until().filter(|until| *until > tokio::time::Instant::now());
        let turn = poll_fn(|cx| match code.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Turn::Ended(ended.unwrap_or_else(|_| Err(Halt::failed(panicked()))))),
            Poll::Pending => match (suspendable(ctx, deadline), ctx.kept_until()) {
                (Some(due_in), Some(until)) if until <= tokio::time::Instant::now() => Poll::Ready(Turn::Quiet(due_in)),
                (Some(due_in), None) => Poll::Ready(worth_keeping(ctx).map_or(Turn::Quiet(due_in), Turn::Stays)),
                _ => {
                    ctx.flush();
                    Poll::Pending
                }
            },
        });
        let turn = tokio::select! {
            biased;
            // First: a run that finds everything waiting would otherwise suspend again past its end.
            () = sleep_until(alarm) => {
                alarm = None;
                ctx.inbox.stop(StopReason::Timeout);
                continue;
            }
            turn = turn => turn,
            () = sleep_until(until) => continue,
        };
        match turn {
            Turn::Ended(ended) => return Ok(ended),
            Turn::Stays(until) => {
                ctx.inbox.hurry();
                ctx.keep(until);
            }
            Turn::Quiet(due_in) => return Err(Box::pin(suspend(ctx, due_in, deadline)).await),
        }
    }
}

/// The code has ended, and the run does not simply end well: what becomes of it?
async fn conclude(
    mut ctx: Ctx,
    (claimed, input): (&Claimed, Payload),
    workflow: Arc<dyn Workflow>,
    ended: Result<Payload, Halt>,
) -> Outcome {
    let mut last = match verdict(&ctx, claimed, &*workflow, ended).await {
        Ok(end) => end,
        Err(outcome) => return outcome,
    };
    if !workflow.has_handlers() {
        return finish(&ctx, last).await;
    }
    let had_child = ctx.has_child();
    while let Err(halt) = ctx.begin_end(&last).await {
        match halt {
            // What it came to cannot be stored: that is why it fails, then.
            Halt::Failed(failed) if last.state() == RunState::Completed => last = End::Failed(failed.failure),
            Halt::Failed(failed) => return finish(&ctx, End::Failed(failed.failure)).await,
            Halt::Stopped => return let_go(&ctx).await,
        }
    }
    if had_child {
        ctx.ports.journal.abandon(ctx.info.id);
    }
    match load(&ctx, ctx.ports.journal.load(ctx.info.id)).await {
        Ok(records) => ctx.begin_again(records),
        Err(outcome) => return outcome,
    }
    at_end(&ctx, input, Ok(workflow), last).await
}

/// Does what is to be done at the end, then ends the run as it was decided.
async fn at_end(ctx: &Ctx, input: Payload, workflow: Result<Arc<dyn Workflow>, Failure>, last: End) -> Outcome {
    ctx.inbox.begin_end();
    let ended = match workflow {
        Ok(workflow) => drive(ctx, workflow.at_end(ctx, input, &last), None).await,
        Err(failure) if failure.class == Class::Permanent => Ok(Err(Halt::failed(failure))),
        Err(failure) => return hand_on(ctx, failure).await,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(Halt::Stopped)) => return let_go(ctx).await,
        Ok(Err(Halt::Failed(StepFailure { failure, .. }))) => {
            tracing::warn!(run.id = %ctx.info.id, workflow = &*ctx.info.workflow, error = %failure, "what was to be done at the end of the run could not be finished");
        }
        Err(outcome) => return outcome,
    }
    finish(ctx, last).await
}

/// The last transition. What has not ended by then is closed, and children that it waited for are cancelled.
async fn finish(ctx: &Ctx, last: End) -> Outcome {
    let had_child = ctx.has_child();
    ctx.close_open_steps();
    let outcome = match last.state() {
        RunState::Completed => Outcome::Done,
        RunState::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failed,
    };
    let outcome = end(ctx, last.transition(), outcome).await;
    if had_child && outcome != Outcome::LeaseLost {
        ctx.ports.journal.abandon(ctx.info.id);
    }
    outcome
}

/// How a run ends whose code has ended like this; or what else becomes of it.
async fn verdict(
    ctx: &Ctx,
    claimed: &Claimed,
    workflow: &dyn Workflow,
    ended: Result<Payload, Halt>,
) -> Result<End, Outcome> {
    let reason = ctx.inbox.signal().reason();
    match ended {
        Ok(output) => Ok(End::Completed(output)),
        // A cancel outweighs the failure that it may have met on its way.
        Err(_) if reason == Some(StopReason::Cancelled) => Ok(End::cancelled()),
        Err(Halt::Failed(failed)) => fail(ctx, claimed, workflow, failed).await,
        Err(Halt::Stopped) if reason == Some(StopReason::Timeout) => {
            Ok(End::Failed(Failure::permanent(code::TIMEOUT, "the run took longer than the workflow's `timeout`")))
        }
        Err(Halt::Stopped) => Err(let_go(ctx).await),
    }
}

/// This worker cannot run it; another may. It looks again after a while, and nothing counts.
async fn hand_on(ctx: &Ctx, failure: Failure) -> Outcome {
    tracing::warn!(run.id = %ctx.info.id, workflow = &*ctx.info.workflow, error = %failure, "this worker cannot run this run; leaving it to others for a while");
    let why = Payload::from_serialize(&failure).unwrap_or_else(|_| Payload::null());
    ctx.note(NoteKind::Released, None, None, why);
    end(ctx, Transition::Suspend { due_in: Some(HAND_ON) }, Outcome::Interrupted).await
}

/// Loads what earlier claims have recorded. A run that was taken from a dead worker commits its start before that, before its
/// input is decoded and before a step begins: whatever of it kills this worker, the death counts. Others count by their first record.
async fn take_up(ctx: &mut Ctx, claimed: &Claimed) -> Result<(), Outcome> {
    let suspect = claimed.taken || claimed.crashes > 0;
    let resumed = claimed.taken || claimed.after_failure;
    if resumed {
        note_resumed(ctx);
    }
    if suspect {
        start(ctx).await?;
    }
    let records = load(ctx, ctx.ports.journal.load(ctx.info.id)).await?;
    let interrupted = records.iter().any(|r| r.state == StepState::Running);
    // An operator's retry gives the failed step fresh attempts.
    let retried = records.iter().any(|r| r.state == StepState::Failed && r.attempts == 0);
    if !resumed && (interrupted || retried) {
        note_resumed(ctx);
    }
    ctx.remember(records);
    if interrupted && !suspect { start(ctx).await } else { Ok(()) }
}

async fn load<T>(ctx: &Ctx, loading: BoxFuture<'static, Result<T, Failure>>) -> Result<T, Outcome> {
    let loaded = tokio::select! {
        loaded = loading => loaded,
        // Nothing to be closed, nothing to be told: it is not needed. A cancel needs the records, to close what is open.
        () = given_up(ctx) => return Err(let_go(ctx).await),
    };
    match loaded {
        Ok(loaded) => Ok(loaded),
        Err(failure) => Err(hand_on(ctx, failure).await),
    }
}

async fn start(ctx: &Ctx) -> Result<(), Outcome> {
    ctx.transition(Transition::Start).await.map_err(|_| Outcome::LeaseLost)
}

/// Resolves when the run is to be let go of: the lease is lost, or this worker stops.
async fn given_up(ctx: &Ctx) {
    if ctx.inbox.signal().stopped().await == StopReason::Cancelled {
        std::future::pending::<()>().await;
    }
}

/// The run is taken up again after a death, a failure, or an interruption; the end of a wait is none of these. The line goes
/// with the start, or with the first record: never a write of its own.
fn note_resumed(ctx: &Ctx) {
    let data = Payload::from_value(&json!({"worker": ctx.worker.0}));
    ctx.note(NoteKind::Resumed, None, None, data);
}

fn run_deadline(ctx: &Ctx, claimed: &Claimed, workflow: &dyn Workflow) -> Option<tokio::time::Instant> {
    let limit = workflow.timeout()?;
    let used = (ctx.ports.clock.now() - claimed.started_at).to_std().unwrap_or_default();
    tokio::time::Instant::now().checked_add(limit.saturating_sub(used))
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// If everything waits, and for longer than it pays to stay: when is the earliest due?
fn suspendable(ctx: &Ctx, deadline: Option<tokio::time::Instant>) -> Option<Option<Duration>> {
    if deadline.is_some_and(|at| at.saturating_duration_since(tokio::time::Instant::now()) <= LINGER) {
        return None;
    }
    if !ctx.ports.journal.suspends() || ctx.inbox.signal().reason().is_some() {
        return None;
    }
    match ctx.quiet() {
        Quiet::For(due_in) if due_in.is_none_or(|d| d > LINGER) => Some(due_in),
        Quiet::For(_) | Quiet::No => None,
    }
}

/// Until when a run is kept in which everything waits.
fn worth_keeping(ctx: &Ctx) -> Option<tokio::time::Instant> {
    let reload = ctx.waits_for_child().then(|| RELOAD * ctx.records_so_far())?;
    (reload >= WORTH_KEEPING).then(|| tokio::time::Instant::now() + reload.min(KEPT_AT_MOST))
}

async fn suspend(ctx: &Ctx, due_in: Option<Duration>, deadline: Option<tokio::time::Instant>) -> Outcome {
    let left = deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
    let due_in = match (due_in, left) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let keys = ctx.waiting_keys();
    match ctx.transition(Transition::Suspend { due_in }).await {
        Ok(()) => {
            ctx.ports.journal.settle(ctx.info.id, keys);
            Outcome::Suspended
        }
        Err(CommitError::LeaseLost) => Outcome::LeaseLost,
        Err(CommitError::Refused(why)) => Box::pin(refused(ctx, why)).await,
    }
}

/// The one place where a failed run's next state is decided: for good, or resumed.
async fn fail(ctx: &Ctx, claimed: &Claimed, workflow: &dyn Workflow, failed: StepFailure) -> Result<End, Outcome> {
    let policy = workflow.resume_policy();
    let resumes = u32::try_from(claimed.resumes).unwrap_or(0);
    let StepFailure { key, failure } = failed;
    let Some(after) = next_resume(policy, &failure, resumes, fastrand::f64()) else {
        return Ok(End::Failed(match key {
            Some(key) => at_step(failure, key.as_str()),
            None => failure,
        }));
    };
    let data = json!({"step": key.as_ref().map(|k| k.as_str()), "resume": resumes + 1, "of": policy.max_attempts,
        "in_ms": u64::try_from(after.as_millis()).unwrap_or(u64::MAX), "failure": failure});
    ctx.note(NoteKind::ResumeScheduled, key, None, Payload::from_value(&data));
    Err(end(ctx, Transition::Resume { after, failure }, Outcome::Resuming).await)
}

/// The run's failure names the step that failed.
fn at_step(mut failure: Failure, key: &str) -> Failure {
    let mut details = match failure.details.take().map(|d| *d) {
        Some(serde_json::Value::Object(map)) => map,
        Some(other) => serde_json::Map::from_iter([("details".to_owned(), other)]),
        None => serde_json::Map::new(),
    };
    details.insert("step".to_owned(), key.into());
    failure.details = Some(Box::new(details.into()));
    failure
}

/// The run is let go of, unharmed.
async fn let_go(ctx: &Ctx) -> Outcome {
    match ctx.inbox.signal().reason() {
        Some(StopReason::LeaseLost) => Outcome::LeaseLost,
        Some(StopReason::GivenBack) => {
            ctx.note(NoteKind::Released, None, None, Payload::null());
            ctx.keep_usage();
            end(ctx, Transition::Release, Outcome::Interrupted).await
        }
        None | Some(StopReason::Paused) if ctx.inbox.is_pausing() => {
            ctx.note(NoteKind::Paused, None, None, Payload::null());
            end(ctx, Transition::Pause, Outcome::Paused).await
        }
        None | Some(StopReason::Cancelled | StopReason::Timeout | StopReason::Paused) => {
            let bug = "the workflow returned `Halt::Stopped` though nothing had told it to stop; return the halt that the context gave";
            end(ctx, Transition::Fail { failure: Failure::permanent(code::INTERNAL, bug) }, Outcome::Failed).await
        }
    }
}

async fn end(ctx: &Ctx, transition: Transition, outcome: Outcome) -> Outcome {
    let keys = if ctx.inbox.is_pausing() { Some(ctx.open_waits()) } else { None };
    let ends = ctx.is_child && transition.is_final();
    match ctx.transition(transition).await {
        Ok(()) => {
            if let Some(keys) = keys {
                ctx.ports.journal.settle(ctx.info.id, keys);
            }
            if ends {
                ctx.ports.journal.tell_parent(ctx.info.id);
            }
            outcome
        }
        Err(CommitError::LeaseLost) => Outcome::LeaseLost,
        Err(CommitError::Refused(why)) => Box::pin(refused(ctx, why)).await,
    }
}

/// Postgres refused what the run wanted to record: say so in words that it accepts.
async fn refused(ctx: &Ctx, why: String) -> Outcome {
    let failure = Failure::permanent(
        code::NOT_STORABLE,
        format!("Postgres refused to store what the run recorded: {}", why.replace('\0', "\\0")),
    );
    match ctx.transition(Transition::Fail { failure }).await {
        Ok(()) => {
            if ctx.is_child {
                ctx.ports.journal.tell_parent(ctx.info.id);
            }
            Outcome::Failed
        }
        Err(_) => Outcome::LeaseLost,
    }
}

fn panicked() -> Failure {
    Failure::permanent(code::PANIC, "the workflow's code panicked; the worker's log has the message")
}

#[cfg(test)]
mod tests;

//! The state machine of a run: [`next`] is every transition there is.
//!
//! The transitions themselves are statements, each of which names the state and the lease that it expects: a
//! row must move in the transaction of the signal, of the take-over, of the batch that moves it, and not after a
//! round trip to a daemon. So this module is their **specification**: the test `tests/it/state.rs` puts a row
//! into every state, sends every event by the statement that production uses, and compares the row with the answer
//! given here. Where this function says no, the statement must change nothing. What decides between two
//! transitions ([`SOLO_AFTER`], [`CRASH_LIMIT`]) stands here, and the statements take it as parameters; but for the index of
//! what came back, and the claims that read it, which must name [`SOLO_AFTER`] as a number: the same test holds them to it.
//!
//! | event | scheduled | queued | held | running | waiting | paused | resuming | completed | failed | cancelled |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | stage | ready | | | | ready | | ready | | | |
//! | admit | | | queued | | | | | | | |
//! | hold | | held | | | | | | | | |
//! | reserve | | queued | | | | | | | | |
//! | claim | | running | | | | | | | | |
//! | claim alone | | running | | | | | | | | |
//! | start | | | | running | | | | | | |
//! | suspend | | | | waiting | | | | | | |
//! | wake | | | | | ready | paused | | | | |
//! | take over | | | | ready, failed | | | | | | |
//! | release | | | | ready | | | | | | |
//! | complete | | | | completed | | | | | | |
//! | fail | | | | failed | | | | | | |
//! | schedule a resume | | | | resuming | | | | | | |
//! | acknowledge the cancel | | | | cancelled | | | | | | |
//! | acknowledge the pause | | | | paused | | | | | | |
//! | cancel | cancelled | cancelled | cancelled | asked | cancelled | cancelled | cancelled | | | |
//! | end | cancelled | ready | ready | asked | ready | ready | ready | | | |
//! | pause | paused | paused | paused | asked | paused | | paused | | | |
//! | unpause | | | | | | ready, resuming, scheduled, waiting | | | | |
//! | retry | | | | | | | ready | | ready | |
//!
//! *ready* is `queued`, or `held` where the queue is paused or limited. *asked* leaves the row alone: the worker is
//! told, and acknowledges. What a paused run was before stands with the request for the pause, and an unpause brings it back there; to
//! a worker, where one had it, and where what it waited for has come meanwhile. A take-over ends in `failed` (code `crash_loop`) when the streak has reached the limit.
//!
//! What else changes, and what never does:
//! - `epoch` rises with every claim and every take-over, and never falls; so a lease that was lost fits nothing any more.
//! - `worker` is set by a claim and cleared by whatever ends the lease.
//! - `crashes` counts the deaths of workers that had begun the run; `streak` those since the last new checkpoint,
//!   each twice when no other run was in company.
//! - `resumes` counts the automatic resumes, and begins anew with an operator's retry of a failed run.
//! - A run enters the lane [`Lane::Fresh`] once, with `ready_at` set to that moment: the claim's watermark rests on it.
//!   Whatever comes back goes to [`Lane::Returned`] and keeps its `ready_at`, so it stays ahead of its juniors.

use crate::model::{Job, Lane, RunState, WorkerId};

/// From this much suspicion on a run is claimed only by a worker that runs nothing else: two crashes in a row alone, or
/// four in company. There it cannot drag innocents along any more, and nothing but the run itself can be to blame.
///
/// A crash in company says little of each run that was there: where workers died every two seconds for reasons of their
/// own, counting it in full made most runs wait to be run alone (seen: half a minute, instead of a second).
pub const SOLO_AFTER: i16 = 4;

/// This much more, and the run is quarantined: three crashes while alone, each counts twice.
pub const CRASH_LIMIT: i16 = 6;

/// What a write under a lease names. It fits while the row is `running` under the same worker and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The registration that claimed.
    pub worker: WorkerId,
    /// The claim's number.
    pub epoch: i32,
}

/// What can happen to a run. `limited`: its queue is paused or has a limit, so that it must be admitted before it may
/// be claimed. `open`: its queue may be claimed from. `progressed`: this claim, or
/// the answer, has made a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    /// Its time has come: `run_at`, the end of a sleep or wait, the next resume. Caller: the stager.
    Stage { limited: bool },
    /// The limits have room for it. Caller: the admitter.
    Admit,
    /// Its queue has been paused or limited while it was queued. Caller: the admitter.
    Hold,
    /// A busy worker begins to empty itself for it. `free`: the worker named before, if any, is gone.
    Reserve { worker: WorkerId, free: bool },
    /// A worker takes it.
    Claim { worker: WorkerId, open: bool },
    /// A worker that runs nothing else takes it.
    ClaimSolo { worker: WorkerId, open: bool },
    /// Its worker is about to do something that a crash would interrupt.
    Start(Fence),
    /// None of its steps runs. `due`: it must be looked at in time.
    Suspend { by: Fence, due: bool, progressed: bool },
    /// What it waits for has come: a signal, an event, a person's word.
    Wake { limited: bool, progressed: bool },
    /// Its worker is dead. `begun`: a step's row of this claim is there. `alone`: the worker had begun no other run.
    TakeOver { from: WorkerId, begun: bool, alone: bool, progressed: bool, limited: bool },
    /// Its worker gives it back unharmed.
    Release { by: Fence, progressed: bool, limited: bool },
    /// It ended well.
    Complete(Fence),
    /// It failed for good.
    Fail(Fence),
    /// It failed, and its policy allows another resume.
    ScheduleResume { by: Fence, progressed: bool },
    /// Its worker has stopped it.
    Cancelled(Fence),
    /// An operator wants it stopped.
    Cancel,
    /// The same, of a run whose workflow has something to do at its end: how it ends is recorded, and a worker does that first. (What has not begun ends at once.)
    End { limited: bool },
    /// Its worker has paused it, with no step of it at work.
    Paused { by: Fence, progressed: bool },
    /// An operator wants it to stand still.
    Pause,
    /// An operator lets it go on. `from`: what it was before, `due` its time then.
    Unpause { from: RunState, due: bool, limited: bool },
    /// An operator wants it taken up again, now.
    Retry { limited: bool },
}

impl Event {
    /// What is done, as a verb.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stage { .. } => "stage",
            Self::Admit => "admit",
            Self::Hold => "hold",
            Self::Reserve { .. } => "reserve",
            Self::Claim { .. } => "claim",
            Self::ClaimSolo { .. } => "claim alone",
            Self::Start(_) => "start",
            Self::Suspend { .. } => "suspend",
            Self::Wake { .. } => "wake",
            Self::TakeOver { .. } => "take over",
            Self::Release { .. } => "release",
            Self::Complete(_) => "complete",
            Self::Fail(_) => "fail",
            Self::ScheduleResume { .. } => "schedule a resume",
            Self::Cancelled(_) => "acknowledge the cancel",
            Self::Cancel => "cancel",
            Self::End { .. } => "end",
            Self::Paused { .. } => "acknowledge the pause",
            Self::Pause => "pause",
            Self::Unpause { .. } => "unpause",
            Self::Retry { .. } => "retry",
        }
    }
}

/// What an event leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The row of `stepd.jobs` becomes this.
    Live(Job),
    /// The run ends like this, and its row moves to `stepd_engine.ended`.
    Ended(Job),
    /// Nothing changes yet: its worker is asked.
    Asked,
}

/// The event does not fit the run; the statement changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {event} a run that is {}, under this lease, queue and count of crashes", state.as_str())]
pub struct IllegalTransition {
    /// Where the run stands.
    pub state: RunState,
    /// What was tried.
    pub event: &'static str,
}

/// A new job: `ahead` when its `run_at` lies in the future.
#[must_use]
pub fn first(ahead: bool, limited: bool) -> Job {
    let (state, lane) = match (ahead, limited) {
        (true, _) => (RunState::Scheduled, Lane::Parked),
        (false, true) => (RunState::Held, Lane::Held),
        (false, false) => (RunState::Queued, Lane::Fresh),
    };
    let (epoch, worker, started, taken) = (0, None, false, false);
    Job { state, lane, epoch, worker, started, taken, crashes: 0, streak: 0, resumes: 0, due: ahead }
}

/// Every transition.
///
/// # Errors
/// The event does not fit the run.
pub fn next(job: &Job, event: &Event) -> Result<Next, IllegalTransition> {
    use RunState::{Cancelled, Completed, Failed, Held, Paused, Queued, Resuming, Running, Scheduled, Waiting};
    let mine = |by: &Fence| job.worker == Some(by.worker) && job.epoch == by.epoch;
    let alone = job.lane == Lane::Returned && job.streak >= SOLO_AFTER;
    Ok(match (event, job.state) {
        (Event::Stage { limited }, Scheduled) => Next::Live(ready(Job { lane: Lane::Fresh, ..*job }, *limited)),
        (Event::Stage { limited }, Waiting) if job.due => Next::Live(back(*job, *limited)),
        (Event::Wake { limited, progressed }, Waiting) => {
            Next::Live(back(Job { streak: streak(job, *progressed), ..*job }, *limited))
        }
        (Event::Wake { progressed, .. }, Paused) => Next::Live(Job { streak: streak(job, *progressed), ..*job }),
        (Event::Stage { limited } | Event::Retry { limited }, Resuming) => {
            Next::Live(back(Job { resumes: job.resumes + 1, ..*job }, *limited))
        }
        (Event::Retry { limited }, Failed) => Next::Live(back(Job { resumes: 0, worker: None, ..*job }, *limited)),

        (Event::Admit, Held) => Next::Live(ready(*job, false)),
        (Event::Hold, Queued) => Next::Live(ready(*job, true)),
        (Event::Reserve { worker, free }, Queued) if alone && (*free || job.worker.is_none_or(|w| w == *worker)) => {
            Next::Live(Job { worker: Some(*worker), ..*job })
        }
        (Event::Claim { worker, open: true }, Queued) if !alone => Next::Live(claimed(*job, *worker)),
        (Event::ClaimSolo { worker, open: true }, Queued) if alone => Next::Live(claimed(*job, *worker)),

        (Event::TakeOver { from, begun, alone, progressed, limited }, Running) if job.worker == Some(*from) => {
            let died = i16::from(job.started || *begun || *progressed);
            let streak = streak(job, *progressed) + if *alone { 2 * died } else { died };
            let to = Job { epoch: job.epoch + 1, crashes: job.crashes + died, streak, taken: true, ..let_go(*job) };
            if streak >= SOLO_AFTER + CRASH_LIMIT {
                Next::Ended(ended(Job { worker: Some(*from), ..to }, Failed))
            } else {
                Next::Live(back(to, *limited))
            }
        }
        (Event::Start(by), Running) if mine(by) => Next::Live(Job { started: true, taken: false, ..*job }),
        (Event::Release { by, progressed, limited }, Running) if mine(by) => {
            Next::Live(back(Job { streak: streak(job, *progressed), taken: job.taken, ..let_go(*job) }, *limited))
        }
        (Event::Suspend { by, due, progressed }, Running) if mine(by) => {
            let (lane, streak) = (Lane::Parked, streak(job, *progressed));
            Next::Live(Job { state: Waiting, lane, streak, due: *due, ..let_go(*job) })
        }
        (Event::ScheduleResume { by, progressed }, Running) if mine(by) => {
            let (lane, streak) = (Lane::Parked, streak(job, *progressed));
            Next::Live(Job { state: Resuming, lane, streak, due: true, ..let_go(*job) })
        }
        (Event::Complete(by), Running) if mine(by) => Next::Ended(ended(*job, Completed)),
        (Event::Fail(by), Running) if mine(by) => Next::Ended(ended(*job, Failed)),
        (Event::Cancelled(by), Running) if mine(by) => Next::Ended(ended(*job, Cancelled)),

        (Event::Paused { by, progressed }, Running) if mine(by) => {
            let streak = streak(job, *progressed);
            Next::Live(Job { state: Paused, lane: Lane::Parked, streak, ..let_go(*job) })
        }
        (Event::Pause, Scheduled | Queued | Held | Waiting | Resuming) => {
            Next::Live(Job { state: Paused, lane: Lane::Parked, worker: None, due: false, ..*job })
        }
        (Event::Unpause { from: from @ (Scheduled | Waiting | Resuming), due, .. }, Paused) => {
            Next::Live(Job { state: *from, due: *due, ..*job })
        }
        // Held before anybody had claimed it: new as ever, it counts towards its rate.
        (Event::Unpause { from: Held, .. }, Paused) if job.epoch == 0 => {
            Next::Live(Job { state: Held, lane: Lane::Held, ..*job })
        }
        // Held for what the admitter knows: it looks again.
        (Event::Unpause { from, limited, .. }, Paused) => Next::Live(back(*job, *limited || *from == Held)),

        (Event::End { limited }, Queued | Held | Waiting | Paused | Resuming) => {
            Next::Live(back(Job { worker: None, ..*job }, *limited))
        }
        (Event::Pause | Event::Cancel | Event::End { .. }, Running) => Next::Asked,
        (Event::End { .. }, Scheduled) | (Event::Cancel, Scheduled | Queued | Held | Waiting | Paused | Resuming) => {
            Next::Ended(ended(Job { worker: None, ..*job }, Cancelled))
        }
        _ => return Err(IllegalTransition { state: job.state, event: event.name() }),
    })
}

/// Claimable, or held in the lane of the same kind.
fn ready(job: Job, limited: bool) -> Job {
    let fresh = matches!(job.lane, Lane::Fresh | Lane::Held);
    let (state, lane) = match (limited, fresh) {
        (false, true) => (RunState::Queued, Lane::Fresh),
        (false, false) => (RunState::Queued, Lane::Returned),
        (true, true) => (RunState::Held, Lane::Held),
        (true, false) => (RunState::Held, Lane::HeldBack),
    };
    Job { state, lane, due: false, ..job }
}

/// Ready again: claimed, or admitted, before all that is new.
fn back(job: Job, limited: bool) -> Job {
    ready(Job { lane: Lane::Returned, ..job }, limited)
}

/// A claim leaves the lane of a new run alone: it must change no indexed column.
fn claimed(job: Job, worker: WorkerId) -> Job {
    let lane = if job.lane == Lane::Fresh { Lane::Fresh } else { Lane::Away };
    Job { state: RunState::Running, lane, worker: Some(worker), epoch: job.epoch + 1, started: false, ..job }
}

/// Without a holder.
fn let_go(job: Job) -> Job {
    Job { worker: None, started: false, taken: false, ..job }
}

/// The crashes in a row, after a claim that made a checkpoint, or none.
fn streak(job: &Job, progressed: bool) -> i16 {
    if progressed { 0 } else { job.streak }
}

fn ended(job: Job, state: RunState) -> Job {
    Job { state, lane: Lane::Parked, started: false, taken: false, streak: 0, due: false, ..job }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

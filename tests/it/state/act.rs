//! Acts: the statements of production, and the events that they are to the model.

use std::sync::Arc;

use serde_json::json;
use sqlx::PgConnection;
use stepd::db::batch::Batch;
use stepd::db::claims::{self, ClaimRequest};
use stepd::db::{DbError, liveness};
use stepd::model::{Job, RunState, WorkerId};
use stepd::rules::horizon::{Pair, Place};
use stepd::rules::state::{Event, Fence};
use uuid::Uuid;

use super::row::{A, B, RUN};
use crate::support::writes;

/// How the run's queue stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Queue {
    Free,
    /// Limited, with room.
    Roomy,
    /// Limited, and another run has the only place.
    Full,
    Paused,
    /// Newly limited: closed until its queued rows have been counted.
    Closing,
}

pub const QUEUES: [Queue; 5] = [Queue::Free, Queue::Roomy, Queue::Full, Queue::Paused, Queue::Closing];

impl Queue {
    pub fn limited(self) -> bool {
        self != Self::Free
    }

    fn open(self) -> bool {
        matches!(self, Self::Free | Self::Roomy | Self::Full)
    }

    /// The statement that makes it so.
    pub fn setting(self) -> String {
        let row = |paused: bool, max: &str, open: bool| {
            format!(
                "INSERT INTO stepd_engine.queues (name, paused, max_running, open) VALUES ('q', {paused}, {max}, {open});"
            )
        };
        match self {
            Self::Free => String::new(),
            Self::Roomy => row(false, "100", true),
            Self::Full => {
                row(false, "1", true)
                    + &format!(
                        "INSERT INTO stepd.jobs (id, workflow, queue, priority, state, worker)
                            VALUES (gen_random_uuid(), 'another', 'q', 5, 'running', '{}');",
                        B.0
                    )
            }
            Self::Paused => row(true, "NULL", false),
            Self::Closing => row(false, "100", false),
        }
    }
}

/// What stands in the run's journal before the act.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Steps {
    None,
    /// A step of this claim runs.
    Begun,
    /// A step of this claim has its checkpoint.
    Progressed,
    /// A step waits for an event.
    Waiting,
    /// A step waits for a person.
    Asking,
}

/// Who brings an answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Signal,
    Emit,
    Approve,
    Reject,
}

/// One use of one statement.
#[derive(Clone, Debug)]
pub enum Act {
    Stage,
    /// The stager, before the time has come.
    StageEarly,
    Admission,
    Reserve(WorkerId),
    Claim(WorkerId),
    ClaimSolo(WorkerId),
    Start(Fence),
    Suspend(Fence, bool, Steps),
    /// The checkpoint is in the same batch as the suspend.
    SuspendAtOnce(Fence),
    Answer(Answer),
    TakeOver(WorkerId, Steps),
    Release(Fence, Steps),
    Complete(Fence),
    Fail(Fence),
    Resume(Fence, Steps),
    Cancelled(Fence),
    Cancel,
    /// Of a run whose workflow has something to do at its end.
    CancelToEnd,
    Paused(Fence, Steps),
    Pause,
    /// From a pause that has met the run in this state, with a due time or without one.
    Unpause(RunState, bool),
    Retry,
}

/// Everything that can be done to a run, by its holder and by others.
pub fn acts(job: &Job) -> Vec<Act> {
    let holder = job.worker.unwrap_or(A);
    let stranger = if holder == A { B } else { A };
    let mut all =
        vec![Act::Stage, Act::StageEarly, Act::Admission, Act::Cancel, Act::CancelToEnd, Act::Pause, Act::Retry];
    all.extend([RunState::Queued, RunState::Held, RunState::Waiting].map(|from| Act::Unpause(from, false)));
    all.extend([RunState::Scheduled, RunState::Waiting, RunState::Resuming].map(|from| Act::Unpause(from, true)));
    all.extend([Answer::Signal, Answer::Emit, Answer::Approve, Answer::Reject].map(Act::Answer));
    for worker in [A, B] {
        all.extend([Act::Reserve(worker), Act::Claim(worker), Act::ClaimSolo(worker)]);
        all.extend([Steps::None, Steps::Begun, Steps::Progressed].map(|steps| Act::TakeOver(worker, steps)));
    }
    for (worker, epoch) in
        [(holder, job.epoch), (holder, job.epoch - 1), (holder, job.epoch + 1), (stranger, job.epoch)]
    {
        let by = Fence { worker, epoch };
        all.extend([Act::Start(by), Act::SuspendAtOnce(by), Act::Complete(by), Act::Fail(by), Act::Cancelled(by)]);
        for steps in [Steps::None, Steps::Progressed] {
            all.extend([Act::Suspend(by, true, steps), Act::Suspend(by, false, steps)]);
            all.extend([Act::Release(by, steps), Act::Resume(by, steps), Act::Paused(by, steps)]);
        }
    }
    all
}

impl Act {
    /// Without its parameters.
    pub fn name(&self) -> String {
        format!("{self:?}").split('(').next().unwrap_or_default().to_owned()
    }

    /// Does it look at the queue, in SQL?
    pub fn heeds_the_queue(&self) -> bool {
        use Act::{
            Admission, Answer, CancelToEnd, Claim, ClaimSolo, Release, Reserve, Retry, Stage, TakeOver, Unpause,
        };
        matches!(
            self,
            Admission
                | Answer(_)
                | CancelToEnd
                | Claim(_)
                | ClaimSolo(_)
                | Release(..)
                | Reserve(_)
                | Retry
                | Stage
                | TakeOver(..)
                | Unpause(..)
        )
    }

    /// What must stand in the journal.
    pub fn leaves(&self) -> Steps {
        match self {
            Self::TakeOver(_, steps)
            | Self::Release(_, steps)
            | Self::Resume(_, steps)
            | Self::Paused(_, steps)
            | Self::Suspend(_, _, steps) => *steps,
            Self::CancelToEnd => Steps::Progressed,
            Self::Answer(Answer::Approve | Answer::Reject) => Steps::Asking,
            Self::Answer(_) => Steps::Waiting,
            _ => Steps::None,
        }
    }

    /// What it is to the model; `None` where it is nothing.
    pub fn event(&self, job: &Job, queue: Queue) -> Option<Event> {
        let (limited, open) = (queue.limited(), queue.open());
        let progressed = self.leaves() == Steps::Progressed;
        Some(match *self {
            Self::Stage => Event::Stage { limited },
            Self::StageEarly => return None,
            Self::Admission => match queue {
                Queue::Free | Queue::Roomy => Event::Admit,
                Queue::Full => return None,
                Queue::Paused | Queue::Closing => Event::Hold,
            },
            // Nobody empties itself for a run that may not be claimed.
            Self::Reserve(worker) if open => Event::Reserve { worker, free: false },
            Self::Reserve(_) => return None,
            Self::Claim(worker) => Event::Claim { worker, open },
            Self::ClaimSolo(worker) => Event::ClaimSolo { worker, open },
            Self::Start(by) => Event::Start(by),
            Self::Suspend(by, due, _) => Event::Suspend { by, due, progressed },
            Self::SuspendAtOnce(by) => Event::Suspend { by, due: false, progressed: true },
            // The answer to a run that has not yet suspended is its worker's to see.
            Self::Answer(_) if job.state == RunState::Running => return None,
            Self::Answer(how) => Event::Wake { limited, progressed: !matches!(how, Answer::Reject) },
            Self::TakeOver(from, steps) => {
                Event::TakeOver { from, begun: steps != Steps::None, alone: true, progressed, limited }
            }
            Self::Release(by, _) => Event::Release { by, progressed, limited },
            Self::Complete(by) => Event::Complete(by),
            Self::Fail(by) => Event::Fail(by),
            Self::Resume(by, _) => Event::ScheduleResume { by, progressed },
            Self::Cancelled(by) => Event::Cancelled(by),
            Self::Cancel => Event::Cancel,
            Self::CancelToEnd => Event::End { limited },
            Self::Paused(by, _) => Event::Paused { by, progressed },
            Self::Pause => Event::Pause,
            Self::Unpause(from, due) => Event::Unpause { from, due, limited },
            Self::Retry => Event::Retry { limited },
        })
    }

    /// Executes the statement. For a write under a lease: was it told that it still has the lease?
    pub async fn run(&self, conn: &mut PgConnection) -> Option<bool> {
        let error = match self.execute(conn).await {
            Ok(lease) => return lease,
            Err(error) => error,
        };
        // An operator's function says no with a code of ours; everything else is a mistake.
        let text = error.to_string();
        assert!(text.contains("stepd SD0"), "{self:?}: {text}");
        sqlx::raw_sql("ROLLBACK").execute(conn).await.unwrap();
        None
    }

    async fn execute(&self, conn: &mut PgConnection) -> Result<Option<bool>, DbError> {
        match *self {
            Self::Stage | Self::StageEarly => {
                sqlx::query("SELECT stepd_engine.stage(100)").execute(conn).await?;
            }
            Self::Admission => {
                sqlx::query("SELECT stepd_engine.admit(100)").execute(conn).await?;
            }
            Self::Reserve(worker) => {
                claims::reserve_solo(conn, worker, None).await?;
            }
            Self::Claim(worker) => {
                let pairs = [((Arc::from("q"), 5), (chrono::DateTime::UNIX_EPOCH, Uuid::nil()))];
                claims::claim(conn, &request(worker, &pairs)).await?;
            }
            Self::ClaimSolo(worker) => {
                claims::claim_solo(conn, &request(worker, &[])).await?;
            }
            Self::Answer(how) => answer(how, conn).await?,
            Self::TakeOver(from, _) => {
                liveness::take_over(conn, from, false, 0, B.0).await?;
            }
            Self::CancelToEnd => {
                sqlx::query("UPDATE stepd_engine.definitions SET handlers = true").execute(&mut *conn).await?;
                sqlx::query("SELECT stepd.cancel($1)").bind(RUN).execute(conn).await?;
            }
            Self::Cancel => {
                sqlx::query("SELECT stepd.cancel($1)").bind(RUN).execute(conn).await?;
            }
            Self::Pause => {
                sqlx::query("SELECT stepd.pause($1)").bind(RUN).execute(conn).await?;
            }
            Self::Unpause(..) => {
                sqlx::query("SELECT stepd.unpause($1)").bind(RUN).execute(conn).await?;
            }
            Self::Retry => {
                sqlx::query("SELECT stepd.retry($1)").bind(RUN).execute(conn).await?;
            }
            Self::Start(by) => return moved(conn, by, RunState::Running, None).await,
            Self::Suspend(by, due, _) => return moved(conn, by, RunState::Waiting, due.then_some(1000)).await,
            Self::Resume(by, _) => return moved(conn, by, RunState::Resuming, Some(1000)).await,
            Self::Release(by, _) => return moved(conn, by, RunState::Queued, None).await,
            Self::Paused(by, _) => return moved(conn, by, RunState::Paused, None).await,
            Self::SuspendAtOnce(by) => {
                let mut batch = writes::batch(RUN, by);
                writes::step(&mut batch, "s", Some("1"), None);
                writes::transition(&mut batch, RunState::Waiting, None);
                return commit(conn, by, &batch).await;
            }
            Self::Complete(by) => return ended(conn, by, RunState::Completed).await,
            Self::Fail(by) => return ended(conn, by, RunState::Failed).await,
            Self::Cancelled(by) => return ended(conn, by, RunState::Cancelled).await,
        }
        Ok(None)
    }
}

fn request(worker: WorkerId, pairs: &[(Pair, Place)]) -> ClaimRequest<'_> {
    static NONE: serde_json::Value = serde_json::Value::Null;
    ClaimRequest { worker, want: 10, new: 2, definitions: &NONE, serves: None, pairs }
}

async fn answer(how: Answer, conn: &mut PgConnection) -> Result<(), DbError> {
    match how {
        Answer::Signal => {
            sqlx::query("SELECT stepd.signal($1, 'e', $2)").bind(RUN).bind(json!({})).execute(conn).await?;
        }
        Answer::Emit => {
            sqlx::query("SELECT stepd.emit('e', '{}')").execute(conn).await?;
        }
        Answer::Approve => {
            sqlx::query("SELECT stepd.approve($1)").bind(RUN).execute(conn).await?;
        }
        Answer::Reject => {
            sqlx::query("SELECT stepd.reject($1)").bind(RUN).execute(conn).await?;
        }
    }
    Ok(())
}

async fn commit(conn: &mut PgConnection, by: Fence, batch: &Batch<'_>) -> Result<Option<bool>, DbError> {
    let lost = batch.commit(conn, by.worker.0).await?;
    Ok(Some(!lost.contains(&RUN)))
}

async fn moved(conn: &mut PgConnection, by: Fence, state: RunState, due: Option<i64>) -> Result<Option<bool>, DbError> {
    let mut batch = writes::batch(RUN, by);
    writes::transition(&mut batch, state, due);
    commit(conn, by, &batch).await
}

async fn ended(conn: &mut PgConnection, by: Fence, state: RunState) -> Result<Option<bool>, DbError> {
    let mut batch = writes::batch(RUN, by);
    writes::end(&mut batch, state);
    commit(conn, by, &batch).await
}

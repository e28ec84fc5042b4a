//! What a session does: the statements of production, and what they say.

use std::sync::Arc;

use serde_json::json;
use sqlx::PgConnection;
use stepd::db::claims::{self, ClaimRequest};
use stepd::db::plain::Plain;
use stepd::db::{DbError, liveness, waits};
use stepd::model::{Failure, RunId, RunState, StepKey, WorkerId};
use stepd::rules::horizon::{Pair, Place};
use stepd::rules::state::Fence;
use uuid::Uuid;

use crate::support::writes;

/// The workers that are there: A holds what is held.
pub const A: WorkerId = WorkerId(Uuid::from_u128(0xa));
pub const B: WorkerId = WorkerId(Uuid::from_u128(0xb));
pub const C: WorkerId = WorkerId(Uuid::from_u128(0xc));
/// Comes when all is over, and brings the run to its end.
pub const LAST: WorkerId = WorkerId(Uuid::from_u128(0xd));
/// The run.
pub const RUN: Uuid = Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0001);

/// One statement, or the end of the transaction that holds those before it open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    Commit,
    // Under the session's lease.
    Start,
    Checkpoint,
    Record,
    SqlStep,
    Suspend,
    /// Its waits are recorded already.
    SuspendOnly,
    Settle,
    Expire,
    Complete,
    Fail,
    Resume,
    Release,
    Paused,
    Cancelled,
    // Workers.
    Claim(WorkerId),
    ClaimSolo(WorkerId),
    Reserve(WorkerId),
    TakeOver(WorkerId),
    Requeue(WorkerId),
    Beat(WorkerId),
    Deregister(WorkerId),
    Admit,
    Stage,
    Repair,
    // People and applications.
    Cancel,
    Pause,
    Unpause,
    Retry,
    Signal,
    Emit,
    Approve,
    Reject,
    PauseQueue,
    UnpauseQueue,
    LimitQueue,
    Enqueue,
}

/// What it said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Nothing,
    /// A write under a lease: does the lease stand?
    Held(bool),
    /// The epoch of what was claimed.
    Claimed(Option<i32>),
    /// How many runs a take-over left behind; `None`: the worker was not to be taken.
    Taken(Option<i32>),
    Word(String),
    /// An operator's function said no, with this code.
    Refused(String),
    /// Another row was there: the writer takes its general statement then.
    RowIsThere,
    /// What must never be.
    Error(String),
}

impl Said {
    pub fn is_done(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Error(_) | Self::RowIsThere | Self::Held(false) | Self::Claimed(None))
    }
}

impl Op {
    /// A write of the worker that has, or had, the run.
    pub fn is_write(self) -> bool {
        use Op::{Cancelled, Checkpoint, Complete, Fail, Paused, Record, Release, Resume, Start, Suspend, SuspendOnly};
        matches!(
            self,
            Start
                | Checkpoint
                | Record
                | Suspend
                | SuspendOnly
                | Complete
                | Fail
                | Resume
                | Release
                | Paused
                | Cancelled
        )
    }

    /// Of the services, which must not stand still because somebody forgot to commit.
    pub fn is_engine(self) -> bool {
        use Op::{Admit, Claim, ClaimSolo, Repair, Requeue, Reserve, Settle, Stage, TakeOver};
        self.is_write()
            || matches!(
                self,
                Admit | Claim(_) | ClaimSolo(_) | Repair | Requeue(_) | Reserve(_) | Settle | Stage | TakeOver(_)
            )
    }

    /// With it the lease ends.
    pub fn leaves(self) -> bool {
        self.is_write() && !matches!(self, Self::Start | Self::Checkpoint | Self::Record)
    }

    /// With it the run ends.
    pub fn ends(self) -> bool {
        matches!(self, Self::Complete | Self::Fail | Self::Cancelled)
    }

    /// Somebody's, who may keep a transaction open for as long as it pleases.
    pub fn is_outside(self) -> bool {
        use Op::{Approve, Cancel, Emit, Enqueue, LimitQueue, Pause, PauseQueue, Reject, Retry, Signal, Unpause};
        matches!(
            self,
            Cancel
                | Pause
                | Unpause
                | Retry
                | Signal
                | Emit
                | Approve
                | Reject
                | PauseQueue
                | Self::UnpauseQueue
                | LimitQueue
                | Enqueue
        )
    }

    /// Executes it, and learns the lease of what it claims.
    pub async fn run(self, conn: &mut PgConnection, lease: &mut Fence) -> Said {
        match self.execute(conn, lease).await {
            Ok(said) => said,
            Err(error) => match error.sqlstate() {
                Some(code) if code.starts_with("SD0") => Said::Refused(code),
                Some(code) if code == "23505" && matches!(self, Self::Checkpoint | Self::Complete) => Said::RowIsThere,
                code => Said::Error(format!("{} {error}", code.unwrap_or_default())),
            },
        }
    }

    async fn execute(self, conn: &mut PgConnection, lease: &mut Fence) -> Result<Said, DbError> {
        match self {
            Self::Commit => {
                sqlx::raw_sql("COMMIT").execute(conn).await?;
                Ok(Said::Nothing)
            }
            Self::Claim(worker) => {
                let pairs = [((Arc::from("q"), 5), (chrono::DateTime::UNIX_EPOCH, Uuid::nil()))];
                Ok(claimed(claims::claim(conn, &request(worker, &pairs)).await?, lease))
            }
            Self::ClaimSolo(worker) => Ok(claimed(claims::claim_solo(conn, &request(worker, &[])).await?, lease)),
            Self::Reserve(worker) => {
                claims::reserve_solo(conn, worker, None).await?;
                Ok(Said::Nothing)
            }
            Self::TakeOver(victim) => {
                let taken = liveness::take_over(conn, victim, false, 0, B.0).await?;
                Ok(Said::Taken(taken.map(|t| t.locked)))
            }
            Self::Requeue(victim) => {
                let taken = liveness::requeue(conn, victim, &json!({"worker": victim.0})).await?;
                Ok(Said::Taken(taken.map(|t| t.locked)))
            }
            Self::Beat(worker) => {
                liveness::tick(conn, worker, true, &json!({}), false).await?;
                Ok(Said::Nothing)
            }
            Self::Deregister(worker) => {
                liveness::deregister(conn, worker).await?;
                Ok(Said::Nothing)
            }
            Self::SqlStep => self.sql_step(conn, *lease).await,
            Self::Settle => {
                let keys = ["hear", "ask"].map(StepKey::new);
                let settled = waits::settle(conn, RunId(RUN), &keys).await?;
                Ok(Said::Word(if settled { "settled" } else { "again" }.to_owned()))
            }
            Self::Expire => {
                let failure = Failure::permanent("timeout", "nothing answered");
                let by = (lease.worker, lease.epoch);
                let expired = waits::expire(conn, RunId(RUN), &"ask".into(), &failure, by).await?;
                Ok(Said::Held(expired == Some(true)))
            }
            // A run whose unique key outlives it ends by the general statement, as the writer knows from its claim.
            Self::Complete if keeps_its_key(conn).await? => self.batch(conn, *lease).await,
            Self::Checkpoint | Self::Complete => self.plain(conn, *lease).await,
            _ if self.is_write() => self.batch(conn, *lease).await,
            _ => self.word(conn).await,
        }
    }

    /// The second half of a `sql` step, in the transaction of its effect.
    async fn sql_step(self, conn: &mut PgConnection, by: Fence) -> Result<Said, DbError> {
        sqlx::query("INSERT INTO public.effects (run) VALUES ($1)").bind(RUN).execute(&mut *conn).await?;
        let done: bool = sqlx::query_scalar(
            "SELECT stepd_engine.commit_step($1, $2, $3, 's', 'sql', 1, 1, clock_timestamp(), '\"sql\"', NULL)",
        )
        .bind(RUN)
        .bind(by.worker.0)
        .bind(by.epoch)
        .fetch_one(&mut *conn)
        .await?;
        Ok(Said::Held(done))
    }

    async fn plain(self, conn: &mut PgConnection, by: Fence) -> Result<Said, DbError> {
        let mut plain = Plain::default();
        if self == Self::Complete {
            let e = &mut plain.ends;
            e.run.push(RUN);
            e.epoch.push(by.epoch);
            e.output.push("1");
            e.last_seq.push(None);
            e.last_attempts.push(None);
            e.last_started_at.push(None);
            e.last_key.push(None);
            e.last_kind.push(None);
            e.last_output.push(None);
        } else {
            let s = &mut plain.steps;
            s.run.push(RUN);
            s.epoch.push(by.epoch);
            s.seq.push(1);
            s.started_at.push(chrono::DateTime::UNIX_EPOCH);
            s.ended_at.push(None);
            s.attempts.push(1);
            s.key.push("s");
            s.kind.push("run");
            s.output.push(Some("\"plain\""));
        }
        Ok(Said::Held(!plain.commit(conn, by.worker.0).await?.contains(&RUN)))
    }

    async fn batch(self, conn: &mut PgConnection, by: Fence) -> Result<Said, DbError> {
        let mut batch = writes::batch(RUN, by);
        match self {
            Self::Start => writes::transition(&mut batch, RunState::Running, None),
            Self::Record => writes::step(&mut batch, "s", Some("\"batch\""), None),
            Self::Suspend => {
                writes::step(&mut batch, "hear", None, Some("e"));
                writes::step(&mut batch, "ask", None, None);
                writes::transition(&mut batch, RunState::Waiting, None);
            }
            Self::SuspendOnly => writes::transition(&mut batch, RunState::Waiting, None),
            Self::Resume => writes::transition(&mut batch, RunState::Resuming, Some(0)),
            Self::Release => writes::transition(&mut batch, RunState::Queued, None),
            Self::Paused => writes::transition(&mut batch, RunState::Paused, None),
            Self::Complete => writes::end(&mut batch, RunState::Completed),
            Self::Fail => writes::end(&mut batch, RunState::Failed),
            _ => writes::end(&mut batch, RunState::Cancelled),
        }
        Ok(Said::Held(!batch.commit(conn, by.worker.0).await?.contains(&RUN)))
    }

    /// Functions of the schema that take the run and give a word.
    async fn word(self, conn: &mut PgConnection) -> Result<Said, DbError> {
        let text = match self {
            Self::Admit => "SELECT coalesce(a.admitted, 0)::text FROM stepd_engine.admit(100) a, (SELECT $1::uuid) x",
            Self::Stage => "SELECT staged::text FROM stepd_engine.stage(100), (SELECT $1::uuid) x",
            Self::Repair => "SELECT mended::text FROM stepd_engine.repair(100, NULL, 4, 6), (SELECT $1::uuid) x",
            Self::Cancel => "SELECT stepd.cancel($1)",
            Self::Pause => "SELECT stepd.pause($1)",
            Self::Unpause => "SELECT stepd.unpause($1)",
            Self::Retry => "SELECT stepd.retry($1)",
            Self::Signal => "SELECT stepd.signal($1, 'e', '{\"from\": \"signal\"}')",
            Self::Emit => "SELECT stepd.emit('e', '{\"from\": \"emit\"}')::text FROM (SELECT $1::uuid) x",
            Self::Approve => "SELECT stepd.approve($1, 'ask')",
            Self::Reject => "SELECT stepd.reject($1, 'ask')",
            Self::PauseQueue => "SELECT stepd.pause_queue('q')::text FROM (SELECT $1::uuid) x",
            Self::UnpauseQueue => "SELECT stepd.unpause_queue('q')::text FROM (SELECT $1::uuid) x",
            Self::LimitQueue => "SELECT stepd.limit_queue('q', 1)::text FROM (SELECT $1::uuid) x",
            // One more of the run's own workflow, wherever it is by now.
            _ => {
                "SELECT stepd.enqueue(max(r.workflow), unique_key => 'k')::text FROM (SELECT workflow FROM stepd.jobs WHERE id = $1
                    UNION ALL SELECT workflow FROM stepd_engine.ended WHERE id = $1) r"
            }
        };
        Ok(Said::Word(sqlx::query_scalar(text).bind(RUN).fetch_one(conn).await?))
    }
}

async fn keeps_its_key(conn: &mut PgConnection) -> Result<bool, DbError> {
    let keeps = "SELECT EXISTS (SELECT FROM stepd.jobs WHERE id = $1 AND unique_keep IS NOT NULL)";
    Ok(sqlx::query_scalar(keeps).bind(RUN).fetch_one(conn).await?)
}

fn request(worker: WorkerId, pairs: &[(Pair, Place)]) -> ClaimRequest<'_> {
    static NONE: serde_json::Value = serde_json::Value::Null;
    ClaimRequest { worker, want: 10, new: 2, definitions: &NONE, serves: None, pairs }
}

fn claimed(rows: impl IntoIterator<Item = claims::ClaimedRow>, lease: &mut Fence) -> Said {
    // Where another job has been enqueued, it may be claimed, too.
    let run = rows.into_iter().map(|row| row.claimed.lease).find(|lease| lease.run().0 == RUN);
    let Some(run) = run else { return Said::Claimed(None) };
    *lease = Fence { worker: run.worker(), epoch: run.epoch() };
    Said::Claimed(Some(lease.epoch))
}

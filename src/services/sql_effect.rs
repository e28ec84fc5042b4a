//! `sql` steps: in stepd's own database the effect and the checkpoint are one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::db::batch::Recorded;
use crate::db::error::no_room_for_a_session;
use crate::db::sql_step::{
    Commit, Database as Connections, FinishedStep, NOT_BEGUN, ROLLED_BACK, UNKNOWN, commit_step, failure,
};
use crate::db::{Database, waits};
use crate::model::{Failure, Payload, SqlRequest, SqlResult, code};
use crate::steps::{BoxFuture, Flow, SqlEffect, StepCx, StepOutput};
use crate::telemetry::redact;
use crate::testing::Failpoints;

use super::acknowledged::Acknowledged;
use super::shared::Backoff;

/// So often in one attempt a statement whose session is lost under it is sent again at once. It is the database's trouble, and uses up
/// no attempt of the step's author; but a statement that crashes its own backend looks the same, and must come to an end.
const LOST_SESSIONS: u32 = 5;

/// An administrator has ended the session, or the server as a whole. No crash looks like that: for this long it does not count.
const ENDED: &str = "sql_57P01";
const ENDED_FOR: Duration = Duration::from_secs(20);

/// What says that the database cannot write now: not the statement's doing, and nothing of it stays. Space, files, an error of the disk; it
/// takes no writes.
const LACKS: [&str; 4] = ["sql_53100", "sql_53000", "sql_58030", "sql_25006"];

/// Two transactions were in each other's way, and this one was rolled back: with its own checkpoint's row, too, where the role's isolation is
/// stricter than usual. The same again works.
const CONFLICTS: [&str; 2] = ["sql_40001", "sql_40P01"];

/// A statement may fill a disk by itself: it comes to an end, too.
const LACKS_FOR: Duration = Duration::from_secs(600);

fn lacks(failure: &Failure) -> bool {
    LACKS.contains(&&*failure.code) || no_room_for_a_session(&failure.message)
}

/// stepd's own database: exactly once.
pub struct OwnDatabase {
    /// The same database, to ask what became of a commit.
    pub db: Database,
    /// Its connections.
    pub connections: Arc<Connections>,
    /// What was acknowledged last.
    pub acknowledged: Arc<Acknowledged>,
    /// For tests.
    pub failpoints: Failpoints,
    /// Has it been said that the statements may do anything?
    told: AtomicBool,
}

impl OwnDatabase {
    /// `guarded`: the connections' role is kept from stepd's own tables.
    #[must_use]
    pub fn new(
        db: Database,
        connections: Arc<Connections>,
        guarded: bool,
        acknowledged: Arc<Acknowledged>,
        failpoints: Failpoints,
    ) -> Self {
        Self { db, connections, acknowledged, failpoints, told: AtomicBool::new(guarded) }
    }
}

/// Another database: its effect is committed before the checkpoint, at least once.
pub struct NamedDatabase(pub Arc<Connections>);

impl SqlEffect for OwnDatabase {
    fn run<'a>(&'a self, cx: &'a StepCx, request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    "sql steps run as the daemon's own database role, which may write to stepd's tables: \
                     give them one of their own, sql_role or sql_url in the configuration"
                );
            }
            let (mut backoff, began) = (Backoff::default(), Instant::now());
            let mut lost = 0;
            loop {
                let failure = match self.once(cx, request.clone()).await {
                    Ok(output) => return Ok(Flow::Committed(output)),
                    Err(failure) => failure,
                };
                // The answer to COMMIT did not come; or there is a checkpoint already, perhaps by such a COMMIT that arrived late.
                if (has_outcome(&failure, UNKNOWN) || failure.code == code::LEASE_LOST)
                    && let Some(output) = self.recorded(cx).await
                {
                    return Ok(Flow::Committed(output));
                }
                let lost_session = has_outcome(&failure, ROLLED_BACK) || has_outcome(&failure, UNKNOWN);
                let conflict = CONFLICTS.contains(&&*failure.code);
                if cx.stop.reason().is_some() {
                    return Err(failure);
                } else if lost_session && failure.code == ENDED && began.elapsed() < ENDED_FOR {
                    tracing::debug!("the statement's session was ended: it is sent again");
                } else if (lost_session || conflict) && lost < LOST_SESSIONS {
                    lost += 1;
                } else if lacks(&failure) && began.elapsed() < LACKS_FOR {
                    tracing::debug!(code = &*failure.code, "the database cannot write: the statement waits");
                } else if !has_outcome(&failure, NOT_BEGUN) {
                    return Err(failure);
                }
                // stepd's own database is away. That is no failure of this step: it waits, like everything else.
                tokio::time::sleep(backoff.pause()).await;
            }
        })
    }
}

impl OwnDatabase {
    async fn once(&self, cx: &StepCx, request: SqlRequest) -> Result<Payload, Failure> {
        let (own, stop, failpoints) = (cx.clone(), cx.stop.clone(), self.failpoints.clone());
        let commit: Commit<Payload> = Box::new(move |conn, result| {
            Box::pin(async move {
                let output = checkpoint(conn, &own, result).await?;
                failpoints.hit("sql.before_commit").await;
                Ok(output)
            })
        });
        let stopped = async move {
            stop.stopped().await;
        };
        let began = Instant::now();
        let done = self.connections.run(request, stopped, commit).await;
        self.failpoints.hit("sql.after_commit").await;
        if done.is_ok() {
            let row = Recorded { run: cx.run.0, epoch: cx.epoch, key: cx.key.to_string(), done: true };
            self.acknowledged.note(row, began);
        }
        done
    }

    /// COMMIT had no answer: was it done? Asks until the database tells, or the step is told to stop.
    async fn recorded(&self, cx: &StepCx) -> Option<Payload> {
        let mut backoff = Backoff::default();
        while cx.stop.reason().is_none() {
            if let Ok(found) = self.db.ask(async |conn| waits::answer_of(conn, cx.run, &cx.key).await).await {
                return found.and_then(Result::ok);
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        None
    }
}

fn has_outcome(failure: &Failure, outcome: &str) -> bool {
    failure.details.as_ref().is_some_and(|details| details["outcome"] == outcome)
}

/// Shapes the result and commits it under the lease, inside the statement's transaction.
async fn checkpoint(conn: &mut PgConnection, cx: &StepCx, result: SqlResult) -> Result<Payload, Failure> {
    let output = redact::recorded((cx.shape)(StepOutput::from(result))?);
    let done = FinishedStep {
        run: cx.run.0,
        worker: cx.worker.0,
        epoch: cx.epoch,
        key: cx.key.as_str(),
        seq: cx.seq,
        attempts: i32::try_from(cx.attempt).unwrap_or(i32::MAX),
        started_at: cx.started_at,
        output: output.as_str(),
        label: cx.label.as_deref(),
    };
    if commit_step(conn, &done).await.map_err(|error| failure(&error))? {
        return Ok(output);
    }
    // Rolled back: the effect is not there, and whoever has the run now will make it.
    Err(Failure::transient(code::LEASE_LOST, "the lease was lost while the statement ran; nothing of it was kept"))
}

impl SqlEffect for NamedDatabase {
    fn run<'a>(&'a self, cx: &'a StepCx, request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let stop = cx.stop.clone();
            let stopped = async move {
                stop.stopped().await;
            };
            let result = self.0.run_alone(request, stopped).await?;
            Ok(Flow::Done(result.into()))
        })
    }
}

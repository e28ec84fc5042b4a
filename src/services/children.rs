//! `workflow` steps: the child runs of a run.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::db::children::{self, Spawn, Spawned};
use crate::db::{Database, DbError, Trouble};
use crate::model::{Failure, RunId, code};
use crate::steps::{BoxFuture, ChildRequest, Children, StepCx};
use crate::telemetry::redact;
use crate::testing::Failpoints;

use super::shared::Backoff;

/// So many runs may stand above one: more is a workflow that starts itself.
const DEEPEST: i32 = 20;

/// The runs in stepd's own database.
pub struct ChildRuns {
    db: Database,
    /// One child at a time: its unique key may be in somebody's open transaction, and the pool is for others too.
    turn: Arc<Semaphore>,
    failpoints: Failpoints,
}

impl ChildRuns {
    /// In this database.
    #[must_use]
    pub fn new(db: Database, failpoints: Failpoints) -> Self {
        Self { db, turn: Arc::new(Semaphore::new(1)), failpoints }
    }
}

impl Children for ChildRuns {
    fn spawn<'a>(&'a self, cx: &'a StepCx, request: ChildRequest) -> BoxFuture<'a, Result<RunId, Failure>> {
        let (db, own, stop, failpoints) = (self.db.clone(), cx.clone(), cx.stop.clone(), self.failpoints.clone());
        let turn = self.turn.clone();
        Box::pin(async move {
            // An input is stored; what is secret in it, by whatever way it came, is not.
            let mut input = request.input.clone();
            redact::hide_in(&mut input);
            let input = input.to_string();
            #[expect(clippy::disallowed_methods, reason = "awaited below; a statement is never dropped half-way")]
            let task = tokio::spawn(async move {
                let mut backoff = Backoff::default();
                loop {
                    let spawn = Spawn {
                        run: own.run,
                        worker: own.worker,
                        epoch: own.epoch,
                        key: own.key.as_str(),
                        workflow: &request.workflow,
                        input: &input,
                        attached: request.attached,
                        deepest: DEEPEST,
                    };
                    let spawned = {
                        let _turn = turn.acquire().await;
                        db.ask(async |conn| children::spawn(conn, &spawn).await).await
                    };
                    match spawned {
                        Ok(done) => {
                            failpoints.hit("children.after_spawn").await;
                            return done_as(done, &request.workflow);
                        }
                        Err(error) if error.trouble == Trouble::Refused => {
                            return Err(refused(&error, &request.workflow));
                        }
                        // stepd's own database is away. That is no failure of this step: it waits, like everything else.
                        Err(_) if stop.reason().is_none() => tokio::time::sleep(backoff.pause()).await,
                        Err(error) => return Err(Failure::transient(code::CONNECTION, error.to_string())),
                    }
                }
            });
            task.await.unwrap_or_else(|_| Err(Failure::transient(code::INTERNAL, "the child could not be started")))
        })
    }
}

fn done_as(done: Spawned, workflow: &str) -> Result<RunId, Failure> {
    match done {
        Spawned::Child(run) => Ok(run),
        Spawned::TooDeep => Err(Failure::permanent(
            code::TOO_DEEP,
            format!("workflow `{workflow}` would be a child {DEEPEST} runs deep: does it start itself?"),
        )),
        Spawned::LeaseLost => {
            Err(Failure::transient(code::LEASE_LOST, "the lease was lost before the child could be started"))
        }
    }
}

/// Without the capital with which a hint of Postgres begins, without its full stop, and without the code that the failure has itself.
fn within_a_sentence(hint: &str) -> String {
    let mut letters = hint.trim_end_matches(" (stepd explain SD001)").trim_end_matches('.').chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

/// An INSERT that Postgres refuses is refused again.
fn refused(error: &DbError, workflow: &str) -> Failure {
    let hint = error.hint().map(|h| format!("; {}", within_a_sentence(&h))).unwrap_or_default();
    match error.sqlstate().as_deref() {
        Some("SD001") => Failure::permanent(
            code::UNKNOWN_WORKFLOW,
            format!("there is no workflow `{workflow}` to be the child{hint}"),
        ),
        Some("SD002") => Failure::permanent(code::TOO_LARGE, format!("{error}{hint}")),
        Some("23505") if error.constraint() == Some("jobs_unique_key") => {
            // Postgres names workflow and key.
            let detail = error.detail().unwrap_or_default();
            Failure::transient(code::KEY_TAKEN, format!("another run holds the unique key of the child: {detail}"))
        }
        // The same child was inserted twice at one time, and one of them won.
        Some("23505") => Failure::transient(code::CONNECTION, error.to_string()),
        _ => Failure::permanent(
            code::INVALID_PARAMS,
            format!("workflow `{workflow}` cannot be the child: {error}{hint}"),
        ),
    }
}

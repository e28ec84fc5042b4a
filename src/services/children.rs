//! `workflow` steps: the child runs of a run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::db::children::{self, Spawn, Spawned};
use crate::db::{Database, DbError, Trouble};
use crate::model::{Failure, RunId, code};
use crate::steps::{BoxFuture, ChildRequest, Children, StepCx};
use crate::telemetry::redact;
use crate::testing::Failpoints;

use super::shared::Backoff;

/// So many runs may stand above one: more is a workflow that starts itself.
const DEEPEST: i32 = 20;

/// So many go in one statement at the most.
const MOST: usize = 200;

/// The runs in stepd's own database.
pub struct ChildRuns {
    db: Database,
    line: Arc<Line>,
    failpoints: Failpoints,
}

/// Children on their way. One statement at a time: a unique key may be in somebody's open transaction, and the pool is for others too. What
/// comes while one is under way goes together with the next.
#[derive(Default)]
struct Line {
    waiting: Mutex<VecDeque<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

/// One child, and who is told what came of it.
type Waiting = (Arc<Spawn>, oneshot::Sender<Result<Spawned, Arc<DbError>>>);

impl Line {
    /// Whoever has the turn takes those who stand in line along.
    async fn spawn(&self, db: &Database, child: &Arc<Spawn>) -> Result<Spawned, Arc<DbError>> {
        let (tx, mut rx) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((child.clone(), tx));
        loop {
            tokio::select! {
                biased;
                done = &mut rx => return done.unwrap_or(Ok(Spawned::LeaseLost)),
                _turn = self.turn.lock() => {
                    let batch: Vec<Waiting> = {
                        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                        let most = waiting.len().min(MOST);
                        waiting.drain(..most).collect()
                    };
                    serve(db, batch).await;
                }
            }
        }
    }
}

async fn serve(db: &Database, batch: Vec<Waiting>) {
    if batch.is_empty() {
        return;
    }
    let children: Vec<&Spawn> = batch.iter().map(|(child, _)| &**child).collect();
    match db.ask(async |conn| children::spawn(conn, &children, DEEPEST).await).await {
        Ok(done) => {
            for ((_, told), done) in batch.into_iter().zip(done) {
                let _ = told.send(Ok(done));
            }
        }
        // One of them cannot be: it must not keep the others.
        Err(error) if batch.len() > 1 && error.is_of_one() => {
            for (child, told) in batch {
                let done = db.ask(async |conn| children::spawn(conn, &[&*child], DEEPEST).await).await;
                let done = done.map(|done| done.first().copied().unwrap_or(Spawned::LeaseLost));
                let _ = told.send(done.map_err(Arc::new));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for (_, told) in batch {
                let _ = told.send(Err(error.clone()));
            }
        }
    }
}

impl ChildRuns {
    /// In this database.
    #[must_use]
    pub fn new(db: Database, failpoints: Failpoints) -> Self {
        Self { db, line: Arc::default(), failpoints }
    }
}

impl Children for ChildRuns {
    fn spawn<'a>(&'a self, cx: &'a StepCx, request: ChildRequest) -> BoxFuture<'a, Result<RunId, Failure>> {
        let (db, line, stop, failpoints) =
            (self.db.clone(), self.line.clone(), cx.stop.clone(), self.failpoints.clone());
        // An input is stored; what is secret in it, by whatever way it came, is not.
        let mut input = request.input;
        redact::hide_in(&mut input);
        let child = Arc::new(Spawn {
            run: cx.run,
            worker: cx.worker,
            epoch: cx.epoch,
            key: cx.key.clone(),
            workflow: request.workflow,
            input: input.to_string(),
            attached: request.attached,
        });
        Box::pin(async move {
            #[expect(clippy::disallowed_methods, reason = "awaited below; a statement is never dropped half-way")]
            let task = tokio::spawn(async move {
                let mut backoff = Backoff::default();
                loop {
                    match line.spawn(&db, &child).await {
                        Ok(done) => {
                            failpoints.hit("children.after_spawn").await;
                            return done_as(done, &child.workflow);
                        }
                        Err(error) if error.trouble == Trouble::Refused => {
                            return Err(refused(&error, &child.workflow));
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

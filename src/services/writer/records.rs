//! What earlier claims have recorded, loaded for the runs that come back, and large inputs: each by its own run's task, so that a huge
//! one keeps neither the claimer nor the others waiting.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::sync::{Semaphore, oneshot};

use crate::db::{Database, DbError, Trouble, claims};
use crate::model::{Failure, Payload, RunId, StepRecord, code};
use crate::steps::BoxFuture;
use crate::testing::Failpoints;

use super::super::shared::Backoff;

/// Loads at once. A journal may have hundreds of megabytes: what is on its way, beside what the runs hold already, is bounded by
/// two of them; and beside a huge one the others go on. One statement each: a thousand runs of twenty records, woken at once, end in
/// 1.0 s (unoptimised); read by the claimer in one statement they took 0.3 s, and one huge run kept all of them waiting.
const LOADS: u32 = 2;

/// Each row of a journal must come within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections of their own, gone when nothing has come back for a while. A journal may take its time; each of its rows may not.
const SESSION: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    // A plan that is made while the table is empty must serve when it is full.
    ("enable_seqscan", "off"),
    ("statement_timeout", "15min"),
    ("lock_timeout", "5s"),
];

/// What is loaded of a run.
type Load<T> = for<'c> fn(&'c mut PgConnection, RunId) -> BoxFuture<'c, Result<T, DbError>>;

pub(super) struct Records {
    pool: PgPool,
    turns: Arc<Semaphore>,
    failpoints: Failpoints,
}

impl Records {
    pub(super) fn new(db: &Database, failpoints: &Failpoints) -> Self {
        let turns = Arc::new(Semaphore::new(LOADS as usize));
        Self { pool: db.reading_pool("records", LOADS, &SESSION), turns, failpoints: failpoints.clone() }
    }

    /// What is recorded of a run's steps.
    pub(super) async fn load(self: Arc<Self>, run: RunId) -> Result<Vec<StepRecord>, Failure> {
        self.read(run, |conn, run| Box::pin(claims::load_records(conn, run, PATIENCE))).await
    }

    /// A run's input.
    pub(super) async fn load_input(self: Arc<Self>, run: RunId) -> Result<Payload, Failure> {
        let input = self.read(run, |conn, run| Box::pin(claims::load_input(conn, run, PATIENCE))).await?;
        // Ended by somebody else: nothing that is done here counts any more.
        input.ok_or_else(|| Failure::transient(code::INTERNAL, "the run is not there any more"))
    }

    /// However long Postgres is away; until nobody wants it any more.
    async fn read<T: Send + 'static>(&self, run: RunId, load: Load<T>) -> Result<T, Failure> {
        let (pool, turns, failpoints) = (self.pool.clone(), self.turns.clone(), self.failpoints.clone());
        let (mut tell, told) = oneshot::channel();
        // A task of its own: a statement is never dropped half-way.
        #[expect(clippy::disallowed_methods, reason = "ends when nobody wants them any more")]
        tokio::spawn(async move {
            let mut backoff = Backoff::default();
            while !tell.is_closed() {
                let turn = tokio::select! {
                    turn = turns.acquire() => turn,
                    () = tell.closed() => return,
                };
                failpoints.hit("records.before_load").await;
                let done = once(&pool, run, load).await;
                drop(turn);
                match done {
                    Err(error) if error.trouble != Trouble::Refused => tokio::time::sleep(backoff.pause()).await,
                    done => {
                        let _ = tell.send(done);
                        return;
                    }
                }
            }
        });
        let unreadable = |why: String| {
            Failure::transient(code::INTERNAL, format!("the run's records or its input cannot be read: {why}"))
        };
        match told.await {
            Ok(done) => done.map_err(|error| unreadable(error.to_string())),
            Err(_) => Err(unreadable("the worker is ending".to_owned())),
        }
    }
}

async fn once<T>(pool: &PgPool, run: RunId, load: Load<T>) -> Result<T, DbError> {
    let mut conn = pool.acquire().await?;
    let done = load(&mut conn, run).await;
    if done.is_err() {
        // In the middle of an answer, perhaps for ever: never to be used again.
        drop(conn.detach());
    }
    done
}

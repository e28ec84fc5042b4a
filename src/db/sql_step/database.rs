//! Dedicated connections for `sql` steps, and transactions that no dropped future leaves half done.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::sync::{Semaphore, oneshot};

use crate::model::{Failure, SqlRequest, SqlResult, code};

use super::{execute, failure};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// What a connection is told once. A server that hears nothing inside a transaction for 10 s ends it, so
/// that a stopped worker holds no row locks; and it ends a statement whose client is gone.
const SETUP: &str = "SET idle_in_transaction_session_timeout = '10s'; SET standard_conforming_strings = on; \
                     SET client_connection_check_interval = '1s'; SET application_name = 'stepd sql step'";

/// What is done between the statement and COMMIT, in the same transaction (the step's checkpoint).
pub type Commit<T> = Box<
    dyn for<'c> FnOnce(&'c mut PgConnection, SqlResult) -> Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'c>>
        + Send,
>;

/// One database, with connections of its own: opened when needed, kept, closed after any failure.
#[derive(Debug)]
pub struct Database {
    options: PgConnectOptions,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
}

impl Database {
    /// A database that is reached with at most `connections` connections at one time, none of them
    /// opened yet.
    #[must_use]
    pub fn new(options: PgConnectOptions, connections: usize) -> Arc<Self> {
        Arc::new(Self { options, slots: Arc::new(Semaphore::new(connections.max(1))), idle: Mutex::default() })
    }

    /// Runs a statement and `commit` in one transaction. When `stop` resolves first, the statement is
    /// cancelled; the answer still is the transaction's own, which may have been committed by then.
    ///
    /// The transaction runs in a task of its own, to its end: dropping this future changes nothing of it.
    ///
    /// # Errors
    /// Those of [`execute`] and of `commit` (all is rolled back), and `connection` with
    /// `{"outcome": "unknown"}` in its details, where the answer to COMMIT did not come.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        request: SqlRequest,
        stop: impl Future<Output = ()> + Send,
        commit: Commit<T>,
    ) -> Result<T, Failure> {
        let (started, backend) = oneshot::channel();
        let database = Arc::clone(self);
        let mut task = tokio::spawn(async move { database.transaction(&request, started, commit).await });
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = stop => {
                // No answer: the task waits for a connection still, or is at its end.
                if let Ok(Ok(pid)) = tokio::time::timeout(CONNECT, backend).await {
                    self.cancel(pid).await;
                }
                task.await
            }
        };
        ended.unwrap_or_else(|error| {
            Err(Failure::transient(code::INTERNAL, format!("the statement's task died: {error}")))
        })
    }

    /// Runs a statement in a transaction of its own.
    ///
    /// # Errors
    /// Those of [`Database::run`].
    pub async fn run_alone(
        self: &Arc<Self>,
        request: SqlRequest,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<SqlResult, Failure> {
        self.run(request, stop, Box::new(|_, result| Box::pin(std::future::ready(Ok(result))))).await
    }

    async fn transaction<T>(
        &self,
        request: &SqlRequest,
        started: oneshot::Sender<i32>,
        commit: Commit<T>,
    ) -> Result<T, Failure> {
        let _slot = self.slots.acquire().await.map_err(|e| Failure::transient(code::INTERNAL, e.to_string()))?;
        let (mut connection, pid) = self.begin(request).await?;
        // The receiver is gone with a dropped caller.
        let _ = started.send(pid);
        let done = async {
            let result = execute(&mut connection, request).await?;
            commit(&mut connection, result).await
        };
        match done.await {
            Ok(value) => {
                sqlx::raw_sql("COMMIT").execute(&mut connection).await.map_err(|error| uncertain(&error))?;
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                Ok(value)
            }
            Err(failure) => {
                // The server rolls back when the connection goes; saying so first is politer, and quicker.
                let _ = sqlx::raw_sql("ROLLBACK").execute(&mut connection).await;
                let _ = connection.close().await;
                Err(failure)
            }
        }
    }

    /// A connection inside a transaction, and its backend's id.
    async fn begin(&self, request: &SqlRequest) -> Result<(PgConnection, i32), Failure> {
        // 0 is no limit; a limit that rounds to nothing is one of a millisecond.
        let limit = request.timeout.map_or(0, |t| i32::try_from(t.as_millis().max(1)).unwrap_or(i32::MAX));
        let begin = format!("BEGIN; SET LOCAL statement_timeout = {limit}; SELECT pg_backend_pid()");
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let row = sqlx::raw_sql(AssertSqlSafe(begin.clone())).fetch_one(&mut connection).await;
            match row.and_then(|row| row.try_get_unchecked::<i32, _>(0)) {
                Ok(pid) => return Ok((connection, pid)),
                // A kept connection may have died meanwhile: nothing has happened yet, take the next.
                Err(_) if !fresh => {}
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            sqlx::raw_sql(SETUP).execute(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| failure(&error)),
            Err(_) => Err(Failure::transient(code::CONNECTION, "the database did not answer within 10 s")),
        }
    }

    /// Cancels whatever that backend does. Best effort: a cancelled statement that has ended already is fine.
    async fn cancel(&self, pid: i32) {
        let _ = tokio::time::timeout(CONNECT, async {
            let mut connection = self.options.connect().await?;
            sqlx::query("SELECT pg_cancel_backend($1)").bind(pid).execute(&mut connection).await?;
            connection.close().await
        })
        .await;
    }
}

/// COMMIT was sent, and something other than yes came back.
fn uncertain(error: &sqlx::Error) -> Failure {
    let failure = failure(error);
    // A refusal of the server (a deferred constraint, a serialization conflict) is certain: rolled back.
    if error.as_database_error().is_some() {
        return failure;
    }
    failure.with_details(serde_json::json!({"outcome": "unknown"}))
}

//! Dedicated connections for `sql` steps, and transactions that no dropped future leaves half done.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::sync::Semaphore;

use crate::db::Hosts;
use crate::model::{Failure, SqlRequest, SqlResult, code};
use crate::telemetry::context;

use super::role::quoted;
use super::{execute, failure};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// The pause between two requests to cancel the same statement.
const CANCEL: Duration = Duration::from_millis(50);

/// How long an unused connection is kept.
const KEPT: Duration = Duration::from_secs(30);

/// Takes back what the statement before may have left in its session: settings, a role, temporary
/// tables, advisory locks.
const CLEAN: &str = "RESET ALL; RESET SESSION AUTHORIZATION; DISCARD TEMP; SELECT pg_advisory_unlock_all(); ";

/// What literals and text values depend on, whatever the role's own settings are; and a limit for
/// silence inside a transaction, so that a stopped worker holds no row locks.
const SETTINGS: &str = "SET LOCAL standard_conforming_strings = on; SET LOCAL datestyle = 'ISO, MDY'; \
                        SET LOCAL timezone = 'UTC'; SET LOCAL intervalstyle = 'iso_8601'; \
                        SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1; \
                        SET LOCAL idle_in_transaction_session_timeout = '10s'; ";

/// Makes the server end a statement whose client is gone. Servers on some systems refuse it.
const WATCH: &str = "SET LOCAL client_connection_check_interval = '1s'; ";

/// Whether it does, leaving nothing behind: this session may be a pooler's.
const TRY_WATCH: &str = "BEGIN; SET LOCAL client_connection_check_interval = '1s'; COMMIT";

/// What is done between the statement and COMMIT, in the same transaction (the step's checkpoint).
pub type Commit<T> = Box<
    dyn for<'c> FnOnce(&'c mut PgConnection, SqlResult) -> Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'c>>
        + Send,
>;

/// One database, with connections of its own: opened when needed, kept, closed after any failure.
#[derive(Debug)]
pub struct Database {
    hosts: Hosts,
    /// `SET LOCAL ROLE …; `, where statements run under another role than the login's.
    set_role: String,
    slots: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// What the one who stops a transaction and the one who runs it agree on: after [`Control::stop`] it is not
/// committed and its connection not kept, after [`Control::commit`] its backend is not cancelled. So no
/// cancel can reach a COMMIT (which would not wait for its replicas then), or another step's statement.
#[derive(Debug, Default)]
struct Control(Mutex<Phase>);

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Waiting,
    Running(i32),
    Stopped(Option<i32>),
    Committing,
}

impl Control {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, next: Phase) -> Result<(), Failure> {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Stopped(_)) {
            return Err(Failure::transient(code::TIMEOUT, "the statement was stopped, and rolled back"));
        }
        *phase = next;
        Ok(())
    }

    fn begin(&self, pid: i32) -> Result<(), Failure> {
        self.advance(Phase::Running(pid))
    }

    fn commit(&self) -> Result<(), Failure> {
        self.advance(Phase::Committing)
    }

    /// The backend to cancel, if there is one.
    fn stop(&self) -> Option<i32> {
        let mut phase = self.phase();
        let pid = match *phase {
            Phase::Waiting => None,
            Phase::Running(pid) => Some(pid),
            Phase::Stopped(pid) => pid,
            Phase::Committing => return None,
        };
        *phase = Phase::Stopped(pid);
        pid
    }
}

/// `outcome` in a failure's details: COMMIT was sent, and no answer came.
pub const UNKNOWN: &str = "unknown";

/// `outcome` in a failure's details: the statement was never sent.
pub const NOT_BEGUN: &str = "not_begun";

/// `outcome` in a failure's details: the session was lost before COMMIT was sent, and with it all that the statement did.
pub const ROLLED_BACK: &str = "rolled_back";

/// Connections between two statements.
#[derive(Debug, Default)]
struct Idle {
    connections: Vec<(Session, Instant)>,
    /// Is there a task that closes the old ones?
    pruned: bool,
}

#[derive(Debug)]
struct Session {
    connection: PgConnection,
    /// Does the server take [`WATCH`]?
    watches: bool,
}

impl Database {
    /// A database that is reached with at most `connections` connections at one time, none of them
    /// opened yet.
    #[must_use]
    pub fn new(hosts: impl Into<Hosts>, connections: usize) -> Arc<Self> {
        Self::under_role(hosts, connections, None)
    }

    /// As [`Database::new`]; every statement runs under that role. It guards against mistakes: a statement that wants to can take
    /// the login's role back (`set_config('role', …)`). Only a login of its own cannot be escaped from.
    #[must_use]
    pub fn under_role(hosts: impl Into<Hosts>, connections: usize, role: Option<&str>) -> Arc<Self> {
        let set_role = role.map_or_else(String::new, |role| format!("SET LOCAL ROLE {}; ", quoted(role)));
        let slots = Arc::new(Semaphore::new(connections.max(1)));
        Arc::new(Self { hosts: hosts.into(), set_role, slots, idle: Mutex::default() })
    }

    /// A connection of its own, inside a transaction under the statements' role.
    pub(super) async fn session_as_role(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.hosts.connect(session).await?;
        let begin = format!("BEGIN; {}", self.set_role);
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut connection).await?;
        Ok(connection)
    }

    /// Runs a statement and `commit` in one transaction. When `stop` resolves first, the statement is
    /// cancelled and all rolled back, unless COMMIT is under way: then the answer is the commit's.
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
        let control = Arc::new(Control::default());
        let (database, shared) = (Arc::clone(self), Arc::clone(&control));
        #[expect(
            clippy::disallowed_methods,
            reason = "awaited below, but for a caller that goes: a transaction is never dropped half-way"
        )]
        let mut task = tokio::spawn(context::within(context::here(), async move {
            database.transaction(&request, &shared, commit).await
        }));
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = stop => loop {
                // Again and again: a cancel that arrives between two statements does nothing.
                if let Some(pid) = control.stop() {
                    self.cancel(pid).await;
                }
                if let Ok(ended) = tokio::time::timeout(CANCEL, &mut task).await {
                    break ended;
                }
            },
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
        self: &Arc<Self>,
        request: &SqlRequest,
        control: &Control,
        commit: Commit<T>,
    ) -> Result<T, Failure> {
        let _slot = self.slots.acquire().await.map_err(|e| Failure::transient(code::INTERNAL, e.to_string()))?;
        let (mut session, pid) = self.begin(request).await?;
        let connection = &mut session.connection;
        let done = async {
            control.begin(pid)?;
            let result = execute(connection, request).await?;
            let value = commit(connection, result).await?;
            control.commit()?;
            Ok(value)
        };
        match done.await {
            Ok(value) => {
                sqlx::raw_sql("COMMIT").execute(connection).await.map_err(|error| uncertain(&error))?;
                self.keep(session);
                Ok(value)
            }
            Err(failure) => {
                // The server rolls back when the connection goes; a pooler between us may keep it, so say it.
                let _ = sqlx::raw_sql("ROLLBACK; DEALLOCATE stepd_step").execute(connection).await;
                let _ = session.connection.close().await;
                Err(rolled_back(failure))
            }
        }
    }

    /// A session inside a transaction, and its backend's id.
    async fn begin(&self, request: &SqlRequest) -> Result<(Session, i32), Failure> {
        // 0 is no limit; a limit that rounds to nothing is one of a millisecond.
        let limit = request.timeout.map_or(0, |t| i32::try_from(t.as_millis().max(1)).unwrap_or(i32::MAX));
        loop {
            let kept = self.idle().connections.pop();
            let clean = if kept.is_some() { CLEAN } else { "" };
            let mut session = match kept {
                Some((session, _)) => session,
                None => self.connect().await?,
            };
            let watch = if session.watches { WATCH } else { "" };
            let begin = format!(
                "{clean}BEGIN; {SETTINGS}{watch}SET LOCAL statement_timeout = {limit}; {}SELECT pg_backend_pid()",
                self.set_role
            );
            let rows = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_all(&mut session.connection).await;
            match rows.and_then(|rows| rows.last().ok_or(sqlx::Error::RowNotFound)?.try_get_unchecked::<i32, _>(0)) {
                Ok(pid) => return Ok((session, pid)),
                // A kept connection may have died meanwhile: nothing has happened yet, take the next.
                Err(_) if !clean.is_empty() => {}
                Err(error) => return Err(not_begun(&error)),
            }
        }
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let connecting = async {
            let mut connection = self.hosts.connect(session).await?;
            let watches = sqlx::raw_sql(TRY_WATCH).execute(&mut connection).await;
            Ok(Session { connection, watches: watches.is_ok() })
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| not_begun(&error)),
            Err(_) => Err(Failure::transient(code::CONNECTION, "the database did not answer within 10 s")
                .with_details(serde_json::json!({"outcome": NOT_BEGUN}))),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a session for the next statement; the oldest are the first to be closed.
    fn keep(self: &Arc<Self>, session: Session) {
        let mut idle = self.idle();
        idle.connections.push((session, Instant::now()));
        if std::mem::replace(&mut idle.pruned, true) {
            return;
        }
        let weak = Arc::downgrade(self);
        #[expect(
            clippy::disallowed_methods,
            reason = "ends by itself when all are closed, or the database is dropped"
        )]
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEPT).await;
                let Some(database) = weak.upgrade() else { return };
                let mut idle = database.idle();
                idle.connections.retain(|(_, since)| since.elapsed() < KEPT);
                if idle.connections.is_empty() {
                    idle.pruned = false;
                    return;
                }
            }
        });
    }

    /// Cancels whatever that backend does. Best effort: a cancelled statement that has ended already is fine.
    async fn cancel(&self, pid: i32) {
        let _ = tokio::time::timeout(CONNECT, async {
            let mut connection = self.hosts.connect(session).await?;
            sqlx::query("SELECT pg_cancel_backend($1)").bind(pid).execute(&mut connection).await?;
            connection.close().await
        })
        .await;
    }
}

fn session(options: &PgConnectOptions) -> PgConnectOptions {
    // Poolers do not take it from the first message; each transaction says it.
    let options = options.clone().extra_float_digits(None);
    let quiet = tracing::log::LevelFilter::Trace;
    let options = options.log_statements(quiet).log_slow_statements(quiet, Duration::from_secs(1));
    options.application_name("stepd sql step")
}

/// COMMIT was sent, and something other than yes came back.
fn uncertain(error: &sqlx::Error) -> Failure {
    let failure = failure(error);
    // A refusal of the server (a deferred constraint, a serialization conflict) is certain: rolled back. What ends the session is none.
    if error.as_database_error().is_some() && !ends_session(&failure) {
        return failure;
    }
    failure.with_details(serde_json::json!({"outcome": UNKNOWN}))
}

/// A restart, a terminated or crashed backend, a cut; silence inside the transaction, where answers are lost on the way.
fn ends_session(failure: &Failure) -> bool {
    failure.code == code::CONNECTION
        || ["sql_08", "sql_57P", "sql_25P03"].iter().any(|class| failure.code.starts_with(class))
}

/// COMMIT was not sent: where the session is gone, nothing of it is there.
fn rolled_back(failure: Failure) -> Failure {
    if ends_session(&failure) { failure.with_details(serde_json::json!({"outcome": ROLLED_BACK})) } else { failure }
}

/// The database could not be reached, or was not ready: the statement has not been sent.
fn not_begun(error: &sqlx::Error) -> Failure {
    let failure = failure(error);
    let state = error.as_database_error().map_or_else(|| "08".into(), |e| e.code().unwrap_or_default());
    let passes = ["08", "53", "57P"].iter().any(|class| state.starts_with(class));
    if passes { failure.with_details(serde_json::json!({"outcome": NOT_BEGUN})) } else { failure }
}

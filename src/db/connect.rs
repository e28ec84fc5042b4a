//! Connections: their settings, and the pool for everything that is not the hot path.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use super::error::{DbError, Trouble};

/// A connection attempt that takes longer is given up: a server that is shutting down can keep one waiting for minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The server ends a statement of the pool after 20 s, and says so. Who says nothing for longer is not there.
const POOL_ANSWERS: Duration = Duration::from_secs(22);

/// Waits so long for an answer. When none comes the connection that was asked must be dropped, and the outcome read back: the kernel
/// alone would wait for minutes where packets are silently lost.
///
/// # Errors
/// Those of `work`; `Trouble::Lost` when the time is up.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(DbError::unanswered(limit)))
}

/// No transaction of a daemon's own stands open for longer. Also the sign that a session's settings have arrived.
pub(super) const IDLE_IN_TRANSACTION: &str = "10s";

/// Where the database is, and a small pool on it.
#[derive(Clone, Debug)]
pub struct Database {
    options: PgConnectOptions,
    pool: PgPool,
}

impl Database {
    /// Prepares the pool; connects at the first use.
    #[must_use]
    pub fn new(options: PgConnectOptions, pool_size: u32) -> Self {
        let options = options.log_statements(tracing::log::LevelFilter::Trace);
        let settings = [("statement_timeout", "20s"), ("lock_timeout", "5s")];
        let pool = pool(pool_size)
            // The second wall against a connection that comes back inside a transaction (sqlx #4385): the next
            // statement on it would be acknowledged and never committed. Outside one, the two times are equal.
            .after_release(|conn, _| {
                Box::pin(async move {
                    sqlx::query_scalar::<_, bool>("SELECT now() = statement_timestamp()").fetch_one(&mut *conn).await
                })
            })
            .connect_lazy_with(session(&options, "stepd", &settings));
        Self { options, pool }
    }

    /// A pool of its own for reading, named `stepd <purpose>` in `pg_stat_activity`; its connections are gone when it has been idle for
    /// a while. Not asked whether they still live before each use: a statement that finds out is tried again.
    #[must_use]
    pub fn reading_pool(&self, purpose: &str, size: u32, settings: &[(&str, &str)]) -> PgPool {
        pool(size).test_before_acquire(false).connect_lazy_with(self.session(purpose, settings))
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// One thing on a connection of the pool. When no answer comes, for longer than the server itself would let it take, the
    /// connection is closed, never to be used again: what became of the statement is not known then.
    ///
    /// # Errors
    /// Whatever the database says; `Trouble::Lost` when it says nothing.
    pub async fn ask<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, DbError>) -> Result<T, DbError> {
        let mut conn = self.pool.acquire().await?;
        let done = within(POOL_ANSWERS, work(&mut conn)).await;
        if matches!(&done, Err(error) if error.trouble == Trouble::Lost) {
            drop(conn.detach());
        }
        done
    }

    /// The plain options, without session settings.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// A connection of its own, with session settings, named `stepd <purpose>` in `pg_stat_activity`.
    ///
    /// # Errors
    /// `Trouble::Lost` when no connection comes about in five seconds.
    pub async fn connect(&self, purpose: &str, settings: &[(&str, &str)]) -> Result<PgConnection, DbError> {
        let options = session(&self.options, &format!("stepd {purpose}"), settings);
        match tokio::time::timeout(CONNECT_WITHIN, PgConnection::connect_with(&options)).await {
            Ok(conn) => Ok(conn?),
            Err(_) => Err(timed_out().into()),
        }
    }

    /// The options of a session with settings.
    #[must_use]
    pub fn session(&self, purpose: &str, settings: &[(&str, &str)]) -> PgConnectOptions {
        session(&self.options, &format!("stepd {purpose}"), settings)
    }
}

fn pool(size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .min_connections(0)
        .idle_timeout(Duration::from_secs(30))
        .acquire_timeout(CONNECT_WITHIN)
}

fn session(options: &PgConnectOptions, name: &str, settings: &[(&str, &str)]) -> PgConnectOptions {
    // A peer that is silently gone is found in 11 s while idle, and in 10 s while it owes an acknowledgement.
    const BASE: [(&str, &str); 7] = [
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        ("client_connection_check_interval", "200ms"),
        ("jit", "off"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "10000"),
    ];
    options.clone().application_name(name).options(BASE).options(settings.iter().copied())
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection within 5 s"))
}

//! Connections: their settings, and the pool for everything that is not the hot path.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use super::error::DbError;

/// A connection attempt that takes longer is given up: a server that is shutting down can keep one waiting for minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

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
        let settings = [("statement_timeout", "30s"), ("lock_timeout", "5s")];
        let pool = pool(session(&options, "stepd", &settings), pool_size);
        Self { options, pool }
    }

    /// A pool of its own, named `stepd <purpose>` in `pg_stat_activity`; its connections are gone when it has been idle for a while.
    #[must_use]
    pub fn side_pool(&self, purpose: &str, size: u32, settings: &[(&str, &str)]) -> PgPool {
        pool(self.session(purpose, settings), size)
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
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

fn pool(options: PgConnectOptions, size: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(size)
        .min_connections(0)
        .idle_timeout(Duration::from_secs(30))
        .acquire_timeout(CONNECT_WITHIN)
        // The second wall against a connection that comes back inside a transaction (sqlx #4385): the next
        // statement on it would be acknowledged and never committed. Outside one, the two times are equal.
        .after_release(|conn, _| {
            Box::pin(async move {
                sqlx::query_scalar::<_, bool>("SELECT now() = statement_timestamp()").fetch_one(&mut *conn).await
            })
        })
        .connect_lazy_with(options)
}

fn session(options: &PgConnectOptions, name: &str, settings: &[(&str, &str)]) -> PgConnectOptions {
    const BASE: [(&str, &str); 3] =
        [("idle_in_transaction_session_timeout", "10s"), ("client_connection_check_interval", "200ms"), ("jit", "off")];
    options.clone().application_name(name).options(BASE).options(settings.iter().copied())
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection within 5 s"))
}

//! Connections: their settings, and the pool for everything that is not the hot path.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Row};

use super::error::{DbError, Trouble};
use super::hosts::Hosts;

/// A connection attempt that takes longer is given up: a server that is shutting down can keep one waiting for minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The server ends a statement of the pool when its time is up, and says so. Who says nothing for this much longer is not there.
const PATIENCE: Duration = Duration::from_secs(2);

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
    hosts: Hosts,
    pool: PgPool,
    pools: Arc<Mutex<Vec<Follower>>>,
    /// Nothing on the pool takes longer.
    answers: Duration,
}

/// A pool, and its sessions' settings: when another host is in use, it connects there from then on.
#[derive(Debug)]
struct Follower {
    pool: PgPool,
    name: String,
    settings: Vec<(String, String)>,
}

/// How a pool stands.
#[derive(Clone, Debug)]
pub struct PoolState {
    /// As its sessions are named in `pg_stat_activity`.
    pub name: String,
    /// Connections that are open.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// How many there may be.
    pub most: usize,
}

impl Database {
    /// Prepares the pool; connects at the first use. A statement of the pool may take as long as `patience`.
    #[must_use]
    pub fn new(hosts: impl Into<Hosts>, pool_size: u32, patience: Duration) -> Self {
        let hosts = hosts.into();
        let limit = format!("{}ms", patience.as_millis());
        let settings = [("statement_timeout", limit.as_str()), ("lock_timeout", "5s")];
        let main = pool(pool_size)
            // The second wall against a connection that comes back inside a transaction (sqlx #4385): the next
            // statement on it would be acknowledged and never committed. Outside one, the two times are equal: in one message, for in
            // the extended protocol a statement's time is that of its last message, and every connection would be closed after its
            // first use. And against one to a server that has become a standby.
            .after_release(|conn, _| {
                Box::pin(async move {
                    let row = sqlx::raw_sql("SELECT now() = statement_timestamp() AND NOT pg_is_in_recovery()")
                        .fetch_one(&mut *conn);
                    row.await?.try_get(0)
                })
            })
            .connect_lazy_with(session(hosts.used(), "stepd", &settings));
        let db = Self { hosts, pool: main.clone(), pools: Arc::default(), answers: patience + PATIENCE };
        db.follow(main, "stepd".to_owned(), &settings)
    }

    fn follow(self, pool: PgPool, name: String, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).push(Follower { pool, name, settings });
        self
    }

    /// A pool of its own for reading, named `stepd <purpose>` in `pg_stat_activity`; its connections are gone when it has been idle for
    /// a while. Not asked whether they still live before each use: a statement that finds out is tried again.
    #[must_use]
    pub fn reading_pool(&self, purpose: &str, size: u32, settings: &[(&str, &str)]) -> PgPool {
        let name = format!("stepd {purpose}");
        let options = session(self.hosts.used(), &name, settings);
        let side = pool(size).test_before_acquire(false).connect_lazy_with(options);
        self.clone().follow(side.clone(), name, settings);
        side
    }

    /// How all pools stand: this one, and those for reading.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolState> {
        let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |one: &Follower| PoolState {
            name: one.name.clone(),
            open: number(one.pool.size()),
            idle: one.pool.num_idle(),
            most: number(one.pool.options().get_max_connections()),
        };
        pools.iter().map(state).collect()
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
        let done = within(self.answers, work(&mut conn)).await;
        if matches!(&done, Err(error) if error.trouble == Trouble::Lost) {
            drop(conn.detach());
        }
        done
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The plain options of the host in use, without session settings.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        self.hosts.used()
    }

    /// A connection of its own, with session settings, named `stepd <purpose>` in `pg_stat_activity`.
    ///
    /// # Errors
    /// `Trouble::Lost` when no connection comes about in time.
    pub async fn connect(&self, purpose: &str, settings: &[(&str, &str)]) -> Result<PgConnection, DbError> {
        let name = format!("stepd {purpose}");
        let connecting = self.hosts.connect(|options| session(options, &name, settings));
        if !self.hosts.are_several() {
            return match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
                Ok(conn) => Ok(conn?),
                Err(_) => Err(timed_out().into()),
            };
        }
        let conn = connecting.await?;
        for one in self.pools.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let settings: Vec<_> = one.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            one.pool.set_connect_options(session(self.hosts.used(), &one.name, &settings));
        }
        Ok(conn)
    }

    /// The options of a session with settings, on a host that can be written.
    ///
    /// # Errors
    /// Where there are several hosts, and none of them can be.
    pub async fn session(&self, purpose: &str, settings: &[(&str, &str)]) -> Result<PgConnectOptions, DbError> {
        if self.hosts.are_several() {
            let _ = self.connect(purpose, &[]).await?.close().await;
        }
        Ok(session(self.hosts.used(), &format!("stepd {purpose}"), settings))
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
    // What an administrator has set for the role or the database holds for people and applications. Transitions count on a new
    // snapshot with each statement; and a session that waits for work is not idle.
    const BASE: [(&str, &str); 9] = [
        ("default_transaction_isolation", "read committed"),
        ("idle_session_timeout", "0"),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        ("client_connection_check_interval", "200ms"),
        ("jit", "off"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "10000"),
    ];
    // A statement that waits is no news, and its text is long: what concerns people is told in other words.
    let quiet = tracing::log::LevelFilter::Debug;
    let options = options.clone().log_statements(tracing::log::LevelFilter::Trace);
    let options = options.log_slow_statements(quiet, Duration::from_secs(1));
    options.application_name(name).options(BASE).options(settings.iter().copied())
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection within 5 s"))
}

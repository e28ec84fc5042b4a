//! Connections: their settings, and the pool for everything that is not the hot path.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres, Row};

use super::error::{DbError, Trouble};
use super::hosts::Hosts;
use super::line::Line;

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

/// No transaction of a daemon's own stands open for longer.
const IDLE_IN_TRANSACTION: &str = "10s";

/// Where the database is, and a small pool on it.
#[derive(Clone, Debug)]
pub struct Database {
    hosts: Hosts,
    /// Past a pooler that stands before `hosts`, where a way was given.
    direct: Option<Hosts>,
    pool: PgPool,
    pools: Pools,
    /// Nothing on the pool takes longer.
    answers: Duration,
}

type Pools = Arc<Mutex<Vec<Follower>>>;

/// A pool, and its sessions' settings: when another host is in use, or a pooler is found before it, it connects that way from then on.
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
        let pools = Pools::default();
        let main = pool(pool_size, &hosts, &pools)
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
        let db = Self { hosts, direct: None, pool: main.clone(), pools, answers: patience + PATIENCE };
        db.follow(main, "stepd".to_owned(), &settings)
    }

    /// What needs a session of its own goes there.
    #[must_use]
    pub fn with_direct(self, direct: Option<Hosts>) -> Self {
        Self { direct, ..self }
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
        let side = pool(size, &self.hosts, &self.pools).test_before_acquire(false).connect_lazy_with(options);
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
        let mut conn = self.acquire().await?;
        let done = within(self.answers, work(&mut conn)).await;
        if matches!(&done, Err(error) if error.trouble == Trouble::Lost) {
            drop(conn.detach());
        }
        done
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>, DbError> {
        match self.pool.acquire().await {
            Err(error) if self.hosts.met_pooler(&error)? => {
                repoint(&self.hosts, &self.pools);
                Ok(self.pool.acquire().await?)
            }
            acquired => Ok(acquired?),
        }
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The way past a pooler, where one was given.
    #[must_use]
    pub fn direct(&self) -> Option<&Hosts> {
        self.direct.as_ref()
    }

    /// The host in use, as it was named.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        self.hosts.named()
    }

    /// A connection of its own, with session settings, named `stepd <purpose>` in `pg_stat_activity`.
    ///
    /// # Errors
    /// `Trouble::Lost` when no connection comes about in time.
    pub async fn connect(&self, purpose: &str, settings: &[(&str, &str)]) -> Result<PgConnection, DbError> {
        let conn = connect_to(&self.hosts, purpose, settings).await?;
        if self.hosts.are_several() || self.hosts.are_pooled() {
            repoint(&self.hosts, &self.pools);
        }
        Ok(conn)
    }

    /// As [`connect`](Self::connect), past a pooler where a way was given.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_past_pooler(&self, purpose: &str, settings: &[(&str, &str)]) -> Result<PgConnection, DbError> {
        match &self.direct {
            Some(direct) => connect_to(direct, purpose, settings).await,
            None => self.connect(purpose, settings).await,
        }
    }

    /// A connection that hears notifications, and whose session is its own, where that can be had.
    ///
    /// # Errors
    /// `Trouble::Lost` when no connection comes about in time.
    pub async fn line(&self, purpose: &str, settings: &[(&str, &str)]) -> Result<Line, DbError> {
        let hosts = self.direct.as_ref().unwrap_or(&self.hosts);
        if hosts.are_several() && !hosts.are_pooled() {
            let _ = self.connect_past_pooler(purpose, &[]).await?.close().await;
        }
        if !hosts.are_pooled() {
            let options = session(hosts.used(), &format!("stepd {purpose}"), settings);
            let alone = pool(1, hosts, &Pools::default()).connect_lazy_with(options);
            match PgListener::connect_with(&alone).await {
                Ok(listener) => return Ok(Line::listening(listener)),
                Err(error) if hosts.met_pooler(&error)? || hosts.are_pooled() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Line::Asking(self.connect_past_pooler(purpose, settings).await?))
    }
}

async fn connect_to(hosts: &Hosts, purpose: &str, settings: &[(&str, &str)]) -> Result<PgConnection, DbError> {
    let name = format!("stepd {purpose}");
    let connecting = hosts.connect(|options| session(options, &name, settings));
    if hosts.are_several() {
        return Ok(connecting.await?);
    }
    match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
        Ok(conn) => Ok(conn?),
        Err(_) => Err(timed_out().into()),
    }
}

/// From now on these pools connect as the hosts say.
fn repoint(hosts: &Hosts, pools: &Mutex<Vec<Follower>>) {
    for one in pools.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let settings: Vec<_> = one.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        one.pool.set_connect_options(session(hosts.used(), &one.name, &settings));
    }
}

fn pool(size: u32, hosts: &Hosts, pools: &Pools) -> PgPoolOptions {
    let (hosts, pools) = (hosts.clone(), Arc::downgrade(pools));
    PgPoolOptions::new()
        .max_connections(size)
        .min_connections(0)
        .idle_timeout(Duration::from_secs(30))
        .acquire_timeout(CONNECT_WITHIN)
        // A pooler may be put between at any time; the pool tries again, and then by another way.
        .after_connect(move |conn, _| {
            let (hosts, pools) = (hosts.clone(), pools.clone());
            Box::pin(async move { recognize(&hosts, &pools, conn).await })
        })
}

async fn recognize(
    hosts: &Hosts,
    pools: &Weak<Mutex<Vec<Follower>>>,
    conn: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    match hosts.recognize(conn).await {
        Err(error) if hosts.met_pooler(&error)? => {
            if let Some(pools) = pools.upgrade() {
                repoint(hosts, &pools);
            }
            Err(error)
        }
        // What is lost already tells so at its first use; the pool would be loud about it.
        _ => Ok(()),
    }
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

//! Servers and databases.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres};
use stepd::db::migrate;
use stepd::postgres::{Options, PrivatePostgres};
use tokio::sync::Mutex;

use super::wait_until;

/// Databases are copies of this one.
const TEMPLATE: &str = "stepd_template";

/// A private Postgres with a migrated template. Fsync is off: no test cuts the power, and a killed server loses nothing without it.
pub struct Server {
    pub pg: PrivatePostgres,
    made: AtomicU32,
    /// A template can be copied by one session at a time.
    copying: Mutex<()>,
}

impl Server {
    /// A server that one test has for itself: to restart it, to kill its backends.
    pub async fn own() -> Self {
        Self::started(Self::options()).await
    }

    /// … that takes so many connections.
    pub async fn of(max_connections: u16) -> Self {
        Self::started(Options { max_connections, ..Self::options() }).await
    }

    /// … with variables of its process.
    pub async fn under(environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self::started(Options { environment, ..Self::options() }).await
    }

    /// … whose standbys must have as much.
    pub fn options() -> Options {
        Options {
            durable: false,
            max_connections: 200,
            shared_buffers_mib: 64,
            settings: vec![("autovacuum_naptime".into(), "5s".into()), ("max_wal_size".into(), "512MB".into())],
            ..Options::default()
        }
    }

    async fn started(options: Options) -> Self {
        let pg = tokio::task::spawn_blocking(move || PrivatePostgres::start(&options)).await.unwrap().unwrap();
        let server = Self { pg, made: AtomicU32::new(0), copying: Mutex::new(()) };
        server.pg.create_database(TEMPLATE, None).await.unwrap();
        let mut conn = PgConnection::connect(&server.pg.url(TEMPLATE)).await.unwrap();
        migrate::migrate(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        server
    }

    /// The server that all other tests of this process share. The kernel stops it when the process ends; its
    /// folder is swept by the next start of any private Postgres.
    async fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::const_new(());
        if let Some(server) = SHARED.get() {
            return server;
        }
        let _one = STARTING.lock().await;
        if SHARED.get().is_none() {
            let _ = SHARED.set(Self::own().await);
        }
        SHARED.get().unwrap()
    }

    /// A new database with stepd's schema.
    pub async fn db(&self) -> Db {
        let name = format!("t{}", self.made.fetch_add(1, Ordering::SeqCst));
        {
            let _one = self.copying.lock().await;
            self.pg.create_database(&name, Some(TEMPLATE)).await.unwrap();
        }
        self.at(&name)
    }

    /// A database of that name, as it is.
    pub fn at(&self, name: &str) -> Db {
        let options: PgConnectOptions = self.pg.options(name);
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(40))
            .connect_lazy_with(options.application_name("test"));
        Db { pool, url: self.pg.url(name), name: name.to_owned() }
    }
}

/// One test's database.
#[derive(Clone)]
pub struct Db {
    pub pool: PgPool,
    pub url: String,
    pub name: String,
}

impl Db {
    /// A database on the shared server.
    pub async fn new() -> Self {
        Server::shared().await.db().await
    }

    /// The server's own database: for what cannot be said in this one.
    pub fn beside(&self) -> Self {
        let options: PgConnectOptions = self.url.parse::<PgConnectOptions>().unwrap().database("postgres");
        Self { pool: PgPoolOptions::new().max_connections(1).connect_lazy_with(options), ..self.clone() }
    }

    /// Runs statements.
    pub async fn exec(&self, sql: impl Into<String>) {
        let sql = sql.into();
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&self.pool).await {
            panic!("{error}\n{sql}");
        }
    }

    /// One value.
    pub async fn one<T>(&self, sql: impl Into<String>) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let sql = sql.into();
        match self.ask(&sql).await {
            Ok(value) => value,
            Err(error) => panic!("{error}\n{sql}"),
        }
    }

    /// One value, where Postgres may be away.
    pub async fn ask<T>(&self, sql: &str) -> sqlx::Result<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await
    }

    /// A column.
    pub async fn all<T>(&self, sql: impl Into<String>) -> Vec<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let sql = sql.into();
        match sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_all(&self.pool).await {
            Ok(values) => values,
            Err(error) => panic!("{error}\n{sql}"),
        }
    }

    /// A number.
    pub async fn count(&self, sql: impl Into<String>) -> i64 {
        self.one(sql).await
    }

    /// Enqueues one run; its id as text.
    pub async fn enqueue(&self, workflow: &str, input: &str) -> String {
        self.one(format!(
            "INSERT INTO stepd.jobs (workflow, input) VALUES ('{workflow}', '{input}') RETURNING id::text"
        ))
        .await
    }

    /// A run's state.
    pub async fn state(&self, run: &str) -> String {
        self.one(format!("SELECT coalesce((SELECT state::text FROM stepd.runs WHERE id = '{run}'), 'none')")).await
    }

    /// A run's output as text.
    pub async fn output(&self, run: &str) -> String {
        self.one(format!("SELECT coalesce((SELECT output::text FROM stepd.runs WHERE id = '{run}'), 'none')")).await
    }

    /// Waits for a state of a run. Another final state ends the wait at once, with what is known of the run.
    pub async fn reaches(&self, run: &str, state: &str, limit: Duration) {
        wait_until(&format!("run {run} is {state}"), limit, async || {
            let now = self.state(run).await;
            if now != state && matches!(now.as_str(), "completed" | "failed" | "cancelled") {
                let known: String = self
                    .one(format!("SELECT coalesce(to_json(r)::text, '') FROM stepd.runs r WHERE id = '{run}'"))
                    .await;
                panic!("run {run} is {now}, not {state}: {known}");
            }
            now == state
        })
        .await;
    }

    /// Waits until a step is in a state.
    pub async fn step_reaches(&self, run: &str, key: &str, state: &str, limit: Duration) {
        wait_until(&format!("step {key} of {run} is {state}"), limit, async || {
            self.count(format!(
                "SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND key = '{key}' AND state = '{state}'"
            ))
            .await
                == 1
        })
        .await;
    }

    /// Waits until no run is unfinished.
    pub async fn all_ended(&self, limit: Duration) {
        wait_until("every run has ended", limit, async || self.count("SELECT count(*) FROM stepd.jobs").await == 0)
            .await;
    }

    /// How many engine events of a kind there are.
    pub async fn events(&self, kind: &str) -> i64 {
        self.count(format!("SELECT count(*) FROM stepd_engine.events WHERE kind = '{kind}'")).await
    }
}

//! The private Postgres, databases made from a migrated template, and pgbench.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stepd::postgres::{Options, PrivatePostgres};

use super::{daemon, worker};

/// The database that all others are copied from: migrated, with every workflow of the figures loaded.
const TEMPLATE: &str = "figures";

pub struct Server {
    pub postgres: PrivatePostgres,
    /// Workflow files and pgbench scripts.
    pub folder: tempfile::TempDir,
    databases: AtomicU32,
}

impl Server {
    /// Durable, with the settings under which the targets were set.
    pub async fn start() -> Result<Self> {
        Self::with_connections(100).await
    }

    /// The same, with room for more sessions.
    pub async fn with_connections(connections: u32) -> Result<Self> {
        let connections = connections.to_string();
        let settings = [("max_wal_size", "8GB"), ("checkpoint_timeout", "30min"), ("max_connections", &*connections)];
        let options = Options {
            durable: true,
            shared_buffers_mib: 1024,
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Options::default()
        };
        let postgres = tokio::task::spawn_blocking(move || PrivatePostgres::start(&options)).await??;
        let folder = tempfile::tempdir()?;
        worker::write_workflows(folder.path())?;
        let altered = daemon::altered(&worker::stepd(), folder.path())?;
        ensure!(altered.is_empty(), "the figures are of the shipped defaults; here {}", altered.join(", "));
        postgres.create_database(TEMPLATE, None).await?;
        let server = Self { postgres, folder, databases: AtomicU32::new(0) };
        // Both daemons have been here: every workflow is known.
        let template = Db { url: server.postgres.url(TEMPLATE) };
        for make in [worker::Kind::Files, worker::Kind::Code] {
            let worker = worker::Worker::start(&server, &template, make, 10).await?;
            worker.stop().await?;
        }
        Ok(server)
    }

    /// A fresh copy of the template, everything on disk.
    pub async fn database(&self) -> Result<Db> {
        let name = format!("figures_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.postgres.create_database(&name, Some(TEMPLATE)).await?;
        let db = Db { url: self.postgres.url(&name) };
        db.execute("CHECKPOINT").await?;
        Ok(db)
    }

    /// A database without anything in it.
    pub async fn empty_database(&self) -> Result<Db> {
        let name = format!("other_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.postgres.create_database(&name, None).await?;
        Ok(Db { url: self.postgres.url(&name) })
    }

    /// Switches autovacuum for the whole server.
    pub async fn autovacuum(&self, on: bool) -> Result<()> {
        let db = Db { url: self.postgres.url(TEMPLATE) };
        db.execute(if on { "ALTER SYSTEM RESET autovacuum" } else { "ALTER SYSTEM SET autovacuum = off" }).await?;
        db.execute("SELECT pg_reload_conf()").await
    }

    /// CPU that the server has used so far, in seconds: the postmaster, the backends that are gone, and those that live.
    pub fn cpu(&self) -> Result<f64> {
        let postmaster = self.postgres.postmaster().context("no postmaster")?;
        let mut ticks = 0.0;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = rest.split(' ').collect();
            let field = |i: usize| fields.get(i).and_then(|f: &&str| f.parse::<f64>().ok()).unwrap_or(0.0);
            // Fields 14 to 17 of proc(5): user and system time, then those of the children that are gone.
            if pid == postmaster {
                ticks += field(11) + field(12) + field(13) + field(14);
            } else if fields.get(1).is_some_and(|p| *p == postmaster.to_string()) {
                ticks += field(11) + field(12);
            }
        }
        Ok(ticks / 100.0)
    }

    /// Runs pgbench with a script, prepared; returns transactions a second and their mean latency in ms.
    pub fn pgbench(&self, db: &Db, script: &str, clients: u32, transactions: u32) -> Result<(f64, f64)> {
        let path: PathBuf = self.folder.path().join("script.sql");
        std::fs::write(&path, script)?;
        let output = Command::new(self.postgres.binaries().join("pgbench"))
            .args(["-n", "-M", "prepared", "-f"])
            .arg(&path)
            .args(["-c", &clients.to_string(), "-t", &transactions.to_string(), &db.url])
            .output()
            .context("pgbench cannot be run; it comes with Postgres' contrib programs")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        let after = |mark: &str| text.split(mark).nth(1).and_then(|t| t.split_whitespace().next()?.parse::<f64>().ok());
        let tps = after("tps = ").context("pgbench printed no tps")?;
        Ok((tps, after("latency average = ").context("pgbench printed no latency")?))
    }
}

/// One database.
pub struct Db {
    pub url: String,
}

impl Db {
    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    pub async fn execute(&self, sql: &str) -> Result<()> {
        let mut conn = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await?;
        Ok(conn.close().await?)
    }

    /// One number; NULL is 0.
    pub async fn number(&self, sql: &str) -> Result<f64> {
        let mut conn = self.connect().await?;
        let sql = format!("SELECT coalesce(({sql})::float8, 0)");
        let n = sqlx::query_scalar::<_, f64>(AssertSqlSafe(sql)).fetch_one(&mut conn).await?;
        conn.close().await?;
        Ok(n)
    }

    /// One text.
    pub async fn text(&self, sql: &str) -> Result<String> {
        let mut conn = self.connect().await?;
        let text = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await?;
        conn.close().await?;
        Ok(text)
    }

    /// Waits until no job is left. Looks rarely: each look reads the table.
    pub async fn emptied(&self) -> Result<()> {
        let mut conn = self.connect().await?;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let left: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM stepd.jobs)").fetch_one(&mut conn).await?;
            if !left {
                return Ok(conn.close().await?);
            }
        }
    }

    /// A place in the order of ids, as text: every job that is inserted from now on comes after it.
    pub async fn place(&self) -> Result<String> {
        let mut conn = self.connect().await?;
        let sql = "SELECT lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint + 1), 12, '0')";
        let time: String = sqlx::query_scalar(sql).fetch_one(&mut conn).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(format!("{time}00000000000000000000"))
    }

    /// Waits until `n` of the jobs after a place have ended. Reads nothing else: neither what waits nor what is dead.
    pub async fn ended(&self, place: &str, n: u32) -> Result<()> {
        let sql = format!("SELECT count(*) FROM stepd_engine.ended WHERE id >= '{place}'");
        while self.number(&sql).await? < f64::from(n) {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }

    /// Runs a second between the first claim and the last end, of the jobs after a place.
    pub async fn drained_per_second(&self, place: &str) -> Result<f64> {
        self.number(&format!(
            "SELECT count(*) / extract(epoch FROM max(ended_at) - min(started_at)) FROM stepd_engine.ended
             WHERE state = 'completed' AND id >= '{place}'"
        ))
        .await
    }

    /// WAL written so far, and transactions committed in this database.
    pub async fn cost(&self) -> Result<(f64, f64)> {
        let wal = self.number("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").await?;
        // A backend reports its counters at most once a second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let commits = self
            .number("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
            .await?;
        Ok((wal, commits))
    }
}

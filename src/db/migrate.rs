//! Migrations: embedded, forward only, in a table of stepd's own, safe to start from many daemons at once.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::error::DbError;

/// A migration: version, name, text.
pub type Migration = (i32, &'static str, &'static str);

/// All migrations, in order.
pub const MIGRATIONS: &[Migration] = &[
    (1, "tables", include_str!("../../migrations/0001_tables.sql")),
    (2, "engine", include_str!("../../migrations/0002_engine.sql")),
    (3, "functions", include_str!("../../migrations/0003_functions.sql")),
    (4, "views", include_str!("../../migrations/0004_views.sql")),
];

/// The schema version that this binary is made for.
#[must_use]
pub fn latest() -> i32 {
    MIGRATIONS.last().map_or(0, |m| m.0)
}

const TABLE: &str = "CREATE SCHEMA IF NOT EXISTS stepd_engine;
CREATE TABLE IF NOT EXISTS stepd_engine.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE stepd_engine.migrations IS 'The schema versions that have been applied.';
";

/// Serialises migrations of one database; any number that nobody else uses (\"stepd\" in ASCII).
const LOCK: i64 = 0x73_7465_7064;

/// While another process migrates.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The applied version; 0 where stepd has never been.
///
/// # Errors
/// Whatever the database says.
pub async fn applied(conn: &mut PgConnection) -> Result<i32, DbError> {
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass('stepd_engine.migrations') IS NOT NULL").fetch_one(&mut *conn).await?;
    if !there {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM stepd_engine.migrations").fetch_one(conn).await?)
}

/// Applies what is missing, each migration in a transaction of its own. Returns the versions applied now.
///
/// The connection must be the caller's own, and the future must not be dropped half-way (the lock is released with the session).
///
/// # Errors
/// Whatever the database says; what was applied before stays.
pub async fn migrate(conn: &mut PgConnection) -> Result<Vec<i32>, DbError> {
    if applied(conn).await? >= latest() {
        return Ok(Vec::new());
    }
    // Asked for again and again, for a session's lock_timeout would end a wait; a migration may take long.
    let mut told = false;
    while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut *conn).await? {
        if !told {
            tracing::info!("another process is migrating this database; waiting until it has ended");
            told = true;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    let done = apply_missing(conn).await;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(&mut *conn).await?;
    done
}

async fn apply_missing(conn: &mut PgConnection) -> Result<Vec<i32>, DbError> {
    let before = applied(conn).await?;
    let mut done = Vec::new();
    for (version, name, text) in MIGRATIONS.iter().filter(|m| m.0 > before) {
        let mut tx = conn.begin().await?;
        sqlx::raw_sql(TABLE).execute(&mut *tx).await?;
        sqlx::raw_sql(*text).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO stepd_engine.migrations (version, name) VALUES ($1, $2)")
            .bind(version)
            .bind(name)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        done.push(*version);
    }
    Ok(done)
}

/// The whole schema as one script for `psql -1`, for those who review before they apply.
#[must_use]
pub fn dump() -> String {
    let mut out = String::from("-- stepd's schema. Apply with: psql -1 -v ON_ERROR_STOP=1 -f FILE\n\n");
    out.push_str(TABLE);
    for (version, name, text) in MIGRATIONS {
        out.push_str(&format!("\n-- version {version}: {name}\n{text}\nINSERT INTO stepd_engine.migrations (version, name) VALUES ({version}, '{name}');\n"));
    }
    out
}

//! The names, columns and words of two older systems over stepd's rows: `migrations/optional/{views,tables,none}.sql`.

use sqlx::{Connection as _, Executor, PgConnection, Postgres};

use super::error::DbError;
use super::roles;

const VIEWS: &str = include_str!("../../migrations/optional/views.sql");
const TABLES: &str = include_str!("../../migrations/optional/tables.sql");
const NONE: &str = include_str!("../../migrations/optional/none.sql");

/// What of it a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compat {
    /// Views alone: they cost nothing until they are read.
    Views,
    /// Tables too, kept by the daemon.
    Tables,
    /// Neither.
    None,
}

/// Brings it about, in one transaction; what is there already stays as it is.
///
/// # Errors
/// Whatever the database says; nothing is changed then.
pub async fn install(conn: &mut PgConnection, wanted: Compat) -> Result<(), DbError> {
    let mut tx = conn.begin().await?;
    if wanted == Compat::None {
        sqlx::raw_sql(NONE).execute(&mut *tx).await?;
    } else {
        sqlx::raw_sql(VIEWS).execute(&mut *tx).await?;
        if wanted == Compat::Tables && installed(&mut tx).await? != Some(Compat::Tables) {
            sqlx::raw_sql(TABLES).execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    if roles::are_granted(conn).await? {
        roles::install(conn).await?;
    }
    Ok(())
}

/// What is there; `None`: nothing of it.
///
/// # Errors
/// Whatever the database says.
pub async fn installed(conn: &mut PgConnection) -> Result<Option<Compat>, DbError> {
    let row = sqlx::query_file!("src/db/sql/compat_installed.sql").fetch_one(conn).await?;
    Ok(if row.tables { Some(Compat::Tables) } else { row.views.then_some(Compat::Views) })
}

/// Brings noted runs in the tables up to date, at most `batch` notes. Returns how many there were; `None`: there are no tables.
///
/// # Errors
/// Whatever the database says; nothing is changed then.
pub async fn catch_up<'c>(db: impl Executor<'c, Database = Postgres>, batch: i32) -> Result<Option<i32>, DbError> {
    Ok(sqlx::query_file!("src/db/sql/catch_up.sql", batch).fetch_one(db).await?.done)
}

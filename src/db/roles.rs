//! The five roles: `migrations/optional/roles.sql`.

use sqlx::{Connection as _, PgConnection};

use super::error::DbError;

/// The statements; as often as one likes.
pub const TEXT: &str = include_str!("../../migrations/optional/roles.sql");

/// Why the roles cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum NotAllowed {
    #[error(
        "{role} may not create roles, and {missing} are not there: as an administrator, ALTER ROLE {role} CREATEROLE, or CREATE ROLE \
         {missing} one by one (NOLOGIN), then run stepd migrate --roles again"
    )]
    Create { role: String, missing: String },
    #[error(
        "{role} does not own stepd's schema, so it may not grant rights on it: run stepd migrate --roles as {owner}"
    )]
    Grant { role: String, owner: String },
}

/// Makes the roles that are missing and grants them their rights in this database, in one transaction.
///
/// # Errors
/// The session's role may not ([`NotAllowed`]), or whatever the database says; nothing is changed then.
pub async fn install(conn: &mut PgConnection) -> Result<(), DbError> {
    let mut tx = conn.begin().await?;
    let asked = sqlx::query_file!("src/db/sql/roles_allowed.sql").fetch_one(&mut *tx).await?;
    if !asked.missing.is_empty() && !asked.creates {
        return Err(NotAllowed::Create { role: asked.role, missing: asked.missing.join(", ") }.into());
    }
    if !asked.owns {
        return Err(NotAllowed::Grant { role: asked.role, owner: asked.owner }.into());
    }
    sqlx::raw_sql(TEXT).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Have they been granted anything here?
///
/// # Errors
/// Whatever the database says.
pub(super) async fn are_granted(conn: &mut PgConnection) -> Result<bool, DbError> {
    Ok(sqlx::query_file!("src/db/sql/roles_granted.sql").fetch_one(conn).await?.granted)
}

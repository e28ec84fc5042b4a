//! The role under which `sql` steps run: may it record them, and is it kept from stepd's own tables?

use crate::db::DbError;

use super::Database;

/// What the role of a database's statements may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The role.
    pub role: String,
    /// May it record a finished step?
    pub records: bool,
    /// May it write to stepd's own tables, or become a role that may?
    pub writes: bool,
}

/// A role's name as an identifier.
pub(super) fn quoted(role: &str) -> String {
    format!("\"{}\"", role.replace('"', "\"\""))
}

impl Rights {
    /// The statements that let the role record its steps.
    #[must_use]
    pub fn grants(&self) -> String {
        let role = quoted(&self.role);
        format!(
            "GRANT USAGE ON SCHEMA stepd_engine TO {role}; GRANT EXECUTE ON FUNCTION stepd_engine.commit_step TO {role}"
        )
    }
}

impl Database {
    /// Asks what the statements of this database may do.
    ///
    /// # Errors
    /// Whatever the database says: the role is unknown, or not to be had.
    pub async fn rights(&self) -> Result<Rights, DbError> {
        let mut connection = self.session_as_role().await?;
        let row = sqlx::query_file!("src/db/sql/sql_step_rights.sql").fetch_one(&mut connection).await?;
        let _ = sqlx::Connection::close(connection).await;
        Ok(Rights { role: row.role, records: row.records, writes: row.writes })
    }
}

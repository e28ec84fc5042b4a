//! Statements of `sql` steps: their values in, their rows out, and the transaction round them.
//!
//! - `execute` runs one statement inside the caller's transaction.
//! - `literal` turns JSON values into literals, by the statement's own parameter types.
//! - `rows` turns rows into JSON, by the columns' types.
//! - [`commit_step`] writes the checkpoint beside the effect.
//! - [`Database`] keeps dedicated connections and runs statements in transactions that no dropped
//!   future can leave half done.
//! - [`Rights`] says whether their role is kept from stepd's own tables.

mod commit;
mod database;
mod execute;
mod literal;
mod role;
mod rows;
#[cfg(test)]
mod tests;

pub use commit::{FinishedStep, commit_step};
pub use database::{Commit, Database, NOT_BEGUN, ROLLED_BACK, UNKNOWN};
pub use execute::execute;
pub use role::Rights;

use sqlx::postgres::PgDatabaseError;

use crate::model::{Failure, code};

/// What a database error means for the step: `sql_<SQLSTATE>`, with all that the server says.
///
/// Transient: lost connections (08), conflicts and deadlocks (40), lack of resources (53), locks not
/// to be had (55P03), operators' interventions (57), and the system's own errors (58).
#[must_use]
pub fn failure(error: &sqlx::Error) -> Failure {
    let Some(database) = error.as_database_error() else {
        return Failure::transient(code::CONNECTION, format!("the database's answer did not come: {error}"));
    };
    let state = database.code().unwrap_or_default();
    let mut message = database.message().to_owned();
    if let Some(more) = database.try_downcast_ref::<PgDatabaseError>() {
        for (word, text) in [("detail", more.detail()), ("hint", more.hint())] {
            if let Some(text) = text {
                message.push_str(&format!("; {word}: {text}"));
            }
        }
    }
    // A cancelled statement: by `statement_timeout`, or because the attempt was told to stop.
    if state == "57014" {
        return Failure::transient(code::TIMEOUT, message);
    }
    let passes = ["08", "40", "53", "57", "58"].contains(&state.get(..2).unwrap_or_default()) || state == "55P03";
    let word = format!("sql_{state}");
    if passes { Failure::transient(word, message) } else { Failure::permanent(word, message) }
}

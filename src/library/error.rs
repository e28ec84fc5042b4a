//! What can go wrong outside of a run, and what errors inside of one become.

use std::error::Error as StdError;

use crate::app::build::BuildError;
use crate::db::DbError;
use crate::model::{Failure, RunId};

/// The code of a failure that was made of an error which has none.
const ERROR: &str = "error";

/// Why stepd could not be started, or a run not be enqueued or awaited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the builder was given makes no sense; the text says what to do.
    #[error("{0}")]
    Configuration(String),
    /// The database refused, or cannot be reached. [`DbError::sqlstate`] has stepd's own `SD0xx` codes, too.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A value cannot be written as JSON, or be read as the type that was asked for.
    #[error("{0}")]
    Json(String),
    /// The run failed.
    #[error("run {run} failed: {failure}")]
    Failed {
        /// Which run.
        run: RunId,
        /// Why.
        failure: Box<Failure>,
    },
    /// The run was cancelled.
    #[error("run {run} was cancelled")]
    Cancelled {
        /// Which run.
        run: RunId,
    },
    /// There is no such run; the transaction that enqueued it may not have been committed.
    #[error("there is no run {run}")]
    Unknown {
        /// Which run.
        run: RunId,
    },
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Database(error) => Self::Database(error),
            other => Self::Configuration(other.to_string()),
        }
    }
}

/// An error of somebody's code as a failure: transient, unless it is a [`Failure`] inside, which stays what it is.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::transient(ERROR, format!("{error:#}")))
    }
}

/// As from [`anyhow::Error`].
impl From<Box<dyn StdError + Send + Sync>> for Failure {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => *failure,
            Err(error) => anyhow::Error::from_boxed(error).into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::transient(ERROR, error.to_string())
    }
}

/// A statement of the application's own: transient, with Postgres' code as `sql_23505`, as a `sql` step would have it.
impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let state = error.as_database_error().and_then(|e| e.code().map(|c| format!("sql_{c}")));
        Self::transient(state.unwrap_or_else(|| "connection".to_owned()), error.to_string())
    }
}

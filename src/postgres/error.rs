//! What can go wrong with a private Postgres.

use std::path::PathBuf;

/// Why a private Postgres could not be had. The messages are for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The machine has no server binaries.
    #[error(
        "no Postgres server was found on this machine: install one (`apt-get install postgresql`, `dnf install \
         postgresql-server`, `brew install postgresql`), or set STEPD_POSTGRES_BIN to the folder of its binaries"
    )]
    NoBinaries,
    /// `STEPD_POSTGRES_BIN` points nowhere useful.
    #[error("STEPD_POSTGRES_BIN is {}, but there is no initdb and postgres there", .0.display())]
    BadOverride(PathBuf),
    /// Root has nobody to become.
    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody`: run stepd as an ordinary user"
    )]
    NoUser,
    /// No temporary folder with a path short enough for a socket, and open to the server's user.
    #[error("cannot make a folder for the private Postgres in {}: {error}", .path.display())]
    Folder {
        /// Where it was tried.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A program could not be run.
    #[error("cannot run {program}: {error}")]
    Run {
        /// Which one.
        program: &'static str,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A program ran and failed, or the server never became ready.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which one.
        program: &'static str,
        /// The last lines that it wrote.
        output: String,
    },
    /// A process that was to be killed is no backend of this server.
    #[error("process {0} is no backend of this Postgres")]
    NotABackend(i32),
    /// The server refused a statement.
    #[error("the private Postgres refused a statement: {0}")]
    Sql(#[from] sqlx::Error),
}

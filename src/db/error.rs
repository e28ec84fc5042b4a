//! What can go wrong with Postgres, sorted by what to do about it.

use std::fmt;

use super::migrate::Unfit;
use super::roles::NotAllowed;
use super::server::{self, Unsuitable};

/// An error of the database, sorted.
#[derive(Debug)]
pub struct DbError {
    /// What to do about it.
    pub trouble: Trouble,
    source: sqlx::Error,
}

/// What to do about a database error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is gone, or the server is not ready to write: reconnect, then read back.
    Lost,
    /// Somebody or something is in the way (lock timeout, deadlock, resources): the same again may work.
    Busy,
    /// The server lacks what it needs to write: space, or files. The same again will work when it has it, smaller parts will not before.
    Short,
    /// The server refuses the statement or its values: the same again will not work.
    Refused,
}

impl DbError {
    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        self.source.as_database_error().and_then(|e| e.code().map(|c| c.into_owned()))
    }

    /// The constraint or unique index that was broken, where that is what happened.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        self.source.as_database_error()?.constraint()
    }

    /// Are the values to blame (and not the server, the rights, or the schema)? Classes 22 (data), 23 (constraints), 54 (limits).
    #[must_use]
    pub fn blames_values(&self) -> bool {
        self.sqlstate().is_none_or(|s| ["22", "23", "54"].iter().any(|class| s.starts_with(class)))
    }

    /// No answer within the time that the server itself would have needed to give up: the connection is silently cut.
    #[must_use]
    pub fn unanswered(limit: std::time::Duration) -> Self {
        let text = format!("no answer within {limit:?}");
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)).into()
    }

    /// Why this server cannot be worked with, where that is what is wrong.
    #[must_use]
    pub fn unsuitable(&self) -> Option<Unsuitable> {
        match &self.source {
            sqlx::Error::Database(e) => server::of_refusal(e.message()),
            sqlx::Error::Configuration(e) => e.downcast_ref().cloned(),
            _ => None,
        }
    }

    /// A server that takes no writes, for now: it may be promoted, or another may be found.
    #[must_use]
    pub fn read_only(why: &str) -> Self {
        let text = format!("the server takes no writes: {why}");
        Self { trouble: Trouble::Lost, source: sqlx::Error::Configuration(text.into()) }
    }

    /// What is missing, where the server can be reached, and said so; or what keeps this process from reaching it.
    #[must_use]
    pub fn lack(&self) -> Option<&'static str> {
        if let sqlx::Error::Io(e) = &self.source {
            // EMFILE, ENFILE.
            let full = matches!(e.raw_os_error(), Some(24 | 23));
            return full.then_some("this process may open no more files, and so no connection to postgres");
        }
        if self.source.as_database_error().is_some_and(|e| no_room_for_a_session(e.message())) {
            return Some(NO_SPACE);
        }
        match self.sqlstate()?.as_str() {
            "25006" => Some("postgres takes no writes"),
            "53100" => Some(NO_SPACE),
            "53300" => Some("postgres has no connection left for this daemon"),
            _ if self.trouble == Trouble::Short => Some("postgres lacks something that it needs to write"),
            _ => None,
        }
    }

    /// A lock on a whole table is in the way. Who waits for a row is told which one, in the error's context.
    #[must_use]
    pub fn is_behind_a_table(&self) -> bool {
        let context = || {
            let pg = self.source.as_database_error()?.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
            pg.r#where()
        };
        self.sqlstate().as_deref() == Some("55P03") && context().is_none()
    }

    /// Whatever is written: it is not these values that the server refuses, and parts of them would fare no better.
    #[must_use]
    pub fn concerns_all(&self) -> bool {
        match self.trouble {
            Trouble::Short => true,
            Trouble::Busy => self.is_behind_a_table(),
            Trouble::Refused => !self.blames_values(),
            Trouble::Lost => false,
        }
    }

    /// Of a statement for many: may one of them have caused it alone? A refusal always, whatever its code: it may be a trigger's.
    #[must_use]
    pub fn is_of_one(&self) -> bool {
        match self.trouble {
            Trouble::Refused => true,
            Trouble::Busy => !self.is_behind_a_table(),
            Trouble::Lost | Trouble::Short => false,
        }
    }

    /// The session was ended, and nobody said why.
    #[must_use]
    pub fn ended() -> Self {
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the session was ended")).into()
    }

    /// The server's hint, where it gave one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let pg = self.source.as_database_error()?.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        pg.hint().map(ToOwned::to_owned)
    }

    /// The server's detail, where it gave one.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        let pg = self.source.as_database_error()?.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        pg.detail().map(ToOwned::to_owned)
    }
}

impl From<sqlx::Error> for DbError {
    fn from(source: sqlx::Error) -> Self {
        let trouble = match &source {
            sqlx::Error::Database(e) if server::of_refusal(e.message()).is_some() => Trouble::Refused,
            sqlx::Error::Database(e) if no_room_for_a_session(e.message()) => Trouble::Short,
            sqlx::Error::Database(e) => sorted(e.code().as_deref().unwrap_or("")),
            sqlx::Error::RowNotFound
            | sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. } => Trouble::Refused,
            // I/O, TLS, protocol, pool: whatever it was, this connection is not to be used again.
            _ => Trouble::Lost,
        };
        Self { trouble, source }
    }
}

impl From<Unfit> for DbError {
    fn from(unfit: Unfit) -> Self {
        // A restore comes to an end.
        let trouble = if matches!(unfit, Unfit::NotWhole { .. }) { Trouble::Lost } else { Trouble::Refused };
        Self { trouble, source: sqlx::Error::Configuration(Box::new(unfit)) }
    }
}

impl From<NotAllowed> for DbError {
    fn from(why: NotAllowed) -> Self {
        Self { trouble: Trouble::Refused, source: sqlx::Error::Configuration(Box::new(why)) }
    }
}

impl From<Unsuitable> for DbError {
    fn from(unsuitable: Unsuitable) -> Self {
        Self { trouble: Trouble::Refused, source: sqlx::Error::Configuration(Box::new(unsuitable)) }
    }
}

const NO_SPACE: &str = "postgres has no space left on its disk";

/// A new session writes a cache of the catalogue. On a full disk it cannot, and says so as an internal error (XX000).
#[must_use]
pub fn no_room_for_a_session(message: &str) -> bool {
    message.contains("could not write init file")
}

fn sorted(sqlstate: &str) -> Trouble {
    match sqlstate {
        // Shutting down, starting up, or a read-only node after a failover; or all the connections that there may be are in use.
        "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "25P03" | "53300" => Trouble::Lost,
        s if s.starts_with("08") => Trouble::Lost,
        "55P03" | "57014" => Trouble::Busy,
        // No space, no file descriptor, an error of the disk. (No memory may be the statement's own doing: a smaller one is tried.)
        "53000" | "53100" | "58030" => Trouble::Short,
        s if s.starts_with("40") || s.starts_with("53") => Trouble::Busy,
        _ => Trouble::Refused,
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            sqlx::Error::Database(e) => match server::of_refusal(e.message()) {
                Some(unsuitable) => unsuitable.fmt(f),
                None => f.write_str(e.message()),
            },
            // Said by this program, about the schema or the server.
            sqlx::Error::Configuration(e) => e.fmt(f),
            sqlx::Error::Protocol(why) => {
                write!(f, "what answers there does not speak as Postgres does ({why}): is it another server's port?")
            }
            sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                write!(f, "{e}: is Postgres running there?")
            }
            sqlx::Error::Io(e) => e.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for DbError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_going_or_cannot_write_is_a_lost_connection() {
        for state in ["57P01", "57P03", "25006", "08006", "53300"] {
            assert_eq!(sorted(state), Trouble::Lost, "{state}");
        }
    }

    #[test]
    fn what_may_pass_is_busy_and_the_rest_is_refused() {
        for state in ["40001", "40P01", "53200", "55P03", "57014"] {
            assert_eq!(sorted(state), Trouble::Busy, "{state}");
        }
        assert_eq!(sorted("53100"), Trouble::Short);
        for state in ["22021", "23505", "42P01", ""] {
            assert_eq!(sorted(state), Trouble::Refused, "{state}");
        }
    }
}

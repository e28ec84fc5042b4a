//! Errors: one clear line, the server's detail and hint, an exit code.

use crate::app::config::ConfigError;
use crate::db::server::Unsuitable;
use crate::db::{DbError, Trouble};

use super::Exit;
use super::text::clean_lines;

/// An error of the command line itself, with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

/// An error with an exit code.
pub(super) fn refused(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Refused { exit, message: message.into(), hint: None }.into()
}

/// An error with an exit code, and what to do about it.
pub(super) fn refused_with(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Refused { exit, message: message.into(), hint: Some(hint.into()) }.into()
}

/// The text of an error and its exit code; no text where the reader of stdout has gone, which is no error.
pub(super) fn told(error: &anyhow::Error) -> (String, Exit) {
    let gone = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(gone) {
        return (String::new(), Exit::Ok);
    }
    let (mut parts, mut notes, mut exit) = (Vec::new(), Vec::new(), Exit::Error);
    for e in error.chain() {
        if let Some(db) = e.downcast_ref::<DbError>() {
            parts.push(db.to_string().trim_start_matches("stepd ").to_owned());
            // The whole row, with its input: nobody asked for it, and the constraint's name says what is right.
            notes.extend(db.detail().filter(|d| !d.starts_with("Failing row contains")));
            notes.extend(hint_of(db));
            exit = exit_of(db);
            // Its source says the same again.
            break;
        }
        parts.push(e.to_string());
        if let Some(refused) = e.downcast_ref::<Refused>() {
            exit = refused.exit;
            notes.extend(refused.hint.clone().map(|h| format!("hint: {h}")));
        }
        if e.is::<ConfigError>() {
            exit = Exit::Usage;
        }
    }
    parts.dedup();
    let mut text = format!("stepd: {}", clean_lines(&parts.join(": ")));
    for note in notes {
        text.push_str("\n  ");
        text.push_str(&clean_lines(&note));
    }
    (text, exit)
}

fn hint_of(error: &DbError) -> Option<String> {
    let hint = match error.sqlstate().as_deref() {
        Some("3F000" | "42P01" | "42883") => {
            Some("this database has no stepd schema, or an older one: run stepd migrate".to_owned())
        }
        Some("42501") => {
            Some("the database role lacks the right; connect as one that may, or ask for a grant".to_owned())
        }
        Some("28P01" | "28000") => {
            Some("check user and password in the database URL, and pg_hba.conf on the server".to_owned())
        }
        Some("3D000") => Some("create it with createdb, or correct the name in the database URL".to_owned()),
        Some("25006") => Some(
            "the server takes no writes: it is a standby, or default_transaction_read_only is on; name the primary"
                .to_owned(),
        ),
        Some("53300") => Some(
            "close other sessions, or raise max_connections or the limit of the role or database; a daemon needs 8 connections"
                .to_owned(),
        ),
        Some("53100") => Some(
            "free space on the server's disk; what is queued and running waits for it, and goes on by itself".to_owned(),
        ),
        _ => error.hint(),
    };
    hint.map(|h| format!("hint: {h}"))
}

fn exit_of(error: &DbError) -> Exit {
    match error.sqlstate().as_deref() {
        Some("SD001" | "SD010" | "SD014" | "SD017") => Exit::NotFound,
        Some("SD011" | "SD012" | "SD013" | "SD020" | "42501" | "28000" | "28P01") => Exit::NotAllowed,
        Some("SD002" | "SD015" | "SD016" | "SD018" | "23514") => Exit::Usage,
        // The server is there, the database is not.
        Some("3D000") => Exit::Unreachable,
        _ if matches!(error.unsuitable(), Some(Unsuitable::Pooler | Unsuitable::Statements)) => Exit::Unreachable,
        _ if error.trouble == Trouble::Lost => Exit::Unreachable,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_stdout_is_no_error() {
        let error = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).context("writing");
        assert_eq!(told(&error), (String::new(), Exit::Ok));
    }

    #[test]
    fn an_error_names_its_exit_code_and_hint_and_escapes_what_it_quotes() {
        let error = refused_with(Exit::NotFound, "there is no run `\u{1b}[2J`", "stepd ls shows the latest");
        let (text, exit) = told(&error);
        assert_eq!(exit, Exit::NotFound);
        assert_eq!(text, "stepd: there is no run `\\x1b[2J`\n  hint: stepd ls shows the latest");
    }

    #[test]
    fn a_database_error_is_told_once() {
        let lost = DbError::from(sqlx::Error::Io(std::io::Error::other("refused")));
        let (text, exit) = told(&anyhow::Error::from(lost).context("cannot reach Postgres at db:5432"));
        assert_eq!(exit, Exit::Unreachable);
        assert_eq!(text.matches("refused").count(), 1, "{text}");
    }
}

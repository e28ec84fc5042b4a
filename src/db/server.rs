//! Is what answers at the other end a Postgres that stepd can work with?
//!
//! Asked once at every start, before anything is written. What passes by itself (a standby that is about to be promoted, no
//! connection to be had) is waited for; what does not (an old version, another encoding, a pooler in between) ends the start with
//! the next step. All of it in the simple protocol: prepared statements are among the things that a pooler breaks.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _};

use super::connect::{Database, IDLE_IN_TRANSACTION};
use super::error::DbError;

/// The oldest Postgres, as `server_version_num`: `client_connection_check_interval` and `idle_session_timeout` came with it.
const OLDEST: i32 = 140_000;

/// Why stepd cannot work with a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Unsuitable {
    #[error("this is Postgres {version}, and stepd needs 14 or newer: upgrade the server, or name another one")]
    Old { version: String },
    #[error(
        "this Postgres does not know {parameter}, which came with version 14: upgrade the server to 14 or newer, or name another one"
    )]
    Unknowing { parameter: String },
    #[error(
        "the database {name} is encoded in {encoding}, and stepd needs UTF8, for JSON may hold any character: \
         CREATE DATABASE {name}_utf8 TEMPLATE template0 ENCODING 'UTF8', and name that one"
    )]
    Encoding { name: String, encoding: String },
    #[error(
        "between stepd and Postgres stands a connection pooler ({sign}); there session locks, LISTEN and session settings do not \
         hold, by which workers know who is alive: give stepd the address of Postgres itself. Applications may go on \
         enqueuing through the pooler"
    )]
    Pooler { sign: &'static str },
}

/// What a server says of itself.
#[derive(Clone, Debug)]
struct Server {
    version: i32,
    version_text: String,
    name: String,
    encoding: String,
    /// Nothing can be written, and why.
    read_only: Option<&'static str>,
    /// Are the settings that came with the connection in force?
    settings_hold: bool,
}

/// What a refused connection says of the server: it ends before anything can be asked.
pub(super) fn of_refusal(message: &str) -> Option<Unsuitable> {
    if message.starts_with("unsupported startup parameter") {
        return Some(Unsuitable::Pooler { sign: "it refuses the settings of the session" });
    }
    let parameter = message.strip_prefix("unrecognized configuration parameter ")?.trim_matches('"');
    let ours = ["client_connection_check_interval", "idle_session_timeout", "tcp_user_timeout"].contains(&parameter);
    ours.then(|| Unsuitable::Unknowing { parameter: parameter.to_owned() })
}

impl Server {
    fn suits(&self) -> Result<(), Unsuitable> {
        if self.version < OLDEST {
            return Err(Unsuitable::Old { version: self.version_text.clone() });
        }
        if self.encoding != "UTF8" {
            return Err(Unsuitable::Encoding { name: self.name.clone(), encoding: self.encoding.clone() });
        }
        if !self.settings_hold {
            return Err(Unsuitable::Pooler { sign: "the settings of the session are not those that it asked for" });
        }
        Ok(())
    }
}

/// Can stepd work with what answers there?
///
/// # Errors
/// It cannot (`Unsuitable`), not now (`Trouble::Lost` on a server that takes no writes), or whatever the database says.
pub async fn check(db: &Database) -> Result<(), DbError> {
    let mut first = db.connect("start", &[]).await?;
    let server = ask(&mut first).await?;
    server.suits()?;
    if let Some(why) = server.read_only {
        return Err(DbError::read_only(why));
    }
    let mut second = db.connect("start", &[]).await?;
    let shared = shared_session(&mut first, &mut second).await?;
    if let Some(sign) = shared {
        return Err(Unsuitable::Pooler { sign }.into());
    }
    // What is not closed in good order is closed by the server, with a line in its log.
    let _ = first.close().await;
    let _ = second.close().await;
    Ok(())
}

async fn ask(conn: &mut PgConnection) -> Result<Server, DbError> {
    let sql = format!(
        "SELECT current_setting('server_version_num'), current_setting('server_version'), current_database()::text,
            current_setting('server_encoding'), pg_is_in_recovery()::text, current_setting('transaction_read_only'),
            current_setting('idle_in_transaction_session_timeout') = '{IDLE_IN_TRANSACTION}'"
    );
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(conn).await?;
    let text = |i: usize| row.try_get_unchecked::<String, _>(i);
    let read_only = match (text(4)?.as_str(), text(5)?.as_str()) {
        ("true", _) => Some("it is a standby: name the primary, or promote this one"),
        (_, "on") => Some("default_transaction_read_only is on for this server, database or role: turn it off"),
        _ => None,
    };
    Ok(Server {
        version: text(0)?.parse().unwrap_or(0),
        version_text: text(1)?,
        name: text(2)?,
        encoding: text(3)?,
        read_only,
        settings_hold: text(6)? == "t",
    })
}

/// Two connections must be two sessions, each always the same. A pooler in transaction mode hands the session that one has just
/// used to the other, with the lock that the first took; or it gives the first another one.
async fn shared_session(first: &mut PgConnection, second: &mut PgConnection) -> Result<Option<&'static str>, DbError> {
    // Of nobody else: drawn for this one question.
    let key = fastrand::i64(i64::MAX / 2..);
    let before = one(first, "SELECT pg_backend_pid()::text").await?;
    one(first, &format!("SELECT pg_try_advisory_lock({key})::text")).await?;
    let taken_twice = one(second, &format!("SELECT pg_try_advisory_lock({key})::text")).await? == "true";
    let after = one(first, "SELECT pg_backend_pid()::text").await?;
    if taken_twice {
        return Ok(Some("two connections have taken the same session lock"));
    }
    Ok((before != after).then_some("one connection is served by changing sessions"))
}

async fn one(conn: &mut PgConnection, sql: &str) -> Result<String, DbError> {
    let row = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_one(conn).await?;
    Ok(row.try_get_unchecked(0)?)
}

/// What sessions of browsers are signed with, beside a token's hash.
///
/// # Errors
/// Whatever the database says.
pub async fn session_key<'c>(db: impl sqlx::Executor<'c, Database = sqlx::Postgres>) -> Result<String, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/session_key.sql").fetch_one(db).await?)
}

/// Does it answer?
///
/// # Errors
/// It does not.
pub async fn answers<'c>(db: impl sqlx::Executor<'c, Database = sqlx::Postgres>) -> Result<(), DbError> {
    sqlx::query_file_scalar!("src/db/sql/answers.sql").fetch_one(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        let text = str::to_owned;
        Server {
            version: 150_018,
            version_text: text("15.18"),
            name: text("app"),
            encoding: text("UTF8"),
            read_only: None,
            settings_hold: true,
        }
    }

    #[test]
    fn a_refused_connection_tells_of_a_pooler_or_of_an_old_server() {
        let told = |message| of_refusal(message).map(|u| u.to_string()).unwrap_or_default();
        assert!(told("unsupported startup parameter: options").contains("a connection pooler"));
        assert!(told("unrecognized configuration parameter \"idle_session_timeout\"").contains("14 or newer"));
        assert_eq!(told("unrecognized configuration parameter \"app.tenant\""), "");
        assert_eq!(told("password authentication failed for user \"x\""), "");
    }

    #[test]
    fn a_server_older_than_fourteen_is_refused_with_the_version_that_is_needed() {
        assert_eq!(server().suits(), Ok(()));
        assert_eq!(Server { version: 140_000, ..server() }.suits(), Ok(()));
        let old = Server { version: 130_022, version_text: "13.22 (Debian 13.22-1)".into(), ..server() };
        assert_eq!(
            old.suits().unwrap_err().to_string(),
            "this is Postgres 13.22 (Debian 13.22-1), and stepd needs 14 or newer: upgrade the server, or name another one"
        );
    }
}

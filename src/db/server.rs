//! Is what answers at the other end a Postgres that stepd can work with?
//!
//! Asked once at every start, before anything is written. What passes by itself (a standby that is about to be promoted, no
//! connection to be had) is waited for; what does not (an old version, another encoding) ends the start with the next step. A pooler in
//! between is found out, and gone through ([`Hosts`](super::Hosts)). All of it in the simple protocol: prepared statements are among the
//! things that a pooler breaks.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _};

use super::connect::Database;
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
    /// Never told where it can be gone through.
    #[error("between stepd and Postgres stands a connection pooler")]
    Pooler,
    #[error(
        "between stepd and Postgres stands a connection pooler in statement mode, which allows no transactions: set pool_mode = \
         transaction, or give stepd the address of Postgres itself. Applications may go on enqueuing through the pooler"
    )]
    Statements,
    #[error(
        "database_direct_url leads to a connection pooler, too: it is there to lead past it, for session locks and notifications; \
         give it the address of Postgres itself, or remove it"
    )]
    Indirect,
    #[error(
        "database_direct_url and database_url lead to different databases, or one of them to a standby: workers would neither see \
         each other nor their runs; give both the same database"
    )]
    Different,
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
}

/// What a refused connection says of the server: it ends before anything can be asked.
pub(super) fn of_refusal(message: &str) -> Option<Unsuitable> {
    if message.starts_with("unsupported startup parameter") {
        return Some(Unsuitable::Pooler);
    }
    if message.contains("not allowed in statement pooling mode") {
        return Some(Unsuitable::Statements);
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
        Ok(())
    }
}

/// Can stepd work with what answers there? Afterwards it is known whether a pooler stands between.
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
    // What is not closed in good order is closed by the server, with a line in its log.
    let _ = first.close().await;
    look_between(db).await?;
    look_past(db).await
}

/// Finds out whether a pooler stands between that connecting alone has not shown: one that hands the settings on, and the session to
/// the next. And whether what stands there allows transactions.
///
/// # Errors
/// Whatever the database says; a pooler that cannot be gone through.
pub(super) async fn look_between(db: &Database) -> Result<(), DbError> {
    let mut first = db.connect("start", &[]).await?;
    if !db.hosts().are_pooled() {
        let mut second = db.connect("start", &[]).await?;
        if is_shared(&mut first, &mut second).await? {
            db.hosts().go_through_pipe()?;
        }
        let _ = second.close().await;
        if db.hosts().are_pooled() {
            first = db.connect("start", &[]).await?;
        }
    }
    // In two messages: in one, the pooler would not see that a transaction is open.
    one(&mut first, "BEGIN; SELECT ''").await?;
    sqlx::raw_sql("COMMIT").execute(&mut first).await?;
    let _ = first.close().await;
    Ok(())
}

/// Does the way past a pooler lead to the same database, where one is given?
///
/// # Errors
/// It does not, or whatever the database says.
pub(super) async fn look_past(db: &Database) -> Result<(), DbError> {
    let Some(direct) = db.direct() else { return Ok(()) };
    let mut past = db.connect_past_pooler("start", &[]).await?;
    if direct.are_pooled() {
        return Err(Unsuitable::Indirect.into());
    }
    let mut first = db.connect("start", &[]).await?;
    let same = is_the_same(&mut first, &mut past).await?;
    let _ = past.close().await;
    let _ = first.close().await;
    if same { Ok(()) } else { Err(Unsuitable::Different.into()) }
}

async fn ask(conn: &mut PgConnection) -> Result<Server, DbError> {
    let sql =
        "SELECT current_setting('server_version_num'), current_setting('server_version'), current_database()::text,
            current_setting('server_encoding'), pg_is_in_recovery()::text, current_setting('transaction_read_only')";
    let row = sqlx::raw_sql(sql).fetch_one(conn).await?;
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
    })
}

/// Two connections must be two sessions, each always the same. A pooler in transaction mode hands the session that one has just
/// used to the other, with the lock that the first took; or it gives the first another one.
async fn is_shared(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool, DbError> {
    let key = key();
    let before = one(first, "SELECT pg_backend_pid()::text").await?;
    one(first, &format!("SELECT pg_try_advisory_lock({key})::text")).await?;
    let taken_twice = one(second, &format!("SELECT pg_try_advisory_lock({key})::text")).await? == "true";
    let after = one(first, "SELECT pg_backend_pid()::text").await?;
    let shared = taken_twice || before != after;
    if shared {
        // The pooler's session lives on; the lock is not to live on with it.
        one(first, &format!("SELECT pg_advisory_unlock({key})::text")).await?;
        one(second, &format!("SELECT pg_advisory_unlock({key})::text")).await?;
    }
    Ok(shared)
}

/// What the one locks, does the other see it?
async fn is_the_same(first: &mut PgConnection, other: &mut PgConnection) -> Result<bool, DbError> {
    let key = key();
    one(first, &format!("BEGIN; SELECT pg_advisory_xact_lock({key})::text")).await?;
    let held = format!(
        "SELECT count(*)::text FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = {key}"
    );
    let seen = one(other, &held).await? == "1";
    sqlx::raw_sql("ROLLBACK").execute(first).await?;
    Ok(seen)
}

/// Of nobody else: drawn for this one question.
fn key() -> i64 {
    fastrand::i64(i64::MAX / 2..)
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
        }
    }

    #[test]
    fn a_refused_connection_tells_of_a_pooler_or_of_an_old_server() {
        let told = |message| of_refusal(message).map(|u| u.to_string()).unwrap_or_default();
        assert_eq!(of_refusal("unsupported startup parameter: options"), Some(Unsuitable::Pooler));
        assert!(told("transaction blocks not allowed in statement pooling mode").contains("pool_mode = transaction"));
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

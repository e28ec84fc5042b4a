//! One statement inside the caller's transaction.

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, PgConnection, Row as _};

use crate::model::{Failure, SqlRequest, SqlResult, code};

use super::failure;
use super::literal::{self, Form};
use super::rows;

/// The most bytes of text that a result may have: it becomes one checkpoint.
const LARGEST: usize = 16 << 20;
/// Statements that Postgres cannot prepare, but that make sense as a step. The words that end or open
/// transactions are not among them: they would part the effect from its checkpoint.
const PLAIN: [&str; 13] = [
    "alter", "analyze", "call", "comment", "create", "do", "drop", "grant", "lock", "notify", "refresh", "revoke",
    "truncate",
];

/// Runs a step's statement on a connection that is inside a transaction. After a failure the caller
/// rolls back and closes the connection: the prepared statement may still stand.
///
/// The statement is prepared by name, so that the server itself says which types the parameters have,
/// and that it is one statement only.
///
/// # Errors
/// `sql_<SQLSTATE>` for what the server refuses; `connection`, `timeout`, `too_large`, `not_storable`
/// (a NUL byte), and `invalid_params` (a wrong number of parameters, two columns of one name).
pub async fn execute(connection: &mut PgConnection, request: &SqlRequest) -> Result<SqlResult, Failure> {
    if request.sql.contains('\0') {
        return Err(Failure::permanent(code::INVALID_PARAMS, "the text of the statement holds a NUL byte"));
    }
    if request.params.is_empty() && PLAIN.contains(&first_word(&request.sql).as_str()) {
        return plain(connection, &request.sql).await;
    }
    let prepare = format!("PREPARE stepd_step AS {}", request.sql);
    // The extended protocol takes one statement and no more; the simple one would run a second, too.
    sqlx::query(AssertSqlSafe(prepare)).persistent(false).execute(&mut *connection).await.map_err(|e| failure(&e))?;
    let call = call(connection, request).await?;
    fetch(connection, call).await
}

/// A statement without parameters and without a result worth having.
async fn plain(connection: &mut PgConnection, sql: &str) -> Result<SqlResult, Failure> {
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false).execute(connection).await;
    let done = done.map_err(|error| failure(&error))?;
    Ok(SqlResult { rows: Vec::new(), row_count: done.rows_affected() })
}

/// The first word, in lower case, after blanks and comments.
fn first_word(sql: &str) -> String {
    let mut rest = sql.trim_start();
    loop {
        if let Some(line) = rest.strip_prefix("--") {
            rest = line.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if let Some(block) = rest.strip_prefix("/*") {
            rest = block.split_once("*/").map_or("", |(_, after)| after).trim_start();
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return rest[..end].to_ascii_lowercase();
        }
    }
}

/// `EXECUTE stepd_step('…', …)`.
async fn call(connection: &mut PgConnection, request: &SqlRequest) -> Result<String, Failure> {
    let types = sqlx::query(include_str!("../sql/step_parameter_types.sql"))
        .persistent(false)
        .try_map(|row: sqlx::postgres::PgRow| {
            Ok(Form::of(row.try_get("name")?, row.try_get("is_array")?, row.try_get("element")?))
        })
        .fetch_all(connection)
        .await
        .map_err(|error| failure(&error))?;
    if types.len() != request.params.len() {
        let (has, given) = (types.len(), request.params.len());
        let message = format!("the statement has {has} parameters, but `params` has {given} values");
        return Err(Failure::permanent(code::INVALID_PARAMS, message));
    }
    let mut call = String::from("EXECUTE stepd_step");
    for (n, (value, form)) in request.params.iter().zip(types).enumerate() {
        call.push(if n == 0 { '(' } else { ',' });
        literal::push(&mut call, value, form).map_err(|literal::HasNul| {
            let message = format!("parameter ${} holds a NUL byte, which no text of Postgres can", n + 1);
            Failure::permanent(code::NOT_STORABLE, message)
        })?;
    }
    if !request.params.is_empty() {
        call.push(')');
    }
    Ok(call)
}

async fn fetch(connection: &mut PgConnection, call: String) -> Result<SqlResult, Failure> {
    let mut result = SqlResult::default();
    let mut size = 0;
    let mut ended = false;
    // The simple protocol gives every value as text. The second statement saves a round trip.
    let text = format!("{call}; DEALLOCATE stepd_step");
    let mut stream = sqlx::raw_sql(AssertSqlSafe(text)).fetch_many(connection);
    while let Some(part) = stream.try_next().await.map_err(|error| failure(&error))? {
        match part {
            Either::Right(row) => {
                let (object, bytes) = rows::object(&row)?;
                size += bytes;
                if size > LARGEST {
                    let message = format!("the rows hold more than {LARGEST} bytes: select less, or aggregate");
                    return Err(Failure::permanent(code::TOO_LARGE, message));
                }
                result.rows.push(object);
            }
            Either::Left(done) if !ended => {
                result.row_count = done.rows_affected();
                ended = true;
            }
            Either::Left(_) => {}
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::first_word;

    #[test]
    fn the_first_word_stands_after_blanks_and_comments() {
        assert_eq!(first_word("  -- a\n /* b */\n REFRESH materialized view x"), "refresh");
        assert_eq!(first_word("select(1)"), "select");
        assert_eq!(first_word("/* never closed"), "");
    }
}

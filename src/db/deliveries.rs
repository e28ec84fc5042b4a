//! Deliveries of webhooks: each has its effect once, however often it is sent.

use sqlx::{PgConnection, Postgres, Transaction};

use super::error::DbError;

/// Notes that a delivery has come, as a part of a transaction: true; false where it has come before.
///
/// # Errors
/// The name is too long; whatever else the database says.
pub async fn take(tx: &mut Transaction<'_, Postgres>, hook: &str, delivery: &str) -> Result<bool, DbError> {
    let done = sqlx::query_file!("src/db/sql/delivery_take.sql", hook, delivery).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// How it was answered, as JSON text.
///
/// # Errors
/// Whatever the database says.
pub async fn answer(conn: &mut PgConnection, hook: &str, delivery: &str) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_file_scalar!("src/db/sql/delivery_answer.sql", hook, delivery).fetch_optional(conn).await?)
}

/// Keeps how it is answered.
///
/// # Errors
/// Whatever the database says.
pub async fn answered(
    tx: &mut Transaction<'_, Postgres>,
    hook: &str,
    delivery: &str,
    answer: &str,
) -> Result<(), DbError> {
    sqlx::query_file!("src/db/sql/delivery_answered.sql", hook, delivery, answer).execute(&mut **tx).await?;
    Ok(())
}

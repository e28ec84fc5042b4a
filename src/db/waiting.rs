//! What waits, as people look at it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;
use super::json;

/// A step that waits.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct WaitingLine {
    pub run: Uuid,
    pub key: String,
    /// `approval`, `event`, `sleep` or `child`.
    pub waits_for: String,
    pub workflow: Option<String>,
    pub since: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    /// The question of an approval.
    pub prompt: Option<String>,
    /// The answer that is asked for with it, as a JSON Schema; null: a yes or a no will do.
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub schema: Option<String>,
    /// The event's or signal's name.
    pub event: Option<String>,
    /// What its payload must contain.
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub r#match: Option<String>,
}

/// Steps that wait, the longest waiting first.
///
/// # Errors
/// Whatever the database says.
pub async fn list<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<Vec<WaitingLine>, DbError> {
    Ok(sqlx::query_file_as!(WaitingLine, "src/db/sql/waiting_list.sql").fetch_all(db).await?)
}

//! One step of a run, and its attempts.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;
use super::json;
use super::runs::StepLine;

/// One try of a step.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct AttemptLine {
    /// The step's.
    pub key: String,
    /// Which one, from 1; begins anew after an operator's retry.
    pub attempt: i32,
    /// `failed`; of the last one the state of its step.
    pub state: String,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// `transient`, `permanent`: is it tried again?
    pub error_class: Option<String>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    #[serde(serialize_with = "json::text_or_null")]
    #[schema(value_type = Option<Value>)]
    pub error: Option<String>,
    /// The pause before the next one.
    pub retry_in_ms: Option<i64>,
    pub epoch: Option<i32>,
    /// Calls of models, those included that failed.
    pub calls: Option<i64>,
    pub tokens_in: Option<i64>,
    pub tokens_out: Option<i64>,
    pub cost: Option<f64>,
}

/// One step, with its output.
///
/// # Errors
/// Whatever the database says.
pub async fn one<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    key: &str,
) -> Result<Option<StepLine>, DbError> {
    Ok(some(db, run, &[key.to_owned()], true).await?.pop())
}

/// Some steps by their keys, in the order of their start, without or with their outputs. A key that is none is left out.
///
/// # Errors
/// Whatever the database says.
pub async fn some<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    keys: &[String],
    outputs: bool,
) -> Result<Vec<StepLine>, DbError> {
    Ok(sqlx::query_file_as!(StepLine, "src/db/sql/run_steps_of.sql", run, keys, outputs).fetch_all(db).await?)
}

/// The attempts of a run's steps, or of one of them, in their order.
///
/// # Errors
/// Whatever the database says.
pub async fn attempts<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    key: Option<&str>,
) -> Result<Vec<AttemptLine>, DbError> {
    Ok(sqlx::query_file_as!(AttemptLine, "src/db/sql/step_attempts.sql", run, key as Option<&str>)
        .fetch_all(db)
        .await?)
}

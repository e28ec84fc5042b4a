//! What a run knew at one of its steps.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{DbError, definitions, runs};
use crate::definition::{self, Past, StateAt};

/// The state at a step; `None`: there is no such run, or the step has not begun.
///
/// # Errors
/// Whatever the database says.
pub async fn state_at(conn: &mut PgConnection, run: Uuid, key: &str) -> Result<Option<StateAt>, DbError> {
    let Some(detail) = runs::detail(&mut *conn, run).await? else { return Ok(None) };
    let body = definitions::of_run(&mut *conn, run).await?.and_then(|stored| stored.body);
    let definition = body.and_then(|body| definition::load(&detail.workflow, &body).ok());
    let steps: Vec<Past> = runs::steps(conn, run, &runs::StepsWanted { outputs: true, ..runs::StepsWanted::default() })
        .await?
        .into_iter()
        .map(past)
        .collect();
    let document = definition.as_ref().and_then(|d| d.document.as_deref());
    Ok(definition::state_at(document, &read(&detail.input), &steps, key))
}

fn past(step: runs::StepLine) -> Past {
    Past {
        key: step.key,
        state: step.state,
        output: step.output.as_deref().map(read),
        started_at: step.started_at,
        ended_at: step.ended_at,
    }
}

/// What is nested deeper than a reader goes stands there as its text.
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

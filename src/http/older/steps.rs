//! One step of an execution: what it was given, what it made of it, and every try.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::older;
use crate::db::step::{self, AttemptLine};
use crate::definition::StateAt;
use crate::definition::afu9::HOLD;
use crate::services::known;

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::refused::{Refused, StepAt, Who};
use super::shapes::{StepRow, Time};
use super::told::{Depth, tell};

/// A step with the state around it.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderStepState)]
pub(super) struct StepState {
    #[serde(flatten)]
    row: StepRow,
    /// The context (of a native workflow: the input and the outputs) when the step began.
    #[schema(value_type = Value)]
    context_before: Value,
    /// … when it had ended; null: it has not.
    #[schema(value_type = Option<Value>)]
    context_after: Option<Value>,
    attempts: Vec<Attempt>,
}

/// A try of it.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderAttempt)]
struct Attempt {
    attempt: i32,
    status: String,
    started_at: Option<Time>,
    completed_at: Option<Time>,
    error_class: Option<String>,
    error_code: Option<String>,
    error: Option<String>,
}

impl From<AttemptLine> for Attempt {
    fn from(line: AttemptLine) -> Self {
        Self {
            attempt: line.attempt,
            status: line.state,
            started_at: line.started_at.map(Time),
            completed_at: line.ended_at.map(Time),
            error_class: line.error_class,
            error_code: line.error_code,
            error: line.error_message,
        }
    }
}

/// One step of an execution, by its index or its name, with the state before and after it and its attempts. The older system had none
/// such.
#[utoipa::path(get, path = "/executions/{id}/steps/{step}", tag = "older",
    params(("id" = Uuid, Path, description = "The execution: a run."), ("step" = String, Path, description = "Its `step_index`, or its name.")),
    responses((status = 200, body = StepState), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn one(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    StepAt(id, wanted): StepAt,
) -> Result<Json<StepState>, Refused> {
    caller.needs(Scope::Read)?;
    let run = older::execution(&site.readers, id, HOLD).await?.ok_or_else(Refused::no_execution)?;
    let told = tell(&site, vec![run], Depth::Steps).await?.pop().ok_or_else(Refused::no_execution)?;
    let fits = |s: &super::shapes::Step| wanted.parse() == Ok(s.index) || s.name == wanted;
    let step = told.steps.into_iter().find(fits).ok_or_else(Refused::no_step)?;
    let key = step.id.split_once('/').map_or_else(|| step.name.clone(), |(_, key)| key.to_owned());
    let mut conn = site.readers.acquire().await.map_err(Problem::from)?;
    let state = known::state_at(&mut conn, id, &key).await?.ok_or_else(Refused::no_step)?;
    let StateAt { before, after, .. } = state;
    let attempts = step::attempts(&mut *conn, id, Some(&key)).await?.into_iter().map(Attempt::from).collect();
    Ok(Json(StepState { row: StepRow::of(id, step), context_before: before, context_after: after, attempts }))
}

//! One step of a run with all that is known of it, and what happened to a run beside its steps' starts and ends: what a timeline is drawn from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::runs::{self, HistoryLine, StepLine};
use crate::db::step::{self, AttemptLine};
use crate::definition::StateAt;
use crate::services::known;

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::runs::{Lines, paged};
use super::things::{Asked, At, Known};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(one)).routes(routes!(attempts)).routes(routes!(state)).routes(routes!(events))
}

/// Which step.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// The step's key: `docs[12].text`.
    key: String,
}

impl Known for Which {
    const KEYS: &'static [&'static str] = &["key"];
}

/// A step with its output and its attempts.
#[derive(Serialize, ToSchema)]
struct Whole {
    step: StepLine,
    attempts: Vec<AttemptLine>,
}

/// One step of a run, with its output and its attempts.
#[utoipa::path(get, path = "/runs/{id}/step", params(("id" = Uuid, Path, description = "The run."), Which), tag = "runs",
    responses((status = 200, body = Whole), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn one(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(which): Asked<Which>,
) -> Result<Json<Whole>, Problem> {
    caller.needs(Scope::Read)?;
    let Some(step) = step::one(&site.readers, id, &which.key).await? else {
        return Err(no_step(id, &which.key));
    };
    Ok(Json(Whole { step, attempts: step::attempts(&site.readers, id, Some(&which.key)).await? }))
}

/// Every attempt of a run.
#[derive(Serialize, ToSchema)]
struct Attempts {
    attempts: Vec<AttemptLine>,
}

/// Every attempt of every step of a run, in the order of their ends: those that failed with the failure's class, code and message.
#[utoipa::path(get, path = "/runs/{id}/attempts", params(("id" = Uuid, Path, description = "The run.")), tag = "runs",
    responses((status = 200, body = Attempts), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn attempts(State(site): State<Arc<Site>>, caller: Caller, At(id): At<Uuid>) -> Result<Json<Attempts>, Problem> {
    caller.needs(Scope::Read)?;
    let attempts = step::attempts(&site.readers, id, None).await?;
    if attempts.is_empty() && runs::progress(&site.readers, id, false).await?.is_none() {
        return Err(super::runs::unknown(id));
    }
    Ok(Json(Attempts { attempts }))
}

/// What a run knew at a step.
#[derive(Serialize, ToSchema)]
struct KnownAt {
    key: String,
    /// What it was called with; null where that is not recorded.
    #[schema(value_type = Option<Value>)]
    given: Option<Value>,
    /// The input, and the outputs of the steps that had ended when it began; of a document its context.
    #[schema(value_type = Value)]
    before: Value,
    /// … when it had ended; null: it has not.
    #[schema(value_type = Option<Value>)]
    after: Option<Value>,
}

/// What a run knew when one of its steps began, and when it had ended.
#[utoipa::path(get, path = "/runs/{id}/state", params(("id" = Uuid, Path, description = "The run."), Which), tag = "runs",
    responses((status = 200, body = KnownAt), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn state(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(which): Asked<Which>,
) -> Result<Json<KnownAt>, Problem> {
    caller.needs(Scope::Read)?;
    let mut conn = site.readers.acquire().await?;
    let Some(StateAt { given, before, after }) = known::state_at(&mut conn, id, &which.key).await? else {
        return Err(no_step(id, &which.key));
    };
    Ok(Json(KnownAt { key: which.key, given, before, after }))
}

fn no_step(run: Uuid, key: &str) -> Problem {
    Problem::not_found(format!("run {run} has no step `{key}`")).hint("a step is there from the moment it starts")
}

/// What happened to a run.
#[derive(Serialize, ToSchema)]
struct Events {
    events: Vec<HistoryLine>,
    /// The cursor of the next page; null: there is none.
    next: Option<i64>,
}

/// What happened to a run beside its steps' starts and ends: failed attempts, crashes, resumes, what people did.
#[utoipa::path(get, path = "/runs/{id}/events", params(("id" = Uuid, Path, description = "The run."), Lines), tag = "runs",
    responses((status = 200, body = Events), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn events(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(lines): Asked<Lines>,
) -> Result<Json<Events>, Problem> {
    caller.needs(Scope::Read)?;
    let (limit, cursor, newest) = lines.checked()?;
    let events = runs::history_page(&site.readers, id, cursor, Some(i64::from(limit) + 1), newest).await?;
    if events.is_empty() && runs::progress(&site.readers, id, false).await?.is_none() {
        return Err(super::runs::unknown(id));
    }
    let (events, next) = paged(events, limit);
    Ok(Json(Events { events, next }))
}

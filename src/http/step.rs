//! One step of a run with all that is known of it, and what happened to a run beside its steps' starts and ends: what a timeline is drawn from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::runs::{self, HistoryLine, StepLine};
use crate::db::step::{self, AttemptLine};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, At, Known};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(one)).routes(routes!(events))
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
        return Err(Problem::not_found(format!("run {id} has no step `{}`", which.key))
            .hint("a step is there from the moment it starts"));
    };
    Ok(Json(Whole { step, attempts: step::attempts(&site.readers, id, &which.key).await? }))
}

/// What happened to a run.
#[derive(Serialize, ToSchema)]
struct Events {
    events: Vec<HistoryLine>,
}

/// What happened to a run beside its steps' starts and ends: failed attempts, crashes, resumes, what people did.
#[utoipa::path(get, path = "/runs/{id}/events", params(("id" = Uuid, Path, description = "The run.")), tag = "runs",
    responses((status = 200, body = Events), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn events(State(site): State<Arc<Site>>, caller: Caller, At(id): At<Uuid>) -> Result<Json<Events>, Problem> {
    caller.needs(Scope::Read)?;
    let events = runs::history(&site.readers, id).await?;
    if events.is_empty() && runs::progress(&site.readers, id, false).await?.is_none() {
        return Err(super::runs::unknown(id));
    }
    Ok(Json(Events { events }))
}

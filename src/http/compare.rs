//! Two runs side by side.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::compare::{self, Comparison};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, Known};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(two))
}

/// Which two runs.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Two {
    /// The first.
    a: Uuid,
    /// The second.
    b: Uuid,
}

impl Known for Two {
    const KEYS: &'static [&'static str] = &["a", "b"];
}

/// Two runs side by side: the first step that differs, what differs in each, in input and output; how long they took, and at what cost.
#[utoipa::path(get, path = "/compare", params(Two), tag = "runs",
    responses((status = 200, body = Comparison), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn two(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Asked(two): Asked<Two>,
) -> Result<Json<Comparison>, Problem> {
    caller.needs(Scope::Read)?;
    let mut conn = site.readers.acquire().await.map_err(DbError::from)?;
    compare::compare(&mut conn, two.a, two.b).await?.map(Json).map_err(super::runs::unknown)
}

//! What models have cost.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::db::costs::{self, By, Span, Spent};
use crate::db::operate;

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, Known};

/// Days that are looked back where nothing else is said, today included.
const DAYS: u64 = 30;

/// The years that have days of four digits.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=9998;

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(costs))
}

/// By what costs are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Sum {
    #[default]
    Day,
    Workflow,
    Key,
    Label,
}

/// Which costs, and by what they are summed.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Which {
    /// By `day` (on which the runs ended, by UTC), `workflow`, concurrency `key`, or `label`: of the runs that are there, by when they were
    /// enqueued, live ones included. The others count ended runs, also those that have been pruned.
    #[param(inline)]
    by: Sum,
    /// The label by whose values is summed.
    label: Option<String>,
    /// Of this workflow alone.
    workflow: Option<String>,
    /// From this day on; 30 days where it is not said.
    since: Option<NaiveDate>,
    /// To this day; it counts.
    until: Option<NaiveDate>,
}

impl Known for Which {
    const KEYS: &'static [&'static str] = &["by", "label", "workflow", "since", "until"];
}

/// What models have cost.
#[derive(Serialize, ToSchema)]
struct Costs {
    by: Sum,
    since: NaiveDate,
    until: NaiveDate,
    /// All together.
    total: Spent,
    /// The dearest first, days the latest first; a thousand at the most.
    costs: Vec<Spent>,
}

/// Tokens, calls and cost of models, by day, workflow, concurrency key or label. A few seconds behind the runs.
#[utoipa::path(get, path = "/costs", params(Which), tag = "runs",
    responses((status = 200, body = Costs), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn costs(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Json<Costs>, Problem> {
    use chrono::Datelike as _;
    caller.needs(Scope::Read)?;
    let by = match (which.by, which.label) {
        (Sum::Label, Some(label)) => By::Label(label),
        (Sum::Label, None) => return Err(Problem::bad("by=label needs a label").hint("as in by=label&label=team")),
        (_, Some(_)) => return Err(Problem::bad("a label is for by=label alone")),
        (Sum::Day, None) => By::Day,
        (Sum::Workflow, None) => By::Workflow,
        (Sum::Key, None) => By::Key,
    };
    let until = match which.until {
        Some(until) => until,
        None => operate::now(&site.readers).await?.date_naive(),
    };
    let since = which.since.unwrap_or_else(|| until.checked_sub_days(Days::new(DAYS - 1)).unwrap_or(until));
    if !(YEARS.contains(&since.year()) && YEARS.contains(&until.year())) {
        return Err(Problem::bad("a day lies between 1970 and 9998"));
    }
    let span = Span { since, until, workflow: which.workflow };
    let (total, each) = costs::costs(&site.readers, &by, &span).await?;
    Ok(Json(Costs { by: which.by, since, until, total, costs: each }))
}

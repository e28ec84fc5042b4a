//! How it all stands, and how it went.
//!
//! What is counted is counted once for everybody who looks, and not again before it has rested: so an open dashboard costs the
//! database the same as a hundred of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, get};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::db::analytics::{self, FailedAt, Went};
use crate::db::operate::{self, StateCount};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, Known};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(stats)).routes(routes!(analytics))
}

/// The same under another path.
pub(super) fn of_all() -> MethodRouter<Arc<Site>> {
    get(analytics)
}

/// An answer is given again for this long; one that was dear for [`DEAR`] times as long as it took.
const RESTS: Duration = Duration::from_secs(2);
const DEAR: u32 = 30;

struct Told<T> {
    at: Instant,
    rests: Duration,
    what: T,
}

/// Answers that are still good, and one question at a time.
pub(super) struct Kept {
    states: Mutex<Option<Told<Stats>>>,
    analytics: Mutex<HashMap<Span, Told<Analytics>>>,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { states: Mutex::new(None), analytics: Mutex::new(HashMap::new()) }
    }
}

impl<T: Clone> Told<T> {
    fn new(began: Instant, what: T) -> Self {
        Self { at: Instant::now(), rests: RESTS.max(began.elapsed() * DEAR), what }
    }

    fn still(&self) -> Option<T> {
        (self.at.elapsed() < self.rests).then(|| self.what.clone())
    }
}

/// How it all stands.
#[derive(Clone, Serialize, ToSchema)]
struct Stats {
    /// Runs by state.
    states: Vec<StateCount>,
}

/// How many runs are in each state. The answer is up to a few seconds old.
#[utoipa::path(get, path = "/stats", tag = "runs",
    responses((status = 200, body = Stats), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn stats(State(site): State<Arc<Site>>, caller: Caller) -> Result<Json<Stats>, Problem> {
    caller.needs(Scope::Read)?;
    let mut kept = site.kept.states.lock().await;
    if let Some(stats) = kept.as_ref().and_then(Told::still) {
        return Ok(Json(stats));
    }
    let began = Instant::now();
    let stats = Stats { states: operate::states(&site.readers).await? };
    *kept = Some(Told::new(began, stats.clone()));
    Ok(Json(stats))
}

/// How far back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, ToSchema)]
enum Span {
    #[default]
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
}

impl Span {
    fn back(self) -> TimeDelta {
        match self {
            Self::Hour => TimeDelta::hours(1),
            Self::Day => TimeDelta::days(1),
            Self::Week => TimeDelta::days(7),
            Self::Month => TimeDelta::days(30),
        }
    }

    /// The stretches in which it is shown: 7 to 60 of them.
    fn stretch_seconds(self) -> i32 {
        match self {
            Self::Hour => 60,
            Self::Day => 30 * 60,
            Self::Week | Self::Month => 24 * 3600,
        }
    }

    /// Is it told by the day?
    fn is_of_days(self) -> bool {
        matches!(self, Self::Week | Self::Month)
    }
}

/// Over which span.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Over {
    /// Runs that were enqueued in the last hour (`1h`) or day (`24h`), or that ended in the last week (`7d`) or month (`30d`), by days.
    #[param(inline)]
    span: Span,
}

impl Known for Over {
    const KEYS: &'static [&'static str] = &["span"];
}

/// How the runs of a span went. Where they are very many in a day or less, the newest of them are counted, and `from` says how far back
/// they reach. A week and a month are read from the daily figures, which count all, also those that have been removed.
#[derive(Clone, Serialize, ToSchema)]
struct Analytics {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// Does that reach back over the whole span?
    whole: bool,
    /// How long a stretch is, in seconds.
    stretch_seconds: i32,
    /// By workflow and stretch, by workflow, by stretch, and in all.
    went: Vec<Went>,
    /// Where they failed, the most frequent first.
    failures: Vec<FailedAt>,
}

/// How the ended runs of a span went: counts, times from the first claim, failures by step and code. The answer is up to a few seconds old.
#[utoipa::path(get, path = "/analytics", params(Over), tag = "runs",
    responses((status = 200, body = Analytics), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn analytics(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Asked(over): Asked<Over>,
) -> Result<Json<Analytics>, Problem> {
    caller.needs(Scope::Read)?;
    let mut kept = site.kept.analytics.lock().await;
    if let Some(answer) = kept.get(&over.span).and_then(Told::still) {
        return Ok(Json(answer));
    }
    let began = Instant::now();
    let to = operate::now(&site.readers).await?;
    let since = to - over.span.back();
    let went = match over.span.is_of_days() {
        true => analytics::went_by_day(&site.readers, since).await?,
        false => analytics::went(&site.readers, since, over.span.stretch_seconds()).await?,
    };
    let all = went.iter().find(|w| w.workflow.is_none() && w.stretch.is_none());
    let whole = over.span.is_of_days() || all.is_none_or(|all| all.runs < analytics::SAMPLE);
    let from = all.filter(|_| !whole).map_or(since, |all| all.oldest);
    let failures = match over.span.is_of_days() {
        true => analytics::failures_by_day(&site.readers, since).await?,
        false => analytics::failures(&site.readers, since).await?,
    };
    let answer = Analytics { from, to, whole, stretch_seconds: over.span.stretch_seconds(), went, failures };
    kept.insert(over.span, Told::new(began, answer.clone()));
    Ok(Json(answer))
}

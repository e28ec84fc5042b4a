//! A run over time: what a timeline is drawn from. Of many steps only what they come to, until somebody wants to see them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, get};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::runs::{HistoryLine, StepLine};
use crate::db::timeline;
use crate::db::{runs, step};
use crate::model::StepState;
use crate::rules::timeline::{Fold, Place, Stretch, Sums, Wanted, level, sums};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, At, Known};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(one)).routes(routes!(steps))
}

/// The same under another path.
pub(super) fn of_run() -> MethodRouter<Arc<Site>> {
    get(one)
}

/// Nodes of a level, and steps of a page, at the most; and where nothing is said.
const MOST: u32 = 1_000;
const PAGE: u32 = 200;

/// Events of a timeline, at the most: the newest.
const EVENTS: i64 = 5_000;

/// A place among steps, as a page's cursor has it.
fn cursor(place: &Place) -> String {
    format!("{}.{}", place.0, place.1)
}

fn place(text: &str) -> Result<Place, Problem> {
    let wrong = || Problem::bad(format!("`{text}` is no cursor of steps")).hint("send the `next` of the page before");
    let (seq, key) = text.split_once('.').ok_or_else(wrong)?;
    Ok((seq.parse().map_err(|_| wrong())?, key.to_owned()))
}

fn sized(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(PAGE);
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad(format!("limit is {limit}; a page has 1 to {MOST} steps")))
}

fn state(word: &str) -> Result<StepState, Problem> {
    let all = || StepState::ALL.map(StepState::as_str).join(", ");
    let unknown = || Problem::bad(format!("there is no step state `{word}`")).hint(format!("write one of: {}", all()));
    StepState::from_word(word).ok_or_else(unknown)
}

/// Which nodes of the tree of a run's steps.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Nodes {
    /// Those right under this one: `docs` for the items of a map, `docs[12]` for the steps of one; empty: those at the top.
    under: String,
    /// Only those with a step in this state.
    state: Option<String>,
    /// Nodes of a page, 1 to 1,000; 200 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

impl Known for Nodes {
    const KEYS: &'static [&'static str] = &["under", "state", "limit", "cursor"];
}

/// A run over time: one level of the tree of its steps.
#[derive(Serialize, ToSchema)]
struct Timeline {
    /// The server's time.
    now: DateTime<Utc>,
    /// Where the run's time went.
    sums: Sums,
    /// How many steps the run has begun.
    all: usize,
    /// Steps that are told one by one, in the order of their start.
    steps: Vec<StepLine>,
    /// Nodes with more steps than that; read `under` them to see what they hold.
    folds: Vec<Fold>,
    /// What happened to the run beside its steps' starts and ends, with the failed attempts of `steps`; the newest 5,000.
    events: Vec<HistoryLine>,
    /// The cursor of the next page; null: there is none.
    next: Option<String>,
    /// How many nodes come after this page.
    left: usize,
}

/// A run over time. Nodes with few steps come with all of them; maps with many come folded, as counts by state and the number at work over
/// time, and are read `under`. `sums` says where the time went: its parts add up to `total_us`.
#[utoipa::path(get, path = "/runs/{id}/timeline", params(("id" = Uuid, Path, description = "The run."), Nodes), tag = "runs",
    responses((status = 200, body = Timeline), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn one(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(nodes): Asked<Nodes>,
) -> Result<Json<Timeline>, Problem> {
    caller.needs(Scope::Read)?;
    let wanted = Wanted {
        under: &nodes.under,
        state: nodes.state.as_deref().map(state).transpose()?,
        after: nodes.cursor.as_deref().map(place).transpose()?,
        limit: sized(nodes.limit)? as usize,
    };
    let times = timeline::times(&site.readers, id).await?.ok_or_else(|| super::runs::unknown(id))?;
    let parts = timeline::parts(&site.readers, id).await?;
    let tries = timeline::tries(&site.readers, id).await?;
    let level = level(&parts, &tries, &wanted, times.now);
    let events = timeline::events(&site.readers, id, &level.whole, EVENTS).await?;
    let until = times.ended_at.unwrap_or(times.now);
    let sums = sums(&parts, &stretches(&events, until), (times.created_at, times.started_at, until));
    Ok(Json(Timeline {
        now: times.now,
        sums,
        all: parts.len(),
        steps: step::some(&site.readers, id, &level.whole, false).await?,
        folds: level.folds,
        events,
        next: level.next.as_ref().map(cursor),
        left: level.left,
    }))
}

/// The stretches of a run's time in which no worker had it, and it waited for none of its steps.
fn stretches(events: &[HistoryLine], until: DateTime<Utc>) -> Vec<(Stretch, DateTime<Utc>, DateTime<Utc>)> {
    let opens = |event: &str| match event {
        "crashed" | "taken over" => Some((Stretch::Lost, &["resumed", "retried"][..])),
        "resume scheduled" => Some((Stretch::Resuming, &["resumed", "retried"][..])),
        "paused" => Some((Stretch::Paused, &["unpaused"][..])),
        _ => None,
    };
    let one = |(i, line): (usize, &HistoryLine)| {
        let (what, ends) = opens(&line.event)?;
        let end = events[i..].iter().find(|later| ends.contains(&later.event.as_str()));
        Some((what, line.at, end.map_or(until, |end| end.at)))
    };
    events.iter().enumerate().filter_map(one).collect()
}

/// What is wanted of the steps.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Which {
    /// With their outputs.
    outputs: bool,
    /// In these states, separated by commas.
    state: Option<String>,
    /// Steps of a page, 1 to 1,000; 200 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

impl Known for Which {
    const KEYS: &'static [&'static str] = &["outputs", "state", "limit", "cursor"];
}

/// A page of a run's steps, in the order of their start.
#[derive(Serialize, ToSchema)]
struct Steps {
    steps: Vec<StepLine>,
    /// The cursor of the next page; null: there is none.
    next: Option<String>,
}

/// A run's steps, in the order of their start.
#[utoipa::path(get, path = "/runs/{id}/steps", params(("id" = Uuid, Path, description = "The run."), Which), tag = "runs",
    responses((status = 200, body = Steps), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn steps(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(which): Asked<Which>,
) -> Result<Json<Steps>, Problem> {
    caller.needs(Scope::Read)?;
    let limit = sized(which.limit)?;
    let words = which.state.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty());
    let wanted = runs::StepsWanted {
        outputs: which.outputs,
        states: words.map(|word| Ok(state(word)?.as_str().to_owned())).collect::<Result<_, Problem>>()?,
        after: which.cursor.as_deref().map(place).transpose()?,
        limit: Some(i64::from(limit) + 1),
    };
    let mut steps = runs::steps(&site.readers, id, &wanted).await?;
    if steps.is_empty() && runs::progress(&site.readers, id, false).await?.is_none() {
        return Err(super::runs::unknown(id));
    }
    let more = steps.len() > limit as usize;
    steps.truncate(limit as usize);
    let next = steps.last().filter(|_| more).map(|last| cursor(&(last.seq, last.key.clone())));
    Ok(Json(Steps { steps, next }))
}

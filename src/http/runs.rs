//! Runs: list, look at, enqueue.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::actions::{self, NewJob};
use crate::db::definitions;
use crate::db::runs::{self, Filter, HistoryLine, RunDetail, RunLine};
use crate::definition;
use crate::model::{Payload, RunState, code};
use crate::telemetry::traces::ids;

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, AskedBoth, At, Given, Known, acting_as};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get)).routes(routes!(history))
}

/// Runs of a page, at the most.
const PAGE: u32 = 500;

/// Which runs.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// In these states, separated by commas.
    state: Option<String>,
    /// Of these workflows, separated by commas.
    workflow: Option<String>,
    /// In these queues, separated by commas.
    queue: Option<String>,
    /// With these labels: `key=value`, separated by commas.
    label: Option<String>,
    /// Of this session.
    session: Option<String>,
    /// Enqueued at this time or later.
    since: Option<DateTime<Utc>>,
}

impl Known for Which {
    const KEYS: &'static [&'static str] = &["state", "workflow", "queue", "label", "session", "since"];
}

impl Which {
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        let list = |text: &Option<String>| -> Vec<String> {
            let parts = text.iter().flat_map(|t| t.split(','));
            parts.map(str::trim).filter(|p| !p.is_empty()).map(ToOwned::to_owned).collect()
        };
        let states = list(&self.state);
        if let Some(unknown) = states.iter().find(|s| RunState::from_word(s).is_none()) {
            let all = RunState::ALL.map(RunState::as_str).join(", ");
            return Err(Problem::bad(format!("there is no state `{unknown}`")).hint(format!("write one of: {all}")));
        }
        let label = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Problem::bad(format!("`{text}` is no label")).hint("write key=value")),
        };
        let labels = list(&self.label).iter().map(label).collect::<Result<_, _>>()?;
        let (workflows, queues) = (list(&self.workflow), list(&self.queue));
        Ok(Filter { states, workflows, queues, labels, session: self.session.clone(), since: self.since })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filter().is_ok_and(|f| f == Filter::default())
    }
}

/// Which page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Runs of a page, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<Uuid>,
}

impl Known for Page {
    const KEYS: &'static [&'static str] = &["limit", "cursor"];
}

/// A page of runs, newest first.
#[derive(Serialize, ToSchema)]
struct Runs {
    runs: Vec<RunLine>,
    /// The cursor of the next page; null: there is none.
    next: Option<Uuid>,
}

/// Runs, newest first.
#[utoipa::path(get, path = "/runs", params(Which, Page), tag = "runs",
    responses((status = 200, body = Runs), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn list(
    State(site): State<Arc<Site>>,
    caller: Caller,
    AskedBoth(which, page): AskedBoth<Which, Page>,
) -> Result<Json<Runs>, Problem> {
    caller.needs(Scope::Read)?;
    let limit = page.limit.unwrap_or(50);
    if !(1..=PAGE).contains(&limit) {
        return Err(Problem::bad(format!("limit is {limit}; a page has 1 to {PAGE} runs")));
    }
    let mut list = runs::page(&site.readers, &which.filter()?, page.cursor, i64::from(limit) + 1).await?;
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    let next = list.last().filter(|_| more).map(|last| last.id);
    Ok(Json(Runs { runs: list, next }))
}

/// A run to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRun {
    /// The workflow's name.
    workflow: String,
    /// The workflow's input; `{}` by default.
    #[schema(value_type = Option<Value>)]
    input: Option<Box<RawValue>>,
    /// Instead of the workflow's own queue.
    queue: Option<String>,
    /// 0 to 9, lower first.
    #[schema(minimum = 0, maximum = 9)]
    priority: Option<i32>,
    /// Not before this time.
    run_at: Option<DateTime<Utc>>,
    /// At most one unfinished run of the workflow has this key. The header `Idempotency-Key` says the same.
    unique_key: Option<String>,
    /// Instead of the workflow's own concurrency key: so many runs of one key are at work at once as the workflow says, one by default.
    concurrency_key: Option<String>,
    /// The caller's W3C trace context; the run's trace links to it. The header `traceparent` says the same.
    #[schema(max_length = 200)]
    traceparent: Option<String>,
    /// What it belongs to together with other runs: a conversation, an order.
    #[schema(min_length = 1, max_length = 200)]
    session_id: Option<String>,
    /// A flat object to find the run by.
    #[schema(value_type = Option<Value>)]
    labels: Option<Value>,
}

/// The run that was enqueued, or was there.
#[derive(Serialize, ToSchema)]
struct Enqueued {
    id: Uuid,
    workflow: String,
    /// False: a run with this unique key was there.
    created: bool,
}

/// Enqueue a run; with a unique key, once.
#[utoipa::path(post, path = "/runs", request_body = NewRun, tag = "runs",
    params(("Idempotency-Key" = Option<String>, Header, description = "The unique key of the run: sent again, it makes no second one.")),
    responses((status = 201, body = Enqueued), (status = 200, body = Enqueued, description = "The run with this unique key was there."),
        (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn create(
    State(site): State<Arc<Site>>,
    caller: Caller,
    headers: HeaderMap,
    Given(run): Given<NewRun>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Enqueue)?;
    let key = match headers.get("idempotency-key").map(|k| k.to_str()) {
        Some(Ok(key)) if !key.is_empty() => Some(key.to_owned()),
        Some(_) => return Err(Problem::bad("the Idempotency-Key is empty, or no plain text")),
        None => None,
    };
    if run.unique_key.is_some() && key.is_some() && run.unique_key != key {
        return Err(Problem::bad("unique_key and Idempotency-Key differ; send one of them"));
    }
    let input = match &run.input {
        Some(raw) => Payload::from_text(raw.get()).map_err(|e| Problem::bad(format!("input: {e}")))?,
        None => Payload::from_value(&serde_json::json!({})),
    };
    let job = NewJob {
        workflow: run.workflow.clone(),
        input: String::new(),
        queue: run.queue,
        priority: run.priority,
        run_at: run.run_at,
        unique_key: run.unique_key.or(key),
        session_id: run.session_id,
        concurrency_key: run.concurrency_key,
        traceparent: run.traceparent.or_else(|| called_by(&headers)),
        labels: run.labels.unwrap_or_else(|| serde_json::json!({})),
    };
    let (id, created) = enqueued(&site, caller.name.as_deref().unwrap_or_default(), &input, job).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let place = [(header::LOCATION, format!("/api/v1/runs/{id}"))];
    Ok((status, place, Json(Enqueued { id, workflow: run.workflow, created })).into_response())
}

/// The trace context of a request, where it has one: what is none is not passed on (W3C Trace Context, 3.2).
pub(super) fn called_by(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    ids::parsed(text).map(|_| text.trim().to_owned())
}

/// Enqueues a run in a name: its id, and whether it is a new one.
async fn enqueued(site: &Arc<Site>, who: &str, input: &Payload, job: NewJob) -> Result<(Uuid, bool), Problem> {
    let mut conn = acting_as(site, who).await?;
    fits(&mut conn, &job.workflow, input).await?;
    let job = NewJob { input: input.as_str().to_owned(), ..job };
    Ok(actions::enqueue_once(&mut conn, &job).await?)
}

/// An input that breaks the workflow's schema is refused before it becomes a run that can only fail.
pub(super) async fn fits(conn: &mut sqlx::PgConnection, workflow: &str, input: &Payload) -> Result<(), Problem> {
    let Ok(Some(stored)) = definitions::definition(conn, None, workflow).await else { return Ok(()) };
    let Some(Ok(definition)) = stored.body.map(|body| definition::load(workflow, &body)) else { return Ok(()) };
    let Some(schema) = &definition.input else { return Ok(()) };
    let checked = input.value().and_then(|value| schema.validate(&value, code::INVALID_INPUT));
    checked.map_err(|failure| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("input: {}", failure.message)))
}

/// One run with all that is known of it.
#[utoipa::path(get, path = "/runs/{id}", params(("id" = Uuid, Path, description = "The run.")), tag = "runs",
    responses((status = 200, body = RunDetail), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn get(State(site): State<Arc<Site>>, caller: Caller, At(id): At<Uuid>) -> Result<Json<RunDetail>, Problem> {
    caller.needs(Scope::Read)?;
    runs::detail(&site.readers, id).await?.map(Json).ok_or_else(|| unknown(id))
}

/// Lines of a page of a history, at the most.
const LINES: u32 = 5_000;

/// Which lines of a history.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct Lines {
    /// Lines of a page, 1 to 5,000; 1,000 by default.
    #[param(minimum = 1, maximum = 5000)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<i64>,
    /// The newest first.
    newest: bool,
}

impl Known for Lines {
    const KEYS: &'static [&'static str] = &["limit", "cursor", "newest"];
}

impl Lines {
    /// How many lines, the cursor, and whether the newest come first.
    pub(super) fn checked(self) -> Result<(u32, Option<i64>, bool), Problem> {
        let limit = self.limit.unwrap_or(1_000);
        if !(1..=LINES).contains(&limit) {
            return Err(Problem::bad(format!("limit is {limit}; a page has 1 to {LINES} lines")));
        }
        Ok((limit, self.cursor, self.newest))
    }
}

/// What is there of one line more than a page: the page, and the cursor of the next.
pub(super) fn paged(mut lines: Vec<HistoryLine>, limit: u32) -> (Vec<HistoryLine>, Option<i64>) {
    let more = lines.len() > limit as usize;
    lines.truncate(limit as usize);
    let next = lines.last().filter(|_| more).map(|last| last.seq);
    (lines, next)
}

/// A page of everything that happened to a run, in order.
#[derive(Serialize, ToSchema)]
struct Trail {
    history: Vec<HistoryLine>,
    /// The cursor of the next page; null: there is none.
    next: Option<i64>,
}

/// Everything that happened to a run, in order. While the run lives, a line may be written late, and come before ones that were told; the
/// run's stream tells each once.
#[utoipa::path(get, path = "/runs/{id}/history", params(("id" = Uuid, Path, description = "The run."), Lines), tag = "runs",
    responses((status = 200, body = Trail), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn history(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(lines): Asked<Lines>,
) -> Result<Json<Trail>, Problem> {
    caller.needs(Scope::Read)?;
    let (limit, cursor, newest) = lines.checked()?;
    let history = runs::log_page(&site.readers, id, cursor, Some(i64::from(limit) + 1), newest).await?;
    // Each run has at least the line that says when it was enqueued.
    if history.is_empty() && (cursor.is_none() || runs::progress(&site.readers, id, false).await?.is_none()) {
        return Err(unknown(id));
    }
    let (history, next) = paged(history, limit);
    Ok(Json(Trail { history, next }))
}

pub(super) fn unknown(id: Uuid) -> Problem {
    Problem {
        code: Some("SD010".to_owned()),
        kind: "/errors/SD010".to_owned(),
        ..Problem::not_found(format!("there is no run {id}"))
    }
    .hint("it may have been removed by the retention")
}

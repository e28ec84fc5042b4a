//! What there is beside runs: workflows, schedules, queues, workers, and what waits.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::locks::{self, LockLine};
use crate::db::operate::{self, QueueLine, WorkerLine, WorkflowLine};
use crate::db::schedules::{self, ScheduleLine};
use crate::db::waiting::{self, WaitingLine};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::{Asked, At, Given, Known, acting};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new()
        .routes(routes!(workflows))
        .routes(routes!(workflow))
        .routes(routes!(schedules_list))
        .routes(routes!(schedule))
        .routes(routes!(queues))
        .routes(routes!(queue))
        .routes(routes!(limit))
        .routes(routes!(workers))
        .routes(routes!(waits))
        .routes(routes!(locks_list))
}

/// All workflows, and how their runs of the last day went.
#[derive(Serialize, ToSchema)]
struct Workflows {
    workflows: Vec<WorkflowLine>,
}

/// All workflows.
#[utoipa::path(get, path = "/workflows", tag = "workflows",
    responses((status = 200, body = Workflows), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn workflows(State(site): State<Arc<Site>>, caller: Caller) -> Result<Json<Workflows>, Problem> {
    caller.needs(Scope::Read)?;
    Ok(Json(Workflows { workflows: operate::workflows(&site.readers, None).await? }))
}

/// One workflow.
#[utoipa::path(get, path = "/workflows/{name}", tag = "workflows", params(("name" = String, Path, description = "The workflow.")),
    responses((status = 200, body = WorkflowLine), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn workflow(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(name): At<String>,
) -> Result<Json<WorkflowLine>, Problem> {
    caller.needs(Scope::Read)?;
    let found = operate::workflows(&site.readers, Some(&name)).await?.pop();
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no workflow `{name}`")))
}

/// All schedules.
#[derive(Serialize, ToSchema)]
struct Schedules {
    schedules: Vec<ScheduleLine>,
}

/// All schedules.
#[utoipa::path(get, path = "/schedules", tag = "schedules",
    responses((status = 200, body = Schedules), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn schedules_list(State(site): State<Arc<Site>>, caller: Caller) -> Result<Json<Schedules>, Problem> {
    caller.needs(Scope::Read)?;
    Ok(Json(Schedules { schedules: schedules::list(&site.readers, None).await? }))
}

/// What is done to a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ScheduleVerb {
    Run,
    Pause,
    Unpause,
}

/// What has come of it.
#[derive(Serialize, ToSchema)]
struct ScheduleDone {
    workflow: String,
    /// The run that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Uuid>,
}

/// Run a schedule's workflow now, stop the schedule, or let it go on.
#[utoipa::path(post, path = "/schedules/{workflow}/{verb}", tag = "schedules",
    params(("workflow" = String, Path, description = "The workflow."), ("verb" = ScheduleVerb, Path, description = "What is done.")),
    responses((status = 200, body = ScheduleDone), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn schedule(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At((workflow, verb)): At<(String, ScheduleVerb)>,
) -> Result<Json<ScheduleDone>, Problem> {
    caller.needs(Scope::Operate)?;
    let mut conn = acting(&site, &caller).await?;
    let run = match verb {
        ScheduleVerb::Run => Some(schedules::run(&mut *conn, &workflow).await?),
        pausing => {
            schedules::pause(&mut *conn, &workflow, pausing == ScheduleVerb::Pause).await?;
            None
        }
    };
    Ok(Json(ScheduleDone { workflow, run }))
}

/// All queues.
#[derive(Serialize, ToSchema)]
struct Queues {
    queues: Vec<QueueLine>,
}

/// All queues, with what stands in them.
#[utoipa::path(get, path = "/queues", tag = "queues",
    responses((status = 200, body = Queues), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn queues(State(site): State<Arc<Site>>, caller: Caller) -> Result<Json<Queues>, Problem> {
    caller.needs(Scope::Read)?;
    Ok(Json(Queues { queues: operate::queues(&site.readers, None).await? }))
}

/// What is done to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum QueueVerb {
    Pause,
    Unpause,
}

/// Stop a queue's claims, or let them go on.
#[utoipa::path(post, path = "/queues/{name}/{verb}", tag = "queues",
    params(("name" = String, Path, description = "The queue."), ("verb" = QueueVerb, Path, description = "What is done.")),
    responses((status = 200, body = QueueLine), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn queue(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At((name, verb)): At<(String, QueueVerb)>,
) -> Result<Json<QueueLine>, Problem> {
    caller.needs(Scope::Operate)?;
    let mut conn = acting(&site, &caller).await?;
    operate::pause_queue(&mut *conn, &name, verb == QueueVerb::Pause).await?;
    stands(&mut conn, &name).await
}

/// A limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Limit {
    /// How many of its runs may be queued or running at once; null: any number.
    #[schema(minimum = 1)]
    max_running: Option<i32>,
}

/// Limit how many runs of a queue may be under way at once, over all workers.
#[utoipa::path(put, path = "/queues/{name}/limit", tag = "queues", request_body = Limit, params(("name" = String, Path, description = "The queue.")),
    responses((status = 200, body = QueueLine), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn limit(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(name): At<String>,
    Given(limit): Given<Limit>,
) -> Result<Json<QueueLine>, Problem> {
    caller.needs(Scope::Operate)?;
    let mut conn = acting(&site, &caller).await?;
    operate::limit_queue(&mut *conn, &name, limit.max_running).await?;
    stands(&mut conn, &name).await
}

async fn stands(conn: &mut sqlx::PgConnection, name: &str) -> Result<Json<QueueLine>, Problem> {
    let found = operate::queues(conn, Some(name)).await?.pop();
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no queue `{name}`")))
}

/// All workers.
#[derive(Serialize, ToSchema)]
struct Workers {
    workers: Vec<WorkerLine>,
}

/// All registered workers.
#[utoipa::path(get, path = "/workers", tag = "workers",
    responses((status = 200, body = Workers), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn workers(State(site): State<Arc<Site>>, caller: Caller) -> Result<Json<Workers>, Problem> {
    caller.needs(Scope::Read)?;
    Ok(Json(Workers { workers: operate::workers(&site.readers).await? }))
}

/// What waits.
#[derive(Serialize, ToSchema)]
struct Waits {
    waiting: Vec<WaitingLine>,
}

/// Steps that wait for a person, an event, a time or another run; the longest waiting first, a thousand at the most.
#[utoipa::path(get, path = "/waiting", tag = "runs",
    responses((status = 200, body = Waits), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn waits(State(site): State<Arc<Site>>, caller: Caller) -> Result<Json<Waits>, Problem> {
    caller.needs(Scope::Read)?;
    Ok(Json(Waits { waiting: waiting::list(&site.readers).await? }))
}

/// Which locks.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WhichLocks {
    /// `lease`, `key`; all without it.
    kind: Option<LockKind>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum LockKind {
    Lease,
    Key,
}

impl LockKind {
    fn word(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Key => "key",
        }
    }
}

impl Known for WhichLocks {
    const KEYS: &'static [&'static str] = &["kind"];
}

/// Locks.
#[derive(Serialize, ToSchema)]
struct Locks {
    locks: Vec<LockLine>,
    /// How many are held, listed or not.
    total: i64,
}

/// Who keeps what from whom: the leases, by which no second worker has a run, and the places of concurrency keys; the longest first, a
/// thousand at the most.
#[utoipa::path(get, path = "/locks", params(WhichLocks), tag = "runs",
    responses((status = 200, body = Locks), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn locks_list(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Asked(which): Asked<WhichLocks>,
) -> Result<Json<Locks>, Problem> {
    caller.needs(Scope::Read)?;
    let locks = locks::list(&site.readers, which.kind.map(LockKind::word), 1_000).await?;
    Ok(Json(Locks { total: locks.first().map_or(0, |line| line.total), locks }))
}

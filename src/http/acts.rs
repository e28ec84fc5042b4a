//! What is done to runs: one by one, or all that a filter leaves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::actions::Said;
use crate::db::{DbError, actions, runs};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::runs::Which;
use super::things::{At, Given, acting};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new()
        .routes(routes!(act))
        .routes(routes!(fork))
        .routes(routes!(signal))
        .routes(routes!(answer))
        .routes(routes!(emit))
        .routes(routes!(many))
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Cancel,
    Pause,
    Unpause,
    Retry,
}

/// How.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Manner {
    /// Why, for whoever looks at the run later (cancel, pause).
    reason: Option<String>,
    /// With the workflow's present definition (retry).
    latest: bool,
    /// Break off the steps that run now, and do not wait for their ends (pause).
    now: bool,
}

impl Manner {
    fn fits(&self, verb: Verb) -> Result<(), Problem> {
        if self.reason.is_some() && !matches!(verb, Verb::Cancel | Verb::Pause) {
            return Err(Problem::bad("`reason` goes with cancel and pause"));
        }
        if self.latest && verb != Verb::Retry {
            return Err(Problem::bad("`latest` goes with retry"));
        }
        if self.now && verb != Verb::Pause {
            return Err(Problem::bad("`now` goes with pause"));
        }
        Ok(())
    }

    async fn on(&self, verb: Verb, conn: &mut PgConnection, run: Uuid) -> Result<String, DbError> {
        match verb {
            Verb::Cancel => actions::cancel(conn, run, self.reason.as_deref()).await,
            Verb::Pause => actions::pause(conn, run, self.reason.as_deref(), self.now).await,
            Verb::Unpause => actions::unpause(conn, run).await,
            Verb::Retry => actions::retry(conn, run, self.latest).await,
        }
    }
}

/// What has come of it.
#[derive(Serialize, ToSchema)]
struct Done {
    id: Uuid,
    /// `cancelled`, `paused`; `requested`, where a worker has the run and is told; or the run's new state.
    result: String,
}

/// Cancel, pause, unpause or retry a run.
#[utoipa::path(post, path = "/runs/{id}/{verb}", request_body = Manner, tag = "actions",
    params(("id" = Uuid, Path, description = "The run."), ("verb" = Verb, Path, description = "What is done.")),
    responses((status = 200, body = Done), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn act(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At((id, verb)): At<(Uuid, Verb)>,
    Given(how): Given<Manner>,
) -> Result<Json<Done>, Problem> {
    caller.needs(Scope::Operate)?;
    how.fits(verb)?;
    let mut conn = acting(&site, &caller).await?;
    Ok(Json(Done { id, result: how.on(verb, &mut conn, id).await? }))
}

/// A fork.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Fork {
    /// The first step that runs anew.
    from_step: String,
    /// Another input.
    #[schema(value_type = Option<Value>)]
    input: Option<Box<RawValue>>,
    /// With the workflow's present definition.
    #[serde(default)]
    latest: bool,
    /// This step alone runs anew: every other one that is done keeps its result.
    #[serde(default)]
    alone: bool,
}

/// The run that was made.
#[derive(Serialize, ToSchema)]
struct Forked {
    id: Uuid,
    forked_from: Uuid,
}

/// Make a new run of a run, from a step on, or to replay one step.
#[utoipa::path(post, path = "/runs/{id}/fork", request_body = Fork, tag = "actions", params(("id" = Uuid, Path, description = "The run.")),
    responses((status = 201, body = Forked), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn fork(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Given(fork): Given<Fork>,
) -> Result<(StatusCode, Json<Forked>), Problem> {
    caller.needs(Scope::Operate)?;
    let mut conn = acting(&site, &caller).await?;
    let input = fork.input.as_ref().map(|raw| raw.get());
    let new = actions::fork(&mut *conn, id, &fork.from_step, input, fork.latest, fork.alone).await?;
    Ok((StatusCode::CREATED, Json(Forked { id: new, forked_from: id })))
}

/// A signal, or an event.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Message {
    name: String,
    /// `null` by default.
    #[schema(value_type = Option<Value>)]
    payload: Option<Box<RawValue>>,
}

impl Message {
    fn payload(&self) -> &str {
        self.payload.as_ref().map_or("null", |raw| raw.get())
    }
}

/// Send a run a signal.
#[utoipa::path(post, path = "/runs/{id}/signal", request_body = Message, tag = "actions", params(("id" = Uuid, Path, description = "The run.")),
    responses((status = 200, body = Done), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn signal(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Given(message): Given<Message>,
) -> Result<Json<Done>, Problem> {
    caller.needs(Scope::Enqueue)?;
    let mut conn = acting(&site, &caller).await?;
    Ok(Json(Done { id, result: actions::signal(&mut *conn, id, &message.name, message.payload()).await? }))
}

/// How many runs an event has reached.
#[derive(Serialize, ToSchema)]
struct Reached {
    runs: i64,
}

/// Emit an event to every run that waits for it, or will.
#[utoipa::path(post, path = "/events", request_body = Message, tag = "actions",
    responses((status = 200, body = Reached), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn emit(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Given(message): Given<Message>,
) -> Result<Json<Reached>, Problem> {
    caller.needs(Scope::Enqueue)?;
    let mut conn = acting(&site, &caller).await?;
    Ok(Json(Reached { runs: actions::emit(&mut *conn, &message.name, message.payload()).await? }))
}

/// An answer to an approval.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Answer {
    approved: bool,
    /// The step that asks; need not be named where only one does.
    step: Option<String>,
    /// For whoever looks at it later.
    note: Option<String>,
    /// What a tool has asked for, where one did.
    answer: Option<serde_json::Value>,
}

/// The step that asked.
#[derive(Serialize, ToSchema)]
struct Answered {
    id: Uuid,
    step: String,
}

/// Answer an approval.
#[utoipa::path(post, path = "/runs/{id}/answer", request_body = Answer, tag = "actions", params(("id" = Uuid, Path, description = "The run.")),
    responses((status = 200, body = Answered), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn answer(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Given(answer): Given<Answer>,
) -> Result<Json<Answered>, Problem> {
    caller.needs(Scope::Operate)?;
    let mut conn = acting(&site, &caller).await?;
    let (step, note) = (answer.step.as_deref(), answer.note.as_deref());
    let given = answer.answer.as_ref().map(ToString::to_string);
    let said = if answer.approved { Said::Yes(given.as_deref()) } else { Said::No };
    Ok(Json(Answered { id, step: actions::answer(&mut *conn, id, step, note, said).await? }))
}

/// The same to many runs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Many {
    verb: Verb,
    /// Which runs; an empty filter is refused.
    filter: Which,
    #[serde(default)]
    how: Manner,
    /// How many runs the caller expects: what a call without it has counted. Where it differs by then, nothing is done.
    expect: Option<u64>,
}

/// How it went.
#[derive(Serialize, ToSchema)]
struct ManyDone {
    /// The runs that the filter leaves.
    matching: u64,
    /// Those to which it was done; 0 where it was only counted.
    done: u64,
    /// Those that had changed meanwhile, with the reason.
    refused: Vec<Refusal>,
}

/// A run to which it was not done.
#[derive(Serialize, ToSchema)]
struct Refusal {
    id: Uuid,
    why: String,
}

/// Refusals that are told.
const TOLD: usize = 100;

/// Cancel, pause, unpause or retry all runs that a filter leaves: without `expect` they are counted, with it, it is done, each in a
/// transaction of its own. It is done to the end also where the caller hangs up; of many such requests a server does one at a time (503).
#[utoipa::path(post, path = "/actions", request_body = Many, tag = "actions",
    responses((status = 200, body = ManyDone), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn many(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Given(many): Given<Many>,
) -> Result<Json<ManyDone>, Problem> {
    caller.needs(Scope::Operate)?;
    many.how.fits(many.verb)?;
    if many.filter.is_empty() {
        return Err(Problem::bad("the filter is empty: it would mean every run").hint("name at least a state"));
    }
    let mut filter = many.filter.filter()?;
    let fit = fits(many.verb);
    filter.states.retain(|s| fit.contains(&s.as_str()));
    if filter.states.is_empty() {
        filter.states = fit.iter().map(|s| (*s).to_owned()).collect();
    }
    let ids = runs::ids(&site.readers, &filter).await?;
    let matching = ids.len() as u64;
    let report = ManyDone { matching, done: 0, refused: Vec::new() };
    match many.expect {
        None => return Ok(Json(report)),
        Some(n) if n != matching => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("{matching} runs match by now, and not {n}; nothing was done"),
            )
            .hint("look again, and send what was counted"));
        }
        Some(_) => {}
    }
    let (work, how, verb) = (site.clone(), many.how, many.verb);
    site.bulk.done(async move { all(&work, &caller, (verb, &how), ids, report).await }).await?.map(Json)
}

/// Does it to each of them, in a transaction of its own.
async fn all(
    site: &Arc<Site>,
    caller: &Caller,
    (verb, how): (Verb, &Manner),
    ids: Vec<Uuid>,
    mut report: ManyDone,
) -> Result<ManyDone, Problem> {
    let _place = site.bulk.place()?;
    let mut conn = acting(site, caller).await?;
    for id in ids {
        match how.on(verb, &mut conn, id).await {
            Ok(_) => report.done += 1,
            Err(error) if error.sqlstate().is_some_and(|s| s.starts_with("SD")) => {
                if report.refused.len() < TOLD {
                    report.refused.push(Refusal { id, why: error.to_string() });
                }
            }
            Err(error) => return Err(stopped(error, &report)),
        }
    }
    Ok(report)
}

/// The database does not go on: how far it came is told, with what to do.
fn stopped(error: DbError, report: &ManyDone) -> Problem {
    let mut problem = Problem::from(error);
    problem.detail = format!("after {} of {} runs: {}", report.done, report.matching, problem.detail);
    problem.hint("what was done is done: count anew, and send that")
}

/// The states in which it can be done.
fn fits(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Cancel => &["scheduled", "queued", "held", "running", "waiting", "paused", "resuming"],
        Verb::Pause => &["scheduled", "queued", "held", "running", "waiting", "resuming"],
        Verb::Unpause => &["paused"],
        Verb::Retry => &["failed", "resuming"],
    }
}

//! Executions, looked at.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::older;
use crate::definition::afu9::HOLD;

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::refused::{Id, Refused, Who, number};
use super::shapes::{
    Counts, Detail, Execution, PausedExecution, Row, StepRow, Summary, Time, json, standing, workflow_id,
};
use super::told::{Depth, Told, tell};

/// Executions of a list, at the most.
const MOST: i64 = 1_000;

async fn found(site: &Site, id: Uuid) -> Result<Told, Refused> {
    let run = older::execution(&site.readers, id, HOLD).await?.ok_or_else(Refused::no_execution)?;
    tell(site, vec![run], Depth::Steps).await?.pop().ok_or_else(Refused::no_execution)
}

/// One execution with its steps, as the older system showed it.
#[utoipa::path(get, path = "/workflow/execution/{id}", tag = "older", params(("id" = Uuid, Path, description = "The execution: a run.")),
    responses((status = 200, body = Detail), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn execution(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Id(id): Id,
) -> Result<Json<Detail>, Refused> {
    caller.needs(Scope::Read)?;
    let told = found(&site, id).await?;
    let metadata = Counts::of(&told.steps);
    let line = told.line;
    let execution = Execution {
        id,
        workflow_id: workflow_id(&line),
        status: standing(&line),
        input: told.input,
        output: told.output,
        context: json(&told.context.to_string()),
        started_at: Time(line.started_at.unwrap_or(line.created_at)),
        completed_at: line.ended_at.map(Time),
        error: line.error_message,
        triggered_by: line.triggered_by,
        github_run_id: line.github_run_id,
    };
    Ok(Json(Detail { execution, steps: told.steps, metadata }))
}

/// One execution with its steps, as rows of the older system.
#[utoipa::path(get, path = "/executions/{id}", tag = "older", params(("id" = Uuid, Path, description = "The execution: a run.")),
    responses((status = 200, body = Row), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn row(State(site): State<Arc<Site>>, Who(caller): Who, Id(id): Id) -> Result<Json<Row>, Refused> {
    caller.needs(Scope::Read)?;
    let told = found(&site, id).await?;
    let line = told.line;
    let workflow = workflow_id(&line);
    let begun = line.started_at.unwrap_or(line.created_at);
    let changed = line.ended_at.unwrap_or(begun);
    Ok(Json(Row {
        id,
        workflow_id: workflow.clone(),
        status: standing(&line),
        input: told.input,
        output: told.output,
        context: json(&told.context.to_string()),
        started_at: Time(begun),
        completed_at: line.ended_at.map(Time),
        error: line.error_message,
        triggered_by: line.triggered_by,
        github_run_id: line.github_run_id,
        pause_metadata: told.pause,
        created_at: Time(line.created_at),
        updated_at: Time(changed),
        workflow_description: workflow.as_ref().and(told.known.description.clone()),
        workflow_name: workflow,
        steps: told.steps.into_iter().map(|step| StepRow::of(id, step)).collect(),
    }))
}

/// The newest executions.
#[derive(Serialize, ToSchema)]
pub(super) struct Executions {
    executions: Vec<Summary>,
    /// How many are listed here.
    total: usize,
}

/// The newest executions, as the older system listed them.
#[utoipa::path(get, path = "/workflow/executions", tag = "older",
    params(("limit" = Option<i64>, Query, description = "At most so many, 1 to 1000; 50 by default.", minimum = 1, maximum = 1000)),
    responses((status = 200, body = Executions), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn recent(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    RawQuery(query): RawQuery,
) -> Result<Json<Executions>, Refused> {
    caller.needs(Scope::Read)?;
    let limit = number(query.as_deref(), "limit", 50, (1, MOST))?;
    let lines = older::recent(&site.readers, limit, HOLD).await?;
    let executions: Vec<Summary> = lines.into_iter().map(Summary::from).collect();
    Ok(Json(Executions { total: executions.len(), executions }))
}

/// Executions that wait for a person.
#[derive(Serialize, ToSchema)]
pub(super) struct Paused {
    success: bool,
    count: usize,
    executions: Vec<PausedExecution>,
}

/// Executions that somebody has paused, or that a guard of their document has: a thousand at the most, the oldest first.
#[utoipa::path(get, path = "/executions/paused", tag = "older",
    responses((status = 200, body = Paused), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn paused(State(site): State<Arc<Site>>, Who(caller): Who) -> Result<Json<Paused>, Refused> {
    caller.needs(Scope::Read)?;
    let runs = older::paused(&site.readers, HOLD, MOST).await?;
    let one = |told: Told| PausedExecution {
        id: told.line.id,
        workflow_id: workflow_id(&told.line),
        status: standing(&told.line),
        started_at: Time(told.line.started_at.unwrap_or(told.line.created_at)),
        pause_metadata: told.pause,
        context: json(&told.context.to_string()),
        input: told.input,
    };
    let executions: Vec<_> = tell(&site, runs, Depth::Context).await?.into_iter().map(one).collect();
    Ok(Json(Paused { success: true, count: executions.len(), executions }))
}

//! Workflows and their executions; a workflow, started.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::db::actions::{self, NewJob};
use crate::db::older::{self, Line, Workflow as Stored};
use crate::definition;
use crate::definition::afu9::HOLD;
use crate::model::code;

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::super::things::acting;
use super::refused::{Body, Name, Refused, Who, number};
use super::shapes::{HistoryRow, LastRun, Time, Workflow, standing, workflow_id};
use super::told::{Depth, Told, tell};

fn shown(stored: Stored, last: Option<Line>) -> Workflow {
    let definition = stored.body.as_deref().and_then(definition::as_json);
    let description = definition.as_ref().and_then(|d| d.get("description")?.as_str().map(str::to_owned));
    let last_run = last.map(|line| LastRun {
        id: line.id,
        status: standing(&line),
        started_at: Time(line.started_at.unwrap_or(line.created_at)),
        completed_at: line.ended_at.map(Time),
        triggered_by: line.triggered_by,
    });
    Workflow {
        id: stored.name.clone(),
        name: stored.name,
        description,
        definition,
        version: stored.definition,
        enabled: stored.enabled,
        created_at: Time(stored.created_at),
        updated_at: Time(stored.loaded_at),
        last_run,
    }
}

/// All workflows.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderWorkflows)]
pub(super) struct Workflows {
    workflows: Vec<Workflow>,
    total: usize,
}

/// All workflows, as rows of the older system, each with its newest execution.
#[utoipa::path(get, path = "/workflows", tag = "older",
    responses((status = 200, body = Workflows), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn all(State(site): State<Arc<Site>>, Who(caller): Who) -> Result<Json<Workflows>, Refused> {
    caller.needs(Scope::Read)?;
    let workflows = older::workflows(&site.readers, None).await?;
    let mut last = older::last_runs(&site.readers, &workflows, HOLD).await?;
    let one = |stored: Stored| {
        let last = last.remove(&stored.name);
        shown(stored, last)
    };
    let workflows: Vec<_> = workflows.into_iter().map(one).collect();
    Ok(Json(Workflows { total: workflows.len(), workflows }))
}

async fn found(site: &Site, name: &str) -> Result<Stored, Refused> {
    older::workflows(&site.readers, Some(name)).await?.pop().ok_or_else(Refused::no_workflow)
}

/// One workflow, as a row of the older system.
#[utoipa::path(get, path = "/workflows/{id}", tag = "older", params(("id" = String, Path, description = "The workflow's name.")),
    responses((status = 200, body = Workflow), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn one(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Name(name): Name,
) -> Result<Json<Workflow>, Refused> {
    caller.needs(Scope::Read)?;
    let stored = found(&site, &name).await?;
    let last = older::last_runs(&site.readers, std::slice::from_ref(&stored), HOLD).await?.remove(&name);
    Ok(Json(shown(stored, last)))
}

/// Executions of a workflow.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderHistory)]
pub(super) struct History {
    executions: Vec<HistoryRow>,
    /// How many the workflow has in all.
    total: i64,
    limit: i64,
    offset: i64,
}

/// A workflow's executions, as rows of the older system, newest first.
#[utoipa::path(get, path = "/workflows/{id}/executions", tag = "older",
    params(("id" = String, Path, description = "The workflow's name."),
        ("limit" = Option<i64>, Query, description = "At most so many, 1 to 1000; 50 by default.", minimum = 1, maximum = 1000),
        ("offset" = Option<i64>, Query, description = "So many of the newest are left out.", minimum = 0, maximum = 1000000)),
    responses((status = 200, body = History), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn history(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Name(name): Name,
    RawQuery(query): RawQuery,
) -> Result<Json<History>, Refused> {
    caller.needs(Scope::Read)?;
    let limit = number(query.as_deref(), "limit", 50, (1, 1_000))?;
    let offset = number(query.as_deref(), "offset", 0, (0, 1_000_000))?;
    let runs = older::history(&site.readers, &name, (limit, offset), HOLD).await?;
    let total = older::total(&site.readers, &name).await?;
    let executions = tell(&site, runs, Depth::Row).await?.into_iter().map(history_row).collect();
    Ok(Json(History { executions, total, limit, offset }))
}

fn history_row(told: Told) -> HistoryRow {
    let (total_steps, completed_steps) = told.counted.unwrap_or_default();
    let line = told.line;
    HistoryRow {
        id: line.id,
        workflow_id: workflow_id(&line),
        status: standing(&line),
        input: told.input,
        output: told.output,
        started_at: Time(line.started_at.unwrap_or(line.created_at)),
        completed_at: line.ended_at.map(Time),
        error: line.error_message,
        triggered_by: line.triggered_by,
        github_run_id: line.github_run_id,
        total_steps,
        completed_steps,
    }
}

/// What a workflow is started with.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Trigger {
    /// Of a document: what its context's `input` is; its `repo` is the context's.
    #[schema(value_type = Option<Value>)]
    input: Option<Value>,
    triggered_by: Option<String>,
    github_run_id: Option<String>,
}

/// A workflow has been started.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Triggered {
    success: bool,
    message: &'static str,
    workflow_id: String,
    workflow_name: String,
}

/// Starts a workflow, and does not wait for it. The execution stands in the header `Location`.
#[utoipa::path(post, path = "/workflows/{id}/trigger", tag = "older", request_body = Trigger,
    params(("id" = String, Path, description = "The workflow's name.")),
    responses((status = 200, body = Triggered), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn trigger(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Name(name): Name,
    Body(trigger): Body<Trigger>,
) -> Result<Response, Refused> {
    caller.needs(Scope::Enqueue)?;
    let stored = found(&site, &name).await?;
    if !stored.enabled {
        return Err(Refused::bad("Workflow is disabled"));
    }
    let given = trigger.input.unwrap_or_else(|| Value::Object(Map::new()));
    let input = input(&stored, given)?;
    let labels = labels(trigger.triggered_by, trigger.github_run_id);
    let job = NewJob { workflow: name.clone(), input: input.to_string(), labels, ..NewJob::default() };
    let mut conn = acting(&site, &caller).await?;
    let id = actions::enqueue(&mut *conn, &job).await?;
    let place = [(header::LOCATION, format!("/api/workflow/execution/{id}"))];
    let done = Triggered {
        success: true,
        message: "Workflow execution started",
        workflow_name: name.clone(),
        workflow_id: name,
    };
    Ok((place, Json(done)).into_response())
}

/// The input of a run: of a document a whole context, else what was given, where that fits the workflow's schema.
fn input(stored: &Stored, given: Value) -> Result<Value, Refused> {
    let Some(body) = &stored.body else { return Ok(given) };
    let Ok(definition) = definition::load(&stored.name, body) else { return Ok(given) };
    if definition.document.is_some() {
        let repo = given.get("repo").cloned();
        let mut context = Map::from_iter([("variables".to_owned(), Map::new().into()), ("input".to_owned(), given)]);
        context.extend(repo.map(|repo| ("repo".to_owned(), repo)));
        return Ok(context.into());
    }
    if let Some(schema) = &definition.input {
        let fits = schema.validate(&given, code::INVALID_INPUT);
        fits.map_err(|failure| Refused::bad("Invalid input").message(failure.message))?;
    }
    Ok(given)
}

/// Who has asked for a run, and because of which one of GitHub's, as labels.
pub(super) fn labels(triggered_by: Option<String>, github_run_id: Option<String>) -> Value {
    let given = [("triggered_by", triggered_by), ("github_run_id", github_run_id)];
    let given = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), Value::from(value?))));
    Value::Object(given.collect())
}

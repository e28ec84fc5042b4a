//! A document that a request brings along, run to its end while the request waits.
//!
//! It becomes a run like any other: its text is stored as a definition, the run is pinned to that, and any worker of its queue takes it
//! up. The request only looks. Whatever happens to the worker, to Postgres or to this process, the run goes on; a request that cannot
//! wait for it any longer is told its id.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::actions::NewJob;
use crate::db::{older, runs};
use crate::definition::afu9::HOLD;
use crate::definition::{self, Definition};

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::super::things::acting;
use super::refused::{Body, Refused, Who};
use super::shapes::{Json as RawJson, Status, StepStatus, Time, json as as_json, standing, status};
use super::told::{Depth, tell};
use super::workflows::labels;

/// What all steps of a document may take that says nothing of it.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The request waits for so much longer: the run may stand in a queue first, or change its worker.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks, at the least and at the most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// What the workflow of all such runs is by itself.
const EMPTY: &str = r#"{"name": "adhoc", "steps": []}"#;

/// A document, and the context that it is run in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Execute {
    /// `{"steps": [{"name", "tool", "params", …}], …}`
    #[schema(value_type = Value)]
    workflow: Option<Box<RawValue>>,
    /// `{"variables": {}, "input": {}, "repo": {}, "issue": {}}`
    #[schema(value_type = Value)]
    context: Option<Value>,
    #[schema(required = false)]
    triggered_by: Option<String>,
    #[schema(required = false)]
    github_run_id: Option<String>,
}

/// How it went.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Executed {
    execution_id: Uuid,
    status: Status,
    /// The variables.
    #[schema(value_type = Value)]
    output: RawJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    metadata: Metadata,
}

/// When, how long, how far.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    started_at: Time,
    completed_at: Option<Time>,
    duration_ms: Option<i64>,
    steps_completed: usize,
    steps_total: usize,
}

/// It has been enqueued, and nobody waits.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    execution_id: Uuid,
    status: Status,
}

/// Runs a document and answers with its variables, also where it has failed; only where the configuration allows it. With
/// `Prefer: respond-async` it answers at once, with `Prefer: wait=10` within ten seconds; with an `Idempotency-Key` the same request, sent again within a day, runs nothing anew.
#[utoipa::path(post, path = "/workflow/execute", tag = "older", request_body = Execute,
    params(("Prefer" = Option<String>, Header, description = "respond-async: do not wait. wait=10: ten seconds at the most."),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again, it finds the execution that is there.")),
    responses((status = 200, body = Executed), (status = 202, body = Accepted), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))),
        (status = 503, body = Refused), (status = 504, body = Refused, description = "It takes longer; it goes on.")))]
pub(super) async fn execute(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    headers: HeaderMap,
    Body(asked): Body<Execute>,
) -> Result<Response, Refused> {
    caller.needs(Scope::Operate)?;
    if !site.older.documents {
        return Err(Refused::new(StatusCode::FORBIDDEN, "Documents by HTTP are switched off").message(
            "set http_documents = \"on\" in the configuration, or load the document as a file and trigger it",
        ));
    }
    let wish = Wish::of(&headers);
    let _place = match wish.wait {
        Some(Duration::ZERO) => None,
        _ => Some(site.older.waiting.clone().try_acquire_owned().map_err(|_| full())?),
    };
    let (text, definition) = document(asked.workflow)?;
    let input = context(asked.context)?;
    let job = NewJob {
        workflow: older::ADHOC.to_owned(),
        input: input.to_string(),
        labels: labels(asked.triggered_by, asked.github_run_id),
        unique_key: key(&headers)?,
        ..NewJob::default()
    };
    let id = {
        let mut conn = acting(&site, &caller).await?;
        let document = older::Document { hash: &definition.hash, body: &text };
        let empty = definition::load("adhoc", EMPTY).map_err(|e| failed(&e.to_string()))?;
        older::enqueue(&mut conn, &document, &older::Document { hash: &empty.hash, body: EMPTY }, &job).await?.0
    };
    let place = [(header::LOCATION, format!("/api/workflow/execution/{id}"))];
    let timeout = definition.document.as_ref().and_then(|d| d.timeout).unwrap_or(TIMEOUT);
    let limit = wish.wait.unwrap_or(timeout + PATIENCE);
    Ok(match ended(&site, id, limit).await {
        Ok(true) => (place, Json(told(&site, id).await?)).into_response(),
        Ok(false) if wish.later => {
            (StatusCode::ACCEPTED, place, Json(Accepted { execution_id: id, status: Status::Pending })).into_response()
        }
        Ok(false) => (place, late(&site, id, limit).await.of(id)).into_response(),
        Err(refused) => (place, refused.of(id)).into_response(),
    })
}

/// How long the caller would wait, and whether it takes the execution's id for an answer then (RFC 7240).
struct Wish {
    wait: Option<Duration>,
    later: bool,
}

impl Wish {
    fn of(headers: &HeaderMap) -> Self {
        let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let words: Vec<String> = texts.flat_map(|t| t.split([',', ';'])).map(|w| w.trim().to_lowercase()).collect();
        let later = words.iter().any(|word| word == "respond-async");
        let seconds = words.iter().find_map(|word| word.strip_prefix("wait=")?.trim().parse().ok());
        Self { wait: seconds.map(|s: u32| Duration::from_secs(s.into())).or(later.then_some(Duration::ZERO)), later }
    }
}

/// It takes longer than the caller, or this server, would wait.
async fn late(site: &Site, id: Uuid, limit: Duration) -> Refused {
    let why = runs::why(&site.readers, id).await.unwrap_or_else(|error| error.to_string());
    let seconds = limit.as_secs();
    Refused::new(StatusCode::GATEWAY_TIMEOUT, "Failed to execute workflow")
        .message(format!("the execution has not ended within {seconds} s, and goes on: {why}"))
}

fn full() -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "Too many requests wait for their executions")
        .message("nothing was started; try again, or send Prefer: respond-async")
}

fn failed(why: &str) -> Refused {
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to execute workflow").message(why)
}

/// The document: its text, and what it means. One of the native language is refused, whose steps could be programs.
fn document(workflow: Option<Box<RawValue>>) -> Result<(String, Definition), Refused> {
    let missing = || Refused::bad("Invalid workflow: must include steps array");
    let text = workflow.ok_or_else(missing)?.get().to_owned();
    let shape: Value = serde_json::from_str(&text).map_err(|_| missing())?;
    if !shape.get("steps").is_some_and(Value::is_array) {
        return Err(missing());
    }
    let definition = definition::load("workflow", &text)
        .map_err(|wrong| Refused::bad("Invalid workflow").message(wrong.to_string()))?;
    if definition.document.is_none() {
        return Err(Refused::bad("Invalid workflow: every step must be a call of a tool")
            .message("each step needs `name`, `tool` and `params`"));
    }
    Ok((text, definition))
}

/// The context as a run's input.
fn context(given: Option<Value>) -> Result<Value, Refused> {
    let Some(Value::Object(given)) = given else {
        return Err(Refused::bad("Invalid context: must provide execution context"));
    };
    let mut whole = Map::from_iter([("variables".to_owned(), json!({})), ("input".to_owned(), json!({}))]);
    for (key, value) in given {
        match key.as_str() {
            "variables" if !value.is_object() && !value.is_null() => {
                return Err(Refused::bad("Invalid context: variables must be an object"));
            }
            "variables" | "input" | "repo" | "issue" if value.is_null() => {}
            "variables" | "input" | "repo" | "issue" => drop(whole.insert(key, value)),
            _ => {
                let message = "a context has variables, input, repo and issue";
                return Err(Refused::bad(format!("Invalid context: there is no `{key}`")).message(message));
            }
        }
    }
    Ok(whole.into())
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    match headers.get("idempotency-key").map(|key| key.to_str()) {
        None => Ok(None),
        Some(Ok(key)) if !key.is_empty() => Ok(Some(key.to_owned())),
        Some(_) => Err(Refused::bad("the Idempotency-Key is empty, or no plain text")),
    }
}

/// Waits until a run has ended, or waits for a person; false: it has not in this time.
async fn ended(site: &Site, id: Uuid, limit: Duration) -> Result<bool, Refused> {
    let began = Instant::now();
    let mut stop = site.stop.clone();
    loop {
        match older::standing(&site.readers, id, HOLD).await {
            Ok(None) => return Err(Refused::no_execution().message("it has been removed")),
            Ok(Some((state, on_hold))) => match status(&state, on_hold, true) {
                Status::Pending | Status::Running => {}
                Status::Completed | Status::Failed | Status::Cancelled | Status::Paused => return Ok(true),
            },
            // Postgres is away for a while, perhaps: so is the run, and both come back.
            Err(error) => tracing::debug!(%error, run.id = %id, "a request waits on"),
        }
        let spent = began.elapsed();
        if spent >= limit {
            return Ok(false);
        }
        tokio::select! {
            () = tokio::time::sleep((spent / 8).clamp(LOOKS.0, LOOKS.1).min(limit - spent)) => {}
            // An error: whoever could tell is gone, which is an end as well.
            _ = stop.wait_for(|stop| *stop) => {
                return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "Failed to execute workflow")
                    .message("this server ends; the execution goes on"));
            }
        }
    }
}

async fn told(site: &Site, id: Uuid) -> Result<Executed, Refused> {
    let run = older::execution(&site.readers, id, HOLD).await?.ok_or_else(Refused::no_execution)?;
    let told = tell(site, vec![run], Depth::Steps).await?.pop().ok_or_else(Refused::no_execution)?;
    let (status, line) = (standing(&told.line), told.line);
    let paused = told.pause.filter(|_| status == Status::Paused);
    let started = line.started_at.unwrap_or(line.created_at);
    let completed = line.ended_at.or(paused.as_ref().map(|pause| pause.paused_at.0));
    let variables = told.context.get("variables").cloned().unwrap_or_default();
    Ok(Executed {
        execution_id: id,
        status,
        output: as_json(&variables.to_string()),
        error: line.error_message.or(paused.map(|pause| pause.reason)),
        metadata: Metadata {
            started_at: Time(started),
            completed_at: completed.map(Time),
            duration_ms: completed.map(|end| (end - started).num_milliseconds()),
            steps_completed: told.steps.iter().filter(|step| step.status == StepStatus::Completed).count(),
            steps_total: told.known.document.as_ref().map_or(0, |document| document.steps.len()),
        },
    })
}

//! An execution, stopped and let go on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::actions::{self, Said};
use crate::db::older::{self, Execution};
use crate::definition::afu9::HOLD;

use super::super::Site;
use super::super::access::{Caller, Scope};
use super::super::problem::Problem;
use super::super::things::acting_as;
use super::refused::{Body, Id, Refused, Who};
use super::shapes::{Status, Time, standing};

/// Who stops an execution, and why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PauseBy {
    #[schema(required)]
    paused_by: Option<String>,
    reason: Option<String>,
    /// Break off the step that runs now; the older system did not know it.
    now: bool,
}

/// It is stopped.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PauseDone {
    success: bool,
    execution_id: Uuid,
    status: Status,
    paused_by: String,
    paused_at: Time,
}

/// Pauses an execution: at once where no step of it works, else when that has ended, before another begins.
#[utoipa::path(post, path = "/executions/{id}/pause", tag = "older", request_body = PauseBy,
    params(("id" = Uuid, Path, description = "The execution: a run.")),
    responses((status = 200, body = PauseDone), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn pause(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Id(id): Id,
    Body(by): Body<PauseBy>,
) -> Result<Json<PauseDone>, Refused> {
    caller.needs(Scope::Operate)?;
    let paused_by = by.paused_by.filter(|by| !by.is_empty()).ok_or_else(|| Refused::bad("pausedBy is required"))?;
    let (mut conn, run) = reached(&site, &caller, &paused_by, id).await?;
    let refused = |status: Status| Refused::bad(format!("Cannot pause execution in status: {}", status.word()));
    let status = standing(&run.line);
    if !matches!(status, Status::Pending | Status::Running) {
        return Err(refused(status));
    }
    let reason = by.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("Manually paused");
    match actions::pause(&mut *conn, id, Some(reason), by.now).await {
        Ok(_) => {}
        // It has ended meanwhile.
        Err(error) if error.sqlstate().as_deref() == Some("SD011") => return Err(refused(now(&site, id).await?)),
        Err(error) => return Err(error.into()),
    }
    let paused_at = Time(actions::clock(&mut *conn).await?);
    Ok(Json(PauseDone { success: true, execution_id: id, status: Status::Paused, paused_by, paused_at }))
}

/// Who lets an execution go on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ResumeBy {
    #[schema(required)]
    resumed_by: Option<String>,
}

/// It goes on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResumeDone {
    success: bool,
    execution_id: Uuid,
    status: Status,
    resumed_by: String,
    resumed_at: Time,
    note: &'static str,
}

/// Lets a paused execution go on: a pause ends, a guard of its document gets its yes.
#[utoipa::path(post, path = "/executions/{id}/resume", tag = "older", request_body = ResumeBy,
    params(("id" = Uuid, Path, description = "The execution: a run.")),
    responses((status = 200, body = ResumeDone), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn resume(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Id(id): Id,
    Body(by): Body<ResumeBy>,
) -> Result<Json<ResumeDone>, Refused> {
    caller.needs(Scope::Operate)?;
    let missing = || Refused::bad("resumedBy is required (user who approved resume)");
    let resumed_by = by.resumed_by.filter(|by| !by.is_empty()).ok_or_else(missing)?;
    let (mut conn, run) = reached(&site, &caller, &resumed_by, id).await?;
    let done = match run.line.on_hold {
        true => actions::answer(&mut *conn, id, None, None, Said::Yes(None)).await.map(drop),
        // Also where a pause was asked for that has not taken hold yet.
        false => actions::unpause(&mut *conn, id).await.map(drop),
    };
    match done {
        Ok(()) => {}
        Err(error) if matches!(error.sqlstate().as_deref(), Some("SD011" | "SD012" | "SD014")) => {
            let status = now(&site, id).await?.word();
            let words = "Only paused executions can be resumed.";
            return Err(Refused::bad(format!("Cannot resume execution in status: {status}. {words}")));
        }
        Err(error) => return Err(error.into()),
    }
    let resumed_at = Time(actions::clock(&mut *conn).await?);
    let note = "Execution has been resumed. A worker goes on with it.";
    Ok(Json(ResumeDone { success: true, execution_id: id, status: Status::Running, resumed_by, resumed_at, note }))
}

/// Who has a failed execution tried again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RetryBy {
    #[schema(required)]
    retried_by: Option<String>,
}

/// It is tried again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RetryDone {
    success: bool,
    execution_id: Uuid,
    status: Status,
    retried_by: String,
    retried_at: Time,
}

/// Takes a failed execution up again from the step that failed, with what the steps before it had assigned. The older system had none such.
#[utoipa::path(post, path = "/executions/{id}/retry", tag = "older", request_body = RetryBy,
    params(("id" = Uuid, Path, description = "The execution: a run.")),
    responses((status = 200, body = RetryDone), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn retry(
    State(site): State<Arc<Site>>,
    Who(caller): Who,
    Id(id): Id,
    Body(by): Body<RetryBy>,
) -> Result<Json<RetryDone>, Refused> {
    caller.needs(Scope::Operate)?;
    let retried_by = by.retried_by.filter(|by| !by.is_empty()).ok_or_else(|| Refused::bad("retriedBy is required"))?;
    let (mut conn, _) = reached(&site, &caller, &retried_by, id).await?;
    match actions::retry(&mut *conn, id, false).await {
        Ok(_) => {}
        Err(error) if matches!(error.sqlstate().as_deref(), Some("SD011" | "SD012")) => {
            let status = now(&site, id).await?.word();
            let words = "Only failed executions can be retried.";
            return Err(Refused::bad(format!("Cannot retry execution in status: {status}. {words}")));
        }
        Err(error) => return Err(error.into()),
    }
    let retried_at = Time(actions::clock(&mut *conn).await?);
    Ok(Json(RetryDone { success: true, execution_id: id, status: Status::Running, retried_by, retried_at }))
}

/// A connection on which somebody acts whom the request names, and the run.
async fn reached(
    site: &Arc<Site>,
    caller: &Caller,
    by: &str,
    id: Uuid,
) -> Result<(PoolConnection<Postgres>, Execution), Refused> {
    // The token stays in front: nobody can pass for another's.
    let token = caller.name.as_deref().unwrap_or_default();
    let mut conn = acting_as(site, &format!("{token}/{by}")).await?;
    let run = older::execution(&mut *conn, id, HOLD).await?.ok_or_else(Refused::no_execution)?;
    Ok((conn, run))
}

/// Where it stands now.
async fn now(site: &Site, id: Uuid) -> Result<Status, Refused> {
    let run = older::execution(&site.readers, id, HOLD).await?.ok_or_else(Refused::no_execution)?;
    Ok(standing(&run.line))
}

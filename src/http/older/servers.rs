//! The health of the servers of tools.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::Utc;

use crate::model::Failure;

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::refused::{Refused, Who};
use super::shapes::{Health, ServerHealth, Time};

/// A server that has not answered by then is not well.
const ANSWER: Duration = Duration::from_secs(5);

/// How the MCP servers of this process's configuration are: each is asked for its tools.
#[utoipa::path(get, path = "/mcp/health", tag = "older",
    responses((status = 200, body = Health), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn health(State(site): State<Arc<Site>>, Who(caller): Who) -> Result<Json<Health>, Refused> {
    caller.needs(Scope::Read)?;
    let answers = site.older.servers.ask_all(ANSWER).await;
    #[expect(clippy::disallowed_methods, reason = "for whoever reads it; it is told also when the database is away")]
    let timestamp = Time(Utc::now());
    let well = answers.values().all(Result::is_ok);
    let one = |(server, answer): (String, Result<(), Failure>)| {
        let error = answer.err().map(|failure: Failure| failure.message);
        let status = if error.is_none() { "ok" } else { "error" };
        (server.clone(), ServerHealth { status, server, timestamp, error })
    };
    let servers = answers.into_iter().map(one).collect();
    Ok(Json(Health { status: if well { "healthy" } else { "degraded" }, servers, timestamp }))
}

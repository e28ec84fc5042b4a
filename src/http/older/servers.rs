//! The health of the servers of tools.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use chrono::Utc;
use tokio::sync::Mutex;

use crate::model::Failure;

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::Older;
use super::refused::{Refused, Who};
use super::shapes::{Health, ServerHealth, Time};

/// A server that has not answered by then is not well.
const ANSWER: Duration = Duration::from_secs(5);

/// So old an answer is as good as a new one: whoever asks often asks no server more often.
const FRESH: Duration = Duration::from_secs(2);

type Answers = Arc<BTreeMap<String, Result<(), Failure>>>;

/// The last answers; while they are asked for anew, others wait for the same.
pub(super) type Asked = Arc<Mutex<Option<(Instant, Answers)>>>;

impl Older {
    async fn answers(&self) -> Answers {
        let mut asked = self.asked.lock().await;
        if let Some((_, answers)) = asked.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return answers.clone();
        }
        let answers = Arc::new(self.servers.ask_all(ANSWER).await);
        *asked = Some((Instant::now(), answers.clone()));
        answers
    }
}

/// How the MCP servers of this process's configuration are: each is asked for its tools.
#[utoipa::path(get, path = "/mcp/health", tag = "older",
    responses((status = 200, body = Health), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn health(State(site): State<Arc<Site>>, Who(caller): Who) -> Result<Json<Health>, Refused> {
    caller.needs(Scope::Read)?;
    let answers = site.older.answers().await;
    #[expect(clippy::disallowed_methods, reason = "for whoever reads it; it is told also when the database is away")]
    let timestamp = Time(Utc::now());
    let well = answers.values().all(Result::is_ok);
    let one = |(server, answer): (&String, &Result<(), Failure>)| {
        let (server, error) = (server.clone(), answer.as_ref().err().map(|failure| failure.message.clone()));
        let status = if error.is_none() { "ok" } else { "error" };
        (server.clone(), ServerHealth { status, server, timestamp, error })
    };
    let servers = answers.iter().map(one).collect();
    Ok(Json(Health { status: if well { "healthy" } else { "degraded" }, servers, timestamp }))
}

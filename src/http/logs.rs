//! What the steps of a run have written: in pages, and live.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::Event;
use chrono::{DateTime, Utc};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::logs::{self, LogLine, Place};
use crate::db::runs;

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::runs::unknown;
use super::stream::{Feed, served};
use super::things::{Asked, At, Known};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(follow))
}

/// Between two looks for somebody who follows; one by primary key.
const PAUSE: Duration = Duration::from_millis(400);

/// After a run's end, its last worker may still have lines to write.
const LAST_WORDS: Duration = Duration::from_millis(1_500);

/// Which lines.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Of this step.
    step: Option<String>,
    /// Of this attempt.
    #[param(minimum = 1)]
    attempt: Option<i16>,
    /// Written at this time or later.
    since: Option<DateTime<Utc>>,
    /// Where to go on: `next` of the page before, or the id of the last event. The header `Last-Event-ID` says the same.
    after: Option<String>,
}

impl Known for Which {
    const KEYS: &'static [&'static str] = &["step", "attempt", "since", "after"];
}

impl Which {
    fn place(&self, headers: &HeaderMap) -> Result<Place, Problem> {
        let last = headers.get("last-event-id").and_then(|h| h.to_str().ok());
        let wrong = |text| {
            Problem::bad(format!("`{text}` is no place in these logs"))
                .hint("send `next` of a page, or the id of an event")
        };
        let text = last.or(self.after.as_deref()).filter(|text| !text.is_empty());
        text.map_or(Ok(Place::default()), |text| text.parse().map_err(|()| wrong(text)))
    }

    fn filter(self) -> logs::Which {
        logs::Which { key: self.step, attempt: self.attempt, since: self.since }
    }
}

/// A page of what steps have written.
#[derive(Serialize, ToSchema)]
struct Lines {
    lines: Vec<LogLine>,
    /// Where the next page begins; also where there is none yet.
    next: String,
    /// Is there a next page already?
    more: bool,
}

/// What the steps of a run have written while they worked, in its order; of each attempt the last lines.
#[utoipa::path(get, path = "/runs/{id}/logs", tag = "runs", params(("id" = Uuid, Path, description = "The run."), Which),
    responses((status = 200, body = Lines), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn list(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(which): Asked<Which>,
) -> Result<Json<Lines>, Problem> {
    caller.needs(Scope::Read)?;
    let mut place = which.place(&HeaderMap::new())?;
    let (lines, more) = logs::next(&site.readers, id, &which.filter(), &mut place).await?;
    if lines.is_empty() && runs::progress(&site.readers, id, false).await?.is_none() {
        return Err(unknown(id));
    }
    Ok(Json(Lines { lines, next: place.to_string(), more }))
}

/// One who follows.
struct Follower {
    site: Arc<Site>,
    caller: Caller,
    run: Uuid,
    which: logs::Which,
    place: Place,
    /// Before the next look.
    pause: Duration,
    /// Since when the run is known to have ended.
    ended: Option<Instant>,
    stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next lines, if there are any; and whether that is the end.
    async fn look(&mut self) -> Result<(Vec<LogLine>, bool), DbError> {
        let now = runs::progress(&self.site.readers, self.run, false).await?;
        let (lines, more) = logs::next(&self.site.readers, self.run, &self.which, &mut self.place).await?;
        self.pause = if more { Duration::ZERO } else { PAUSE };
        let over = now.is_none_or(|now| now.why.is_none());
        self.ended = if over { self.ended.or_else(|| Some(Instant::now())) } else { None };
        Ok((lines, !more && self.ended.is_some_and(|at| at.elapsed() > LAST_WORDS)))
    }
}

impl Feed for Follower {
    async fn events(&mut self) -> (Vec<Event>, bool) {
        tokio::select! {
            () = tokio::time::sleep(self.pause) => {}
            // The server ends, or is gone: the reader comes back, to this one or to another.
            _ = self.stop.wait_for(|stop| *stop) => return (Vec::new(), true),
        }
        if !self.site.access.still(&self.caller) {
            return (Vec::new(), true);
        }
        let (lines, mut end) = match self.look().await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the logs that somebody follows could not be read");
                (Vec::new(), false)
            }
        };
        let mut events = Vec::new();
        if !lines.is_empty() {
            // What comes from Postgres as text is no error in JSON.
            let data = json!({ "lines": lines }).to_string();
            events.push(Event::default().event("lines").id(self.place.to_string()).data(data));
            end = false;
        } else if end {
            events.push(Event::default().event("end").data("{}"));
        }
        (events, end)
    }
}

/// What the steps of a run write: `lines` events, each with the lines since the last one, and `end` some moments after the run's end.
#[utoipa::path(get, path = "/runs/{id}/logs/stream", tag = "streams",
    params(("id" = Uuid, Path, description = "The run."), Which, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was read.")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn follow(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(run): At<Uuid>,
    Asked(which): Asked<Which>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    caller.needs(Scope::Read)?;
    let permit = super::stream::place(&site)?;
    if runs::progress(&site.readers, run, false).await?.is_none() {
        return Err(unknown(run));
    }
    let (place, stop) = (which.place(&headers)?, site.stop.clone());
    let (which, pause) = (which.filter(), Duration::ZERO);
    Ok(served(Follower { site, caller, run, which, place, pause, ended: None, stop, _place: permit }))
}

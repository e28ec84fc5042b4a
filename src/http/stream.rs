//! Live: server-sent events of one run, and of all.
//!
//! Nothing is lost over a reconnect: an event's id says how far the reader has come, and a stream begins a little before that. What
//! comes twice is told apart by its `id`. (Lines of a history are not always committed in the order in which they happened, so "what
//! comes after the last" would leave gaps.)

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{Stream, stream};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::runs::{self, Change, Filter, HistoryLine};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::runs::{Which, unknown};
use super::things::{Asked, At};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(run)).routes(routes!(all))
}

/// Between two looks at one run; at all of them. A look that takes long is followed by a longer pause.
const PAUSE: Duration = Duration::from_millis(400);
const PAUSE_ALL: Duration = Duration::from_secs(1);

/// A line is committed within this time of what it tells: a batch, and the reconnects in between.
const LATE: TimeDelta = TimeDelta::seconds(30);

/// What a stream looks at, again and again.
trait Feed: Send + Sized + 'static {
    const PAUSE: Duration;

    /// What is new; false: there will be nothing more.
    fn look(&mut self, events: &mut VecDeque<Event>) -> impl Future<Output = Result<bool, DbError>> + Send;
}

struct Live<F> {
    feed: F,
    events: VecDeque<Event>,
    ended: bool,
    stop: watch::Receiver<bool>,
    pause: Duration,
}

impl<F: Feed> Live<F> {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some((Ok(event), self));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause) => {}
                // The server ends, or is gone: the reader comes back, to this one or to another.
                _ = self.stop.wait_for(|stop| *stop) => return None,
            }
            let began = Instant::now();
            match self.feed.look(&mut self.events).await {
                Ok(more) => self.ended = !more,
                Err(error) => {
                    tracing::debug!(%error, "a stream ends: its reader comes back");
                    return None;
                }
            }
            self.pause = F::PAUSE.max(began.elapsed() * 4);
        }
    }
}

fn live<F: Feed>(site: &Site, feed: F) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<F>> {
    let live = Live { feed, events: VecDeque::new(), ended: false, stop: site.stop.clone(), pause: Duration::ZERO };
    Sse::new(stream::unfold(live, Live::next)).keep_alive(KeepAlive::default())
}

/// One run's history, as it grows, and where the run stands.
struct OneRun {
    site: Arc<Site>,
    run: Uuid,
    /// Nothing older is told.
    from: Option<DateTime<Utc>>,
    seen: HashSet<String>,
    stood: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    /// The same whenever it is told.
    id: &'a str,
    #[serde(flatten)]
    line: &'a HistoryLine,
}

impl Feed for OneRun {
    const PAUSE: Duration = PAUSE;

    async fn look(&mut self, events: &mut VecDeque<Event>) -> Result<bool, DbError> {
        // Where it stands first: when that says that the run has ended, the history that is read then is whole.
        let Some(now) = runs::progress(&self.site.readers, self.run, false).await? else { return Ok(false) };
        for line in runs::log(&self.site.readers, self.run).await? {
            if self.from.is_some_and(|from| line.at < from) {
                continue;
            }
            let id = identity(&line);
            if !self.seen.contains(&id) {
                events.push_back(event("history", line.at, &Told { id: &id, line: &line }));
                self.seen.insert(id);
            }
        }
        if self.stood.as_ref() != Some(&now.state) {
            events.push_back(plain("state", &json!({"state": now.state, "why": now.why})));
        }
        self.stood = Some(now.state);
        Ok(now.why.is_some())
    }
}

/// A text that is the same whenever a line is read, and differs from that of every other line of the run.
fn identity(l: &HistoryLine) -> String {
    let text = format!("{} {:?} {:?} {:?} {:?}", l.at.timestamp_micros(), l.event, l.key, l.attempt, l.epoch);
    Sha256::digest(text.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn event(name: &str, at: DateTime<Utc>, data: &impl Serialize) -> Event {
    plain(name, data).id(at.timestamp_micros().to_string())
}

fn plain(name: &str, data: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    // What comes from Postgres as JSON is JSON.
    event.json_data(data).unwrap_or_else(|e| Event::default().event("error").data(e.to_string()))
}

/// How far the reader had come, from the header that browsers send when they connect again.
fn last_event(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let micros = headers.get("last-event-id")?.to_str().ok()?.parse().ok()?;
    DateTime::from_timestamp_micros(micros)
}

/// What happens to a run: `history` events as its history grows, `state` events where it stands. Ends with the run.
#[utoipa::path(get, path = "/runs/{id}/stream", tag = "streams",
    params(("id" = Uuid, Path, description = "The run."), ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was read.")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn run(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    caller.needs(Scope::Read)?;
    if runs::progress(&site.readers, id, false).await?.is_none() {
        return Err(unknown(id));
    }
    let from = last_event(&headers).map(|at| at - LATE);
    let feed = OneRun { site: site.clone(), run: id, from, seen: HashSet::new(), stood: None };
    Ok(live(&site, feed))
}

/// Where all runs stand that a filter leaves.
struct AllRuns {
    site: Arc<Site>,
    filter: Filter,
    /// States that are asked for. They are looked for in the changes, and not by the database: a run that leaves one has changed, too.
    wanted: Vec<String>,
    known: HashMap<Uuid, Change>,
    last: Option<Uuid>,
}

impl AllRuns {
    fn tell(&self, change: &Change, events: &mut VecDeque<Event>) {
        if self.wanted.is_empty() || self.wanted.contains(&change.state) {
            let data = json!({
                "id": change.id, "state": change.state, "workflow": change.workflow, "step": change.step,
                "error_code": change.error_code, "error_message": change.error_message, "at": change.now,
            });
            events.push_back(event("run", change.now, &data));
        }
    }
}

impl Feed for AllRuns {
    const PAUSE: Duration = PAUSE_ALL;

    async fn look(&mut self, events: &mut VecDeque<Event>) -> Result<bool, DbError> {
        let Some(last) = self.last else {
            self.last = Some(runs::last(&self.site.readers).await?.unwrap_or(Uuid::nil()));
            for change in runs::unfinished(&self.site.readers, &self.filter).await? {
                self.tell(&change, events);
                self.known.insert(change.id, change);
            }
            return Ok(true);
        };
        let ids: Vec<Uuid> = self.known.keys().copied().collect();
        for change in runs::changes(&self.site.readers, &self.filter, last, &ids).await? {
            self.last = self.last.max(Some(change.id));
            let same = self.known.get(&change.id).is_some_and(|b| b.state == change.state && b.step == change.step);
            if !same {
                self.tell(&change, events);
            }
            match change.state.as_str() {
                "completed" | "failed" | "cancelled" => drop(self.known.remove(&change.id)),
                _ => drop(self.known.insert(change.id, change)),
            }
        }
        Ok(true)
    }
}

/// Where runs stand, as it changes: a `run` event for each that is unfinished, then for every change, and for every new run.
#[utoipa::path(get, path = "/stream", tag = "streams", params(Which),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn all(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    caller.needs(Scope::Read)?;
    let mut filter = which.filter()?;
    let wanted = std::mem::take(&mut filter.states);
    let feed = AllRuns { site: site.clone(), filter, wanted, known: HashMap::new(), last: None };
    Ok(live(&site, feed))
}

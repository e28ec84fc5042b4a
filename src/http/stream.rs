//! Live: server-sent events of one run and of all, and a WebSocket of one run.
//!
//! Nothing is lost over a reconnect, to this server or to another on the same database: an event's id says how far the reader has come
//! ([`super::told`] for one run, a [`Mark`] for all).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::{MethodRouter, get};
use chrono::DateTime;
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::changes::{self, Change, Mark};
use crate::db::runs::{self, Filter};

use super::Site;
use super::access::{Caller, Scope};
use super::hub::{Batch, Story};
use super::problem::Problem;
use super::runs::{Which, unknown};
use super::things::{Asked, AskedBoth, At, Known};
use super::told::{Cursor, Teller};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(run)).routes(routes!(all)).merge(super::socket::routes())
}

/// The same under another path.
pub(super) fn of_run() -> MethodRouter<Arc<Site>> {
    get(run)
}

/// So often at least a stream says something, and sees whether its reader may still look.
pub(super) const PULSE: Duration = Duration::from_secs(15);

/// Where a reader goes on.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// The `id` of the last event that was read; a number: so many lines of the run's history. The header `Last-Event-ID`, which
    /// browsers send, says the same.
    after: Option<String>,
}

impl Known for After {
    const KEYS: &'static [&'static str] = &["after"];
}

impl After {
    pub(super) fn text<'a>(&'a self, headers: &'a HeaderMap) -> Option<&'a str> {
        let last = headers.get("last-event-id").and_then(|h| h.to_str().ok());
        last.or(self.after.as_deref()).filter(|text| !text.is_empty())
    }

    pub(super) fn cursor(&self, headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
        let wrong =
            |text| Problem::bad(format!("`{text}` is no event of this stream")).hint("send an id that it has given");
        self.text(headers).map(|text| Cursor::parse(text).ok_or_else(|| wrong(text))).transpose()
    }
}

/// A place among the streams.
pub(super) fn place(site: &Site) -> Result<OwnedSemaphorePermit, Problem> {
    let full =
        |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open").hint("close some, or wait");
    site.hub.places.clone().try_acquire_owned().map_err(full)
}

/// What a reader of one run is to be told.
pub(super) enum Message {
    /// A line of the history, as JSON; and the cursor after it.
    History(String, String),
    /// Where the run stands.
    State(serde_json::Value),
}

/// One run, for one reader.
pub(super) struct OneRun {
    site: Arc<Site>,
    caller: Caller,
    story: watch::Receiver<Option<Arc<Story>>>,
    stop: watch::Receiver<bool>,
    teller: Teller,
    stood: Option<(String, Option<String>)>,
    _place: OwnedSemaphorePermit,
}

impl OneRun {
    pub(super) async fn of(
        site: &Arc<Site>,
        caller: Caller,
        run: Uuid,
        after: Option<Cursor>,
    ) -> Result<Self, Problem> {
        caller.needs(Scope::Read)?;
        let place = place(site)?;
        if runs::progress(&site.readers, run, false).await?.is_none() {
            return Err(unknown(run));
        }
        let (story, stop) = (site.hub.run(run), site.stop.clone());
        let teller = Teller::after(after);
        Ok(Self { site: site.clone(), caller, story, stop, teller, stood: None, _place: place })
    }

    /// Has the run ended, and the reader been told?
    pub(super) fn is_over(&self) -> bool {
        self.stood.as_ref().is_some_and(|(_, why)| why.is_none())
    }

    /// What comes next, and whether it is the end. Nothing and no end: there is nothing to say for a while.
    pub(super) async fn next(&mut self) -> (Vec<Message>, bool) {
        let story = tokio::select! {
            changed = self.story.changed() => match changed {
                Ok(()) => self.story.borrow_and_update().clone(),
                Err(_) => return (Vec::new(), true),
            },
            () = tokio::time::sleep(PULSE) => None,
            // The server ends, or is gone: the reader comes back, to this one or to another.
            _ = self.stop.wait_for(|stop| *stop) => return (Vec::new(), true),
        };
        if !self.site.access.still(&self.caller) {
            return (Vec::new(), true);
        }
        let Some(story) = story else { return (Vec::new(), false) };
        let news = self.teller.news(&story.lines).into_iter();
        let mut messages: Vec<Message> = news.map(|(json, cursor)| Message::History(json, cursor)).collect();
        let stands = (story.state.clone().unwrap_or_default(), story.why.clone());
        if !messages.is_empty() || self.stood.as_ref().is_none_or(|(state, _)| *state != stands.0) {
            messages.push(Message::State(json!({"state": stands.0, "why": stands.1})));
            self.stood = Some(stands);
        }
        (messages, story.why.is_none())
    }
}

/// What happens to a run: `history` events as its history grows, `state` events where it stands. Ends with the run.
#[utoipa::path(get, path = "/runs/{id}/stream", tag = "streams",
    params(("id" = Uuid, Path, description = "The run."), After, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was read.")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn run(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(after): Asked<After>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    Ok(served(OneRun::of(&site, caller, id, after.cursor(&headers)?).await?))
}

/// What comes next in a stream, and whether it is the end.
pub(super) trait Feed: Send + 'static {
    fn events(&mut self) -> impl Future<Output = (Vec<Event>, bool)> + Send;
}

impl Feed for OneRun {
    async fn events(&mut self) -> (Vec<Event>, bool) {
        let (messages, end) = self.next().await;
        let event = |message| match message {
            Message::History(json, cursor) => Event::default().event("history").id(cursor).data(json),
            Message::State(json) => Event::default().event("state").data(json.to_string()),
        };
        (messages.into_iter().map(event).collect(), end)
    }
}

/// A feed as an answer.
pub(super) fn served<F: Feed>(feed: F) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<F>> {
    let start = (feed, VecDeque::new(), false);
    let stream = stream::unfold(start, |(mut feed, mut events, mut ended)| async move {
        loop {
            if let Some(event) = events.pop_front() {
                return Some((Ok(event), (feed, events, ended)));
            }
            if ended {
                return None;
            }
            let (more, end) = feed.events().await;
            events.extend(more);
            ended = end;
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(PULSE))
}

/// All runs that a filter leaves, for one reader.
struct AllRuns {
    site: Arc<Site>,
    caller: Caller,
    filter: Filter,
    batches: broadcast::Receiver<Arc<Batch>>,
    stop: watch::Receiver<bool>,
    /// Where the runs stand at the beginning.
    first: Option<Batch>,
    /// When the reader was last told how far they are.
    said: Instant,
    _place: OwnedSemaphorePermit,
}

impl AllRuns {
    async fn of(site: &Arc<Site>, caller: Caller, filter: Filter, after: Option<Mark>) -> Result<Self, Problem> {
        let place = place(site)?;
        // First, so that nothing happens between what is read here and what is told then.
        let (batches, stop) = (site.hub.all(), site.stop.clone());
        let here = changes::mark_here(&site.readers).await?;
        let (changes, overflow) = match after {
            Some(mark) => missed(site, &mark).await?.map_or((Vec::new(), true), |changes| (changes, false)),
            None => {
                (changes::unfinished(&site.readers, &Filter { states: Vec::new(), ..filter.clone() }).await?, false)
            }
        };
        let first = Some(Batch { mark: here, changes, overflow });
        Ok(Self { site: site.clone(), caller, filter, batches, stop, first, said: Instant::now(), _place: place })
    }

    fn told(&mut self, batch: &Batch) -> Vec<Event> {
        let mark = &batch.mark;
        let why = || json!({"why": "more has changed than can be told: look anew"}).to_string();
        let reset = batch.overflow.then(|| Event::default().event("reset").data(why()));
        let mut events: Vec<Event> =
            reset.into_iter().chain(batch.changes.iter().filter(|c| self.filter.fits(c)).map(plain)).collect();
        // Who comes back says how far they are: the last event of a batch has it, and a word in between while nothing happens.
        let place = format!("{}-{}", mark.floor, mark.at.timestamp_micros());
        if let Some(last) = events.pop() {
            events.push(last.id(place));
        } else if self.said.elapsed() >= PULSE {
            events.push(Event::default().event("here").id(place).data(json!({"at": mark.at}).to_string()));
        } else {
            return events;
        }
        self.said = Instant::now();
        events
    }
}

/// What has changed since somebody was here; `None`: more than can be told, or nobody knows.
async fn missed(site: &Site, since: &Mark) -> Result<Option<Vec<Change>>, Problem> {
    if !changes::can_be_told(&site.readers, since).await? {
        return Ok(None);
    }
    let ids = changes::changed(&site.readers, since, &[], changes::WATCHED + 1).await?;
    if i64::try_from(ids.len()).is_ok_and(|n| n > changes::WATCHED) {
        return Ok(None);
    }
    Ok(Some(changes::standing(&site.readers, &ids).await?))
}

fn plain(change: &Change) -> Event {
    let data = json!({
        "id": change.id, "state": change.state, "workflow": change.workflow, "queue": change.queue, "step": change.step,
        "error_code": change.error_code, "error_message": change.error_message, "epoch": change.epoch, "at": change.now,
    });
    Event::default().event("run").data(data.to_string())
}

impl Feed for AllRuns {
    async fn events(&mut self) -> (Vec<Event>, bool) {
        if let Some(first) = self.first.take() {
            return (self.told(&first), false);
        }
        let batch = tokio::select! {
            batch = self.batches.recv() => batch,
            _ = self.stop.wait_for(|stop| *stop) => return (Vec::new(), true),
        };
        // Too slow by far, or the server is gone: they come back, and are told from where they were.
        let Ok(batch) = batch else { return (Vec::new(), true) };
        if !self.site.access.still(&self.caller) {
            return (Vec::new(), true);
        }
        (self.told(&batch), false)
    }
}

fn mark(text: &str) -> Option<Mark> {
    let (floor, micros) = text.split_once('-')?;
    let floor: u32 = floor.parse().ok()?;
    Some(Mark { floor: floor.to_string(), at: DateTime::from_timestamp_micros(micros.parse().ok()?)? })
}

/// Where runs stand, as it changes: a `run` event for each of the newest 2,000 that are unfinished (after a reconnect: that has changed since),
/// then for every change, and for every new run. `reset`: more has changed than can be told (more than 5,000 runs at once, more than 2,000 while
/// the reader was away, or anything longer than an hour ago); look anew, and read on. `here`: nothing has happened.
#[utoipa::path(get, path = "/stream", tag = "streams", params(Which, After, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was read.")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn all(
    State(site): State<Arc<Site>>,
    caller: Caller,
    AskedBoth(which, after): AskedBoth<Which, After>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    caller.needs(Scope::Read)?;
    let wrong =
        |text| Problem::bad(format!("`{text}` is no event of this stream")).hint("send an id that it has given");
    let after = after.text(&headers).map(|text| mark(text).ok_or_else(|| wrong(text))).transpose()?;
    Ok(served(AllRuns::of(&site, caller, which.filter()?, after).await?))
}

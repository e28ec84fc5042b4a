//! From notes to spans: many runs with each query, and of a huge run no more at a time than there is room for.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prost::Message as _;
use prost::bytes::Bytes;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::db::{DbError, Trouble, traces, within};
use crate::model::{RunId, TracedRun};
use crate::rules::sampling::Sampling;
use crate::telemetry::traces::attempts::Story;
use crate::telemetry::traces::otlp::Span;
use crate::telemetry::traces::parts::{Part, parts};
use crate::telemetry::traces::spans::Frame;
use crate::telemetry::traces::{Maker, Style};

/// Steps that are read at a time: at first with their contents, and at most.
const STEPS: (i64, i64) = (250, 2_000);

/// After a page with less content than this the next may be twice as long.
const SMALL: usize = 1_000_000;

/// Lines of calls that are read at a time; each is a call or a few.
const CALLS: i64 = 250;

/// Runs whose rows are held at a time.
const RUNS: usize = 100;

/// Targets take 5 MB at the most, and more spans in one request help nobody.
const REQUEST: (usize, usize) = (3_500_000, 4_000);

/// A statement takes milliseconds; one that has no answer by then gets none.
const ANSWERS: Duration = Duration::from_secs(35);

/// Which parts of a run are meant: those that ended within one of these.
pub type Windows = Vec<(DateTime<Utc>, DateTime<Utc>)>;

/// What is done with spans once there are enough of them.
pub trait Deliver {
    /// Why it may stop.
    type Stop: From<DbError>;

    /// Returns when they are delivered; each span is encoded.
    fn deliver(&mut self, spans: Vec<Bytes>) -> impl Future<Output = Result<(), Self::Stop>> + Send;
}

/// Reads runs for one target.
#[derive(Clone, Debug)]
pub struct Loader {
    /// Connections for reading.
    pub pool: PgPool,
    /// How the target is told.
    pub style: Style,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Runs that were told.
    pub runs: usize,
    /// Runs that are there no more.
    pub gone: usize,
}

/// A run, and what its parts are made from.
struct Life {
    run: TracedRun,
    parts: Vec<Part>,
    story: Story,
    frames: Vec<Frame>,
}

struct Packet<'a, D> {
    spans: Vec<Bytes>,
    bytes: usize,
    to: &'a mut D,
}

impl<D: Deliver> Packet<'_, D> {
    async fn add(&mut self, more: Vec<Span>) -> Result<(), D::Stop> {
        for span in more {
            let span = Bytes::from(span.encode_to_vec());
            self.bytes += span.len() + 8;
            self.spans.push(span);
            if self.bytes > REQUEST.0 || self.spans.len() >= REQUEST.1 {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), D::Stop> {
        self.bytes = 0;
        if self.spans.is_empty() { Ok(()) } else { self.to.deliver(std::mem::take(&mut self.spans)).await }
    }
}

impl Loader {
    /// One thing on a connection for reading.
    async fn ask<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, DbError>) -> Result<T, DbError> {
        let mut conn = self.pool.acquire().await?;
        let done = within(ANSWERS, work(&mut conn)).await;
        if matches!(&done, Err(error) if error.trouble == Trouble::Lost) {
            drop(conn.detach());
        }
        done
    }

    /// Tells runs: those that are sampled, or all where there is no `sampling`.
    ///
    /// # Errors
    /// The database's, or what the delivery says.
    pub async fn tell<D: Deliver>(
        &self,
        wanted: &BTreeMap<Uuid, Windows>,
        sampling: Option<&Sampling>,
        to: &mut D,
    ) -> Result<Loaded, D::Stop> {
        let ids: Vec<Uuid> = wanted.keys().copied().collect();
        let known = self.ask(async |conn| traces::states(conn, &ids).await).await?;
        let mut loaded = Loaded { runs: 0, gone: ids.len() - known.len() };
        let told = |(id, workflow, state): &(Uuid, String, _)| {
            sampling.is_none_or(|s| s.exports(RunId(*id), workflow, *state)).then_some(*id)
        };
        let chosen: Vec<Uuid> = known.iter().filter_map(told).collect();
        let mut packet = Packet { spans: Vec::new(), bytes: 0, to };
        for ids in chosen.chunks(RUNS) {
            let lives = self.lives(ids, wanted).await?;
            loaded.runs += lives.len();
            self.spans_of(&lives, &mut packet).await?;
        }
        packet.flush().await?;
        Ok(loaded)
    }

    fn content(&self) -> i32 {
        // Characters, not bytes: the rest is cut when the span is made.
        if self.style.content { i32::try_from(self.style.longest).unwrap_or(i32::MAX) + 1 } else { 0 }
    }

    async fn lives(&self, ids: &[Uuid], wanted: &BTreeMap<Uuid, Windows>) -> Result<Vec<Life>, DbError> {
        let content = self.content();
        let (runs, mut events, mut waits, mut frames) = self
            .ask(async |conn| {
                let runs = traces::runs(conn, ids, content).await?;
                let (events, waits) = (traces::events(conn, ids).await?, traces::waits(conn, ids).await?);
                Ok((runs, events, waits, traces::frames(conn, ids).await?))
            })
            .await?;
        let life = |run: TracedRun| {
            let events = events.remove(&run.id).unwrap_or_default();
            let mut all = parts(&run, &events, &waits.remove(&run.id).unwrap_or_default());
            let windows = wanted.get(&run.id).map(Vec::as_slice).unwrap_or_default();
            all.retain(|part| windows.iter().any(|(from, to)| (*from..=*to).contains(&part.to)));
            let frames = frames.remove(&run.id).unwrap_or_default();
            Life { parts: all, story: Story::of(&run, events), frames, run }
        };
        Ok(runs.into_iter().map(life).filter(|life| !life.parts.is_empty()).collect())
    }

    async fn spans_of<D: Deliver>(&self, lives: &[Life], packet: &mut Packet<'_, D>) -> Result<(), D::Stop> {
        let mut makers: HashMap<Uuid, Vec<Maker<'_>>> = HashMap::new();
        for life in lives {
            let maker = |part| Maker::new(&self.style, &life.run, part, &life.story, &life.frames);
            let mut all: Vec<_> = life.parts.iter().map(maker).collect();
            let mut spans: Vec<Span> = all.iter().map(Maker::root).collect();
            if let Some(last) = &life.run.last {
                spans.extend(all.iter_mut().flat_map(|maker| maker.step(last)));
            }
            packet.add(spans).await?;
            makers.insert(life.run.id, all);
        }
        self.steps_of(lives, &mut makers, packet).await?;
        for life in lives {
            let Some(all) = makers.get_mut(&life.run.id) else { continue };
            packet.add(all.iter_mut().flat_map(Maker::rest).collect()).await?;
        }
        self.calls_of(lives, &makers, packet).await
    }

    /// What the attempts of all runs have asked of others, page after page.
    async fn calls_of<D: Deliver>(
        &self,
        lives: &[Life],
        makers: &HashMap<Uuid, Vec<Maker<'_>>>,
        packet: &mut Packet<'_, D>,
    ) -> Result<(), D::Stop> {
        let mut left: Vec<Uuid> = lives.iter().map(|life| life.run.id).collect();
        let mut after = 0;
        while !left.is_empty() {
            let page = self.ask(async |conn| traces::calls(conn, &left, after, CALLS).await).await?;
            let is_last = page.len() < usize::try_from(CALLS).unwrap_or(0);
            if let Some((run, id, _)) = page.last() {
                let at = left.iter().position(|r| r == run).unwrap_or(0);
                left.drain(..at);
                after = *id;
            }
            for (run, _, made) in &page {
                let all = makers.get(run).map(Vec::as_slice).unwrap_or_default();
                packet.add(all.iter().flat_map(|maker| maker.calls(made)).collect()).await?;
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// The steps of all runs, page after page.
    async fn steps_of<D: Deliver>(
        &self,
        lives: &[Life],
        makers: &mut HashMap<Uuid, Vec<Maker<'_>>>,
        packet: &mut Packet<'_, D>,
    ) -> Result<(), D::Stop> {
        let mut limit = if self.style.content { STEPS.0 } else { STEPS.1 };
        let mut left: Vec<Uuid> = lives.iter().map(|life| life.run.id).collect();
        let mut after = String::new();
        while !left.is_empty() {
            let page = self.ask(async |conn| traces::steps(conn, &left, &after, self.content(), limit).await).await?;
            let is_last = page.len() < usize::try_from(limit).unwrap_or(0);
            if let Some(last) = page.last() {
                let at = left.iter().position(|run| *run == last.run).unwrap_or(0);
                left.drain(..at);
                after.clone_from(&last.key);
            }
            let bytes: usize = page.iter().filter_map(|step| step.output.as_ref()).map(String::len).sum();
            limit = if bytes < SMALL { (limit * 2).min(STEPS.1) } else { STEPS.0 };
            for step in page {
                let Some(all) = makers.get_mut(&step.run) else { continue };
                packet.add(all.iter_mut().flat_map(|maker| maker.told_once(&step)).collect()).await?;
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }
}

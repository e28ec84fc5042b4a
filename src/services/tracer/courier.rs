//! Takes the notes of one target and delivers their runs, again and again: low in rank, bounded in memory, and patient. A target that does
//! not answer holds its own notes back, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::db::traces::{self, TraceNote};
use crate::db::{Database, DbError};
use crate::rules::sampling::Sampling;
use crate::telemetry::traces::otlp::Span;

use super::super::shared::{Stop, stopped};
use super::figures::Figures;
use super::loader::{Deliver, Loader, Windows};
use super::sender::{Sender, Verdict};

/// Notes that are taken at a time.
const NOTES: i64 = 64;

/// For so long other daemons leave them alone: longer than a try and the pause after it.
const HOLD: Duration = Duration::from_secs(150);

/// Between two looks where there is nothing to do.
const LOOK: Duration = Duration::from_secs(1);

/// Pauses between tries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// At the end of the daemon, what its last runs have left is still sent within this time.
const FAREWELL: Duration = Duration::from_secs(3);

/// One target.
#[derive(Debug)]
pub struct Target {
    /// As the configuration calls it.
    pub name: String,
    /// The way there.
    pub sender: Arc<Sender>,
    /// What has come of it.
    pub figures: Arc<Figures>,
}

/// The service for one target.
pub struct Courier {
    /// The database.
    pub db: Database,
    /// Where to.
    pub target: Target,
    /// What is read.
    pub loader: Loader,
    /// Which runs.
    pub sampling: Sampling,
}

/// Why a delivery stops.
#[derive(Debug)]
pub enum Halt {
    /// The daemon ends.
    Stopped,
    /// The notes have been dropped meanwhile.
    Dropped,
    /// The database.
    Database(DbError),
}

impl From<DbError> for Halt {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

/// A delivery under way.
struct Delivery<'a> {
    db: &'a Database,
    target: &'a Target,
    notes: Vec<i64>,
    held_at: Instant,
    /// Since when the target does not answer, and what has been said of it.
    failing: &'a mut Option<String>,
    stop: Stop,
}

impl Courier {
    /// Until the stop; and then, for a moment, what is left.
    pub async fn run(self, mut stop: Stop) {
        let mut failing = None;
        let mut pause = PAUSES.0;
        while !*stop.borrow() {
            let began = Instant::now();
            let rest = match self.pass(&mut failing, &stop).await {
                Ok(false) => LOOK,
                // As long as it has worked, so that the runs that are under way never wait for it.
                Ok(true) => began.elapsed(),
                Err(Halt::Stopped) => break,
                Err(Halt::Dropped) => LOOK,
                Err(Halt::Database(error)) => {
                    tracing::debug!(target.name = self.target.name, %error, "traces cannot be read");
                    pause = (pause * 2).min(PAUSES.1);
                    pause
                }
            };
            if rest < PAUSES.0 {
                pause = PAUSES.0;
            }
            tokio::select! {
                () = stopped(&mut stop) => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
        if failing.is_none() {
            self.farewell().await;
        }
    }

    /// Ends by itself, and drops nothing half-way: a statement under way is finished.
    async fn farewell(&self) {
        let (end, ending) = tokio::sync::watch::channel(false);
        let passes = async { while !*ending.borrow() && matches!(self.pass(&mut None, &ending).await, Ok(true)) {} };
        tokio::pin!(passes);
        tokio::select! {
            () = &mut passes => return,
            () = tokio::time::sleep(FAREWELL) => {}
        }
        end.send_replace(true);
        passes.await;
    }

    /// Delivers what one look finds. False: nothing was there.
    async fn pass(&self, failing: &mut Option<String>, stop: &Stop) -> Result<bool, Halt> {
        let name = &self.target.name;
        let notes = self.db.ask(async |conn| traces::take(conn, name, NOTES, HOLD).await).await?;
        if notes.is_empty() {
            return Ok(false);
        }
        let ids: Vec<i64> = notes.iter().map(|n| n.id).collect();
        let (db, target) = (&self.db, &self.target);
        let mut delivery =
            Delivery { db, target, notes: ids.clone(), held_at: Instant::now(), failing, stop: stop.clone() };
        match self.loader.tell(&windows(&notes), Some(&self.sampling), &mut delivery).await {
            Ok(loaded) => {
                self.db.ask(async |conn| traces::done(conn, name, &ids).await).await?;
                if loaded.gone > 0 {
                    Figures::count(&self.target.figures.dropped, loaded.gone);
                    tracing::warn!(
                        target.name = name,
                        runs = loaded.gone,
                        "runs were removed before their traces were sent"
                    );
                }
                Ok(true)
            }
            Err(halt) => {
                // Another daemon, or this one, goes on with them. Where that cannot be said, the time says it.
                let _ = self.db.ask(async |conn| traces::hold(conn, name, &ids, Duration::ZERO).await).await;
                Err(halt)
            }
        }
    }
}

fn windows(notes: &[TraceNote]) -> BTreeMap<Uuid, Windows> {
    let mut all = BTreeMap::<Uuid, Windows>::new();
    for note in notes {
        for run in &note.runs {
            all.entry(*run).or_default().push((note.from, note.to));
        }
    }
    all
}

impl Deliver for Delivery<'_> {
    type Stop = Halt;

    async fn deliver(&mut self, spans: Vec<Span>) -> Result<(), Halt> {
        let mut left = vec![spans];
        let mut pause = PAUSES.0;
        while let Some(spans) = left.pop() {
            self.keep_hold().await?;
            match self.once(spans.clone()).await {
                Ok(()) => pause = PAUSES.0,
                Err(Verdict::TooLarge) if spans.len() > 1 => {
                    let mut spans = spans;
                    let half = spans.split_off(spans.len() / 2);
                    left.extend([half, spans]);
                }
                Err(Verdict::Later { why, after }) => {
                    self.fails(why);
                    let wait = after.unwrap_or(pause).mul_f64(1.0 + fastrand::f64() / 4.0);
                    pause = (pause * 2).min(PAUSES.1);
                    left.push(spans);
                    tokio::select! {
                        () = stopped(&mut self.stop) => return Err(Halt::Stopped),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Err(verdict) => self.refuses(spans.len(), &verdict),
            }
        }
        Ok(())
    }
}

impl Delivery<'_> {
    async fn keep_hold(&mut self) -> Result<(), Halt> {
        if self.held_at.elapsed() < HOLD / 5 {
            return Ok(());
        }
        let (name, notes) = (&self.target.name, &self.notes);
        let held = self.db.ask(async |conn| traces::hold(conn, name, notes, HOLD).await).await?;
        self.held_at = Instant::now();
        if held == 0 { Err(Halt::Dropped) } else { Ok(()) }
    }

    /// One request. `Err`: what else is to be done.
    async fn once(&mut self, spans: Vec<Span>) -> Result<(), Verdict> {
        let (n, sender) = (spans.len(), self.target.sender.clone());
        // Packing is work for a processor: not on a thread that the runs need.
        let packed = tokio::task::spawn_blocking(move || sender.pack(spans)).await;
        let Ok(body) = packed else { return Err(Verdict::Refused("the request could not be packed".to_owned())) };
        let bytes = body.len();
        let sent = tokio::select! {
            verdict = self.target.sender.send(body) => verdict,
            () = stopped(&mut self.stop) => Verdict::Later { why: "the daemon ends".to_owned(), after: None },
        };
        let Verdict::Taken { refused, why } = sent else { return Err(sent) };
        let figures = &self.target.figures;
        Figures::count(&figures.spans, n.saturating_sub(refused));
        Figures::count(&figures.bytes, bytes);
        if refused > 0 {
            self.refuses(refused, &Verdict::Refused(why));
        }
        if self.failing.take().is_some() {
            tracing::info!(target.name = self.target.name, "traces are delivered again");
        }
        Ok(())
    }

    /// Said once, and again where it says something else.
    fn fails(&mut self, why: String) {
        if *self.stop.borrow() {
            return;
        }
        Figures::count(&self.target.figures.failed, 1);
        if self.failing.as_ref() != Some(&why) {
            tracing::warn!(
                target.name = self.target.name,
                error = why,
                "traces cannot be delivered; they are kept, and sent when that is over"
            );
            *self.failing = Some(why);
        }
    }

    fn refuses(&self, spans: usize, verdict: &Verdict) {
        Figures::count(&self.target.figures.refused, spans);
        let why = match verdict {
            Verdict::Refused(why) => why.as_str(),
            _ => "one span is larger than it takes",
        };
        tracing::error!(
            target.name = self.target.name,
            spans,
            error = why,
            "the target of traces refuses these spans for good"
        );
    }
}

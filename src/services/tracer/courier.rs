//! Takes the notes of one target and delivers their runs, again and again: low in rank, bounded in memory, and patient. A target that does
//! not answer holds its own notes back, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::traces::{self, TraceNote};
use crate::db::{Database, DbError};
use crate::os::aside::aside;
use crate::rules::sampling::Sampling;

use super::super::runs::Runs;
use super::super::shared::{Stop, stopped};
use super::figures::Figures;
use super::loader::{Deliver, Loader, Windows};
use super::sender::{Sender, Verdict};

/// Notes that are taken at a time.
const NOTES: i64 = 16;

/// For so long other daemons leave them alone: longer than a try and the pause after it.
const HOLD: Duration = Duration::from_secs(150);

/// Between two looks where there is nothing to do …
const LOOK: Duration = Duration::from_secs(1);

/// … and after one that has found little: a few dozen runs cost hardly more than one.
const SOON: Duration = Duration::from_millis(200);

/// After what it has done it rests for as long; and so many times as long where runs wait for a slot of this worker, …
const BEHIND_RUNS: u32 = 19;

/// … until the oldest trace is so late.
const LATE: Duration = Duration::from_secs(30);

/// No rest is longer: an answer that was long on its way is not work.
const LONGEST_REST: Duration = Duration::from_secs(2);

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
    /// What comes first.
    pub runs: Arc<Runs>,
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
    /// What it rests for; `None`: it does not.
    behind: Option<&'a Runs>,
    /// When the oldest of the notes is late.
    late_at: Instant,
    /// The end of the last rest.
    rested_at: Instant,
}

impl Courier {
    /// Until the stop; and then, for a moment, what is left.
    pub async fn run(self, mut stop: Stop) {
        let mut failing = None;
        let mut pause = PAUSES.0;
        while !*stop.borrow() {
            let rest = match self.pass(&mut failing, &stop, Some(&self.runs)).await {
                Ok(0) => LOOK,
                Ok(notes) if notes < NOTES => SOON,
                Ok(_) => Duration::ZERO,
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
        let passes =
            async { while !*ending.borrow() && matches!(self.pass(&mut None, &ending, None).await, Ok(1..)) {} };
        tokio::pin!(passes);
        tokio::select! {
            () = &mut passes => return,
            () = tokio::time::sleep(FAREWELL) => {}
        }
        end.send_replace(true);
        passes.await;
    }

    /// Delivers what one look finds. Returns how many notes that were.
    async fn pass(&self, failing: &mut Option<String>, stop: &Stop, behind: Option<&Runs>) -> Result<i64, Halt> {
        let name = &self.target.name;
        let notes = self.db.ask(async |conn| traces::take(conn, name, NOTES, HOLD).await).await?;
        if notes.is_empty() {
            return Ok(0);
        }
        let ids: Vec<i64> = notes.iter().map(|n| n.id).collect();
        let now = Instant::now();
        let mut delivery = Delivery {
            db: &self.db,
            target: &self.target,
            notes: ids.clone(),
            held_at: now,
            failing,
            stop: stop.clone(),
            behind,
            late_at: now + LATE.saturating_sub(notes.iter().map(|n| n.age).max().unwrap_or_default()),
            rested_at: now,
        };
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
                Ok(i64::try_from(ids.len()).unwrap_or(NOTES))
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

    async fn deliver(&mut self, spans: Vec<Bytes>) -> Result<(), Halt> {
        let mut left = vec![spans];
        while let Some(mut spans) = left.pop() {
            match self.patiently(&spans).await? {
                Ok(()) => {}
                Err(Verdict::TooLarge) if spans.len() > 1 => {
                    let half = spans.split_off(spans.len() / 2);
                    left.extend([half, spans]);
                }
                Err(verdict) => self.refuses(spans.len(), &verdict),
            }
        }
        self.rest().await;
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

    /// The runs come first, as long as no trace is late. (The export of a trace costs as much as the work of a small run: at the same
    /// rank it would take half of a busy machine.)
    async fn rest(&mut self) {
        let Some(runs) = self.behind else { return };
        let late = Instant::now() > self.late_at;
        let share = if runs.buffered() > 0 && !late { BEHIND_RUNS } else { 1 };
        let rest = (self.rested_at.elapsed() * share).min(LONGEST_REST);
        tokio::select! {
            () = stopped(&mut self.stop) => {}
            () = tokio::time::sleep(rest) => {}
        }
        self.rested_at = Instant::now();
    }

    /// Until the target has said something for good.
    async fn patiently(&mut self, spans: &[Bytes]) -> Result<Result<(), Verdict>, Halt> {
        let (n, sender, shared) = (spans.len(), self.target.sender.clone(), spans.to_vec());
        // Packing is work for a processor: not on a thread that the runs need.
        let Some(body) = aside(move || sender.pack(&shared)).await else {
            return Ok(Err(Verdict::Refused("the request could not be packed".to_owned())));
        };
        let mut pause = PAUSES.0;
        loop {
            self.keep_hold().await?;
            let Err(verdict) = self.once(n, body.clone()).await else { return Ok(Ok(())) };
            let Verdict::Later { why, after } = verdict else { return Ok(Err(verdict)) };
            self.fails(why);
            let wait = after.unwrap_or(pause).mul_f64(1.0 + fastrand::f64() / 4.0);
            pause = (pause * 2).min(PAUSES.1);
            tokio::select! {
                () = stopped(&mut self.stop) => return Err(Halt::Stopped),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One request with so many spans. `Err`: what else is to be done.
    async fn once(&mut self, n: usize, body: Bytes) -> Result<(), Verdict> {
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

//! Exports traces: beside the work, never in its way.
//!
//! ```text
//!  ended (trigger) ──note──► trace_notes ──► courier (one a target) ──loader──► spans ──sender──► target
//!  long waits (keeper) ─┘         │                 └── back to the notes where the target does not answer
//!                                 └── keeper: bounds, figures
//! ```
//!
//! What is to be exported is noted in the transaction that ends a run (`migrations/0007_traces.sql`); any daemon that knows the target sends
//! it, made from the rows ([`loader`]). Each target has notes, a pace and a backoff of its own ([`courier`]). All targets have what a note
//! names at least once; sent again, a span has the same id.

pub mod courier;
pub mod figures;
pub mod loader;
pub mod sender;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::db::{Database, DbError, traces};
use crate::rules::sampling::Sampling;
use crate::telemetry::traces::Style;

use super::periodic::Periodic;
use super::runs::Runs;
use super::shared::Stop;

use courier::{Courier, Target};
use figures::Figures;
use loader::Loader;
use sender::Sender;

/// Connections for reading, for all targets together.
const READERS: u32 = 2;

/// A plan that is made while the tables are empty must serve when they are full.
const SESSION: [(&str, &str); 3] =
    [("statement_timeout", "30s"), ("enable_seqscan", "off"), ("default_transaction_read_only", "on")];

/// Between two looks at the backlog. A target is named anew with each: it is forgotten a day after the last.
const LOOK: Duration = Duration::from_secs(15);

/// Where no target is configured: what another configuration has left is trimmed.
const SELDOM: Duration = Duration::from_secs(600);

/// Live runs that one look for long waits reads …
const LIVE: i32 = 5_000;

/// … and how long it rests between two of one walk: a million take some minutes.
const BETWEEN: Duration = Duration::from_millis(500);

/// Where traces go, and what of them.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The targets: none, and nothing is traced.
    pub targets: Vec<(String, Arc<Sender>, Style)>,
    /// Which runs.
    pub sampling: Sampling,
    /// How old a note may become.
    pub keep: Duration,
    /// How many runs may be noted for a target.
    pub most: i64,
    /// A run that waits for longer is told in parts.
    pub longest_wait: Duration,
}

impl Options {
    fn names(&self) -> Vec<String> {
        self.targets.iter().map(|(name, _, _)| name.clone()).collect()
    }

    /// Makes the targets known, so that from now on what ends is noted for them.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn announce(&self, db: &Database) -> Result<(), DbError> {
        match self.names() {
            names if names.is_empty() => Ok(()),
            names => db.ask(async |conn| traces::name_targets(conn, &names, self.keep, self.most).await).await,
        }
    }

    /// Connections for reading runs.
    #[must_use]
    pub fn readers(db: &Database) -> PgPool {
        db.reading_pool("traces", READERS, &SESSION)
    }
}

/// The figures of all targets, by name.
pub type AllFigures = Arc<BTreeMap<String, Arc<Figures>>>;

/// Starts a courier for each target, behind the runs of this worker. Returns their figures.
pub fn start(
    options: &Options,
    db: &Database,
    runs: &Arc<Runs>,
    services: &mut JoinSet<()>,
    stop: &Stop,
) -> AllFigures {
    let mut all = BTreeMap::new();
    let pool = Options::readers(db);
    for (name, sender, style) in &options.targets {
        let figures = Arc::<Figures>::default();
        let target = Target { name: name.clone(), sender: sender.clone(), figures: figures.clone() };
        let loader = Loader { pool: pool.clone(), style: style.clone() };
        let (runs, sampling) = (runs.clone(), options.sampling.clone());
        let courier = Courier { db: db.clone(), target, loader, sampling, runs };
        services.spawn(courier.run(stop.clone()));
        all.insert(name.clone(), figures);
    }
    Arc::new(all)
}

/// Keeps the notes within their bounds, looks how many there are, and finds the runs that wait for long.
pub struct Keeper {
    /// The database.
    pub db: Database,
    /// What is configured.
    pub options: Options,
    /// By target.
    pub figures: AllFigures,
    /// Where the walk through the live runs is.
    pub after: Uuid,
}

impl Keeper {
    async fn trim(&self) -> Result<(), DbError> {
        for (name, runs) in self.db.ask(async |conn| traces::trim(conn).await).await? {
            if let Some(figures) = self.figures.get(&name) {
                Figures::count(&figures.dropped, usize::try_from(runs).unwrap_or(0));
            }
            tracing::error!(
                target.name = name,
                runs,
                "the traces of these runs were dropped: too old or too many to be kept for their target"
            );
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), DbError> {
        let backlog = self.db.ask(async |conn| traces::backlog(conn).await).await?;
        let backlog: HashMap<_, _> = backlog.into_iter().map(|b| (b.target.clone(), b)).collect();
        for (name, figures) in self.figures.iter() {
            let (runs, age) = backlog.get(name).map_or((0, Duration::ZERO), |b| (b.runs, b.age));
            figures.look(runs, age);
        }
        Ok(())
    }
}

impl Periodic for Keeper {
    fn name(&self) -> &'static str {
        "traces"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        if self.options.targets.is_empty() {
            self.trim().await?;
            return Ok(SELDOM);
        }
        if self.after.is_nil() {
            self.options.announce(&self.db).await?;
            self.trim().await?;
            self.look().await?;
        }
        let (after, longest) = (self.after, self.options.longest_wait);
        let next = self.db.ask(async |conn| traces::note_waits(conn, after, LIVE, longest).await).await?;
        self.after = next.unwrap_or_default();
        // In the middle of a walk through many live runs it goes on soon.
        Ok(if next.is_some() { BETWEEN } else { LOOK.min(longest / 4) })
    }

    /// Nobody waits for a trace.
    async fn hinted(&self) {
        std::future::pending().await
    }

    fn spacing(&self) -> Duration {
        Duration::ZERO
    }
}

//! Removes the history that is older than it is kept. One worker at a time, a stretch at a time, and at its leisure: after each stretch
//! it rests longer than it has worked, so that the runs that are under way never wait for it.
//!
//! The walk goes through `ended` by id. What is kept longer than its neighbours is looked at once a walk and passed by.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::db::retention::{self, Bounds, Pass};
use crate::db::{Database, DbError};
use crate::rules::retention::Retention;

use super::catalog::Catalog;
use super::export;
use super::periodic::Periodic;

/// One transaction of some 10 ms: a few hundred runs, or fewer where they have many steps.
pub const BOUNDS: Bounds = Bounds { runs: 500, steps: 5_000 };

/// Of ten parts of time, it works in two.
const REST: u32 = 4;

/// Between two walks, and between two tries where another worker is at it: a tenth of the shortest span, within these.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A definition that no worker has named for a day may go; each says every hour what it has.
const TELL: Duration = Duration::from_secs(3_600);

/// Definitions that one walk removes at the most.
const DEFINITIONS: i64 = 100;

/// Where removed runs are written to before.
#[derive(Clone, Debug)]
pub enum Export {
    /// A folder: a file a day.
    Folder(PathBuf),
    /// One file.
    File(PathBuf),
}

/// Why a stretch could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The export.
    #[error("{path}: {error}; nothing that is not exported is removed")]
    Export {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Removes the next stretch after an id.
///
/// # Errors
/// The database refuses, or the export cannot be written; nothing is removed then.
pub async fn prune(db: &Database, rules: &Retention, after: Uuid, to: Option<&Export>) -> Result<Pass, PruneError> {
    let export = to.map(|to| {
        let to = to.clone();
        async move |day: String, lines: Vec<String>| export::write(to, day, lines).await
    });
    db.ask(async |conn| retention::pass(conn, rules, after, BOUNDS, export).await).await?
}

/// The service.
pub struct Pruner {
    /// The database.
    pub db: Database,
    /// Whose definitions are in use here.
    pub catalog: Arc<Catalog>,
    /// How long history is kept.
    pub rules: Retention,
    /// Where it is written to before it goes.
    pub export: Option<Export>,
    /// Where the walk is.
    pub at: Walk,
}

/// Where a walk through the history is.
#[derive(Debug, Default)]
pub struct Walk {
    after: Uuid,
    removed: i64,
    told: Option<Instant>,
    complained: bool,
}

impl Pruner {
    /// Says which definitions this worker has, every hour; whether it removes anything or not, others may.
    async fn tell(&mut self) -> Result<Duration, DbError> {
        if let Some(left) = self.at.told.and_then(|told| TELL.checked_sub(told.elapsed())) {
            return Ok(left);
        }
        let present = self.catalog.present();
        let ids = present.as_object().into_iter().flat_map(|ids| ids.values());
        let ids: Vec<i32> = ids.filter_map(|id| i32::try_from(id.as_i64()?).ok()).collect();
        self.db.ask(async |conn| retention::in_use(conn, &ids).await).await?;
        self.at.told = Some(Instant::now());
        Ok(TELL)
    }

    /// The end of a walk.
    async fn walked(&mut self, shortest: Duration) -> Duration {
        let gone = self.db.ask(async |conn| retention::definitions(conn, DEFINITIONS).await).await;
        // There is time: the next walk tries again.
        let definitions = gone.unwrap_or_else(|error| {
            tracing::debug!(%error, "definitions that nothing names could not be removed");
            0
        });
        let removed = std::mem::take(&mut self.at.removed);
        self.at.after = Uuid::nil();
        if removed > 0 || definitions > 0 {
            tracing::info!(runs = removed, definitions, "removed history that was older than it is kept");
        }
        (shortest / 10).clamp(PAUSES.0, PAUSES.1)
    }
}

impl Periodic for Pruner {
    fn name(&self) -> &'static str {
        "retention"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        let tell_again = self.tell().await?;
        let Some(shortest) = self.rules.shortest() else { return Ok(tell_again) };
        let began = Instant::now();
        let pass = match prune(&self.db, &self.rules, self.at.after, self.export.as_ref()).await {
            Ok(pass) => pass,
            Err(PruneError::Database(error)) => return Err(error),
            Err(error @ PruneError::Export { .. }) => {
                if !std::mem::replace(&mut self.at.complained, true) {
                    tracing::error!(%error, "history cannot be exported, and stays until it can");
                }
                return Ok(PAUSES.1);
            }
        };
        self.at.complained = false;
        self.at.removed += pass.runs();
        match pass.last {
            _ if pass.busy => Ok((shortest / 10).clamp(PAUSES.0, PAUSES.1)),
            Some(last) => {
                self.at.after = last;
                Ok(began.elapsed() * REST)
            }
            None => Ok(self.walked(shortest).await),
        }
    }

    /// Nothing that happens makes history older.
    async fn hinted(&self) {
        std::future::pending().await
    }

    fn spacing(&self) -> Duration {
        Duration::ZERO
    }
}

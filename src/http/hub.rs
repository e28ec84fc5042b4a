//! What the database is asked on behalf of all who watch: one reader for the runs that anybody watches, one for the stream of all
//! runs, whatever the number of watchers; and none where nobody watches.
//!
//! A watcher of one run is given the run's whole history as it stands, and finds out alone what is new to them: so one who reads
//! slowly keeps nobody waiting and nothing waits for them. A watcher of all runs who falls too far behind is let go, and comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use uuid::Uuid;

use crate::db::changes::{self, Change, Mark};
use crate::db::{DbError, runs};

use super::Site;
use super::listen::CONNECTIONS;
use super::told::Line;

/// Streams at once: a quarter of all connections is for requests.
pub(super) const STREAMS: usize = CONNECTIONS / 4 * 3;

/// Between two looks at the runs that are watched: what happens is told within half a second. At all runs.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_ALL: Duration = Duration::from_millis(800);

/// A look that takes long is followed by a pause so many times as long. One at all runs passes over all that are unfinished: of a hundred
/// thousand in some ten milliseconds. However many there are, it takes a twentieth of the time of one connection at the most.
const REST: u32 = 4;
const REST_ALL: u32 = 19;

/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Changes that one look at all runs gives.
const MOST: i64 = 5_000;

/// Batches of changes that wait for a slow watcher.
const BEHIND: usize = 32;

/// A run's history, and where the run stands.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub lines: Vec<Arc<Line>>,
    /// `None`: there is no such run (any more).
    pub state: Option<String>,
    /// What it waits for; `None`: it has ended.
    pub why: Option<String>,
}

/// What one look at all runs has found.
#[derive(Debug)]
pub(super) struct Batch {
    /// To come back with.
    pub mark: Mark,
    pub changes: Vec<Change>,
    /// More has changed than can be told.
    pub overflow: bool,
}

/// `None`: nothing is known yet.
type Told = Option<Arc<Story>>;

pub(super) struct Hub {
    runs: Mutex<HashMap<Uuid, watch::Sender<Told>>>,
    all: broadcast::Sender<Arc<Batch>>,
    wanted: Notify,
    wanted_all: Notify,
    /// For as many streams.
    pub places: Arc<Semaphore>,
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            runs: Mutex::default(),
            all: broadcast::channel(BEHIND).0,
            wanted: Notify::new(),
            wanted_all: Notify::new(),
            places: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// A run's story from now on.
    pub(super) fn run(&self, run: Uuid) -> watch::Receiver<Told> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut receiver = runs.entry(run).or_insert_with(|| watch::channel(None).0).subscribe();
        receiver.mark_changed();
        self.wanted.notify_one();
        receiver
    }

    /// All changes from now on.
    pub(super) fn all(&self) -> broadcast::Receiver<Arc<Batch>> {
        let receiver = self.all.subscribe();
        self.wanted_all.notify_one();
        receiver
    }

    /// The runs that somebody watches.
    fn watched(&self) -> Vec<Uuid> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|_, sender| sender.receiver_count() > 0);
        runs.keys().copied().collect()
    }

    fn tell(&self, run: Uuid, story: Arc<Story>) {
        if let Some(sender) = self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(&run) {
            sender.send_replace(Some(story));
        }
    }
}

/// What is known of a run that is watched.
struct Known {
    stamp: String,
    /// Not looked at before.
    due: Instant,
}

impl Site {
    /// Reads for all who watch single runs, until the server is gone.
    pub(super) async fn watch_runs(self: Arc<Self>) {
        let mut known = HashMap::new();
        loop {
            let watched = self.hub.watched();
            known.retain(|run, _| watched.contains(run));
            if watched.is_empty() {
                self.hub.wanted.notified().await;
                continue;
            }
            let began = Instant::now();
            let pause = match self.look(&watched, &mut known).await {
                Ok(()) => PAUSE.max(began.elapsed()),
                Err(error) => {
                    tracing::debug!(%error, "the watched runs could not be looked at");
                    AGAIN
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.hub.wanted.notified() => {}
            }
        }
    }

    async fn look(&self, watched: &[Uuid], known: &mut HashMap<Uuid, Known>) -> Result<(), DbError> {
        for (run, stamp) in changes::stamps(&self.readers, watched).await? {
            let began = Instant::now();
            if known.get(&run).is_some_and(|k| k.stamp == stamp || k.due > began) {
                continue;
            }
            let story = story(&self.readers, run).await?;
            self.hub.tell(run, Arc::new(story));
            known.insert(run, Known { stamp, due: Instant::now() + began.elapsed() * REST });
        }
        Ok(())
    }

    /// Reads for all who watch all runs, until the server is gone.
    pub(super) async fn watch_all(self: Arc<Self>) {
        let mut eye = Eye::default();
        loop {
            if self.hub.all.receiver_count() == 0 {
                eye = Eye::default();
                self.hub.wanted_all.notified().await;
                continue;
            }
            let began = Instant::now();
            let pause = match eye.look(&self.readers).await {
                Ok(batch) => {
                    // Nobody listens: the next turn sees it.
                    let _ = self.hub.all.send(Arc::new(batch));
                    PAUSE_ALL.max(began.elapsed() * REST_ALL)
                }
                Err(error) => {
                    tracing::debug!(%error, "the runs could not be looked at");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

async fn story(readers: &PgPool, run: Uuid) -> Result<Story, DbError> {
    // Where it stands first: when that says that the run has ended, the history that is read then is whole.
    let Some(now) = runs::progress(readers, run, false).await? else { return Ok(Story::default()) };
    let log = runs::log(readers, run).await?;
    let lines = log.iter().map(|line| Arc::new(Line::new(line))).collect();
    Ok(Story { lines, state: Some(now.state), why: now.why })
}

/// Sees what has changed since it looked last.
#[derive(Default)]
struct Eye {
    mark: Option<Mark>,
    /// What was told last, of what may be seen again or goes on: the runs at work, and the latest changes.
    told: HashMap<Uuid, (String, Option<String>, i32)>,
    running: Vec<Uuid>,
}

impl Eye {
    async fn look(&mut self, readers: &PgPool) -> Result<Batch, DbError> {
        let here = changes::mark_here(readers).await?;
        let Some(since) = self.mark.clone() else {
            self.mark = Some(here.clone());
            return Ok(Batch { mark: here, changes: Vec::new(), overflow: false });
        };
        let mut ids = changes::changed(readers, &since, &self.running, MOST + 1).await?;
        let overflow = i64::try_from(ids.len()).is_ok_and(|n| n > MOST);
        if overflow {
            ids.clear();
        }
        // A running run goes from step to step.
        ids.extend(&self.running);
        ids.sort_unstable();
        ids.dedup();
        let found = changes::standing(readers, &ids).await?;
        let sign = |c: &Change| (c.state.clone(), c.step.clone(), c.epoch);
        self.running = found.iter().filter(|c| c.state == "running").map(|c| c.id).collect();
        let before = std::mem::take(&mut self.told);
        self.told = found.iter().map(|c| (c.id, sign(c))).collect();
        let changes = found.into_iter().filter(|c| before.get(&c.id) != Some(&sign(c))).collect();
        self.mark = Some(here.clone());
        Ok(Batch { mark: here, changes, overflow })
    }
}

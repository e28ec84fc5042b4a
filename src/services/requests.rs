//! What others want of the runs in flight: cancels, pauses, and answers to waits kept in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::db::waits::{self, Request};
use crate::db::{Database, DbError};
use crate::steps::StopReason;

use super::periodic::Periodic;
use super::presence::Presence;
use super::runs::Runs;
use super::shared::Hints;

/// A cancel reaches a running step within this time, even when every notification is lost.
const POLL: Duration = Duration::from_secs(2);

/// Hints come with every insert; passes need not.
const SPACING: Duration = Duration::from_millis(100);

/// … unless a run is kept in memory for the sake of its children's ends. Even then passes take a quarter of the time at the most.
const HURRIED: Duration = Duration::from_millis(10);

/// The service.
pub struct Requests {
    /// The database.
    pub db: Database,
    /// The runs in flight.
    pub runs: Arc<Runs>,
    /// Under which registration.
    pub presence: Presence,
    /// Where wake-ups come from.
    pub hints: Arc<Hints>,
    /// By the last pass.
    pub took: Duration,
}

impl Periodic for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    async fn tick(&mut self) -> Result<Duration, DbError> {
        let (runs, waits) = self.runs.in_flight();
        let Some(worker) = self.presence.worker() else { return Ok(POLL) };
        if runs.is_empty() {
            return Ok(POLL);
        }
        let began = Instant::now();
        let found = self.db.ask(async |conn| waits::requests(conn, worker, &runs, &waits).await).await?;
        self.took = began.elapsed();
        for request in found {
            match request {
                Request::Cancel(run) => {
                    if let Some(inbox) = self.runs.inbox(run) {
                        inbox.stop(StopReason::Cancelled);
                    }
                }
                Request::Pause(run, at_once) => match self.runs.inbox(run) {
                    Some(inbox) if at_once => inbox.pause_now(),
                    Some(inbox) => inbox.pause(),
                    None => {}
                },
                Request::Answer(run, key, answer) => {
                    if let Some(inbox) = self.runs.inbox(run) {
                        inbox.answer(key, answer);
                    }
                }
            }
        }
        Ok(POLL)
    }

    async fn hinted(&self) {
        self.hints.request.notified().await;
    }

    fn spacing(&self) -> Duration {
        if self.runs.hurried() { HURRIED.max(4 * self.took).min(SPACING) } else { SPACING }
    }
}

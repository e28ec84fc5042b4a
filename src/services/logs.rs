//! The path of step logs to the database: apart from the writer's, and slower on purpose.
//!
//! What steps write waits in memory ([`StepLogs`]), bounded. A few times a second a batch of it is written, in one statement; a rest
//! follows that is as long as the statement took, so that however much steps write, it takes half of one connection at most. What waits
//! meanwhile loses its oldest lines. A `kill -9` loses what has waited: the last fraction of a second.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tokio::time::Instant;

use crate::db::logs::{self, Batch, Row};
use crate::db::{Database, Trouble};
use crate::engine::ServerClock;
use crate::telemetry::step_log::{Chunk, StepLogs};

use super::shared::{Backoff, Stop, stopped};

/// Lines gather for so long: whoever follows a log sees them within half a second, and a program that writes line by line costs five
/// small statements a second.
const GATHER: Duration = Duration::from_millis(200);

/// At the daemon's end, what is left is written within this time, or lost.
const LAST: Duration = Duration::from_secs(3);

/// The service.
pub struct Logs {
    /// The database.
    pub db: Database,
    /// What steps have written.
    pub logs: Arc<StepLogs>,
    /// Dates lines.
    pub clock: Arc<ServerClock>,
}

impl Logs {
    /// Writes until the stop, and then what is left.
    pub async fn run(self, mut stop: Stop) {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                () = self.logs.wanted() => {}
            }
            tokio::select! {
                () = stopped(&mut stop) => break,
                () = tokio::time::sleep(GATHER) => {}
            }
            if !self.empty(&mut stop).await {
                break;
            }
        }
        // Steps have ended by now.
        let _ = tokio::time::timeout(LAST, async {
            while let Some(batch) = self.batch() {
                self.write(&batch).await;
            }
        })
        .await;
    }

    /// Writes all that waits, with rests. False: the stop has been said.
    async fn empty(&self, stop: &mut Stop) -> bool {
        while let Some(batch) = self.batch() {
            let began = Instant::now();
            tokio::select! {
                // The batch is written to its end all the same: what is dropped here may be half-way there.
                () = self.write(&batch) => {}
                () = async { stopped(stop).await; tokio::time::sleep(LAST).await } => return false,
            }
            let rest = began.elapsed().max(GATHER);
            tokio::select! {
                () = stopped(stop) => return false,
                () = tokio::time::sleep(rest) => {}
            }
        }
        true
    }

    /// Tries until it is written, or refused. The same again changes nothing.
    async fn write(&self, batch: &Batch) {
        let mut backoff = Backoff::default();
        loop {
            match self.db.ask(async |conn| logs::write(conn, batch).await).await {
                Ok(()) => return,
                Err(error) if error.trouble == Trouble::Refused => {
                    let rows = batch.rows.len();
                    tracing::warn!(%error, rows, "what steps have written could not be kept: it is left out");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "what steps have written waits");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    fn batch(&self) -> Option<Batch> {
        let chunks = self.logs.take();
        let (now, instant) = (self.clock.now(), std::time::Instant::now());
        let at = |then: std::time::Instant| {
            now - TimeDelta::from_std(instant.saturating_duration_since(then)).unwrap_or_default()
        };
        let mut batch = Batch::default();
        for chunk in chunks {
            let (run, epoch) = (chunk.whose.run.0, chunk.whose.epoch);
            batch.gone.extend(chunk.gone.iter().map(|n| (run, epoch, *n)));
            batch.rows.push(row(chunk, at));
        }
        (!batch.rows.is_empty()).then_some(batch)
    }
}

fn row(chunk: Chunk, at: impl Fn(std::time::Instant) -> DateTime<Utc>) -> Row {
    let Chunk { whose, n, first, lines, .. } = chunk;
    let begin = lines.first().map(|l| l.at);
    let after = |then: std::time::Instant| {
        let span = begin.map(|begin| then.saturating_duration_since(begin)).unwrap_or_default();
        i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
    };
    let told = |l: &crate::telemetry::step_log::Told| json!([after(l.at), l.stream.as_str(), l.level.as_str(), l.text]);
    Row {
        worker: whose.worker.0,
        run: whose.run.0,
        epoch: whose.epoch,
        n,
        first,
        at: begin.map(at).unwrap_or_default(),
        attempt: i16::try_from(whose.attempt).unwrap_or(i16::MAX),
        key: whose.key.to_string(),
        lines: serde_json::Value::from_iter(lines.iter().map(told)).to_string(),
    }
}

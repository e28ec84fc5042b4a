//! What steps have written: added in batches, read in order.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, PgConnection, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::DbError;

/// Lines of one page. A row holds a third of it at the most (`telemetry::step_log`), so that a page holds some of them whole.
const LINES: i64 = 4_000;

/// What an attempt has written within a moment.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Row {
    pub worker: Uuid,
    pub run: Uuid,
    pub epoch: i32,
    pub n: i64,
    pub first: i64,
    pub at: DateTime<Utc>,
    pub attempt: i16,
    pub key: String,
    /// JSON text: `[[microseconds, stream, level, text], …]`.
    pub lines: String,
}

/// A batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What is added.
    pub rows: Vec<Row>,
    /// What is taken out: run, epoch, number.
    pub gone: Vec<(Uuid, i32, i64)>,
}

/// Adds a batch; sent again, it changes nothing.
///
/// # Errors
/// Whatever the database says.
pub async fn write(conn: &mut PgConnection, batch: &Batch) -> Result<(), DbError> {
    macro_rules! column {
        ($($field:tt)+) => { &batch.rows.iter().map(|r| r.$($field)+).collect::<Vec<_>>() };
    }
    let keys: Vec<&str> = batch.rows.iter().map(|r| r.key.as_str()).collect();
    let lines: Vec<&str> = batch.rows.iter().map(|r| r.lines.as_str()).collect();
    sqlx::query_file!(
        "src/db/sql/write_logs.sql",
        column!(worker),
        column!(run),
        column!(epoch),
        column!(n),
        column!(first),
        column!(at),
        column!(attempt),
        &keys as &[&str],
        &lines as &[&str],
        &batch.gone.iter().map(|g| g.0).collect::<Vec<_>>(),
        &batch.gone.iter().map(|g| g.1).collect::<Vec<_>>(),
        &batch.gone.iter().map(|g| g.2).collect::<Vec<_>>()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A line that a step has written.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct LogLine {
    pub at: DateTime<Utc>,
    /// The step.
    pub key: String,
    pub attempt: i32,
    /// The claim: an attempt that was interrupted is done again under the next.
    pub epoch: i32,
    /// Which line of the attempt, from 1; gaps are lines that are not kept.
    pub line: i64,
    /// `stderr`, `stdout`, `server` or `code`.
    pub stream: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub text: String,
}

/// Which lines of a run.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Of this step.
    pub key: Option<String>,
    /// Of this attempt.
    pub attempt: Option<i16>,
    /// Written at this time or later.
    pub since: Option<DateTime<Utc>>,
}

/// How far a reader has come. The lines of a claim come in order; the last ones of a claim may come after the first ones of the next, which
/// another worker writes. So it names the last row of two claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    last: (i32, i64),
    before: (i32, i64),
}

impl Default for Place {
    fn default() -> Self {
        Self { last: (0, -1), before: (0, -1) }
    }
}

impl Place {
    fn pass(&mut self, epoch: i32, n: i64) {
        match epoch {
            _ if epoch > self.last.0 => (self.before, self.last) = (self.last, (epoch, n)),
            _ if epoch == self.last.0 => self.last.1 = n,
            _ => self.before = (epoch, n),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (last, before) = (self.last, self.before);
        write!(f, "{}.{}.{}.{}", last.0, last.1, before.0, before.1)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut number = || parts.next().and_then(|p| p.parse::<i64>().ok()).ok_or(());
        let mut pair = || Ok((i32::try_from(number()?).map_err(drop)?, number()?));
        let place = Self { last: pair()?, before: pair()? };
        parts.next().is_none().then_some(place).ok_or(())
    }
}

/// The next lines of a run after a place, which is moved on; and whether there are more already.
///
/// # Errors
/// Whatever the database says.
pub async fn next<'c>(
    db: impl Executor<'c, Database = Postgres>,
    run: Uuid,
    which: &Which,
    place: &mut Place,
) -> Result<(Vec<LogLine>, bool), DbError> {
    let attempt = which.attempt.map(i32::from);
    let (last, before, key) = (place.last, place.before, which.key.as_deref());
    let rows =
        sqlx::query_file!("src/db/sql/run_logs.sql", run, last.0, last.1, before.0, before.1, key, attempt, LINES);
    let mut rows = rows.fetch_all(db).await?;
    let more = i64::try_from(rows.len()).is_ok_and(|n| n == LINES);
    if more && let Some(end) = rows.last().map(|l| (l.epoch, l.chunk)) {
        // What was written together and is cut by the page's end is the next one's.
        rows.retain(|l| (l.epoch, l.chunk) != end);
    }
    rows.sort_unstable_by_key(|l| (l.epoch, l.chunk, l.line));
    let mut lines = Vec::new();
    for row in rows {
        place.pass(row.epoch, row.chunk);
        if which.since.is_none_or(|since| row.at >= since) {
            let (at, key, attempt, epoch, line) = (row.at, row.key, row.attempt, row.epoch, row.line);
            lines.push(LogLine { at, key, attempt, epoch, line, stream: row.stream, level: row.level, text: row.text });
        }
    }
    Ok((lines, more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_the_last_rows_of_two_claims_and_is_read_as_it_is_written() {
        let mut place = Place::default();
        for (epoch, n) in [(1, 4), (1, 9), (3, 2), (1, 12), (3, 5)] {
            place.pass(epoch, n);
        }
        assert_eq!(place, Place { last: (3, 5), before: (1, 12) });
        assert_eq!(place.to_string().parse(), Ok(place));
        assert_eq!(Place::default().to_string().parse(), Ok(Place::default()));
        for wrong in ["", "1.2", "1.2.3", "1.2.3.4.5", "a.b.c.d", "9999999999.1.1.1"] {
            assert_eq!(wrong.parse::<Place>(), Err(()), "{wrong}");
        }
    }
}

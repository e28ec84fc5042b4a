//! The parts of a run's life that are exported each by itself: up to a long wait, up to an end that an operator took back, up to its end.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::model::{Failure, TracedEvent, TracedRun};

/// How a part ended.
#[derive(Clone, Debug, PartialEq)]
pub enum PartEnd {
    /// With the run.
    Ended,
    /// As the run had failed, and was then taken up again.
    Retried(Option<Failure>),
    /// The run waits, and has waited for long.
    Waits,
}

/// A part of a run's life.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// From 0.
    pub n: u32,
    /// The end of the one before; `None`: it is the first.
    pub from: Option<DateTime<Utc>>,
    /// Its end.
    pub to: DateTime<Utc>,
    /// How.
    pub end: PartEnd,
}

impl Part {
    /// Is an instant in it? Of the last part also what a worker has dated a moment after the database's end.
    #[must_use]
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        self.from.is_none_or(|from| at > from) && (at <= self.to || self.end == PartEnd::Ended)
    }

    /// Does a span of time reach into it?
    #[must_use]
    pub fn touches(&self, start: DateTime<Utc>, end: Option<DateTime<Utc>>) -> bool {
        let before = self.end == PartEnd::Ended || start <= self.to;
        before && end.is_none_or(|end| self.from.is_none_or(|from| end > from))
    }
}

/// The parts that are over. `waits` are the times at which a run was found to have waited for long.
#[must_use]
pub fn parts(run: &TracedRun, events: &[TracedEvent], waits: &[DateTime<Utc>]) -> Vec<Part> {
    let retried = events.iter().filter(|e| e.kind == "retried" && e.data["from"] == "failed").map(|e| {
        let at = time(&e.data["ended_at"]).unwrap_or(e.at);
        (at, PartEnd::Retried(serde_json::from_value(e.data["failure"].clone()).ok()))
    });
    let mut ends: Vec<(DateTime<Utc>, PartEnd)> = waits.iter().map(|at| (*at, PartEnd::Waits)).chain(retried).collect();
    ends.sort_by_key(|(at, _)| *at);
    ends.extend(run.ended_at.map(|at| (at, PartEnd::Ended)));
    let mut from = None;
    let part = |(n, (to, end)): (u32, (DateTime<Utc>, PartEnd))| {
        let part = Part { n, from, to, end };
        from = Some(to);
        part
    };
    (0..).zip(ends).map(part).collect()
}

/// A time as Postgres writes it into JSON; what no row of a run can have is none.
#[must_use]
pub fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok().filter(|at: &DateTime<Utc>| NEAR.contains(&at.timestamp()))
}

/// From 1970 to 2300, in seconds.
const NEAR: std::ops::Range<i64> = 0..10_413_792_000;

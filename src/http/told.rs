//! What one reader of a run's history has been told, and how they say it when they come back, to this server or to another.
//!
//! The lines of a history are not written in the order in which they happened: of steps that run side by side, the one that began
//! first may be known last. So "what comes after the last" would leave gaps, and a number that a server counts means nothing to
//! the next. A [`Cursor`] therefore says what was told: all up to a time, with a digest by which a late one is found, and the last
//! few by name. Where the digest does not fit, the reader is told again rather than too little: each line has an id that stays.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::db::runs::HistoryLine;

/// Lines that a cursor names, of the latest, and of those that a history may take back.
const NAMED: usize = 16;

/// A line of a history, ready to be sent.
#[derive(Debug)]
pub(super) struct Line {
    /// Stays the same, whenever and by whomever it is read.
    id: u64,
    /// In microseconds since 1970.
    at: i64,
    /// Is it never taken back? That a step waits is told while it waits; a failed step may be tried again.
    firm: bool,
    /// The rest of a JSON object, without its opening brace.
    json: String,
}

impl Line {
    pub(super) fn new(line: &HistoryLine) -> Self {
        let (at, event) = (line.at.timestamp_micros(), line.event.as_str());
        let text = match event {
            // When it started is known better as more steps are known.
            "run enqueued" | "run started" => event.to_owned(),
            // Another claim may write a step's row.
            step if step.starts_with("step ") => format!("{at} {step} {:?} {:?}", line.key, line.attempt),
            other => format!("{at} {other} {:?} {:?} {:?}", line.key, line.attempt, line.epoch),
        };
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let id = hash.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
        let firm = match event {
            "run enqueued" | "run started" | "step started" | "step completed" | "step skipped" => true,
            other => !other.starts_with("run ") && !other.starts_with("step "),
        };
        // What comes from Postgres as JSON is JSON.
        let json = serde_json::to_string(line).unwrap_or_else(|_| "{}".to_owned());
        Self { id, at, firm, json: format!("\"id\":\"{id:016x}\",{}", &json[1..]) }
    }

    /// The id as a cursor has it.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is enough for a few")]
    fn short(&self) -> u32 {
        self.id as u32
    }
}

/// How far a reader has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// How many lines they were told.
    seq: u64,
    /// Up to here they were told all: that had been written by then.
    until: i64,
    /// The ids of those, added without carry.
    digest: u64,
    /// Those of the rest.
    named: HashSet<u32>,
    /// Written as a number alone: that many lines, in their order.
    counted: bool,
}

impl Cursor {
    /// `17`, or what a stream has given as the id of an event.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let seq = parts.next()?.parse().ok()?;
        let Some(until) = parts.next() else { return Some(Self { seq, counted: true, ..Self::default() }) };
        let until = i64::from_str_radix(until, 16).ok()?;
        let digest = u64::from_str_radix(parts.next()?, 16).ok()?;
        let named = parts.next()?;
        if parts.next().is_some() || named.len() > 8 * 3 * NAMED || !named.len().is_multiple_of(8) || !named.is_ascii()
        {
            return None;
        }
        let named = (0..named.len()).step_by(8).map(|i| u32::from_str_radix(&named[i..i + 8], 16).ok());
        Some(Self { seq, until, digest, named: named.collect::<Option<_>>()?, counted: false })
    }
}

/// One reader.
#[derive(Debug, Default)]
pub(super) struct Teller {
    resumes: Option<Cursor>,
    seen: HashSet<u64>,
    seq: u64,
    until: i64,
    digest: u64,
    /// The latest lines that were told.
    latest: BTreeMap<(i64, u64), (u32, bool)>,
    /// Of the earlier ones, those that may be taken back.
    loose: Vec<u32>,
}

impl Teller {
    /// For a reader who has come that far.
    pub(super) fn after(cursor: Option<Cursor>) -> Self {
        Self { resumes: cursor, ..Self::default() }
    }

    /// The lines that they have not been told: each as JSON, and the cursor after it.
    pub(super) fn news(&mut self, lines: &[Arc<Line>]) -> Vec<(String, String)> {
        if let Some(cursor) = self.resumes.take() {
            self.resume(&cursor, lines);
        }
        let mut news = Vec::new();
        for line in lines {
            if self.seen.insert(line.id) {
                self.seq += 1;
                self.note(line);
                news.push((format!("{{\"seq\":{},{}", self.seq, line.json), self.cursor()));
            }
        }
        news
    }

    fn note(&mut self, line: &Line) {
        self.latest.insert((line.at, line.id), (line.short(), line.firm));
        if self.latest.len() > NAMED
            && let Some(((at, id), (short, firm))) = self.latest.pop_first()
        {
            self.until = self.until.max(at);
            if firm {
                self.digest ^= id;
            } else {
                self.loose.push(short);
                let surplus = self.loose.len().saturating_sub(NAMED);
                self.loose.drain(..surplus);
            }
        }
    }

    fn cursor(&self) -> String {
        let named: String =
            self.latest.values().map(|(short, _)| short).chain(&self.loose).map(|id| format!("{id:08x}")).collect();
        format!("{}-{:x}-{:016x}-{named}", self.seq, self.until, self.digest)
    }

    fn resume(&mut self, cursor: &Cursor, lines: &[Arc<Line>]) {
        if cursor.counted {
            let told = usize::try_from(cursor.seq).unwrap_or(usize::MAX);
            lines.iter().take(told).for_each(|line| self.was_told(line));
            self.seq = cursor.seq;
            return;
        }
        let named = |line: &Line| cursor.named.contains(&line.short());
        let old = |line: &Line| !named(line) && line.firm && line.at <= cursor.until;
        let rest = lines.iter().filter(|l| old(l)).fold(cursor.digest, |sum, l| sum ^ l.id);
        // One line more than they know is that line; where more have come or gone, nothing is known of the old ones.
        let whole = rest == 0 || lines.iter().any(|l| old(l) && l.id == rest);
        for line in lines {
            if named(line) || whole && old(line) && line.id != rest {
                self.was_told(line);
            }
        }
        self.seq = cursor.seq;
    }

    fn was_told(&mut self, line: &Line) {
        self.seen.insert(line.id);
        self.note(line);
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;

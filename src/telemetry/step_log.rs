//! What steps write while they work: kept for a moment in memory, and taken from there to the database (`services::logs`).
//!
//! ```text
//!  program, server of tools, Rust code ──push──► the attempt's tail ──take──► one path to the database
//!                                  (never waits; the oldest lines go first)     (a few times a second)
//! ```
//!
//! Nothing here waits for anything, so that a step is never slowed; a step that writes nothing costs one small allocation. Lines have
//! numbers: where some were left out, a gap says how many. What is left out was never searched for secrets; what is taken, is.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::model::{RunId, StepKey, WorkerId};

use super::redact;

/// A longer line is cut here, in bytes.
pub const LONGEST: usize = 8 << 10;

/// What a line costs beside its text: so that empty ones are bounded, too.
const OVERHEAD: usize = 64;

/// Bytes that one attempt hands over at once. Together with the pauses between two of them: a program that writes without end writes
/// some hundred kilobytes a second to the database, however fast it is.
const CHUNK: usize = 64 << 10;

/// Bytes of one batch, of all attempts together.
const BATCH: usize = 1 << 20;

/// Bytes that wait in memory, of all attempts together: some seconds in which the database is away.
const HELD: usize = 32 << 20;

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stream {
    Stderr,
    Stdout,
    /// A server of tools, during a call.
    Server,
    /// The step's own code.
    Code,
}

impl Stream {
    /// The word in SQL and everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Stdout => "stdout",
            Self::Server => "server",
            Self::Code => "code",
        }
    }
}

/// How much a line matters. What programs write is `Info`: nobody knows better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The word in SQL and everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A line, as it was written.
#[derive(Debug)]
struct Line {
    number: i64,
    at: Instant,
    stream: Stream,
    level: LogLevel,
    text: Box<str>,
    /// The line was longer.
    cut: bool,
}

impl Line {
    fn cost(&self) -> usize {
        OVERHEAD + self.text.len()
    }
}

/// Whose lines.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Whose {
    pub run: RunId,
    /// The registration under which it was written, and the claim.
    pub worker: WorkerId,
    pub epoch: i32,
    pub key: StepKey,
    pub attempt: u32,
}

/// A line on its way to the database: no secret is in it.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Told {
    pub at: Instant,
    pub stream: Stream,
    pub level: LogLevel,
    pub text: String,
}

/// Some lines of one attempt, in their order and without a gap.
#[derive(Debug)]
pub struct Chunk {
    /// Of whom.
    pub whose: Whose,
    /// Its number in this process; growing.
    pub n: i64,
    /// The number of its first line in the attempt.
    pub first: i64,
    /// Never empty.
    pub lines: Vec<Told>,
    /// Chunks of the same attempt that its tail does not reach any more.
    pub gone: Vec<i64>,
}

/// What all steps of a daemon have written and nobody has taken yet.
pub struct StepLogs {
    /// Bytes that are kept of an attempt; 0: nothing is.
    limit: usize,
    /// Attempts that have something.
    waiting: Mutex<VecDeque<Arc<Attempt>>>,
    held: AtomicUsize,
    numbers: AtomicI64,
    wake: Notify,
}

/// What one attempt writes. Cheap to clone.
#[derive(Clone, Default)]
pub struct StepLog(Option<Arc<Attempt>>);

struct Attempt {
    all: Arc<StepLogs>,
    whose: Whose,
    tail: Mutex<Tail>,
}

#[derive(Default)]
struct Tail {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines so far.
    written: i64,
    /// It stands among those that wait.
    waits: bool,
    /// What has been taken and is still kept: the number of each chunk, and its bytes.
    kept: VecDeque<(i64, usize)>,
    kept_bytes: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for StepLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepLogs").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl fmt::Debug for StepLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepLog").field(&self.0.as_ref().map(|a| &a.whose)).finish()
    }
}

impl StepLogs {
    /// Keeps so many bytes of each attempt, the last ones; 0: none.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        let (waiting, held, numbers) = (Mutex::default(), AtomicUsize::new(0), AtomicI64::new(0));
        Arc::new(Self { limit, waiting, held, numbers, wake: Notify::new() })
    }

    /// The log of an attempt that begins.
    #[must_use]
    pub fn of(self: &Arc<Self>, whose: Whose) -> StepLog {
        if self.limit == 0 {
            return StepLog::default();
        }
        StepLog(Some(Arc::new(Attempt { all: self.clone(), whose, tail: Mutex::default() })))
    }

    /// Resolves when there may be something to take.
    pub async fn wanted(&self) {
        self.wake.notified().await;
    }

    /// The next batch: of each attempt that has something a part, its oldest lines. Empty: there is nothing.
    #[must_use]
    pub fn take(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut bytes = 0;
        // Once round: what an attempt still has after its turn is for the next batch.
        let mut turns = locked(&self.waiting).len();
        while turns > 0 && bytes < BATCH {
            let Some(attempt) = locked(&self.waiting).pop_front() else { break };
            turns -= 1;
            if let Some((chunk, size)) = attempt.take() {
                bytes += size;
                chunks.push(chunk);
            }
        }
        chunks
    }
}

impl Attempt {
    fn take(self: Arc<Self>) -> Option<(Chunk, usize)> {
        let (lines, n, gone, size) = {
            let mut tail = locked(&self.tail);
            let lines = tail.part();
            tail.waits = !tail.lines.is_empty();
            if tail.waits {
                locked(&self.all.waiting).push_back(self.clone());
            }
            if lines.is_empty() {
                return None;
            }
            let size = lines.iter().map(Line::cost).sum();
            self.all.held.fetch_sub(size, Ordering::Relaxed);
            let n = self.all.numbers.fetch_add(1, Ordering::Relaxed);
            (lines, n, tail.keep(n, size, self.all.limit), size)
        };
        let first = lines.first().map_or(0, |l| l.number);
        let told = |l: Line| Told { at: l.at, stream: l.stream, level: l.level, text: clean(&l.text, l.cut) };
        let lines = lines.into_iter().map(told).collect();
        Some((Chunk { whose: self.whose.clone(), n, first, lines, gone }, size))
    }
}

impl Tail {
    /// The oldest lines, up to a gap or to the size of a chunk.
    fn part(&mut self) -> Vec<Line> {
        let mut size = 0;
        let mut number = None;
        let fits = |l: &&Line| {
            let goes_on = number.is_none_or(|n| l.number == n + 1) && (size == 0 || size + l.cost() <= CHUNK);
            (number, size) = (Some(l.number), size + l.cost());
            goes_on
        };
        let n = self.lines.iter().take_while(fits).count();
        let lines: Vec<Line> = self.lines.drain(..n).collect();
        self.bytes -= lines.iter().map(Line::cost).sum::<usize>();
        lines
    }

    /// Notes what is kept from now on, and gives what no longer is.
    fn keep(&mut self, n: i64, size: usize, limit: usize) -> Vec<i64> {
        self.kept.push_back((n, size));
        self.kept_bytes += size;
        let mut gone = Vec::new();
        while self.kept_bytes > limit && self.kept.len() > 1 {
            if let Some((n, size)) = self.kept.pop_front() {
                self.kept_bytes -= size;
                gone.push(n);
            }
        }
        gone
    }

    fn drop_oldest(&mut self) -> usize {
        let size = self.lines.pop_front().map_or(0, |l| l.cost());
        self.bytes -= size;
        size
    }
}

impl StepLog {
    /// Is anything kept?
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a line. Never waits: where there is no room, the oldest lines of the attempt go, and then this one.
    pub fn push(&self, stream: Stream, level: LogLevel, text: &str) {
        let Some(attempt) = &self.0 else { return };
        let end = text.floor_char_boundary(LONGEST);
        let (text, cut) = (&text[..end], end < text.len());
        attempt.push(Line { number: 0, at: Instant::now(), stream, level, text: text.into(), cut });
    }
}

impl Attempt {
    fn push(self: &Arc<Self>, mut line: Line) {
        let all = &self.all;
        let cost = line.cost();
        let mut tail = locked(&self.tail);
        tail.written += 1;
        line.number = tail.written;
        let mut held = all.held.fetch_add(cost, Ordering::Relaxed) + cost;
        while (tail.bytes + cost > all.limit || held > HELD) && !tail.lines.is_empty() {
            let size = tail.drop_oldest();
            held = all.held.fetch_sub(size, Ordering::Relaxed) - size;
        }
        if held > HELD {
            all.held.fetch_sub(cost, Ordering::Relaxed);
            return;
        }
        tail.bytes += cost;
        tail.lines.push_back(line);
        if !std::mem::replace(&mut tail.waits, true) {
            locked(&all.waiting).push_back(self.clone());
            all.wake.notify_one();
        }
    }
}

/// A line as it is kept: without what moves a terminal's cursor or paints, without NUL, which no text of Postgres can hold, without
/// secrets.
fn clean(text: &str, cut: bool) -> String {
    let text = without_escapes(text);
    let text = redact::hide(&text);
    let mut text = if cut { redact::hide_end(&text).into_owned() } else { text.into_owned() };
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if cut {
        text.push_str(" […]");
    }
    text
}

/// Takes out the sequences that a terminal would obey: `ESC [ … letter`, `ESC ] … BEL`, `ESC` and one character. They could stand
/// within a secret, too.
fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('\u{1b}') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('[') => {
                // Parameters and intermediates, then one final character.
                while rest.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
                rest.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
            }
            Some(']' | 'P' | 'X' | '^' | '_') => {
                // A string that ends with BEL, or with ESC \.
                while let Some(c) = rest.next() {
                    if c == '\u{7}' || c == '\u{1b}' && rest.next_if_eq(&'\\').is_some() {
                        break;
                    }
                }
            }
            Some(_) | None => {}
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
#[path = "step_log_tests.rs"]
mod tests;

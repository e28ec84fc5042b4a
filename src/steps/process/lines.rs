//! What a program writes, line by line: into the log of its attempt, and what it writes to stderr into the daemon's log, too. There
//! at level debug and under a target of its own: a chatty program must not be able to fill the journal of a daemon that nobody has
//! asked for it.

use crate::telemetry::logs::STDERR;
use crate::telemetry::redact;
use crate::telemetry::step_log::{LONGEST, LogLevel, StepLog, Stream};

/// Lines of one attempt in the daemon's log. What comes after them is only counted.
const MOST: u32 = 1_000;

/// Splits what comes into lines. They have the attempt's fields by the place in which it is polled.
#[derive(Debug)]
pub(super) struct Lines {
    log: StepLog,
    stream: Stream,
    /// Said in the daemon's log, too.
    told: bool,
    open: Vec<u8>,
    /// A part of the open line has been said already …
    parted: bool,
    /// … and that was as much as a line may have: what still comes of it is left out.
    full: bool,
    said: u32,
}

impl Lines {
    /// If anybody wants them.
    pub(super) fn wanted(log: &StepLog, stream: Stream) -> Option<Self> {
        let told = stream == Stream::Stderr && tracing::enabled!(target: STDERR, tracing::Level::DEBUG);
        let (log, open) = (log.clone(), Vec::new());
        (told || log.is_kept()).then_some(Self { log, stream, told, open, parted: false, full: false, said: 0 })
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|b| *b == b'\n');
            let line = &bytes[..end.unwrap_or(bytes.len())];
            // One byte more than a line may have says that it is too long.
            let room = (LONGEST + 1).saturating_sub(self.open.len()).min(line.len());
            if !self.full {
                self.open.extend_from_slice(&line[..room]);
            }
            bytes = end.map_or(&[], |end| &bytes[end + 1..]);
            if end.is_some() {
                if !self.parted || self.is_open() {
                    self.say();
                }
                (self.parted, self.full) = (false, false);
            }
        }
    }

    /// Is there the beginning of a line?
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// What has been written of a line becomes a line of its own: its end may be long in coming.
    pub(super) fn pause(&mut self) {
        if self.is_open() {
            (self.parted, self.full) = (true, self.open.len() > LONGEST);
            self.say();
        }
    }

    fn say(&mut self) {
        let line = std::mem::take(&mut self.open);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        self.log.push(self.stream, LogLevel::Info, line);
        if self.told {
            self.said = self.said.saturating_add(1);
            if self.said <= MOST {
                let shown = if line.len() > LONGEST { redact::hide_end(line) } else { line.into() };
                tracing::debug!(target: STDERR, "{shown}");
            }
        }
    }

    /// The last line, and how many there were too many.
    pub(super) fn end(&mut self) {
        if self.is_open() {
            self.say();
        }
        if self.said > MOST {
            tracing::debug!(target: STDERR, left_out = self.said - MOST, "more lines are left out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RunId, StepKey, WorkerId};
    use crate::telemetry::step_log::{StepLogs, Whose};

    fn said(work: impl FnOnce(&mut Lines)) -> Vec<String> {
        let all = StepLogs::new(1 << 20);
        let (run, worker) = (RunId(uuid::Uuid::nil()), WorkerId(uuid::Uuid::nil()));
        let log = all.of(Whose { run, worker, epoch: 1, key: StepKey::new("s"), attempt: 1 });
        let mut lines = Lines::wanted(&log, Stream::Stdout).unwrap();
        work(&mut lines);
        lines.end();
        all.take().into_iter().flat_map(|c| c.lines).map(|l| l.text).collect()
    }

    #[test]
    fn lines_are_lines_in_whatever_pieces_they_come() {
        let text = b"one\r\n\ntwo\nthree";
        for size in 1..=text.len() {
            let lines = said(|lines| text.chunks(size).for_each(|part| lines.push(part)));
            assert_eq!(lines, ["one", "", "two", "three"], "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_whose_end_is_long_in_coming_is_said_in_parts() {
        let lines = said(|lines| {
            for part in ["a", "b\n", "c", "\nd\n"] {
                lines.push(part.as_bytes());
                lines.pause();
            }
        });
        assert_eq!(lines, ["a", "b", "c", "d"]);
    }

    #[test]
    fn of_a_line_without_end_the_beginning_is_said_once() {
        let lines = said(|lines| {
            (0..100).for_each(|_| lines.push(&[b'x'; 1_000]));
            lines.pause();
            (0..100).for_each(|_| lines.push(&[b'x'; 1_000]));
            lines.pause();
            lines.push(b"x\nnext\n");
        });
        assert_eq!((lines.len(), &*lines[1]), (2, "next"));
        assert!(lines[0].starts_with("xxx") && lines[0].ends_with("x […]") && lines[0].len() < LONGEST + 10);
    }
}

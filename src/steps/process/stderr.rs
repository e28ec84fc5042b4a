//! What a program writes to stderr, as lines of the log. At level debug and under a target of its own: the two ends of it are
//! kept with a failure anyway, and a chatty program must not be able to fill the journal of a daemon that nobody has asked for it.

use crate::telemetry::logs::STDERR;

/// A longer line is cut into lines of this length, in bytes.
const LONGEST: usize = 4 << 10;

/// Lines of one attempt. What comes after them is only counted.
const MOST: u32 = 1_000;

/// Splits what comes into lines. They have the attempt's fields by the place in which it is polled.
#[derive(Debug, Default)]
pub(super) struct Lines {
    open: Vec<u8>,
    said: u32,
}

impl Lines {
    /// If anybody wants them.
    pub(super) fn wanted() -> Option<Self> {
        tracing::enabled!(target: STDERR, tracing::Level::DEBUG).then(Self::default)
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LONGEST - self.open.len();
            let end = bytes.iter().take(room).position(|b| *b == b'\n');
            let (line, rest) = bytes.split_at(end.unwrap_or(room.min(bytes.len())));
            self.open.extend_from_slice(line);
            bytes = rest.get(usize::from(end.is_some())..).unwrap_or_default();
            if end.is_some() || self.open.len() == LONGEST {
                self.say();
            }
        }
    }

    fn say(&mut self) {
        let line = std::mem::take(&mut self.open);
        self.said = self.said.saturating_add(1);
        if self.said <= MOST {
            tracing::debug!(target: STDERR, "{}", String::from_utf8_lossy(&line).trim_end_matches('\r'));
        }
    }

    /// The last line, and how many there were too many.
    pub(super) fn end(&mut self) {
        if !self.open.is_empty() {
            self.say();
        }
        if self.said > MOST {
            tracing::debug!(target: STDERR, left_out = self.said - MOST, "more lines are left out");
        }
    }
}

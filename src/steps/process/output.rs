//! What a program writes: kept whole up to a limit, or its beginning and its end.

use std::process::ExitStatus;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::model::Failure;
use crate::steps::step::StepOutput;

use super::stderr::Lines;

/// Bytes kept of the beginning and of the end of a stream that is not kept whole. Together they are
/// the 256 KiB that a failure's details hold of each stream.
const HEAD: usize = 64 << 10;
const TAIL: usize = 192 << 10;

/// The program wrote more than the limit.
#[derive(Debug)]
pub(super) struct TooLarge;

/// A stream as it was written, or its two ends.
#[derive(Debug)]
pub(super) struct Capture {
    /// The most bytes that are kept whole.
    whole: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes between head and tail that are gone.
    dropped: u64,
    /// Also said in the log, line by line.
    log: Option<Lines>,
}

impl Capture {
    /// For stdout: all of it, up to a limit.
    pub(super) fn whole(limit: usize) -> Self {
        Self { whole: limit, head: Vec::new(), tail: Vec::new(), dropped: 0, log: None }
    }

    /// For stderr: its two ends, and the log where that wants it.
    pub(super) fn ends() -> Self {
        Self { log: Lines::wanted(), ..Self::whole(HEAD) }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.push(bytes);
        }
        let room = self.whole.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend_from_slice(&bytes[room..]);
        // Twice the length before it is cut, so that each byte is moved about once.
        if self.tail.len() > 2 * TAIL {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let extra = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..extra);
        self.dropped += extra as u64;
    }

    /// Reads to the end. A stream that breaks is at its end.
    pub(super) async fn read(&mut self, mut pipe: impl AsyncRead + Unpin, strict: bool) -> Result<(), TooLarge> {
        // As much as a pipe holds; most programs write far less, and then it is read in one go.
        let mut buffer = vec![0; 16 << 10];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => {
                    if let Some(mut log) = self.log.take() {
                        log.end();
                    }
                    return Ok(());
                }
                Ok(n) => self.push(&buffer[..n]),
            }
            if strict && !self.tail.is_empty() {
                return Err(TooLarge);
            }
            if self.head.len() >= buffer.len() {
                buffer.resize(64 << 10, 0);
            }
        }
    }

    /// The text, without the newlines at its end (as the shell's `$(…)` drops them). Bytes that are no
    /// UTF-8 become U+FFFD; NUL bytes stay.
    fn text(&mut self) -> String {
        self.cut();
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.dropped > 0 {
            text.push_str(&format!("\n[… {} bytes left out …]\n", self.dropped));
        }
        text.push_str(&String::from_utf8_lossy(&self.tail));
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        text
    }

    /// The text for a failure's details: the two ends, even where all has been kept.
    fn excerpt(mut self) -> String {
        if self.head.len() > HEAD + TAIL {
            let mut rest = self.head.split_off(HEAD);
            rest.append(&mut self.tail);
            self.tail = rest;
        }
        self.text()
    }
}

/// Turns an ended program into the step's result: exit code 0 is success.
pub(super) fn result(status: ExitStatus, mut out: Capture, mut err: Capture) -> Result<StepOutput, Failure> {
    if !status.success() {
        return Err(unsuccessful(status, out, err));
    }
    let stdout = out.text();
    let parsed: Option<Value> = serde_json::from_str(&stdout).ok();
    let default = parsed.clone().unwrap_or_else(|| Value::String(stdout.clone()));
    let raw = json!({"exit_code": 0, "stdout": stdout, "stderr": err.text(), "json": parsed});
    Ok(StepOutput { raw, default })
}

fn unsuccessful(status: ExitStatus, out: Capture, err: Capture) -> Failure {
    use std::os::unix::process::ExitStatusExt as _;
    let details = Details::new(out, err);
    let last = details.last_line();
    let (code, what) = match (status.code(), status.signal()) {
        (Some(code), _) => (format!("exit_{code}"), format!("the program ended with exit code {code}")),
        (None, Some(signal)) => (format!("signal_{signal}"), format!("the program was killed by signal {signal}")),
        (None, None) => ("signal_0".into(), format!("the program ended strangely: {status}")),
    };
    let message = if last.is_empty() { what } else { format!("{what}: {last}") };
    // The shell's words for "cannot be run" and "not found": as with a program that cannot be
    // spawned, trying again does not mend it.
    let failure = match status.code() {
        Some(126 | 127) => Failure::permanent(code, message),
        _ => Failure::transient(code, message),
    };
    failure.with_details(details.json(status.code(), status.signal()))
}

/// What was written before a failure.
pub(super) struct Details {
    stdout: String,
    stderr: String,
}

impl Details {
    pub(super) fn new(out: Capture, err: Capture) -> Self {
        Self { stdout: out.excerpt(), stderr: err.excerpt() }
    }

    pub(super) fn json(self, exit_code: Option<i32>, signal: Option<i32>) -> Value {
        json!({"exit_code": exit_code, "signal": signal, "stdout": self.stdout, "stderr": self.stderr})
    }

    /// The last line of stderr, short: what a person wants to see first.
    fn last_line(&self) -> String {
        let line = self.stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        line.chars().take(200).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_two_ends_of_a_long_stream_are_kept_and_the_gap_is_named() {
        let mut written = b"begin".to_vec();
        written.resize(3 << 20, b'.');
        written.extend_from_slice(b"end\n\n");
        let mut capture = Capture::ends();
        capture.read(&written[..], false).await.unwrap();
        let text = capture.text();
        assert!(text.starts_with("begin") && text.ends_with("end") && text.len() < HEAD + TAIL + 100);
        assert!(text.contains(&format!("[… {} bytes left out …]", written.len() - HEAD - TAIL)));
    }

    #[tokio::test]
    async fn a_stream_that_must_be_whole_ends_at_its_limit() {
        assert!(Capture::whole(10).read(&b"0123456789"[..], true).await.is_ok());
        assert!(Capture::whole(10).read(&b"0123456789a"[..], true).await.is_err());
    }
}

//! What a program writes: kept whole up to a limit, or its beginning and its end.

use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout};

use crate::model::Failure;
use crate::steps::step::StepOutput;

use crate::telemetry::redact;
use crate::telemetry::step_log::{StepLog, Stream};

use super::lines::Lines;

/// Bytes kept of the beginning and of the end of a stream that is not kept whole.
const HEAD: usize = 64 << 10;
const TAIL: usize = 192 << 10;

/// As many of each stream go into a failure's details; the rest is in the attempt's log.
const TOLD_HEAD: usize = 4 << 10;
const TOLD_TAIL: usize = 12 << 10;

/// A program that takes longer has its stdout logged as it comes; what a shorter one writes there is its output, and logged only where
/// it fails. After the same time without more, the beginning of a line is logged as a line.
const BRIEF: Duration = Duration::from_secs(1);

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
    /// Also logged, line by line …
    log: Option<Lines>,
    /// … from this moment on; `None`: at once.
    later: Option<Instant>,
}

impl Capture {
    /// For stdout: all of it, up to a limit.
    pub(super) fn whole(limit: usize, log: &StepLog) -> Self {
        let (log, later) = (Lines::wanted(log, Stream::Stdout), Some(Instant::now() + BRIEF));
        Self { whole: limit, head: Vec::new(), tail: Vec::new(), dropped: 0, log, later }
    }

    /// For stderr: its two ends.
    pub(super) fn ends(log: &StepLog) -> Self {
        let log = Lines::wanted(log, Stream::Stderr);
        Self { whole: HEAD, head: Vec::new(), tail: Vec::new(), dropped: 0, log, later: None }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let (Some(log), None) = (&mut self.log, self.later) {
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

    /// Logs what has come so far, and from now on all that comes.
    fn log_now(&mut self) {
        if let (Some(log), Some(_)) = (&mut self.log, self.later.take()) {
            log.push(&self.head);
            log.push(&self.tail);
        }
    }

    /// How long the next piece is waited for before there is something to be logged without it.
    fn patience(&self) -> Option<Duration> {
        let log = self.log.as_ref()?;
        match self.later {
            Some(at) => Some(at.saturating_duration_since(Instant::now())),
            None => log.is_open().then_some(BRIEF),
        }
    }

    /// Reads to the end. A stream that breaks is at its end.
    pub(super) async fn read(&mut self, mut pipe: impl AsyncRead + Unpin, strict: bool) -> Result<(), TooLarge> {
        // As much as a pipe holds; most programs write far less, and then it is read in one go.
        let mut buffer = vec![0; 16 << 10];
        loop {
            if self.later.is_some_and(|at| at <= Instant::now()) {
                self.log_now();
            }
            let read = match self.patience() {
                None => pipe.read(&mut buffer).await,
                Some(patience) => match timeout(patience, pipe.read(&mut buffer)).await {
                    Ok(read) => read,
                    Err(_) if self.later.is_some() => {
                        self.log_now();
                        continue;
                    }
                    Err(_) => {
                        self.log.iter_mut().for_each(Lines::pause);
                        continue;
                    }
                },
            };
            match read {
                Ok(0) | Err(_) => return Ok(()),
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
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail));
        let mut text = match self.dropped {
            0 => head.into_owned() + &tail,
            dropped => without_middle(&head, dropped, &tail),
        };
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        text
    }

    /// The text for a failure's details: all of it goes into the log, and its two ends come here, without secrets.
    fn excerpt(mut self) -> String {
        self.log_now();
        if let Some(mut log) = self.log.take() {
            log.end();
        }
        let text = self.text();
        let text = redact::hide(&text);
        if text.len() <= TOLD_HEAD + TOLD_TAIL {
            return text.into_owned();
        }
        let (head, tail) = (text.floor_char_boundary(TOLD_HEAD), text.ceil_char_boundary(text.len() - TOLD_TAIL));
        without_middle(&text[..head], self.dropped + (tail - head) as u64, &text[tail..])
    }
}

/// The two ends of a text, with no piece of a secret where it was cut.
fn without_middle(head: &str, dropped: u64, tail: &str) -> String {
    format!("{}\n[… {dropped} bytes left out …]\n{}", redact::hide_end(head), redact::hide_start(tail))
}

/// Turns an ended program into the step's result: exit code 0 is success.
pub(super) fn result(status: ExitStatus, mut out: Capture, mut err: Capture) -> Result<StepOutput, Failure> {
    if !status.success() {
        return Err(unsuccessful(status, out, err));
    }
    for log in [&mut out, &mut err].into_iter().filter(|c| c.later.is_none()).filter_map(|c| c.log.as_mut()) {
        log.end();
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
        let mut capture = Capture::ends(&StepLog::default());
        capture.read(&written[..], false).await.unwrap();
        let text = capture.text();
        assert!(text.starts_with("begin") && text.ends_with("end") && text.len() < HEAD + TAIL + 100);
        assert!(text.contains(&format!("[… {} bytes left out …]", written.len() - HEAD - TAIL)));
    }

    #[tokio::test]
    async fn a_stream_that_must_be_whole_ends_at_its_limit() {
        let read = async |text: &[u8]| Capture::whole(10, &StepLog::default()).read(text, true).await;
        assert!(read(b"0123456789").await.is_ok());
        assert!(read(b"0123456789a").await.is_err());
    }

    #[tokio::test]
    async fn a_failures_details_hold_no_piece_of_a_secret_at_a_cut() {
        let secret = "excerpt-secret-4711";
        redact::add(&[secret.to_owned()], &[]);
        for place in TOLD_HEAD - 30..TOLD_HEAD + 10 {
            let mut written = vec![b'.'; place];
            written.extend_from_slice(secret.as_bytes());
            written.resize(60_000, b'.');
            let mut capture = Capture::ends(&StepLog::default());
            capture.read(&written[..], false).await.unwrap();
            let text = capture.excerpt();
            assert!(!text.contains("exce") && text.len() < TOLD_HEAD + TOLD_TAIL + 100, "{place}");
        }
        for place in HEAD - 30..HEAD + 10 {
            let mut written = vec![b'.'; place];
            written.extend_from_slice(secret.as_bytes());
            written.resize(place + TAIL + 1_000, b'.');
            let mut capture = Capture::ends(&StepLog::default());
            capture.read(&written[..], false).await.unwrap();
            assert!(!capture.text().replace(secret, "").contains("exce"), "{place}");
        }
    }
}

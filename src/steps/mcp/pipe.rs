//! A server behind pipes: one message a line. It is kept while the daemon lives; many calls go over it at once, and none waits for
//! another's answer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::{Failure, code};
use crate::steps::process::{Kept, Launcher};
use crate::telemetry::context;
use crate::telemetry::logs::STDERR;
use crate::telemetry::step_log::{LogLevel, StepLog, Stream};

use super::message::{self, Answer, Era, Incoming, Request};
use super::{Limits, ServerOptions};

/// Messages on their way to a server that does not read: more would only wait, so callers do.
const QUEUE: usize = 64;
/// Lines of stderr that are told when the server ends.
const LAST_WORDS: usize = 5;
/// Bytes of a line of stderr that are kept.
const WORDS: usize = 500;
/// How long a server is given to end by itself when its input is closed.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running server.
pub(super) struct Pipe {
    name: Arc<str>,
    out: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    kept: Mutex<Option<Kept>>,
    /// Reader, writer and stderr; they end with this.
    _tasks: JoinSet<()>,
}

/// What the tasks and the callers share.
#[derive(Default)]
struct Shared {
    pending: Mutex<HashMap<u64, Caller>>,
    ended: AtomicBool,
    tools_changed: AtomicBool,
    last_words: Mutex<VecDeque<String>>,
    /// When the server last said anything.
    heard: Mutex<Option<Instant>>,
}

/// Who waits for an answer, and the log of the attempt for which it is.
struct Caller {
    answer: mpsc::UnboundedSender<Option<Answer>>,
    log: StepLog,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a call off the list when it is over, and tells the server when it ended without an answer.
struct Open<'a> {
    pipe: &'a Pipe,
    id: u64,
    answered: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        locked(&self.pipe.shared.pending).remove(&self.id);
        if !self.answered {
            // A server that does not read is not told either.
            let _ = self.pipe.out.try_send(line(&message::cancelled(self.id)));
        }
    }
}

impl Pipe {
    /// Starts the server's program.
    pub(super) async fn start(name: &Arc<str>, options: &ServerOptions, launcher: &Launcher) -> Result<Self, Failure> {
        let (kept, pipes) = launcher.start(&options.command, &options.env).await?;
        let shared = Arc::<Shared>::default();
        let (out, queue) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        if let (Some(stdin), Some(stdout), Some(stderr)) = (pipes.stdin, pipes.stdout, pipes.stderr) {
            tasks.spawn(write(stdin, queue));
            tasks.spawn(read(stdout, out.clone(), shared.clone(), options.max_message));
            tasks.spawn(listen(stderr, name.clone(), shared.clone()));
        }
        Ok(Self { name: name.clone(), out, shared, kept: Mutex::new(Some(kept)), _tasks: tasks })
    }

    /// Has it ended?
    pub(super) fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Has it said since the last question that its tools have changed?
    pub(super) fn tools_changed(&self) -> bool {
        self.shared.tools_changed.swap(false, Ordering::AcqRel)
    }

    /// One request and its answer.
    pub(super) async fn exchange(
        &self,
        era: &Era,
        request: &Request,
        meta: Map<String, Value>,
        limits: Limits,
    ) -> Result<Answer, Failure> {
        let (answer, mut answers) = mpsc::unbounded_channel();
        let log = context::here().map(|place| place.log).unwrap_or_default();
        locked(&self.shared.pending).insert(request.id, Caller { answer, log });
        let mut open = Open { pipe: self, id: request.id, answered: false };
        let began = Instant::now();
        let hard = began + limits.longest;
        let sent = self.out.send(line(&era.message(request, meta)));
        match tokio::time::timeout(limits.idle, sent).await {
            Ok(Ok(())) if !self.ended() => {}
            Ok(_) => return Err(self.lost()),
            Err(_) => return Err(self.silent(began, limits.idle)),
        }
        loop {
            let until = hard.min(Instant::now() + limits.idle);
            match tokio::time::timeout_at(until, answers.recv()).await {
                Ok(Some(Some(answer))) => {
                    open.answered = true;
                    return Ok(answer);
                }
                // Progress: the idle time begins anew.
                Ok(Some(None)) => {}
                Ok(None) => {
                    open.answered = true;
                    return Err(self.lost());
                }
                Err(_) if Instant::now() >= hard => return Err(super::timed_out(&self.name, limits.longest, "in all")),
                Err(_) => return Err(self.silent(began, limits.idle)),
            }
        }
    }

    /// Says something that has no answer.
    pub(super) async fn notify(&self, message: &Value) -> Result<(), Failure> {
        self.out.send(line(message)).await.map_err(|_| self.lost())
    }

    /// A call without an answer. A server that has said nothing at all meanwhile hangs: it is ended, so that the next call finds a
    /// fresh one.
    fn silent(&self, since: Instant, idle: Duration) -> Failure {
        if locked(&self.shared.heard).is_none_or(|heard| heard < since) {
            tracing::warn!(
                server = &*self.name,
                "this MCP server does not answer: it is ended, and started again by the next call"
            );
            self.shared.end();
            drop(locked(&self.kept).take());
        }
        super::timed_out(&self.name, idle, "without an answer or any progress")
    }

    fn lost(&self) -> Failure {
        let how = match locked(&self.kept).as_mut().and_then(Kept::ended) {
            Some(status) => format!("ended ({status})"),
            None => "ended".to_owned(),
        };
        let words: Vec<String> = locked(&self.shared.last_words).iter().cloned().collect();
        let said = if words.is_empty() { String::new() } else { format!("; its last words: {}", words.join(" | ")) };
        Failure::transient(code::CONNECTION, format!("the MCP server `{}` {how}{said}", self.name))
    }

    /// Closes its input, and kills it if it does not end by that.
    pub(super) async fn end(&self) {
        self.shared.end();
        let _ = self.out.send(Vec::new()).await;
        let kept = locked(&self.kept).take();
        if let Some(kept) = kept {
            kept.end(PATIENCE).await;
        }
    }
}

impl Shared {
    /// What the server says belongs to the calls that are under way: to which of several, nobody can tell.
    fn say(&self, level: LogLevel, text: &str) {
        for caller in locked(&self.pending).values() {
            caller.log.push(Stream::Server, level, text.trim_end());
        }
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // The callers' ends of these channels tell them.
        locked(&self.pending).clear();
    }
}

fn line(message: &Value) -> Vec<u8> {
    let mut text = message.to_string().into_bytes();
    text.push(b'\n');
    text
}

/// An empty message closes the server's input.
async fn write(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = queue.recv().await {
        if message.is_empty() || stdin.write_all(&message).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

async fn read(stdout: ChildStdout, out: mpsc::Sender<Vec<u8>>, shared: Arc<Shared>, limit: usize) {
    let mut lines = BufReader::new(stdout);
    let mut text = Vec::new();
    while let Ok(true) = next_line(&mut lines, &mut text, limit).await {
        *locked(&shared.heard) = Some(Instant::now());
        // What is no JSON is a program that prints where it should not.
        let incoming = serde_json::from_slice(&text).map_or(Incoming::Other, message::read);
        match incoming {
            Incoming::Answer(id, answer) => {
                if let Some(caller) = locked(&shared.pending).remove(&id) {
                    let _ = caller.answer.send(Some(answer));
                }
            }
            Incoming::Progress(id) => {
                if let Some(caller) = locked(&shared.pending).get(&id) {
                    let _ = caller.answer.send(None);
                }
            }
            Incoming::ToolsChanged => shared.tools_changed.store(true, Ordering::Release),
            Incoming::Log(level, text) => shared.say(level, &text),
            Incoming::Request(id, method) => {
                let _ = out.try_send(line(&message::reply(&id, &method)));
            }
            Incoming::Other => {}
        }
    }
    shared.end();
}

/// Reads a line into `text`, without its end. False at the end of all; an error where a line is longer than `limit`.
async fn next_line(
    lines: &mut BufReader<impl AsyncRead + Unpin>,
    text: &mut Vec<u8>,
    limit: usize,
) -> std::io::Result<bool> {
    text.clear();
    loop {
        let chunk = lines.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(!text.is_empty());
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        text.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
        let used = end.map_or(chunk.len(), |end| end + 1);
        lines.consume(used);
        if text.len() > limit {
            return Err(std::io::Error::other("a message is too long"));
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// What the server writes to stderr: into the log, and the last of it into the failure when it ends.
async fn listen(stderr: impl AsyncRead + Unpin, server: Arc<str>, shared: Arc<Shared>) {
    let mut lines = BufReader::new(stderr);
    let mut text = Vec::new();
    // A line beyond all bounds is no log.
    while let Ok(true) = next_line(&mut lines, &mut text, 1 << 20).await {
        let said = String::from_utf8_lossy(&text[..text.len().min(WORDS)]).trim_end().to_owned();
        tracing::debug!(target: STDERR, server = &*server, "{said}");
        shared.say(LogLevel::Info, &String::from_utf8_lossy(&text));
        let mut words = locked(&shared.last_words);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_up_to_a_length_and_the_last_needs_no_end() {
        let mut lines = BufReader::with_capacity(4, &b"one\ntwenty-two\n\nend"[..]);
        let mut text = Vec::new();
        for expected in ["one", "twenty-two", "", "end"] {
            assert!(next_line(&mut lines, &mut text, 20).await.unwrap());
            assert_eq!(text, expected.as_bytes());
        }
        assert!(!next_line(&mut lines, &mut text, 20).await.unwrap());
        let mut lines = BufReader::with_capacity(4, &b"a line that is too long\n"[..]);
        assert!(next_line(&mut lines, &mut text, 10).await.is_err());
    }
}

//! The stream of failures: a JSON line in a file for each attempt that has failed, for machines that watch.
//!
//! A thread of its own writes. Nobody waits for it: what it cannot take, or a disk cannot hold, is counted, and the next line that is
//! written says how many are missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::model::{Failure, RunId, StepKey, WorkerId};

use super::escape::clean_json;
use super::redact;

/// Lines that wait for a slow disk.
const BEHIND: usize = 10_000;

/// A failed attempt.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Failed {
    pub run: RunId,
    pub workflow: Arc<str>,
    pub session_id: Option<Arc<str>>,
    pub worker: WorkerId,
    pub key: StepKey,
    pub attempt: u32,
    pub failure: Failure,
    /// By the server's clock.
    pub at: DateTime<Utc>,
    /// The pause before the next attempt; `None`: it was the last one.
    pub retry_in: Option<Duration>,
}

enum Told {
    Failed(Box<Failed>),
    /// Open this file, also where it is the one that is open: it may have been moved away.
    Open(Option<PathBuf>),
    /// Say when all before it is written.
    Flush(oneshot::Sender<()>),
}

/// Where failed attempts are told; nowhere, before [`Failures::open`]. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    /// Lines that are not there.
    missing: Arc<AtomicU64>,
    /// To the thread, from the first file on.
    to: OnceLock<Option<SyncSender<Told>>>,
}

impl Failures {
    /// Writes to this file from now on, which is opened anew; `None`: to none.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self, path: Option<&Path>) -> io::Result<()> {
        // Here, so that whoever has named the file hears of it.
        path.map(opened).transpose()?;
        self.0.on.store(path.is_some(), Ordering::Relaxed);
        if path.is_none() && self.0.to.get().is_none() {
            return Ok(());
        }
        self.send(Told::Open(path.map(Path::to_owned)));
        Ok(())
    }

    /// Tells of a failed attempt, where anybody wants to know.
    pub fn tell(&self, failed: impl FnOnce() -> Failed) {
        if self.0.on.load(Ordering::Relaxed) && !self.try_send(Told::Failed(Box::new(failed()))) {
            self.0.missing.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, not long, until all is written.
    pub async fn flush(&self, patience: Duration) {
        if self.0.to.get().is_none() {
            return;
        }
        let (done, written) = oneshot::channel();
        if self.try_send(Told::Flush(done)) {
            // The time is up: nobody waits for a disk.
            let _ = tokio::time::timeout(patience, written).await;
        }
    }

    fn thread(&self) -> Option<&SyncSender<Told>> {
        let start = || {
            let (to, from) = sync_channel(BEHIND);
            let missing = self.0.missing.clone();
            let writes = move || Writer { path: None, file: None, torn: false, lost: false, missing }.run(&from);
            let started = std::thread::Builder::new().name("stepd-failures".into()).spawn(writes);
            started
                .inspect_err(|error| tracing::error!(%error, "failures cannot be told: no thread"))
                .is_ok()
                .then_some(to)
        };
        self.0.to.get_or_init(start).as_ref()
    }

    fn try_send(&self, told: Told) -> bool {
        self.thread().is_some_and(|to| to.try_send(told).is_ok())
    }

    fn send(&self, told: Told) {
        if let Some(to) = self.thread() {
            // Fails when the thread is gone, which it never is.
            let _ = to.send(told);
        }
    }
}

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What the thread has.
struct Writer {
    path: Option<PathBuf>,
    file: Option<File>,
    /// The last line may stand there in part.
    torn: bool,
    /// It has been said that nothing can be written.
    lost: bool,
    missing: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, from: &Receiver<Told>) {
        while let Ok(told) = from.recv() {
            match told {
                Told::Failed(failed) => self.write(&failed),
                Told::Open(path) => {
                    (self.path, self.file) = (path, None);
                    (self.torn, self.lost) = (false, false);
                }
                Told::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&mut self, failed: &Failed) {
        let Some(path) = &self.path else { return };
        let missing = self.missing.swap(0, Ordering::Relaxed);
        let line = line(failed, missing);
        let written = match &mut self.file {
            Some(file) => append(file, self.torn, &line),
            none => opened(path).and_then(|file| append(none.insert(file), self.torn, &line)),
        };
        self.torn = written.is_err();
        match written {
            Ok(()) if std::mem::take(&mut self.lost) => tracing::info!("failures are told again"),
            Ok(()) => {}
            Err(error) => {
                self.missing.fetch_add(missing + 1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.lost, true) {
                    tracing::warn!(%error, file = %path.display(), "failures cannot be told: they are counted; runs go on");
                }
            }
        }
    }
}

fn append(file: &mut File, torn: bool, line: &str) -> io::Result<()> {
    let before = if torn { "\n" } else { "" };
    file.write_all(format!("{before}{line}\n").as_bytes())
}

/// As in the log: the same names for the same things.
fn line(failed: &Failed, missing: u64) -> String {
    let mut line = json!({
        "timestamp": failed.at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "run.id": failed.run, "step.key": failed.key.as_str(), "attempt": failed.attempt, "worker.id": failed.worker,
        "workflow": &*failed.workflow, "class": failed.failure.class, "code": failed.failure.code, "message": failed.failure.message,
        "session.id": failed.session_id.as_deref(), "trace_id": failed.run.0.simple().to_string(),
        "retry_in_ms": failed.retry_in.map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
    });
    if missing > 0 {
        line["missing"] = missing.into();
    }
    redact::hide_in(&mut line);
    clean_json(&line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(message: &str) -> Failed {
        Failed {
            run: RunId(uuid::Uuid::nil()),
            workflow: "w".into(),
            session_id: Some("chat".into()),
            worker: WorkerId(uuid::Uuid::nil()),
            key: StepKey::new("s"),
            attempt: 2,
            failure: Failure::transient("http_503", message),
            at: DateTime::UNIX_EPOCH,
            retry_in: None,
        }
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_line_says_all_that_is_known_and_no_secret_and_a_file_that_was_moved_away_is_opened_anew() {
        redact::add(&["failed-secret-1".to_owned()], &[]);
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("e.jsonl"), folder.path().join("e.1"));
        let failures = Failures::default();
        failures.tell(|| panic!("nobody wants to know"));
        failures.open(Some(&path)).unwrap();
        failures.tell(|| failed("with failed-secret-1\nbroken"));
        failures.flush(Duration::from_secs(10)).await;
        std::fs::rename(&path, &old).unwrap();
        failures.open(Some(&path)).unwrap();
        failures.tell(|| failed("next"));
        failures.open(None).unwrap();
        failures.tell(|| panic!("nobody wants to know any more"));
        failures.flush(Duration::from_secs(10)).await;
        let nil = uuid::Uuid::nil();
        let expected = json!({
            "timestamp": "1970-01-01T00:00:00.000Z", "run.id": nil, "step.key": "s", "attempt": 2, "worker.id": nil,
            "workflow": "w", "class": "transient", "code": "http_503", "message": "with ***\nbroken", "session.id": "chat",
            "trace_id": nil.simple().to_string(), "retry_in_ms": null,
        });
        assert_eq!(lines(&old), [expected]);
        assert_eq!(lines(&path).len(), 1);
        assert_eq!(lines(&path)[0]["message"], "next");
    }

    #[tokio::test]
    async fn a_full_disk_costs_lines_that_the_next_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.jsonl");
        let failures = Failures::default();
        failures.open(Some(Path::new("/dev/full"))).unwrap();
        failures.tell(|| failed("a"));
        failures.tell(|| failed("b"));
        failures.open(Some(&path)).unwrap();
        failures.tell(|| failed("c"));
        failures.flush(Duration::from_secs(10)).await;
        assert_eq!((lines(&path).len(), &lines(&path)[0]["missing"]), (1, &2.into()));
    }
}

//! Logs: one line when something happens, none when idle.
//!
//! Every line, those of libraries, panics and the programs of steps too, has one form: JSON, or text for people, or the
//! journal's fields. It names the run, the step, the attempt, the worker and the trace where they are known, and no secret.

use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::model::WorkerId;

use super::journal::{self, Journal};
use super::line::Line;

/// What the database's driver says of its own business.
const QUIET: &str = "sqlx::postgres::notice=error,sqlx_core::pool=off,sqlx::pool=off";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
static FOR_PEOPLE: AtomicBool = AtomicBool::new(true);
static WORKER: RwLock<Option<WorkerId>> = RwLock::new(None);

/// The target of what the programs of steps write to stderr, at level debug.
pub const STDERR: &str = "stepd::stderr";

/// Starts logging to stderr, or to the journal. `format`: `json`, `pretty`, `journald`, or `auto`: pretty on a terminal, journald
/// where systemd reads stderr, JSON elsewhere. `level`: as in `RUST_LOG`.
///
/// A second call in one process changes nothing.
pub fn start(format: &str, level: &str) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let output = Output::new(format);
    FOR_PEOPLE.store(matches!(output, Output::Pretty { .. }), Ordering::Relaxed);
    // Already started: a test runs several commands in one process.
    if Registry::default().with(filter).with(output).try_init().is_ok() {
        let _ = FILTER.set(handle);
        std::panic::set_hook(Box::new(panicked));
    }
}

fn filter(level: &str) -> EnvFilter {
    // A configuration has been checked; of what is wrong all the same, the rest counts.
    EnvFilter::builder().parse_lossy(format!("{QUIET},{level}"))
}

/// Are the lines for people, who would rather read an error as plain text?
#[must_use]
pub fn are_for_people() -> bool {
    FOR_PEOPLE.load(Ordering::Relaxed)
}

/// Changes the level.
pub fn set_level(level: &str) {
    if let Some(handle) = FILTER.get() {
        // Fails only when the subscriber is gone, at the process' end.
        let _ = handle.reload(filter(level));
    }
}

/// This process' registration: named by every line that belongs to no run.
pub fn set_worker(worker: Option<WorkerId>) {
    *WORKER.write().unwrap_or_else(PoisonError::into_inner) = worker;
}

fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(panic = said, place, "panicked");
}

enum Output {
    Json,
    Pretty {
        colours: bool,
    },
    Journal(Journal),
    /// The journal reads stderr, but has no socket of its own here.
    Prefixed,
}

impl Output {
    fn new(format: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let journald = || Journal::open().map_or(Self::Prefixed, Self::Journal);
        match format {
            "json" => Self::Json,
            "pretty" => Self::Pretty { colours: terminal && colours() },
            "journald" => journald(),
            _ if Journal::is_stderr() => journald(),
            _ if terminal => Self::Pretty { colours: colours() },
            _ => Self::Json,
        }
    }

    fn write(&self, line: &Line) {
        let text = match self {
            Self::Json => line.json(),
            Self::Pretty { colours } => line.pretty(*colours),
            Self::Journal(journal) if journal.write(line).is_ok() => return,
            Self::Journal(_) | Self::Prefixed => journal::prefixed(line),
        };
        // Nobody listens any more: nothing to be done about it.
        let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
    }
}

fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

impl<S: Subscriber> Layer<S> for Output {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let worker = *WORKER.read().unwrap_or_else(PoisonError::into_inner);
        self.write(&Line::of(event, worker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RunId, StepKey};
    use crate::telemetry::context::{Place, within};
    use crate::telemetry::redact;
    use crate::telemetry::step_log::StepLog;
    use std::sync::{Arc, Mutex};

    /// Keeps the lines.
    struct Kept(Arc<Mutex<Vec<Line>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(Line::of(event, None));
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<Line> {
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        tracing::subscriber::with_default(Registry::default().with(Kept(lines.clone())), work);
        Arc::try_unwrap(lines).unwrap().into_inner().unwrap()
    }

    #[test]
    fn a_line_names_the_run_the_step_the_attempt_the_worker_and_the_trace() {
        let run = RunId(uuid::Uuid::now_v7());
        let worker = WorkerId(uuid::Uuid::new_v4());
        let step = Some((StepKey::new("charge[3]"), 2));
        let place = Place { run, worker, session_id: Some("chat 7".into()), step, log: StepLog::default() };
        let lines = logged(|| {
            futures_util::FutureExt::now_or_never(within(Some(place), async {
                tracing::info!(amount = 5, ok = true, "charged");
            }))
            .unwrap();
            tracing::info!(run.id = %run, "of a run");
            tracing::info!("of none");
        });
        let json: serde_json::Value = serde_json::from_str(&lines[0].json()).unwrap();
        assert_eq!(json["run.id"], run.to_string());
        assert_eq!(json["trace_id"], run.0.simple().to_string());
        assert_eq!(json["worker.id"], worker.to_string());
        assert_eq!(json["session.id"], "chat 7");
        assert_eq!((&json["step.key"], &json["attempt"]), (&"charge[3]".into(), &2.into()));
        assert_eq!((&json["message"], &json["amount"], &json["ok"]), (&"charged".into(), &5.into(), &true.into()));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(lines[1].json().contains(&format!("\"trace_id\":\"{}\"", run.0.simple())));
        assert!(!lines[2].json().contains("run.id"));
    }

    #[test]
    fn no_line_holds_a_secret_or_plays_with_the_terminal() {
        redact::add(&["hunter2hunter2".to_owned()], &[]);
        let lines = logged(|| {
            let url = "http://x/?k=hunter2hunter2";
            tracing::warn!(url, error = %"\u{1b}[2Jwiped\u{202e}", "asked with hunter2hunter2\nand more");
        });
        let pretty = lines[0].pretty(false);
        assert!(!pretty.contains("hunter2") && !lines[0].json().contains("hunter2"), "{pretty}");
        assert!(
            pretty.contains("WARN  asked with ***\\nand more") && pretty.contains("\\x1b[2Jwiped\\u{202e}"),
            "{pretty}"
        );
        assert_eq!(pretty.lines().count(), 1);
    }

    #[test]
    fn a_line_that_is_far_too_long_is_cut() {
        let lines = logged(|| tracing::info!(data = "ä".repeat(100_000), "long"));
        assert!(lines[0].json().len() < 40_000);
    }
}

//! One line of the log: an event with its fields, and those of the place where it happened; as JSON, for people, for the journal.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::model::WorkerId;

use super::context::{self, Place};
use super::escape::{clean, clean_json};
use super::redact;

/// Longer texts are cut: one line must not fill a disk.
const LONGEST: usize = 16 << 10;

/// An event, without secrets.
#[derive(Debug)]
pub(super) struct Line {
    pub time: String,
    pub level: Level,
    pub target: String,
    pub message: String,
    /// In their order; those of the place last.
    pub fields: Vec<(String, Value)>,
}

impl Line {
    /// `worker`: this process' registration, for what belongs to no run.
    pub(super) fn of(event: &Event<'_>, worker: Option<WorkerId>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "when the line was written, for people")]
        let now = chrono::Utc::now();
        let mut line = Self {
            time: now.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        let here = context::here();
        let worker = here.as_ref().map(|p| p.worker).or(worker);
        if let Some(Place { run, step, session_id, .. }) = here {
            line.add("run.id", || run.to_string().into());
            if let Some(session) = session_id {
                line.add("session.id", || redact::hide(&session).into());
            }
            if let Some((key, attempt)) = step {
                line.add("step.key", || redact::hide(key.as_str()).into());
                line.add("attempt", || attempt.into());
            }
        }
        // The run's id is its trace's, so that row, line and trace are found by one id.
        if let Some(run) = line.get("run.id").and_then(Value::as_str).map(|id| id.replace('-', "")) {
            line.add("trace_id", || run.into());
        }
        if let Some(worker) = worker {
            line.add("worker.id", || worker.to_string().into());
        }
        line
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// What the event itself says stands.
    fn add(&mut self, name: &str, value: impl FnOnce() -> Value) {
        if self.get(name).is_none() {
            self.fields.push((name.to_owned(), value()));
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned),
            // A library that speaks `log`: its own words for what every event has.
            "log.target" => self.target = value.as_str().unwrap_or_default().to_owned(),
            "log.module_path" | "log.file" | "log.line" => {}
            name => self.fields.push((name.to_owned(), value)),
        }
    }

    /// One JSON object, which shows a terminal nothing but itself: logs are looked at, too.
    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("timestamp".into(), self.time.as_str().into());
        object.insert("level".into(), self.level.as_str().into());
        object.insert("message".into(), self.message.as_str().into());
        object.extend(self.fields.iter().cloned());
        object.insert("target".into(), self.target.as_str().into());
        clean_json(&Value::Object(object).to_string())
    }

    /// For people: nothing in it can play with the terminal.
    pub(super) fn pretty(&self, colours: bool) -> String {
        let paint = |code: &str, text: &str| match colours {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        };
        let code = match self.level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG | Level::TRACE => "2",
        };
        let level = paint(code, &format!("{:5}", self.level.as_str()));
        let (fields, time) = (self.fields_text(), paint("2", &self.time));
        let fields = if fields.is_empty() { fields } else { format!("  {}", paint("2", &fields)) };
        format!("{time} {level} {}{fields}", clean(&self.message))
    }

    /// `queue=default run.id=0198…`
    pub(super) fn fields_text(&self) -> String {
        let one = |(name, value): &(String, Value)| match value {
            Value::String(text) if text.contains([' ', '"', '=']) || text.is_empty() => {
                format!("{name}=\"{}\"", clean(text).replace('"', "\\\""))
            }
            Value::String(text) => format!("{name}={}", clean(text)),
            other => format!("{name}={other}"),
        };
        self.fields.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

fn text(text: &str) -> Value {
    let clean = redact::hide(text);
    match clean.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &clean[..end]).into(),
        None => clean.into_owned().into(),
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, text(&format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, text(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

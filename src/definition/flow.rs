//! What a workflow says of its runs taken together: `unique`, `concurrency`, `rate`, and when they start: `schedule`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::expression::{Path, Segment, nearest};
use crate::rules::cron::{CatchUp, Cron, CronError, zones};

use super::check::input_property;
use super::diagnostics::Report;
use super::fields::{at, limit, mapping, text, unknown_keys, whole, word};
use super::node::{Entry, Node, NodeValue};
use super::schema::Schema;

/// The keys of `unique`.
pub(super) const UNIQUE: [&str; 2] = ["key", "while"];

/// The keys of `concurrency`.
pub(super) const CONCURRENCY: [&str; 3] = ["key", "limit", "when_full"];

/// The keys of `rate`.
pub(super) const RATE: [&str; 3] = ["key", "limit", "per"];

/// The keys of `schedule`.
pub(super) const SCHEDULE: [&str; 4] = ["cron", "timezone", "overlap", "catch_up"];

/// The most runs that a limit may name: they are counted from rows.
pub(crate) const MOST: u64 = 100_000;

/// The longest window of a rate: its starts are kept as rows until then.
pub(crate) const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 86_400);

/// For ever, as Postgres keeps it: it has no infinite interval before version 17.
pub(crate) const FOR_EVER: &str = "1000 years";

/// `schedule:` of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Five fields.
    pub cron: String,
    /// An IANA name.
    pub timezone: String,
    /// `skip`, `queue` or `allow`.
    pub overlap: &'static str,
    /// What becomes of instants that nobody saw.
    pub catch_up: CatchUp,
}

/// `unique`, `concurrency` and `rate`, as the insert trigger and the admission read them (`stepd_engine.workflows.flow`); `None`
/// where there is none of them.
pub(super) fn flow(root: &Node, input: Option<&Schema>, report: &mut Report<'_>) -> Option<Value> {
    let mut flow = serde_json::Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        flow.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("unique", root.get("unique").and_then(|e| unique(e, input, report)));
    add("concurrency", root.get("concurrency").and_then(|e| concurrency(e, input, report)));
    add("rate", root.get("rate").and_then(|e| rate(e, input, report)));
    (!flow.is_empty()).then_some(Value::Object(flow))
}

fn unique(entry: &Entry, input: Option<&Schema>, report: &mut Report<'_>) -> Option<Value> {
    mapping(entry, report)?;
    let node = &entry.value;
    unknown_keys(node, &UNIQUE, &[], "`unique`", report);
    let Some(key) = node.get("key") else {
        let help = "say what is unique: `unique: {key: input.order_id}`";
        report.help(entry.key_span, "`unique` has no `key`", help);
        return None;
    };
    let key = paths(key, input, report);
    let keep = match node.get("while") {
        None => None,
        Some(e) => match e.value.as_str() {
            Some("active") => None,
            Some("forever") => Some(FOR_EVER.to_owned()),
            Some(text) if text.starts_with(|c: char| c.is_ascii_digit()) => limit(e, report).map(interval),
            _ => {
                let words = [("active", ()), ("forever", ())];
                word(e, &words, report);
                return None;
            }
        },
    };
    Some(json!({"key": key?, "keep": keep}))
}

fn concurrency(entry: &Entry, input: Option<&Schema>, report: &mut Report<'_>) -> Option<Value> {
    mapping(entry, report)?;
    let node = &entry.value;
    unknown_keys(node, &CONCURRENCY, &[], "`concurrency`", report);
    let words = [("queue", "queue"), ("skip", "skip"), ("cancel_running", "cancel_running")];
    let when_full = node.get("when_full").map_or(Some("queue"), |e| word(e, &words, report));
    let mut setting = keyed(node, input, report);
    setting.insert("limit".into(), most(entry, "`concurrency: {limit: 1}`", report)?.into());
    setting.insert("when_full".into(), when_full?.into());
    Some(setting.into())
}

fn rate(entry: &Entry, input: Option<&Schema>, report: &mut Report<'_>) -> Option<Value> {
    mapping(entry, report)?;
    let node = &entry.value;
    unknown_keys(node, &RATE, &[], "`rate`", report);
    let mut setting = keyed(node, input, report);
    let Some(per) = node.get("per") else {
        report.help(entry.key_span, "`rate` has no `per`", "say in which time: `rate: {limit: 100, per: 1m}`");
        return None;
    };
    let span = limit(per, report)?;
    if span > LONGEST_WINDOW {
        report.error(per.value.span, "`per` is at most 31d: every start in this time is kept to be counted");
    }
    setting.insert("limit".into(), most(entry, "`rate: {limit: 100, per: 1m}`", report)?.into());
    setting.insert("per".into(), interval(span).into());
    Some(setting.into())
}

/// `key:`, where there is one; else one key is all runs'.
fn keyed(node: &Node, input: Option<&Schema>, report: &mut Report<'_>) -> serde_json::Map<String, Value> {
    let paths = node.get("key").and_then(|e| paths(e, input, report));
    paths.map(|paths| ("key".to_owned(), paths)).into_iter().collect()
}

fn most(entry: &Entry, example: &str, report: &mut Report<'_>) -> Option<u64> {
    let Some(limit) = entry.value.get("limit") else {
        report.help(entry.key_span, format!("`{}` has no `limit`", entry.key), format!("say how many: {example}"));
        return None;
    };
    whole(limit, 1, MOST, report)
}

/// As Postgres reads it.
pub(crate) fn interval(span: Duration) -> String {
    format!("{} milliseconds", span.as_millis())
}

/// An input path, or a list of them, each as the list of its parts.
fn paths(entry: &Entry, input: Option<&Schema>, report: &mut Report<'_>) -> Option<Value> {
    let nodes = match &entry.value.value {
        NodeValue::Seq(nodes) if nodes.is_empty() => {
            report.error(at(entry), "`key` names no path into the input");
            return None;
        }
        NodeValue::Seq(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(&entry.value),
    };
    let found: Vec<_> = nodes.iter().map(|node| path(entry, node, input, report)).collect();
    found.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
}

fn path(entry: &Entry, node: &Node, input: Option<&Schema>, report: &mut Report<'_>) -> Option<Value> {
    let span = if matches!(node.value, NodeValue::Null) { entry.key_span } else { node.span };
    let help = "a key is computed by Postgres when the job is inserted: write a path such as `input.order_id`, or a list of them";
    let Some(text) = node.as_str() else {
        report.help(span, "`key` is a path into the input, or a list of them", help);
        return None;
    };
    let path = match Path::parse(text) {
        Some(path) if &*path.root == "input" && !path.segments.is_empty() => path,
        Some(path) if &*path.root != "input" && !text.contains('$') => {
            let message = format!("`{text}` is no path into the input");
            let meant = format!("input.{text}");
            let known = input.and_then(Schema::names).is_some_and(|names| names.contains(&&*path.root));
            report.name(span, message, known.then_some(meant.as_str()), help);
            return None;
        }
        _ => {
            report.help(span, format!("`{text}` is no path into the input"), help);
            return None;
        }
    };
    if let Some(Segment::Key(key)) = path.segments.first() {
        input_property(input, key, span, report);
    }
    Some(parts(&path))
}

/// The parts of a path into the input, as Postgres takes them; `None`: it is none.
pub(crate) fn key_parts(text: &str) -> Option<Value> {
    let path = Path::parse(text).filter(|path| &*path.root == "input" && !path.segments.is_empty())?;
    Some(parts(&path))
}

fn parts(path: &Path) -> Value {
    let parts = path.segments.iter().map(|segment| match segment {
        Segment::Key(key) => Value::from(&**key),
        Segment::Index(index) => Value::from(index.to_string()),
    });
    parts.collect()
}

/// `schedule:`.
pub(super) fn schedule(entry: &Entry, report: &mut Report<'_>) -> Option<Schedule> {
    mapping(entry, report)?;
    let node = &entry.value;
    unknown_keys(node, &SCHEDULE, &[], "`schedule`", report);
    let overlaps = [("skip", "skip"), ("queue", "queue"), ("allow", "allow")];
    let catches = [("none", CatchUp::None), ("last", CatchUp::Last), ("all", CatchUp::All)];
    let overlap = node.get("overlap").map_or(Some("skip"), |e| word(e, &overlaps, report));
    let catch_up = node.get("catch_up").map_or(Some(CatchUp::Last), |e| word(e, &catches, report));
    let zone = node.get("timezone").map_or(Some("UTC"), |e| text(e, report));
    let Some(cron) = node.get("cron") else {
        let help = "say when, in five fields: `schedule: {cron: \"15 2 * * *\", timezone: Europe/Berlin}`";
        report.help(entry.key_span, "`schedule` has no `cron`", help);
        return None;
    };
    let fields = text(cron, report)?;
    match Cron::parse(fields, zone?) {
        Ok(_) => {}
        Err(CronError::Zone(name)) => {
            let span = node.get("timezone").map_or(entry.key_span, at);
            let meant = nearest(&name, zones());
            let help = "it is an IANA name, such as UTC, Europe/Berlin or America/New_York";
            report.name(span, format!("there is no time zone `{name}`"), meant, help);
            return None;
        }
        Err(error) => {
            let help = "minute, hour, day of the month, month, day of the week: `15 2 * * *` is every day at 02:15";
            report.help(at(cron), format!("`{fields}` cannot be a schedule: {error}"), help);
            return None;
        }
    }
    if overlap == Some("skip") && catch_up == Some(CatchUp::All) {
        let span = node.get("catch_up").map_or(entry.key_span, at);
        let help = "write `overlap: queue` to run them one after the other, or `overlap: allow` to run them at once";
        report.help(
            span,
            "`catch_up: all` with `overlap: skip` would skip all that it catches up with but the first",
            help,
        );
    }
    let (cron, timezone) = (fields.to_owned(), zone?.to_owned());
    Some(Schedule { cron, timezone, overlap: overlap?, catch_up: catch_up? })
}

//! A run's history as lines for people, and the lines that are new since the last look.

use std::collections::HashSet;

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::runs::{self, HistoryLine};

use super::output::raw;
use super::text::clean;

/// A run's history, looked at again and again: a line is given once, even where another came in before it meanwhile.
pub(super) struct History {
    run: Uuid,
    seen: HashSet<String>,
}

impl History {
    pub(super) fn new(run: Uuid) -> Self {
        Self { run, seen: HashSet::new() }
    }

    /// What has happened since the last call.
    pub(super) async fn news(&mut self, conn: &mut PgConnection) -> anyhow::Result<Vec<HistoryLine>> {
        let mut lines = runs::log(&mut *conn, self.run).await?;
        lines.retain(|l| self.seen.insert(format!("{} {:?} {:?} {:?} {:?}", l.at, l.event, l.key, l.attempt, l.epoch)));
        Ok(lines)
    }
}

/// For people: `2026-07-01T12:00:00.123Z  step failed  charge, attempt 3: http_503: bad gateway`.
pub(super) fn line(l: &HistoryLine) -> String {
    let at = l.at.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let told = told(l);
    let text = if told.is_empty() { clean(&l.event) } else { format!("{:16}  {}", clean(&l.event), clean(&told)) };
    format!("{at}  {text}")
}

/// For programs.
pub(super) fn document(l: &HistoryLine) -> Value {
    json!({
        "at": l.at, "event": l.event, "key": l.key, "attempt": l.attempt, "by_whom": l.by_whom, "epoch": l.epoch,
        "data": l.data.as_deref().map(raw),
    })
}

/// What the line's columns say beside the event: of which step, by whom, why.
fn told(l: &HistoryLine) -> String {
    let data: Value = l.data.as_deref().and_then(|d| serde_json::from_str(d).ok()).unwrap_or(Value::Null);
    let word = |name: &str| match &data[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let mut who = l.key.clone().unwrap_or_default();
    if let (Some(n), true) = (l.attempt, l.event != "step completed" || l.attempt > Some(1)) {
        who.push_str(&format!(", attempt {n}"));
    }
    let what = match l.event.as_str() {
        "step started" => word("kind").map(|kind| format!("({kind})")),
        "step waiting" => Some(match (word("event"), word("due_at")) {
            (Some(event), _) => format!("for event {event}"),
            (None, Some(due)) => format!("until {due}"),
            (None, None) => "for an answer".into(),
        }),
        "attempt failed" => failure(&data["failure"]).map(|why| match data["retry_in_ms"].as_u64() {
            Some(ms) => format!("{why}; again in {}", span(ms)),
            None => why,
        }),
        "resume scheduled" => {
            let n = format!("{} of {}", word("resume").unwrap_or_default(), word("of").unwrap_or_default());
            let pause = data["in_ms"].as_u64().map(span).unwrap_or_default();
            failure(&data["failure"]).map(|why| format!("resume {n} in {pause}: {why}"))
        }
        "crashed" | "taken over" => Some(death(&data)),
        "resumed" => word("worker").map(|id| format!("by worker {}", id.get(..8).unwrap_or(&id))),
        "run ending" => word("state").map(|state| format!("as {state}")),
        "retried" => word("from").map(|from| format!("it was {from}")),
        "unpaused" => word("to").map(|to| format!("{to} again")),
        "signalled" => word("name"),
        "approved" | "rejected" => word("note"),
        _ => failure(&data).or_else(|| word("reason")),
    };
    let by = l.by_whom.as_ref().map(|by| format!("by {by}"));
    let before = [Some(who).filter(|w| !w.is_empty()), by].into_iter().flatten().collect::<Vec<_>>().join(" ");
    match (before.is_empty(), what) {
        (_, None) => before,
        (true, Some(what)) => what,
        (false, Some(what)) if what.starts_with('(') || what.starts_with("for ") || what.starts_with("until ") => {
            format!("{before} {what}")
        }
        (false, Some(what)) => format!("{before}: {what}"),
    }
}

fn failure(data: &Value) -> Option<String> {
    let (code, message) = (data["code"].as_str()?, data["message"].as_str()?);
    Some(format!("{code}: {message}"))
}

/// Which worker died, and what it was at.
fn death(data: &Value) -> String {
    let worker = match (data["host"].as_str(), data["pid"].as_i64()) {
        (Some(host), Some(pid)) => format!("worker {host}:{pid} died"),
        _ => "its worker died".to_owned(),
    };
    let steps: Vec<_> = data["steps"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match steps.as_slice() {
        [] => worker,
        steps => format!("{worker} while it ran {}", steps.join(", ")),
    }
}

fn span(ms: u64) -> String {
    super::text::span(chrono::TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 1_000_000)))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn every_line_says_what_happened_to_which_step_and_why() {
        let at = DateTime::from_timestamp_millis(1_700_000_100_123).unwrap();
        let line = |event: &str, key: Option<&str>, attempt: Option<i32>, by: Option<&str>, data: Value| {
            line(&HistoryLine {
                seq: 1,
                at,
                event: event.into(),
                key: key.map(Into::into),
                attempt,
                by_whom: by.map(Into::into),
                epoch: Some(1),
                data: (!data.is_null()).then(|| data.to_string()),
            })
        };
        let busy = json!({"class": "transient", "code": "http_503", "message": "bad\ngateway"});
        let text = [
            line("run enqueued", None, None, Some("shop"), Value::Null),
            line("run started", None, None, None, Value::Null),
            line("step started", Some("charge"), None, None, json!({"kind": "http"})),
            line("attempt failed", Some("charge"), Some(1), None, json!({"failure": busy, "retry_in_ms": 1500})),
            line("step waiting", Some("ok"), None, None, json!({"event": null, "match": null, "due_at": null})),
            line("step waiting", Some("paid"), None, None, json!({"event": "paid", "match": null, "due_at": null})),
            line("crashed", None, None, None, json!({"host": "web1", "pid": 4711, "steps": ["charge"]})),
            line("resumed", None, None, None, json!({"worker": "0198c2f0-a1b2-7abc-8def-0123456789ab"})),
            line(
                "resume scheduled",
                Some("charge"),
                None,
                None,
                json!({"resume": 1, "of": 10, "in_ms": 9_000, "failure": busy}),
            ),
            line("paused", None, None, Some("ann"), json!({"reason": "the bank is down", "from": "queued"})),
            line("unpaused", None, None, Some("ann"), json!({"to": "queued"})),
            line("approved", Some("ok"), None, Some("ann"), json!({"approved": true, "note": "go"})),
            line("step completed", Some("charge"), Some(1), None, Value::Null),
            line("run failed", None, None, None, busy.clone()),
        ]
        .join("\n");
        insta::assert_snapshot!(text);
    }
}

//! What is made of rows for people and for others: traces, timelines, the state at a step, comparisons.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stepd::definition::{Past, state_at};
use stepd::model::{Call, Failure, RunState, StepState, TracedCalls, TracedEvent, TracedRun, TracedStep};
use stepd::rules::compare::changes;
use stepd::rules::timeline::{Does, Part, Stretch, Wanted, level, sums};
use stepd::telemetry::traces::attempts::Story;
use stepd::telemetry::traces::parts::parts;
use stepd::telemetry::traces::spans::Frame;
use stepd::telemetry::traces::{Maker, Style, Vendor};
use uuid::Uuid;

use super::{Form, Fuzzed, Target, fields, joined};

pub const TARGET: Target = Target {
    name: "shown",
    what: "rows made into traces, timelines, states and comparisons",
    weight: 3,
    forms: &[Form::Json, Form::Text],
    words: &[
        "run",
        "steps",
        "events",
        "calls",
        "key",
        "kind",
        "state",
        "attempts",
        "epoch",
        "started_at",
        "ended_at",
        "output",
        "error",
        "data",
        "attempt_failed",
        "crashed",
        "resumed",
        "retried",
        "from",
        "failure",
        "retry_in_ms",
        "worker",
        "usage",
        "attempt",
        "labels",
        "traceparent",
        "docs[12].text",
        "docs[",
        "a.b[0].c",
        "map",
        "run",
        "sleep",
        "2026-01-01T00:00:01Z",
        "1970-01-01T00:00:00Z",
        "2299-12-31T23:59:59.999999Z",
        "ä[0]",
        "[0]",
        ".",
        "attributes",
        "input",
        "gen_ai.input.messages",
        "cost",
        "tokens_in",
    ],
    make: || Box::new(Shown),
};

/// What a column of the tables can hold: their constraints see to it.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok().filter(|at: &DateTime<Utc>| (0..10_413_792_000).contains(&at.timestamp()))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn small<T: TryFrom<i64> + Default>(value: &Value) -> T {
    value.as_i64().and_then(|n| T::try_from(n).ok()).unwrap_or_default()
}

fn failure(value: &Value) -> Option<Failure> {
    serde_json::from_value(value.clone()).ok()
}

fn run(row: &Value, last: Option<TracedStep>) -> TracedRun {
    let state = row["state"].as_str().and_then(RunState::from_word).unwrap_or(RunState::Running);
    TracedRun {
        id: Uuid::nil(),
        workflow: text(&row["workflow"]).unwrap_or_default(),
        state,
        queue: "default".into(),
        priority: small(&row["priority"]),
        epoch: small(&row["epoch"]),
        resumes: small(&row["resumes"]),
        crashes: small(&row["crashes"]),
        created_at: time(&row["created_at"]).unwrap_or_default(),
        started_at: time(&row["started_at"]),
        ended_at: time(&row["ended_at"]),
        first_at: time(&row["first_at"]),
        last_at: time(&row["last_at"]),
        steps: small(&row["steps"]),
        worker: Some(Uuid::nil()),
        session: text(&row["session"]),
        labels: row["labels"].clone(),
        input: text(&row["input"]),
        output: text(&row["output"]),
        error: failure(&row["error"]),
        traceparent: text(&row["traceparent"]),
        parent: text(&row["parent"]).map(|key| (Uuid::nil(), key)),
        last,
    }
}

fn step(row: &Value) -> TracedStep {
    TracedStep {
        run: Uuid::nil(),
        seq: small(&row["seq"]),
        key: text(&row["key"]).unwrap_or_default(),
        label: text(&row["label"]),
        kind: text(&row["kind"]).unwrap_or_default(),
        state: row["state"].as_str().and_then(StepState::from_word).unwrap_or(StepState::Running),
        attempts: small::<i16>(&row["attempts"]).try_into().unwrap_or(0),
        epoch: small(&row["epoch"]),
        started_at: time(&row["started_at"]).unwrap_or_default(),
        ended_at: time(&row["ended_at"]),
        output: text(&row["output"]),
        error: failure(&row["error"]),
        usage: serde_json::from_value(row["usage"].clone()).ok(),
        child: text(&row["child"]).map(|w| (Uuid::nil(), Some(w))),
    }
}

fn event(row: &Value) -> TracedEvent {
    TracedEvent {
        at: time(&row["at"]).unwrap_or_default(),
        kind: text(&row["kind"]).unwrap_or_default(),
        key: text(&row["key"]),
        attempt: row["attempt"].as_i64().and_then(|n| u32::try_from(n).ok()),
        epoch: row["epoch"].as_i64().and_then(|n| i32::try_from(n).ok()),
        data: row["data"].clone(),
    }
}

fn traced(rows: &Value, steps: &[TracedStep]) {
    let of = run(&rows["run"], steps.last().cloned());
    let events: Vec<TracedEvent> = rows["events"].as_array().into_iter().flatten().map(event).collect();
    let waits: Vec<DateTime<Utc>> = rows["waits"].as_array().into_iter().flatten().filter_map(time).collect();
    let all = parts(&of, &events, &waits);
    let story = Story::of(&of, events);
    let frame = |s: &TracedStep| Frame { key: s.key.clone(), started_at: s.started_at, ended_at: s.ended_at };
    let frames: Vec<Frame> = steps.iter().filter(|s| s.kind == "map").map(frame).collect();
    let calls: Vec<Call> = serde_json::from_value(rows["calls"].clone()).unwrap_or_default();
    let key = steps.first().map(|s| s.key.clone()).unwrap_or_default();
    let made = TracedCalls { key, attempt: 1, epoch: of.epoch, calls };
    for (vendor, longest) in [(Vendor::Plain, 100), (Vendor::LangSmith, 5), (Vendor::Langfuse, 0)] {
        let style = Style { vendor, content: vendor != Vendor::Plain, longest };
        for part in all.iter().take(20) {
            let mut maker = Maker::new(&style, &of, part, &story, &frames);
            let mut spans = vec![maker.root()];
            spans.extend(steps.iter().flat_map(|s| maker.step(s)));
            spans.extend(maker.rest());
            spans.extend(maker.calls(&made));
            assert!(
                spans.iter().all(|s| s.start_time_unix_nano <= s.end_time_unix_nano),
                "a span ends before it begins"
            );
        }
    }
}

fn drawn(rows: &Value, steps: &[TracedStep], under: &str) {
    let now = time(&rows["now"]).unwrap_or_default();
    let part = |s: &TracedStep| Part {
        seq: s.seq,
        key: s.key.clone(),
        state: s.state,
        does: Does::of_kind(&s.kind),
        from: s.started_at,
        to: s.ended_at,
    };
    let mut all: Vec<Part> = steps.iter().map(part).collect();
    all.sort_by_key(|p| (p.seq, p.key.clone()));
    let tries: Vec<(String, DateTime<Utc>)> = steps.iter().map(|s| (s.key.clone(), s.started_at)).collect();
    for state in [None, Some(StepState::Failed)] {
        let wanted = Wanted { under, state, after: None, limit: 5 };
        let seen = level(&all, &tries, &wanted, now);
        let _ = level(&all, &tries, &Wanted { after: seen.next, ..wanted }, now);
    }
    let (of, stretch) =
        (run(&rows["run"], None), |s: &TracedStep| (Stretch::Resuming, s.started_at, s.ended_at.unwrap_or(now)));
    let known: Vec<_> = steps.iter().map(stretch).collect();
    let _ = sums(&all, &known, (of.created_at, of.started_at, of.ended_at.unwrap_or(now)));
}

struct Shown;

impl Fuzzed for Shown {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let step = |n: u32, key: &str, kind: &str, state: &str| {
            json!({"seq": n, "key": key, "kind": kind, "state": state, "attempts": 2, "epoch": 1, "started_at": at(n), "ended_at": at(n + 2),
                "output": {"a": [n]}, "error": {"class": "transient", "code": "exit_1", "message": "no"}, "usage": {"calls": 1, "cost": 0.1}})
        };
        let failed = json!({"failure": {"class": "transient", "code": "x", "message": "y"}, "started_at": at(1), "ended_at": at(2), "retry_in_ms": 500});
        let rows = json!({
            "now": at(50), "waits": [at(20)],
            "run": {"workflow": "w", "state": "failed", "epoch": 3, "created_at": at(0), "started_at": at(1), "ended_at": at(40), "first_at": at(1),
                "last_at": at(41), "steps": 4, "labels": {"a": "b"}, "input": {"x": 1}, "output": null,
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "parent": "a.b"},
            "steps": [step(1, "charge", "run", "completed"), step(2, "docs", "map", "completed"), step(3, "docs[0].text", "http", "failed"),
                step(4, "docs[1].text", "http", "completed"), step(5, "nap", "sleep", "waiting")],
            "events": [{"at": at(2), "kind": "attempt_failed", "key": "charge", "attempt": 1, "epoch": 1, "data": failed},
                {"at": at(3), "kind": "crashed", "epoch": 1, "data": {"worker": Uuid::nil(), "steps": ["charge"], "signal": 9}},
                {"at": at(4), "kind": "resumed", "epoch": 2, "data": {"worker": Uuid::nil()}},
                {"at": at(30), "kind": "retried", "data": {"from": "failed", "ended_at": at(29), "failure": {"class": "permanent", "code": "x", "message": "y"}}}],
            "calls": [{"n": 1, "name": "GET", "client": true, "started_at": at(1), "ended_at": at(2), "attributes": {"http.request.method": "GET"},
                "input": "[{\"role\": \"user\", \"content\": \"x\"}]", "output": "y", "error": ["timeout", "no"]}],
        });
        vec![joined(&[&rows.to_string(), "docs"]), joined(&[&rows.to_string(), ""])]
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let [rows, under] = fields(input);
        let Ok(rows) = serde_json::from_str::<Value>(&rows) else { return Ok(()) };
        let mut steps: Vec<TracedStep> = rows["steps"].as_array().into_iter().flatten().map(step).collect();
        steps.truncate(200);
        traced(&rows, &steps);
        drawn(&rows, &steps, &under);
        let past = |s: &TracedStep| Past {
            key: s.key.clone(),
            state: s.state.as_str().to_owned(),
            output: s.output.as_deref().and_then(|o| serde_json::from_str(o).ok()),
            started_at: s.started_at,
            ended_at: s.ended_at,
        };
        let past: Vec<Past> = steps.iter().map(past).collect();
        if let Some(first) = past.first() {
            let _ = state_at(None, &rows["run"]["input"], &past, &first.key);
        }
        let _ = changes(rows.get("run"), rows.get("steps"), 20);
        Ok(())
    }
}

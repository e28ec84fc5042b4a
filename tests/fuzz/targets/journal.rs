//! A run taken up from rows that somebody else has written: a definition, an input, and records of steps, as an older version, a newer one,
//! or a hand in the tables may have left them. The real engine over a journal in memory, in virtual time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stepd::definition::{self, misfit_of_input};
use stepd::engine::{
    Answer, Entry, Gate, Inbox, Interpreter, Journal, MemoryJournal, Ports, ServerClock, Workflow, run,
};
use stepd::model::{Claimed, Failure, Lease, Payload, RunId, StepKey, StepRecord, StepState, WorkerId};
use stepd::steps::{Approve, BoxFuture, Flow, Registry, Set, Sleep, Step, StepCx, StepOutput, WaitFor};
use stepd::telemetry::failures::Failures;
use stepd::telemetry::step_log::StepLogs;

use super::{Form, Fuzzed, Target, fields, joined};
use crate::seeds;

pub const TARGET: Target = Target {
    name: "journal",
    what: "runs taken up from records of other versions and of other hands",
    weight: 6,
    forms: &[Form::Yaml, Form::Json, Form::Json],
    words: &[
        "key",
        "kind",
        "state",
        "checkpoint",
        "attempts",
        "seq",
        "epoch",
        "started_at",
        "ended_at",
        "output",
        "error",
        "decision",
        "due_in_ms",
        "usage",
        "running",
        "waiting",
        "completed",
        "failed",
        "skipped",
        "cancelled",
        "run",
        "set",
        "map",
        "repeat",
        "switch",
        "sleep",
        "wait",
        "approve",
        "workflow",
        "agent",
        "end",
        "(end)",
        "wait",
        "retry",
        "event",
        "approval",
        "child",
        "spent_at_resume",
        "kept",
        "asks",
        "answered",
        "attempt",
        "of",
        "branch",
        "case",
        "granted",
        "items",
        "class",
        "permanent",
        "transient",
        "code",
        "message",
        "retry_after_ms",
        "prompt",
        "schema",
        "timeout",
        "secs",
        "nanos",
        "a[0]",
        "a[0].b",
        "a[4294967296]",
        "a.undo",
        "finally[0]",
        "after_failure",
        "resumes",
        "crashes",
        "streak",
        "taken",
        "records",
    ],
    make: || Box::new(Runs),
};

struct Runs;

/// Records as they stand in rows; what is written goes nowhere.
struct Rows {
    records: Vec<StepRecord>,
    written: MemoryJournal,
    /// Are waits left in memory, as without a database?
    in_memory: bool,
}

impl Journal for Rows {
    fn submit(&self, entry: Entry) {
        self.written.submit(entry);
    }

    fn load(&self, _run: RunId) -> BoxFuture<'static, Result<Vec<StepRecord>, Failure>> {
        Box::pin(std::future::ready(Ok(self.records.clone())))
    }

    fn settle(&self, _run: RunId, _keys: Vec<StepKey>) {}

    fn expire(
        &self,
        _run: RunId,
        _lease: (WorkerId, i32),
        _key: StepKey,
        _failure: Failure,
    ) -> BoxFuture<'static, Option<Answer>> {
        Box::pin(std::future::ready(None))
    }

    fn suspends(&self) -> bool {
        !self.in_memory
    }
}

/// A kind that gives back what it was given, fails where that says so, and keeps things where it can.
struct Echo(&'static str, Arc<Mutex<u32>>);

impl Step for Echo {
    fn kind(&self) -> &'static str {
        self.0
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            // A run that never ends by itself ends here.
            let mut left = self.1.lock().unwrap();
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(Failure::permanent("enough", "it has gone on for long enough"));
            }
            if cx.attempt == 1 && params.to_string().contains("fail") {
                return Err(Failure::transient("exit_1", "it broke"));
            }
            let raw = json!({"status": 200, "body": params, "text": "x", "json": params, "message": {"role": "assistant", "content": "x"},
                "usage": {"calls": 1}, "stdout": "x", "rows": [], "structured": null, "content": []});
            Ok(Flow::Done(StepOutput { raw, default: params }))
        })
    }
}

/// As they are known to the tables: what cannot be read there counts as absent, as it does for the daemon.
fn record(row: &Value) -> StepRecord {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| row[name].as_i64();
    // A text is what stands in the column; all else is its JSON.
    let column = |name: &str| match &row[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    };
    let time = |name: &str| row[name].as_str().and_then(|t| t.parse::<DateTime<Utc>>().ok());
    let near = |at: &DateTime<Utc>| (0..10_413_792_000).contains(&at.timestamp());
    StepRecord {
        key: text("key").chars().take(1_000).collect::<String>().as_str().into(),
        kind: text("kind"),
        state: StepState::from_word(&text("state")).unwrap_or(StepState::Running),
        checkpoint: row["checkpoint"].as_bool().unwrap_or_default(),
        attempts: number("attempts")
            .and_then(|n| i16::try_from(n).ok())
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        seq: number("seq").and_then(|n| i32::try_from(n).ok()).unwrap_or_default(),
        epoch: number("epoch").and_then(|n| i32::try_from(n).ok()).unwrap_or_default(),
        started_at: time("started_at").filter(near).unwrap_or_default(),
        ended_at: time("ended_at").filter(near),
        output: column("output").map(Payload::from_database),
        error: column("error").and_then(|e| serde_json::from_str(&e).ok()),
        decision: column("decision").map(Payload::from_database),
        due_in_ms: number("due_in_ms"),
        usage: column("usage").and_then(|u| serde_json::from_str(&u).ok()),
        label: None,
    }
}

fn row(record: &StepRecord) -> Value {
    let json = |p: &Option<Payload>| p.as_ref().and_then(|p| p.value().ok()).unwrap_or_default();
    json!({
        "key": record.key.as_str(), "kind": record.kind, "state": record.state.as_str(), "checkpoint": record.checkpoint,
        "attempts": record.attempts, "seq": record.seq, "epoch": record.epoch, "started_at": record.started_at,
        "ended_at": record.ended_at, "output": json(&record.output), "error": record.error, "decision": json(&record.decision),
        "due_in_ms": record.due_in_ms, "usage": record.usage,
    })
}

/// What the run's own row says.
#[derive(Default)]
pub(super) struct Row {
    pub resumes: i16,
    pub crashes: i16,
    pub epoch: i32,
    pub after_failure: bool,
}

pub(super) fn claimed(input: Payload, row: &Row) -> Claimed {
    Claimed {
        lease: Lease::new(RunId(uuid::Uuid::nil()), WorkerId(uuid::Uuid::nil()), row.epoch),
        workflow: "w".into(),
        definition: None,
        input: Some(input),
        queue: "default".into(),
        scheduled_for: DateTime::UNIX_EPOCH,
        started_at: DateTime::UNIX_EPOCH,
        resumes: row.resumes,
        crashes: row.crashes,
        streak: row.crashes,
        taken: row.crashes > 0,
        after_failure: row.after_failure,
        traceparent: None,
        session_id: None,
        is_child: false,
        keeps_key: false,
    }
}

/// What a run of these kinds needs, with its records in a journal.
pub(super) fn ports(registry: Registry, journal: Arc<dyn Journal>) -> Ports {
    Ports {
        journal,
        registry: Arc::new(registry),
        gate: Gate::always_open(),
        clock: Arc::new(ServerClock::new(DateTime::UNIX_EPOCH)),
        max_output: 1 << 20,
        logs: StepLogs::new(1_000),
        failures: Failures::default(),
        metrics: Arc::default(),
        traces: None,
    }
}

/// One activation. False: it had not come to an end after a virtual century.
fn activate(definition: definition::Definition, input: Payload, row: &Row, journal: &Arc<Rows>) -> bool {
    let left = Arc::new(Mutex::new(300));
    let kinds = ["run", "exec", "http", "sql", "mcp", "llm", "workflow"];
    let registry = Registry::default().with(Set).with(Sleep).with(WaitFor).with(Approve);
    let registry = kinds.into_iter().fold(registry, |r, kind| r.with(Echo(kind, left.clone())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let ports = ports(registry, journal.clone());
        let workflow: Arc<dyn Workflow> = Arc::new(Interpreter::new(Arc::new(definition), Arc::default()));
        let work = run(Box::new(claimed(input, row)), Ok(workflow), Arc::new(ports), Arc::new(Inbox::default()));
        tokio::time::timeout(Duration::from_secs(200 * 366 * 86_400), work).await.is_ok()
    })
}

impl Fuzzed for Runs {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for text in seeds::workflows().into_iter().chain(seeds::documents()) {
            let Ok(definition) = definition::load("w", &text) else { continue };
            let input = r#"{"order": 7, "cents": 90000, "list": [1, 2], "folder": "/", "kind": "parcel", "n": 2, "go": true, "name": "x"}"#;
            let journal = Arc::new(Rows { records: Vec::new(), written: MemoryJournal::default(), in_memory: true });
            activate(definition, Payload::from_text(input).unwrap(), &Row { epoch: 1, ..Row::default() }, &journal);
            let steps = journal.written.run(RunId(uuid::Uuid::nil())).steps;
            let records: Vec<Value> = steps.values().map(row).collect();
            all.push(joined(&[&text, input, &json!({"resumes": 1, "crashes": 0, "records": records}).to_string()]));
        }
        all
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let [text, given, state] = fields(input);
        let Ok(definition) = definition::load("w", &text) else { return Ok(()) };
        let given = Payload::from_text(&given).unwrap_or_else(|_| Payload::null());
        if let Ok(value) = given.value() {
            let _ = misfit_of_input(&definition, &value);
        }
        let state: Value = serde_json::from_str(&state).unwrap_or_default();
        let small = |name: &str| state[name].as_i64().and_then(|n| i16::try_from(n).ok()).unwrap_or_default().max(0);
        let (resumes, crashes) = (small("resumes"), small("crashes"));
        let row =
            Row { resumes, crashes, epoch: 2, after_failure: state["after_failure"].as_bool().unwrap_or_default() };
        let mut records: Vec<StepRecord> = state["records"].as_array().into_iter().flatten().map(record).collect();
        // The table's primary key.
        records.sort_by(|a, b| a.key.cmp(&b.key));
        records.dedup_by(|a, b| a.key == b.key);
        let known: Vec<definition::Recorded<'_>> = records
            .iter()
            .map(|r| definition::Recorded { key: r.key.as_str(), kind: &r.kind, state: r.state })
            .collect();
        drop(definition::misfits(&definition, &known));
        let journal = Arc::new(Rows { records, written: MemoryJournal::default(), in_memory: false });
        match activate(definition, given, &row, &journal) {
            true => Ok(()),
            false => Err("a run neither ends nor waits".to_owned()),
        }
    }
}

//! What is told of runs: their rows, with what a document's steps were given and what its variables are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::db::DbError;
use crate::db::older::{self, Execution, Line, Pause as PauseLine, Step as StepLine};
use crate::definition;
use crate::definition::afu9::{Begun, Context, Document, HOLD, replay};

use super::super::Site;
use super::shapes::{Json, Pause, Step, Time, json as as_json, step_status};

/// A run, told.
pub(super) struct Told {
    pub line: Line,
    pub input: Json,
    pub output: Option<Json>,
    /// The context as it is now.
    pub context: Value,
    pub steps: Vec<Step>,
    pub pause: Option<Pause>,
    pub known: Arc<Known>,
    /// Steps that it has begun, and completed, where that was counted.
    pub counted: Option<(i64, i64)>,
}

/// What is known of a definition.
#[derive(Default)]
pub(super) struct Known {
    pub document: Option<Arc<Document>>,
    pub description: Option<String>,
}

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The row alone.
    Row,
    /// The context and the pauses of documents.
    Context,
    /// Everything.
    Steps,
}

/// Tells runs.
pub(super) async fn tell(site: &Site, runs: Vec<Execution>, depth: Depth) -> Result<Vec<Told>, DbError> {
    let ids: BTreeSet<i32> = runs.iter().filter_map(|run| run.definition).collect();
    let ids: Vec<i32> = ids.into_iter().collect();
    let bodies = older::bodies(&site.readers, &ids).await?;
    let known: HashMap<i32, Arc<Known>> = bodies.into_iter().map(|(id, body)| (id, Arc::new(read(&body)))).collect();
    let known = |run: &Execution| run.definition.and_then(|id| known.get(&id).cloned()).unwrap_or_default();
    let wanted = |run: &&Execution| depth == Depth::Steps || depth == Depth::Context && known(run).document.is_some();
    let with_steps: Vec<Uuid> = runs.iter().filter(wanted).map(|run| run.line.id).collect();
    let mut steps = by_run(older::steps(&site.readers, &with_steps).await?, |step| step.run);
    let paused: Vec<Uuid> = runs.iter().filter(|_| depth != Depth::Row).map(|run| run.line.id).collect();
    let mut pauses = by_run(older::pauses(&site.readers, &paused).await?, |pause| pause.run);
    let one = |run: Execution| {
        let (steps, pauses) = (steps.remove(&run.line.id), pauses.remove(&run.line.id));
        told(known(&run), run, steps.unwrap_or_default(), pauses.unwrap_or_default())
    };
    Ok(runs.into_iter().map(one).collect())
}

fn by_run<T>(rows: Vec<T>, run: impl Fn(&T) -> Uuid) -> HashMap<Uuid, Vec<T>> {
    let mut sorted: HashMap<Uuid, Vec<T>> = HashMap::new();
    for row in rows {
        sorted.entry(run(&row)).or_default().push(row);
    }
    sorted
}

fn read(body: &str) -> Known {
    let description = || definition::as_json(body)?.get("description")?.as_str().map(str::to_owned);
    let document = definition::load("stored", body).ok().and_then(|definition| definition.document);
    Known { description: document.as_ref().and_then(|_| description()), document }
}

fn told(known: Arc<Known>, run: Execution, rows: Vec<StepLine>, pauses: Vec<PauseLine>) -> Told {
    let output = run.output.as_deref().map(as_json);
    let pause = pause(&rows, &pauses);
    let input = serde_json::from_str(&run.input).unwrap_or_default();
    let (input, context, steps) = match &known.document {
        Some(document) => of_document(document, input, rows),
        None => {
            let context = json!({"variables": {}, "input": &input});
            let own = rows.into_iter().enumerate().map(|(n, row)| step(n, row.key.clone(), row, None));
            (as_json(&run.input), context, own.collect())
        }
    };
    Told { line: run.line, input, output, context, steps, pause, known, counted: run.steps }
}

/// Of a document's run: the input, the context, and its own steps, which its guards' questions are not.
fn of_document(document: &Document, input: Value, rows: Vec<StepLine>) -> (Json, Value, Vec<Step>) {
    let own = as_json(&Context::of(input.clone()).input().to_string());
    let mut rows: HashMap<String, StepLine> = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
    let begun = rows.iter().map(|(key, row)| (key.clone(), begun(row))).collect();
    let told = replay(document, input, begun);
    let steps = document.steps.iter().zip(told.params).enumerate().filter_map(|(n, (one, params))| {
        let row = rows.remove(&*one.key)?;
        Some(step(n, one.name.to_string(), row, params))
    });
    let steps = steps.collect();
    (own, told.context.into_json(), steps)
}

fn begun(row: &StepLine) -> Begun {
    match (row.state.as_str(), &row.output) {
        ("skipped", _) => Begun::Skipped,
        ("completed", Some(text)) => Begun::Gave(serde_json::from_str(text).unwrap_or_default()),
        _ => Begun::Open,
    }
}

fn step(index: usize, name: String, row: StepLine, params: Option<Value>) -> Step {
    Step {
        id: format!("{}/{}", row.run, row.key),
        name,
        index,
        status: step_status(&row.state),
        input: params.map(|value| as_json(&value.to_string())),
        output: row.output.as_deref().map(as_json),
        started_at: Time(row.started_at),
        completed_at: row.ended_at.map(Time),
        duration_ms: row.ended_at.map(|end| (end - row.started_at).num_milliseconds()),
        error: row.error_message,
        retry_count: (row.attempts - 1).max(0),
    }
}

/// The last time that a run was stopped: by a person, or by a guard of its document.
fn pause(rows: &[StepLine], lines: &[PauseLine]) -> Option<Pause> {
    let guards = rows.iter().filter_map(|row| {
        let place = row.key.strip_prefix("hold[")?.strip_suffix(']')?.parse().ok()?;
        let answer = lines.iter().find(|line| line.key.as_deref() == Some(&row.key));
        (row.kind == "approve").then(|| {
            let pause = stopped(row.started_at, "system".to_owned(), HOLD);
            go_on(Pause { paused_at_step_index: Some(place), ..pause }, answer)
        })
    });
    let by_hand = lines.iter().enumerate().filter(|(_, line)| line.kind == "paused").map(|(n, line)| {
        let pause = stopped(line.at, who(line), line.reason.as_deref().unwrap_or("Manually paused"));
        go_on(pause, lines[n..].iter().find(|later| later.kind == "unpaused"))
    });
    guards.chain(by_hand).reduce(|last, one| if one.paused_at >= last.paused_at { one } else { last })
}

fn stopped(at: DateTime<Utc>, by: String, reason: &str) -> Pause {
    Pause {
        paused_at: Time(at),
        paused_by: by,
        reason: reason.to_owned(),
        paused_at_step_index: None,
        resumed_at: None,
        resumed_by: None,
    }
}

fn go_on(pause: Pause, line: Option<&PauseLine>) -> Pause {
    Pause { resumed_at: line.map(|line| Time(line.at)), resumed_by: line.map(who), ..pause }
}

/// Whom a request has named stands behind the login and the token: `stepd/ops/ada`.
fn who(line: &PauseLine) -> String {
    let by = line.by_whom.as_deref().unwrap_or("system");
    by.splitn(3, '/').nth(2).unwrap_or(by).to_owned()
}

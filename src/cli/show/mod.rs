//! `stepd show`: all about one run.

mod attempts;
mod scale;
mod step;
pub(super) mod timeline;

use owo_colors::OwoColorize;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::db::runs::{self, HistoryLine, RunDetail, StepLine, StepsWanted};

use super::client::run_id;
use super::errors::refused;
use super::output::{Format, columns, json, raw, say, unicode};
use super::text::{cell, clean, clean_json, cut, span, state_style, table, time};
use super::{Exit, Global};

/// Where there is no terminal.
const WIDTH: usize = 110;

/// Items of a map whose steps are listed one by one without `--all`.
const LISTED: usize = 3;

/// Characters of a payload in the header.
const PAYLOAD: usize = 400;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// List every step of every map item, and draw each item
    #[arg(long, short)]
    all: bool,
    /// Every attempt of every step: when, how it went, with the class, the code and the words of its failure
    #[arg(long, conflicts_with_all = ["all", "step"])]
    attempts: bool,
    /// One step: its attempts, its output, and what the run knew before and after it
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    step: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let id = run_id(&mut conn, &args.run).await?;
    if global.output == Format::Id {
        say(&id.to_string())?;
        return Ok(Exit::Ok);
    }
    if args.attempts {
        return attempts::show(global.output, &mut conn, id).await;
    }
    if let Some(key) = &args.step {
        return step::show(global.output, &mut conn, id, key).await;
    }
    let table = global.output == Format::Table;
    let detail = runs::detail(&mut conn, id).await?.ok_or_else(|| missing(id))?;
    let steps = runs::steps(&mut conn, id, &StepsWanted { outputs: !table, ..StepsWanted::default() }).await?;
    let history = runs::history(&mut conn, id).await?;
    if table {
        let story = timeline::Story { run: &detail, steps: &steps, history: &history, items: args.all, killed: None };
        let most = columns().unwrap_or(WIDTH);
        let mut text = header(&detail);
        if !steps.is_empty() {
            text.push('\n');
            text.push_str(&listed(&detail, &steps, args.all, columns()));
        }
        text.push('\n');
        text.push_str(&story.draw(most, unicode()));
        say(&text)?;
    } else {
        json(global.output, &document(&detail, &steps, &history))?;
    }
    Ok(Exit::Ok)
}

fn missing(id: Uuid) -> anyhow::Error {
    refused(Exit::NotFound, format!("there is no run {id}"))
}

fn header(run: &RunDetail) -> String {
    let mut lines = vec![
        ("run", run.id.to_string()),
        ("workflow", clean(&run.workflow)),
        ("state", run.state.style(state_style(&run.state)).to_string()),
        ("why", clean(&run.why)),
        ("queue", format!("{}, priority {}", clean(&run.queue), run.priority)),
        (
            "created",
            format!(
                "{}{}",
                time(run.created_at),
                run.created_by.as_ref().map(|w| format!(" by {}", clean(w))).unwrap_or_default()
            ),
        ),
    ];
    lines.extend(run.forked_from.map(|id| ("forked", forked(id, run.from_step.as_deref()))));
    let waited =
        |at| format!("{}, after {}", time(at), span(at - run.run_at.unwrap_or(run.created_at).max(run.created_at)));
    lines.extend(run.started_at.map(|at| ("started", waited(at))));
    lines.extend(run.ended_at.map(|at| {
        let took = run.started_at.map(|s| format!(", after {}", span(at - s))).unwrap_or_default();
        ("ended", format!("{}{took}", time(at)))
    }));
    if run.crashes > 0 || run.resumes > 0 {
        lines.push(("survived", survived(run.crashes, run.resumes)));
    }
    lines.extend(run.parent.map(|id| ("parent", id.to_string())));
    lines.extend(used(run.tokens_in, run.tokens_out, run.cost).map(|used| ("models", used)));
    lines.extend(run.unique_key.as_ref().map(|k| ("unique key", clean(k))));
    lines.extend(run.session_id.as_ref().map(|s| ("session", clean(s))));
    if run.labels != "{}" {
        lines.push(("labels", payload(&run.labels)));
    }
    if run.input != "{}" {
        lines.push(("input", payload(&run.input)));
    }
    lines.extend(run.output.as_ref().map(|o| ("output", payload(o))));
    let mut out = String::new();
    for (name, value) in lines {
        out.push_str(&format!("{}{}\n", format!("{name:11}").bold(), value));
    }
    out
}

/// What calls of models have used up: `1200 tokens in, 340 out, cost 0.0123`.
fn used(tokens_in: Option<i64>, tokens_out: Option<i64>, cost: Option<f64>) -> Option<String> {
    let cost = cost.filter(|c| *c > 0.0).map(|c| format!(", cost {c:.4}")).unwrap_or_default();
    Some(format!("{} tokens in, {} out{cost}", tokens_in?, tokens_out.unwrap_or(0)))
}

/// The run that this one replays, and from where on.
fn forked(id: Uuid, step: Option<&str>) -> String {
    format!("from {id}{}", step.map(|s| format!(", from step {} on", clean(s))).unwrap_or_default())
}

fn survived(crashes: i32, resumes: i32) -> String {
    let counted = |n: i32, one: &str, many: &str| match n {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let parts = [
        counted(crashes, "death of a worker", "deaths of workers"),
        counted(resumes, "failure, by a resume", "failures, by resumes"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn payload(text: &str) -> String {
    cut(&clean(&clean_json(text)), PAYLOAD)
}

/// The steps; those of a map's items beyond the first few only as a count, but for the ones that did not go well.
fn listed(run: &RunDetail, steps: &[StepLine], all: bool, most: Option<usize>) -> String {
    let mut rows = Vec::new();
    let mut hidden = 0;
    for step in steps {
        let item = step.key.split_once('[').and_then(|(_, rest)| rest.split_once(']')?.0.parse::<usize>().ok());
        if !all && item.is_some_and(|n| n >= LISTED) && matches!(step.state.as_str(), "completed" | "skipped") {
            hidden += 1;
            continue;
        }
        let took = match step.state.as_str() {
            "skipped" => String::new(),
            _ => span(step.ended_at.unwrap_or(run.now) - step.started_at),
        };
        rows.push(vec![
            cell(name(step)),
            cell(&step.state).style(state_style(&step.state)),
            cell(&step.kind),
            cell(step.attempts.to_string()).right(),
            cell(took).right(),
            cell(note(step)),
        ]);
    }
    let mut out = table(&["STEP", "STATE", "KIND", "TRIES", "TOOK", "NOTE"], &rows, most);
    if hidden > 0 {
        let steps = if hidden == 1 { "step" } else { "steps" };
        out.push_str(&format!(
            "… and {hidden} more {steps} of items and rounds, completed or skipped; --all lists them\n"
        ));
    }
    out
}

/// What else is to be known of a step.
fn note(step: &StepLine) -> String {
    match (&step.error_code, &step.error_message) {
        (Some(code), Some(message)) => return format!("{code}: {message}"),
        (Some(code), None) => return code.clone(),
        _ => {}
    }
    match (&step.event, step.due_at, &step.chosen, step.child) {
        (_, _, _, Some(child)) => format!("run {child}"),
        (_, _, Some(chosen), _) if step.kind == "end" => format!("the run ends {chosen}"),
        (_, _, Some(chosen), _) => format!("took {chosen}"),
        (Some(event), ..) if step.state == "waiting" => format!("for {event}"),
        (_, Some(due), ..) if step.state == "waiting" => format!("until {}", time(due)),
        _ => used(step.tokens_in, step.tokens_out, step.cost).unwrap_or_default(),
    }
}

/// A step's key, with what people call it.
fn name(step: &StepLine) -> String {
    step.label.as_ref().map_or_else(|| step.key.clone(), |label| format!("{} ({label})", step.key))
}

/// Everything, for programs.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    run: serde_json::Value,
    input: Box<RawValue>,
    output: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
    steps: Vec<serde_json::Value>,
    history: Vec<serde_json::Value>,
}

fn document(run: &RunDetail, steps: &[StepLine], history: &[HistoryLine]) -> Document {
    Document {
        run: json!({
            "id": run.id, "state": run.state, "workflow": run.workflow, "why": run.why, "queue": run.queue, "priority": run.priority,
            "created_at": run.created_at, "run_at": run.run_at, "started_at": run.started_at, "ended_at": run.ended_at,
            "due_at": run.due_at, "step": run.step, "attempts": run.attempts, "resumes": run.resumes, "crashes": run.crashes,
            "unique_key": run.unique_key, "labels": raw(&run.labels), "created_by": run.created_by, "session_id": run.session_id, "epoch": run.epoch,
            "forked_from": run.forked_from, "from_step": run.from_step, "parent": run.parent,
            "calls": run.calls, "tokens_in": run.tokens_in, "tokens_out": run.tokens_out, "cost": run.cost,
        }),
        input: raw(&run.input),
        output: run.output.as_deref().map(raw),
        error: run.error.as_deref().map(raw),
        steps: steps
            .iter()
            .map(|s| {
                json!({
                    "key": s.key, "label": s.label, "kind": s.kind, "state": s.state, "attempts": s.attempts, "started_at": s.started_at,
                    "ended_at": s.ended_at, "due_at": s.due_at, "event": s.event, "child": s.child, "chosen": s.chosen, "epoch": s.epoch,
                    "calls": s.calls, "tokens_in": s.tokens_in, "tokens_out": s.tokens_out, "cost": s.cost,
                    "output": s.output.as_deref().map(raw), "error": s.error.as_deref().map(raw),
                })
            })
            .collect(),
        history: history
            .iter()
            .map(|h| {
                json!({
                    "at": h.at, "event": h.event, "key": h.key, "attempt": h.attempt, "by_whom": h.by_whom, "epoch": h.epoch,
                    "data": h.data.as_deref().map(raw),
                })
            })
            .collect(),
    }
}

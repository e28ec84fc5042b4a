//! `stepd workflow`: what is loaded, what is in flight, how it went in the last day; and its end.

use chrono::TimeDelta;
use owo_colors::OwoColorize;
use serde_json::json;
use sqlx::PgConnection;

use crate::db::definitions;
use crate::db::operate::{self, InFlight, WorkflowLine};

use super::errors::{refused, refused_with};
use super::output::{Format, columns, json, json_list, say, talk};
use super::text::{ago, cell, clean, span, state_style, table, time};
use super::values::nearest;
use super::{Exit, Global};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the workflows: what is in flight, and runs, failures and durations of the last day
    Ls,
    /// Show a workflow: its runs in flight by definition, and the definition's text
    Show(Named),
    /// Let no new job name a workflow; its runs go on. Remove its file first: who starts with it loads it again
    Retire(Named),
}

#[derive(clap::Args)]
pub(super) struct Named {
    /// The workflow's name
    #[arg(value_name = "WORKFLOW")]
    name: String,
}

pub(super) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    match command {
        Command::Ls => ls(global, &operate::workflows(&mut conn, None).await?),
        Command::Show(Named { name }) => show(global, &mut conn, name).await,
        Command::Retire(Named { name }) => retire(global, &mut conn, name).await,
    }
}

async fn find(conn: &mut PgConnection, name: &str) -> anyhow::Result<WorkflowLine> {
    if let Some(found) = operate::workflows(&mut *conn, Some(name)).await?.pop() {
        return Ok(found);
    }
    let list = operate::workflows(conn, None).await?;
    let message = format!("there is no workflow {name}");
    Err(match nearest(name, list.iter().map(|w| w.name.as_str())) {
        Some(near) => refused_with(Exit::NotFound, message, format!("did you mean {near}?")),
        None => refused_with(Exit::NotFound, message, "stepd workflow ls lists them"),
    })
}

async fn retire(global: &Global, conn: &mut PgConnection, name: &str) -> anyhow::Result<Exit> {
    find(conn, name).await?;
    operate::retire(&mut *conn, name).await?;
    let workflow = find(conn, name).await?;
    match global.output {
        Format::Table => {
            say(&format!("{}  {}", clean(name), state(&workflow)))?;
            talk(&format!(
                "{} of its runs in flight go on; a worker that starts with its file loads it again",
                workflow.in_flight
            ));
        }
        Format::Id => say(&clean(name))?,
        Format::Json | Format::Jsonl => json(global.output, &document(&workflow))?,
    }
    Ok(Exit::Ok)
}

async fn show(global: &Global, conn: &mut PgConnection, name: &str) -> anyhow::Result<Exit> {
    let workflow = find(conn, name).await?;
    let stored = definitions::definition(&mut *conn, Some(workflow.definition), name).await?;
    let stored = stored.ok_or_else(|| refused(Exit::NotFound, format!("the definition of {name} is gone")))?;
    let flight = operate::in_flight(conn, name).await?;
    match global.output {
        Format::Table => say(&shown(&workflow, &flight, stored.body.as_deref(), columns()))?,
        Format::Id => say(&clean(name))?,
        Format::Json | Format::Jsonl => {
            let mut document = document(&workflow);
            let flight: Vec<_> = flight
                .iter()
                .map(|f| json!({"definition": f.definition, "hash": f.hash, "state": f.state, "runs": f.n}))
                .collect();
            document["in_flight_by_definition"] = flight.into();
            document["text"] = stored.body.into();
            json(global.output, &document)?;
        }
    }
    Ok(Exit::Ok)
}

fn ls(global: &Global, list: &[WorkflowLine]) -> anyhow::Result<Exit> {
    match global.output {
        Format::Table if list.is_empty() => talk("no workflows: load them with stepd serve --workflows DIR"),
        Format::Table => say(&drawn(list, columns()))?,
        Format::Id => list.iter().try_for_each(|w| say(&clean(&w.name)))?,
        Format::Json | Format::Jsonl => json_list(global.output, &list.iter().map(document).collect::<Vec<_>>())?,
    }
    Ok(Exit::Ok)
}

fn state(w: &WorkflowLine) -> String {
    w.retired_at.map_or("new jobs may name it".into(), |at| format!("retired {}", time(at)))
}

fn took(seconds: Option<f64>) -> String {
    let ms = seconds.map(|s| std::time::Duration::try_from_secs_f64(s).unwrap_or_default());
    ms.and_then(|d| TimeDelta::from_std(d).ok()).map(span).unwrap_or_default()
}

fn drawn(list: &[WorkflowLine], most: Option<usize>) -> String {
    let number = |n: i64| cell(n.to_string()).right();
    let rows: Vec<_> = list
        .iter()
        .map(|w| {
            let failed = number(w.failed);
            vec![
                cell(&w.name),
                number(w.in_flight),
                number(w.runs),
                if w.failed > 0 { failed.style(state_style("failed")) } else { failed },
                cell(took(w.p50)).right(),
                cell(took(w.p95)).right(),
                cell(&w.queue),
                cell(match w.retired_at {
                    Some(at) => format!("retired {}", ago(w.now - at)),
                    None => format!("loaded {}", ago(w.now - w.loaded_at)),
                }),
                cell(w.source.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    table(&["WORKFLOW", "IN FLIGHT", "RUNS/DAY", "FAILED", "P50", "P95", "QUEUE", "DEFINITION", "SOURCE"], &rows, most)
}

fn shown(w: &WorkflowLine, flight: &[InFlight], text: Option<&str>, most: Option<usize>) -> String {
    let day = match w.runs {
        0 => "no run".to_owned(),
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    };
    let durations = match (w.p50, w.p95) {
        (Some(_), Some(_)) => format!(", half took at most {}, 95 % at most {}", took(w.p50), took(w.p95)),
        _ => String::new(),
    };
    let mut lines = vec![
        ("workflow", clean(&w.name)),
        ("state", state(w)),
        ("queue", format!("{}, priority {}", clean(&w.queue), w.priority)),
        ("loaded", format!("{}, {}", time(w.loaded_at), ago(w.now - w.loaded_at))),
    ];
    lines.extend(w.source.as_ref().map(|s| ("source", clean(s))));
    lines.push(("definition", clean(&w.hash)));
    lines.push(("last day", format!("{day}, {} failed{durations}", w.failed)));
    let mut out = String::new();
    for (name, value) in lines {
        out.push_str(&format!("{}{value}\n", format!("{name:11}").bold()));
    }
    out.push('\n');
    if flight.is_empty() {
        out.push_str("nothing is in flight\n");
    } else {
        out.push_str(&in_flight(w, flight, most));
    }
    out.push('\n');
    match text {
        // The file's text, line by line: what could move the cursor is escaped.
        Some(text) => text.lines().for_each(|line| out.push_str(&format!("{}\n", clean(line)))),
        None => out.push_str("its definition is Rust code, in a binary that links stepd\n"),
    }
    out
}

fn in_flight(w: &WorkflowLine, flight: &[InFlight], most: Option<usize>) -> String {
    let rows: Vec<_> = flight
        .iter()
        .map(|f| {
            let definition = match (f.definition, &f.hash) {
                (None, _) => "not pinned yet".to_owned(),
                (Some(id), _) if id == w.definition => "the present one".to_owned(),
                (Some(_), Some(hash)) => format!("an earlier one, {}", hash.get(..12).unwrap_or(hash)),
                (Some(id), None) => format!("number {id}, which is gone"),
            };
            vec![cell(definition), cell(&f.state).style(state_style(&f.state)), cell(f.n.to_string()).right()]
        })
        .collect();
    table(&["DEFINITION", "STATE", "RUNS"], &rows, most)
}

fn document(w: &WorkflowLine) -> serde_json::Value {
    json!({
        "name": w.name, "active": w.active, "queue": w.queue, "priority": w.priority, "source": w.source, "hash": w.hash,
        "loaded_at": w.loaded_at, "retired_at": w.retired_at, "in_flight": w.in_flight,
        "last_day": {"runs": w.runs, "failed": w.failed, "p50_seconds": w.p50, "p95_seconds": w.p95},
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_workflow_says_how_its_runs_go_and_which_definitions_they_are_pinned_to() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let line = WorkflowLine {
            name: "fulfil_order".into(),
            active: true,
            queue: "default".into(),
            priority: 5,
            source: Some("/etc/stepd/workflows/fulfil_order.yaml".into()),
            loaded_at: now - TimeDelta::hours(30),
            retired_at: None,
            definition: 7,
            hash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
            in_flight: 12,
            runs: 2048,
            failed: 3,
            p50: Some(1.2),
            p95: Some(74.0),
            now,
        };
        let unused = WorkflowLine {
            name: "old".into(),
            retired_at: Some(now - TimeDelta::days(2)),
            source: None,
            in_flight: 0,
            runs: 0,
            failed: 0,
            p50: None,
            p95: None,
            ..line.clone()
        };
        let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
        insta::assert_snapshot!("workflow_ls", plain(drawn(&[line.clone(), unused], None)));
        let flight = |definition, hash: Option<&str>, state: &str, n| InFlight {
            definition,
            hash: hash.map(Into::into),
            loaded_at: None,
            state: state.into(),
            n,
        };
        let flight = [
            flight(Some(6), Some("a665a45920422f9d417e4867efdc4fb8"), "waiting", 2),
            flight(Some(7), Some("9f86d081884c"), "running", 9),
            flight(None, None, "queued", 1),
        ];
        let text = "name: fulfil_order\nsteps:\n\t- id: charge\n";
        insta::assert_snapshot!("workflow_show", plain(shown(&line, &flight, Some(text), None)));
    }
}

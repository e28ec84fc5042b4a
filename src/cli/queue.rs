//! `stepd queue`: what stands in the queues, and what is let out of them.

use serde_json::json;
use sqlx::PgConnection;

use crate::db::operate::{self, QueueLine};

use super::errors::{refused, refused_with};
use super::output::{Format, columns, json, json_list, say, talk};
use super::text::{cell, clean, span, state_style, table};
use super::values::nearest;
use super::{Exit, Global};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the queues, with what stands in them
    Ls,
    /// Stop a queue's claims at once; runs that are under way go on
    Pause(Name),
    /// Let a paused queue be claimed from again
    Unpause(Name),
    /// Set how many runs of a queue may be queued or running at once, over all workers
    Limit(Limit),
}

#[derive(clap::Args)]
pub(super) struct Name {
    /// The queue
    #[arg(value_name = "QUEUE")]
    name: String,
}

#[derive(clap::Args)]
pub(super) struct Limit {
    /// The queue
    #[arg(value_name = "QUEUE")]
    name: String,
    /// How many, from 1; or none
    #[arg(value_name = "N", value_parser = limit)]
    most: Most,
}

/// A limit, or none.
#[derive(Clone, Copy)]
struct Most(Option<i32>);

fn limit(text: &str) -> Result<Most, String> {
    match text.parse() {
        _ if text == "none" => Ok(Most(None)),
        Ok(n) if n > 0 => Ok(Most(Some(n))),
        _ => Err("write a number from 1, or none; to let nothing through, stepd queue pause".into()),
    }
}

pub(super) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    match command {
        Command::Ls => {
            let list = operate::queues(&mut conn, None).await?;
            return show(global, &list).map(|()| Exit::Ok);
        }
        Command::Pause(Name { name }) => {
            known(&mut conn, name).await?;
            operate::pause_queue(&mut conn, name, true).await?;
        }
        Command::Unpause(Name { name }) => {
            known(&mut conn, name).await?;
            operate::pause_queue(&mut conn, name, false).await?;
        }
        Command::Limit(Limit { name, most }) => {
            if known(&mut conn, name).await.is_err() {
                talk(&format!("no workflow, job or setting has named the queue {} so far", clean(name)));
            }
            operate::limit_queue(&mut conn, name, most.0).await?;
            told(global, &mut conn, name).await?;
            return Ok(Exit::Ok);
        }
    }
    let (Command::Pause(Name { name }) | Command::Unpause(Name { name })) = command else { return Ok(Exit::Ok) };
    told(global, &mut conn, name).await?;
    Ok(Exit::Ok)
}

/// A queue whose name is mistyped would be paused for nothing.
async fn known(conn: &mut PgConnection, name: &str) -> anyhow::Result<()> {
    let list = operate::queues(&mut *conn, None).await?;
    if list.iter().any(|q| q.name == name) {
        return Ok(());
    }
    let message = format!("no workflow, job or setting names a queue {name}");
    Err(match nearest(name, list.iter().map(|q| q.name.as_str())) {
        Some(near) => refused_with(Exit::NotFound, message, format!("did you mean {near}?")),
        None => refused_with(Exit::NotFound, message, "stepd queue ls lists them"),
    })
}

/// How the queue stands now.
async fn told(global: &Global, conn: &mut PgConnection, name: &str) -> anyhow::Result<()> {
    let list = operate::queues(&mut *conn, Some(name)).await?;
    let queue = list.first().ok_or_else(|| refused(Exit::NotFound, format!("there is no queue {name}")))?;
    match global.output {
        Format::Table => say(&format!("{}  {}", clean(&queue.name), clean(&state(queue))))?,
        Format::Id => say(&queue.name)?,
        Format::Json | Format::Jsonl => json(Format::Jsonl, &document(queue))?,
    }
    Ok(())
}

fn show(global: &Global, list: &[QueueLine]) -> anyhow::Result<()> {
    match global.output {
        Format::Table if list.is_empty() => talk("no queues yet: they come with workflows, jobs and settings"),
        Format::Table => say(&drawn(list, columns()))?,
        Format::Id => list.iter().try_for_each(|q| say(&clean(&q.name)))?,
        Format::Json | Format::Jsonl => json_list(global.output, &list.iter().map(document).collect::<Vec<_>>())?,
    }
    Ok(())
}

/// `open`, `limited to 3`, `paused by ann since 3 min`.
fn state(q: &QueueLine) -> String {
    let mut parts = Vec::new();
    if q.paused {
        let by = q.paused_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let since = q.paused_at.map(|at| format!(" since {}", span(q.now - at))).unwrap_or_default();
        parts.push(format!("paused{by}{since}"));
    }
    parts.extend(q.max_running.map(|n| format!("limited to {n}")));
    if q.exclusive {
        parts.push("served only by workers that name it".into());
    }
    if parts.is_empty() { "open".into() } else { parts.join(", ") }
}

fn drawn(list: &[QueueLine], most: Option<usize>) -> String {
    let number = |n: i64| cell(if n == 0 { String::new() } else { n.to_string() }).right();
    let rows: Vec<_> = list
        .iter()
        .map(|q| {
            let style = state_style(if q.paused { "paused" } else { "" });
            vec![
                cell(&q.name),
                cell(state(q)).style(if q.paused { style } else { owo_colors::Style::new() }),
                number(q.queued),
                number(q.held),
                number(q.running),
                number(q.waiting),
                number(q.scheduled),
                number(q.resuming),
                number(q.runs_paused),
                cell(q.oldest_ready_at.map(|at| span(q.now - at)).unwrap_or_default()).right(),
            ]
        })
        .collect();
    let heads =
        ["QUEUE", "STATE", "QUEUED", "HELD", "RUNNING", "WAITING", "SCHEDULED", "RESUMING", "PAUSED", "OLDEST READY"];
    table(&heads, &rows, most)
}

fn document(q: &QueueLine) -> serde_json::Value {
    json!({
        "name": q.name, "paused": q.paused, "paused_by": q.paused_by, "paused_at": q.paused_at, "max_running": q.max_running,
        "exclusive": q.exclusive, "queued": q.queued, "held": q.held, "running": q.running, "waiting": q.waiting,
        "scheduled": q.scheduled, "resuming": q.resuming, "runs_paused": q.runs_paused, "oldest_ready_at": q.oldest_ready_at,
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn a_queue_says_how_it_stands_and_what_stands_in_it() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let line = |name: &str| QueueLine {
            name: name.into(),
            paused: false,
            paused_by: None,
            paused_at: None,
            max_running: None,
            exclusive: false,
            queued: 0,
            held: 0,
            running: 0,
            scheduled: 0,
            waiting: 0,
            resuming: 0,
            runs_paused: 0,
            oldest_ready_at: None,
            now,
        };
        let since = Some(now - TimeDelta::minutes(3));
        let paused = QueueLine {
            paused: true,
            paused_by: Some("ann".into()),
            paused_at: since,
            max_running: Some(3),
            held: 12,
            runs_paused: 1,
            ..line("bank")
        };
        let open = QueueLine { queued: 4, running: 100, oldest_ready_at: since, ..line("default") };
        let own = QueueLine { exclusive: true, ..line("gpu") };
        let text = anstream::adapter::strip_str(&drawn(&[paused, open, own], None)).to_string();
        insta::assert_snapshot!(text);
    }
}

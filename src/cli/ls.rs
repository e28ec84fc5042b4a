//! `stepd ls`: runs, newest first.

use serde_json::json;

use crate::db::runs::{self, RunLine};

use super::client::{run_id, short};
use super::output::{Format, columns, json_list, raw, say, talk};
use super::text::{ago, cell, span, state_style, table};
use super::values::FilterArgs;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many runs, the newest first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only runs older than this one: the last of the page before
    #[arg(long, value_name = "RUN")]
    before: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    // One more than is shown says whether there are more.
    let before = match &args.before {
        Some(text) => Some(run_id(&mut conn, text).await?),
        None => None,
    };
    let mut list = runs::page(&mut conn, &args.filter.filter(), before, i64::from(args.limit) + 1).await?;
    let more = list.len() > args.limit as usize;
    list.truncate(args.limit as usize);
    match global.output {
        Format::Table if list.is_empty() => talk("no runs"),
        Format::Table => {
            say(&drawn(&list, columns()))?;
            if more {
                talk(&format!("{} are shown; --limit shows more, --before the last of them the next", args.limit));
            }
        }
        Format::Id => {
            for line in &list {
                say(&line.id.to_string())?;
            }
        }
        Format::Json | Format::Jsonl => {
            let list: Vec<_> = list.iter().map(document).collect();
            json_list(global.output, &list)?;
        }
    }
    Ok(Exit::Ok)
}

fn drawn(list: &[RunLine], most: Option<usize>) -> String {
    let ids: Vec<_> = list.iter().map(|l| l.id).collect();
    let rows: Vec<_> = list
        .iter()
        .zip(short(&ids))
        .map(|(l, id)| {
            let took = l.started_at.map(|s| span(l.ended_at.unwrap_or(l.now) - s)).unwrap_or_default();
            vec![
                cell(id),
                cell(&l.state).style(state_style(&l.state)),
                cell(&l.workflow),
                cell(ago(l.now - l.created_at)),
                cell(took).right(),
                cell(l.step.as_deref().unwrap_or_default()),
                cell(note(l)),
            ]
        })
        .collect();
    table(&["ID", "STATE", "WORKFLOW", "CREATED", "TOOK", "STEP", "NOTE"], &rows, most)
}

/// What is worth a word: the failure, the next time it is looked at, deaths and resumes.
fn note(l: &RunLine) -> String {
    let mut parts = Vec::new();
    if let Some(code) = &l.error_code {
        parts.push(match &l.error_message {
            Some(message) => format!("{code}: {message}"),
            None => code.clone(),
        });
    }
    if let Some(due) = l.due_at {
        parts.push(format!("due in {}", span(due - l.now)));
    }
    for (n, one, many) in [(l.crashes, "crash", "crashes"), (l.resumes, "resume", "resumes")] {
        match n {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        }
    }
    parts.join(", ")
}

fn document(l: &RunLine) -> serde_json::Value {
    json!({
        "id": l.id, "state": l.state, "workflow": l.workflow, "queue": l.queue, "priority": l.priority,
        "created_at": l.created_at, "started_at": l.started_at, "ended_at": l.ended_at, "due_at": l.due_at,
        "step": l.step, "error_code": l.error_code, "error_message": l.error_message, "resumes": l.resumes,
        "crashes": l.crashes, "unique_key": l.unique_key, "session_id": l.session_id, "labels": raw(&l.labels),
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_list_says_what_a_person_looks_for() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let line = |id: u128, state: &str| RunLine {
            id: Uuid::from_u128((0x018b_cfe5_687b_7000 << 64) | (id << 40)),
            state: state.into(),
            workflow: "fulfil_order".into(),
            queue: "default".into(),
            priority: 5,
            created_at: now - TimeDelta::seconds(90),
            started_at: Some(now - TimeDelta::seconds(80)),
            ended_at: None,
            due_at: None,
            step: None,
            error_code: None,
            error_message: None,
            resumes: 0,
            crashes: 0,
            unique_key: None,
            session_id: None,
            labels: "{}".into(),
            now,
        };
        let failed = RunLine {
            ended_at: Some(now),
            step: Some("charge".into()),
            error_code: Some("http_503".into()),
            error_message: Some("bad\u{1b}[0m gateway".into()),
            crashes: 2,
            ..line(1, "failed")
        };
        let queued = RunLine { started_at: None, ..line(2, "queued") };
        let text = anstream::adapter::strip_str(&drawn(&[failed, queued], None)).to_string();
        insta::assert_snapshot!(text, @r"
        ID                          STATE   WORKFLOW      CREATED          TOOK  STEP    NOTE
        018bcfe5-687b-7000-0000-01  failed  fulfil_order  1 min ago  1 min 20 s  charge  http_503: bad\x1b[0m gateway, 2 crashes
        018bcfe5-687b-7000-0000-02  queued  fulfil_order  1 min ago
        ");
    }
}

//! `stepd worker`: the daemons that are registered.

use serde_json::json;

use crate::db::operate::{self, WorkerLine};

use super::output::{Format, columns, json_list, raw, say, talk};
use super::text::{ago, cell, span, state_style, table};
use super::{Exit, Global};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the workers: where they run, how old their last heartbeat is, what they serve
    Ls,
}

pub(super) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let Command::Ls = command;
    let mut conn = global.connect().await?;
    let list = operate::workers(&mut conn).await?;
    match global.output {
        Format::Table if list.is_empty() => talk("no workers: start one with stepd serve"),
        Format::Table => say(&drawn(&list, columns()))?,
        Format::Id => list.iter().try_for_each(|w| say(&w.id.to_string()))?,
        Format::Json | Format::Jsonl => json_list(global.output, &list.iter().map(document).collect::<Vec<_>>())?,
    }
    Ok(Exit::Ok)
}

/// `alive`, `stopping`, or `silent`: a take-over is due.
fn state(w: &WorkerLine) -> &'static str {
    match (w.alive, w.stopping) {
        (false, _) => "silent",
        (true, true) => "stopping",
        (true, false) => "alive",
    }
}

fn drawn(list: &[WorkerLine], most: Option<usize>) -> String {
    let rows: Vec<_> = list
        .iter()
        .map(|w| {
            let style = match state(w) {
                "alive" => state_style("completed"),
                "stopping" => state_style("paused"),
                _ => state_style("failed"),
            };
            vec![
                cell(&w.id.to_string()[..8]),
                cell(&w.host),
                cell(w.pid.to_string()).right(),
                cell(state(w)).style(style),
                cell(ago(w.now - w.beat_at)).right(),
                cell(format!("{} of {}", w.running, w.slots)).right(),
                cell(span(w.now - w.started_at)).right(),
                cell(&w.version),
                cell(w.queues.as_ref().map_or("all that are not exclusive".to_owned(), |q| q.join(", "))),
            ]
        })
        .collect();
    table(&["WORKER", "HOST", "PID", "STATE", "HEARTBEAT", "SLOTS", "UP", "VERSION", "QUEUES"], &rows, most)
}

fn document(w: &WorkerLine) -> serde_json::Value {
    json!({
        "id": w.id, "host": w.host, "pid": w.pid, "state": state(w), "alive": w.alive, "stopping": w.stopping,
        "started_at": w.started_at, "beat_at": w.beat_at, "beat_age_ms": (w.now - w.beat_at).num_milliseconds(),
        "lease_ms": w.lease_ms, "running": w.running, "slots": w.slots, "queues": w.queues, "version": w.version,
        "runs": w.runs, "facts": raw(&w.facts),
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_worker_says_whether_it_lives_and_what_it_serves() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let line = |id: u128| WorkerLine {
            id: Uuid::from_u128(id << 96),
            alive: true,
            stopping: false,
            host: "web1".into(),
            pid: 4711,
            started_at: now - TimeDelta::hours(5),
            beat_at: now - TimeDelta::seconds(2),
            running: 7,
            slots: 100,
            queues: None,
            version: "0.1.0".into(),
            lease_ms: 15_000,
            runs: Vec::new(),
            facts: "{}".into(),
            now,
        };
        let silent = WorkerLine { alive: false, beat_at: now - TimeDelta::seconds(40), ..line(0xa2) };
        let gpu = WorkerLine { stopping: true, queues: Some(vec!["gpu".into(), "big".into()]), ..line(0xa3) };
        let text = anstream::adapter::strip_str(&drawn(&[line(0xa1), silent, gpu], None)).to_string();
        insta::assert_snapshot!(text);
    }
}

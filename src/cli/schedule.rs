//! `stepd schedule`: what starts by itself, and when.

use owo_colors::Style;
use serde_json::json;
use sqlx::PgConnection;

use crate::db::schedules::{self, ScheduleLine};

use super::errors::refused_with;
use super::output::{Format, columns, json, json_list, say, talk};
use super::text::{ago, cell, clean, span, state_style, table, time};
use super::values::nearest;
use super::{Exit, Global};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the schedules: when each starts its next run, and how its last one stands
    Ls,
    /// Start a run of a schedule now, beside its instants; prints the run's id
    Run(Named),
    /// Stop a schedule: no instant starts a run until unpause, and those that pass meanwhile never do
    Pause(Named),
    /// Let a paused schedule go on with its next instant
    Unpause(Named),
}

#[derive(clap::Args)]
pub(super) struct Named {
    /// The workflow whose schedule it is
    #[arg(value_name = "WORKFLOW")]
    name: String,
}

pub(super) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    match command {
        Command::Ls => show(global, &schedules::list(&mut conn, None).await?)?,
        Command::Run(Named { name }) => {
            known(&mut conn, name).await?;
            let run = schedules::run(&mut conn, name).await?;
            match global.output {
                Format::Table | Format::Id => say(&run.to_string())?,
                Format::Json | Format::Jsonl => json(global.output, &json!({"id": run}))?,
            }
        }
        Command::Pause(Named { name }) | Command::Unpause(Named { name }) => {
            known(&mut conn, name).await?;
            schedules::pause(&mut conn, name, matches!(command, Command::Pause(_))).await?;
            let line = known(&mut conn, name).await?;
            match global.output {
                Format::Table => say(&format!("{}  {}", clean(name), clean(&state(&line))))?,
                Format::Id => say(&clean(name))?,
                Format::Json | Format::Jsonl => json(global.output, &document(&line))?,
            }
        }
    }
    Ok(Exit::Ok)
}

async fn known(conn: &mut PgConnection, name: &str) -> anyhow::Result<ScheduleLine> {
    if let Some(found) = schedules::list(&mut *conn, Some(name)).await?.pop() {
        return Ok(found);
    }
    let list = schedules::list(conn, None).await?;
    let message = format!("workflow {name} has no schedule");
    Err(match nearest(name, list.iter().map(|s| s.workflow.as_str())) {
        Some(near) => refused_with(Exit::NotFound, message, format!("did you mean {near}?")),
        None => refused_with(Exit::NotFound, message, "stepd schedule ls lists them"),
    })
}

fn show(global: &Global, list: &[ScheduleLine]) -> anyhow::Result<()> {
    match global.output {
        Format::Table if list.is_empty() => talk("no schedules: they stand in workflow files, as `schedule:`"),
        Format::Table => say(&drawn(list, columns()))?,
        Format::Id => list.iter().try_for_each(|s| say(&clean(&s.workflow)))?,
        Format::Json | Format::Jsonl => json_list(global.output, &list.iter().map(document).collect::<Vec<_>>())?,
    }
    Ok(())
}

/// `in 3 h 20 min, 2026-…`, or by whom it is paused.
fn state(s: &ScheduleLine) -> String {
    if !s.active {
        let by = s.paused_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let since = s.paused_at.map(|at| format!(" since {}", span(s.now - at))).unwrap_or_default();
        return format!("paused{by}{since}");
    }
    match s.next_at {
        Some(next) => format!("in {}, {}", span((next - s.now).max(chrono::TimeDelta::zero())), time(next)),
        None => "a worker is about to work it out".into(),
    }
}

fn last(s: &ScheduleLine) -> String {
    let fired = s.fired_at.map(|at| format!("{} {}", ago(s.now - at), s.run_state.as_deref().unwrap_or("pruned")));
    let waiting = (s.pending > 0).then(|| format!("{} waiting", s.pending));
    [fired, waiting].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn drawn(list: &[ScheduleLine], most: Option<usize>) -> String {
    let rows: Vec<_> = list
        .iter()
        .map(|s| {
            let style = if s.active { Style::new() } else { state_style("paused") };
            vec![
                cell(&s.workflow),
                cell(format!("{} {}", s.cron, s.timezone)),
                cell(state(s)).style(style),
                cell(last(s)),
                cell(format!("{}, {}", s.overlap, s.catch_up)),
            ]
        })
        .collect();
    table(&["WORKFLOW", "SCHEDULE", "NEXT", "LAST", "OVERLAP, CATCH UP"], &rows, most)
}

fn document(s: &ScheduleLine) -> serde_json::Value {
    json!({
        "workflow": s.workflow, "active": s.active, "next_at": s.next_at, "cron": s.cron, "timezone": s.timezone, "overlap": s.overlap,
        "catch_up": s.catch_up, "fired_at": s.fired_at, "run": s.run, "run_state": s.run_state, "pending": s.pending,
        "skipped_at": s.skipped_at, "paused_by": s.paused_by, "paused_at": s.paused_at,
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn a_schedule_says_when_it_starts_next_and_how_its_last_run_stands() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let line = |name: &str| ScheduleLine {
            workflow: name.into(),
            active: true,
            next_at: Some(now + TimeDelta::minutes(200)),
            cron: "15 2 * * *".into(),
            timezone: "Europe/Berlin".into(),
            overlap: "skip".into(),
            catch_up: "last".into(),
            fired_at: Some(now - TimeDelta::minutes(3)),
            run: None,
            run_state: Some("running".into()),
            pending: 0,
            skipped_at: None,
            paused_by: None,
            paused_at: None,
            now,
        };
        let (by, since) = (Some("ann".into()), Some(now - TimeDelta::minutes(9)));
        let paused = ScheduleLine { active: false, next_at: None, paused_by: by, paused_at: since, ..line("bills") };
        let queued = ScheduleLine { overlap: "queue".into(), pending: 2, ..line("sync") };
        let text = anstream::adapter::strip_str(&drawn(&[line("nightly_backup"), paused, queued], None)).to_string();
        insta::assert_snapshot!(text);
    }
}

//! `stepd watch`: one run until its end, or all runs as they change.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::changes::{self, Change};
use crate::db::runs::{self, Filter};
use crate::definition::parse_duration;
use crate::model::RunState;

use super::client::run_id;
use super::errors::refused;
use super::follow::{self, Turning};
use super::history::{History, line};
use super::output::{Format, json, say, talk};
use super::text::{cell, state_style, table};
use super::values::FilterArgs;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last; none: every run, or those that a filter leaves
    #[arg(value_name = "RUN")]
    run: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// With a run: no longer than this (30s, 5m); the run goes on
    #[arg(long, value_name = "SPAN", requires = "run", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// Between two looks at one run; at all of them.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_ALL: Duration = Duration::from_secs(1);

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let Some(text) = &args.run else {
        let filter = args.filter.filter();
        return tokio::select! {
            done = all(global, &mut conn, &filter) => done,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        };
    };
    if !args.filter.is_empty() {
        return Err(refused(Exit::Usage, "name a run, or filter them; not both"));
    }
    let id = run_id(&mut conn, text).await?;
    let turning = Turning::new();
    let timed_out = async {
        match args.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let state = tokio::select! {
        state = one(&mut conn, id, &turning) => state?,
        () = timed_out => {
            drop(turning);
            return Err(refused(Exit::TimedOut, format!("run {id} has not ended in time; it goes on")));
        }
        _ = tokio::signal::ctrl_c() => {
            drop(turning);
            talk(&format!("run {id} goes on; stepd watch {id}"));
            return Ok(Exit::Interrupted);
        }
    };
    drop(turning);
    follow::result(global, &mut conn, id, &state).await
}

/// Tells what happens to a run, and resolves with its final state.
async fn one(conn: &mut PgConnection, id: Uuid, turning: &Turning) -> anyhow::Result<String> {
    let mut history = History::new(id);
    loop {
        let began = Instant::now();
        let now = follow::progress(conn, id, turning).await?;
        for l in history.news(conn).await? {
            turning.line(&line(&l));
        }
        if now.why.is_none() {
            return Ok(now.state);
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * 4)).await;
    }
}

/// Tells of every change of every run, until somebody ends it.
async fn all(global: &Global, conn: &mut PgConnection, filter: &Filter) -> anyhow::Result<Exit> {
    let turning = Turning::new();
    // What was last seen of the unfinished ones. A state that is asked for is looked for in the changes, not in the list: a run
    // that leaves it has changed, too.
    let mut known: HashMap<Uuid, Change> = HashMap::new();
    let wanted = |c: &Change| filter.states.is_empty() || filter.states.contains(&c.state);
    let everything = Filter { states: Vec::new(), since: None, ..filter.clone() };
    let mut last = match filter.since {
        Some(since) => runs::first_id_at(since),
        None => runs::last(&mut *conn).await?.unwrap_or(Uuid::nil()),
    };
    let unfinished = changes::unfinished(&mut *conn, &everything).await?;
    if i64::try_from(unfinished.len()) == Ok(changes::WATCHED) {
        talk(&format!(
            "there are more: the newest {} unfinished runs are watched, and all that come",
            changes::WATCHED
        ));
    }
    for change in unfinished {
        if wanted(&change) {
            tell(global, &turning, &change)?;
        }
        known.insert(change.id, change);
    }
    loop {
        turning.says(&summary(known.values()));
        tokio::time::sleep(PAUSE_ALL).await;
        let ids: Vec<Uuid> = known.keys().copied().collect();
        for change in changes::changes(&mut *conn, &everything, last, &ids).await? {
            last = last.max(change.id);
            let before = known.get(&change.id);
            let same = before.is_some_and(|b| b.state == change.state && b.step == change.step);
            if !same && wanted(&change) {
                tell(global, &turning, &change)?;
            }
            if RunState::from_word(&change.state).is_some_and(RunState::is_final) {
                known.remove(&change.id);
            } else {
                known.insert(change.id, change);
            }
        }
    }
}

fn tell(global: &Global, turning: &Turning, c: &Change) -> anyhow::Result<()> {
    match global.output {
        Format::Table => {
            let text = told(c);
            turning.aside(|| say(&text))?;
        }
        Format::Id => say(&c.id.to_string())?,
        Format::Json | Format::Jsonl => json(
            Format::Jsonl,
            &json!({"at": c.now, "id": c.id, "workflow": c.workflow, "state": c.state, "step": c.step, "error_code": c.error_code}),
        )?,
    }
    Ok(())
}

/// `12:00:00Z  0198…  running    fulfil_order  charge`.
fn told(c: &Change) -> String {
    let row = vec![
        cell(c.now.format("%H:%M:%SZ").to_string()),
        cell(c.id.to_string()),
        cell(format!("{:9}", c.state)).style(state_style(&c.state)),
        cell(&c.workflow),
        cell(c.step.as_deref().map(|s| format!("at {s}")).unwrap_or_default()),
        cell(match (&c.error_code, &c.error_message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (code, _) => code.clone().unwrap_or_default(),
        }),
    ];
    let text = table(&["", "", "", "", "", ""], &[row], None);
    // Without the line of headings.
    text.split_once('\n').map_or(text.clone(), |(_, row)| row.to_owned())
}

/// How many unfinished runs are in which state.
fn summary<'a>(known: impl Iterator<Item = &'a Change>) -> String {
    let mut counts = [0_usize; RunState::ALL.len()];
    for change in known {
        if let Some(n) = RunState::ALL.iter().position(|s| s.as_str() == change.state) {
            counts[n] += 1;
        }
    }
    let parts = RunState::ALL.iter().zip(counts).filter(|(_, n)| *n > 0).map(|(s, n)| format!("{n} {}", s.as_str()));
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() { "no unfinished run".into() } else { parts.join(" · ") }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_change_is_one_line_and_the_summary_counts_by_state() {
        let change = |state: &str| Change {
            id: Uuid::from_u128(0x018b_cfe5_687b_7000_8000_0000_0000_0001),
            state: state.into(),
            workflow: "fulfil_order".into(),
            step: Some("charge".into()),
            error_code: Some("http_503".into()),
            error_message: Some("bad\u{1b}[0m gateway".into()),
            queue: "default".into(),
            labels: json!({}),
            epoch: 1,
            now: DateTime::from_timestamp_millis(1_700_000_100_000).unwrap(),
        };
        let text = anstream::adapter::strip_str(&told(&change("failed"))).to_string();
        assert_eq!(
            text.trim_end(),
            "22:15:00Z  018bcfe5-687b-7000-8000-000000000001  failed     fulfil_order  at charge  http_503: bad\\x1b[0m gateway"
        );
        let known = [change("running"), change("queued"), change("running")];
        assert_eq!(summary(known.iter()), "1 queued · 2 running");
        assert_eq!(summary(std::iter::empty()), "no unfinished run");
    }
}

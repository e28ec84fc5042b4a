//! `stepd prune`: removes history, now.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::app::Daemon;
use crate::db::retention::{self, Count};
use crate::definition::parse_duration;
use crate::rules::retention::{ENDED, Retention, Rule};
use crate::services::retention::{Export, PruneError, prune};

use super::client::connect;
use super::errors::{refused, refused_with};
use super::output::{Format, json_list, say, talk};
use super::text::clean;
use super::{Exit, Global};

/// Another worker is at it for some milliseconds at a time.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Runs that ended longer ago than this, as in 90d (default: as the configuration keeps them)
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Only runs in this state: completed, failed or cancelled; may be given several times
    #[arg(long, value_name = "STATE", value_parser = ["completed", "failed", "cancelled"])]
    state: Vec<String>,
    /// Only runs of this workflow; may be given several times
    #[arg(long, value_name = "NAME")]
    workflow: Vec<String>,
    /// Write the runs there first, one JSON document a line: to a file, after what it holds already; or into a folder, a file a day
    #[arg(long, value_name = "PATH", visible_alias = "archive")]
    export: Option<PathBuf>,
    /// Only say what would be removed
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    let rules = rules(args, &config.retention())?;
    if !args.dry_run && !args.yes {
        return Err(refused_with(
            Exit::Usage,
            "this removes history for good",
            "--dry-run says how much; --yes does it",
        ));
    }
    let db = Daemon::database(&config)?;
    let mut conn = connect(&db).await?;
    crate::db::migrate::check(&mut conn).await?;
    if args.dry_run {
        let counts = retention::count(&mut conn, &rules).await?;
        tell(global, &counts)?;
        talk(&format!("{} would be removed", counted(&counts)));
        return Ok(Exit::Ok);
    }
    drop(conn);
    let named = args.export.clone().map(|path| if path.is_dir() { Export::Folder(path) } else { Export::File(path) });
    let export = named.or_else(|| config.retention_export.map(Export::Folder));
    let mut removed: Vec<Count> = Vec::new();
    let mut after = Uuid::nil();
    loop {
        let pass = prune(&db, &rules, after, export.as_ref()).await.map_err(told)?;
        add(&mut removed, pass.removed);
        match pass.last {
            _ if pass.busy => tokio::time::sleep(AGAIN).await,
            Some(last) => after = last,
            None => break,
        }
    }
    tell(global, &removed)?;
    talk(&format!("{} removed", counted(&removed)));
    Ok(Exit::Ok)
}

/// What the database says is told as everywhere, with what to do about it.
fn told(error: PruneError) -> anyhow::Error {
    match error {
        PruneError::Database(error) => error.into(),
        error @ PruneError::Export { .. } => error.into(),
    }
}

/// What is to go: as the flags say, else as the configuration does, narrowed down by the flags.
fn rules(args: &Args, configured: &Retention) -> anyhow::Result<Retention> {
    let states = ENDED.into_iter().filter(|s| args.state.is_empty() || args.state.iter().any(|w| w == s.as_str()));
    let workflows: Vec<Option<&String>> = match args.workflow.as_slice() {
        [] => vec![None],
        named => named.iter().map(Some).collect(),
    };
    let of = |workflow: Option<&String>, state| {
        let rules = configured.rules().iter().filter(|r| r.state == state);
        let nearest = rules.filter(|r| r.workflow.is_none() || r.workflow.as_ref() == workflow);
        nearest.max_by_key(|r| r.workflow.is_some()).and_then(|r| r.age)
    };
    let mut rules = Vec::new();
    for state in states {
        for workflow in &workflows {
            let age = args.older_than.or_else(|| of(*workflow, state));
            rules.push(Rule { workflow: workflow.cloned(), state, age });
        }
        // Without names, what the configuration says of single workflows holds, too.
        if args.older_than.is_none() && args.workflow.is_empty() {
            rules.extend(configured.rules().iter().filter(|r| r.state == state && r.workflow.is_some()).cloned());
        }
    }
    let rules = Retention::new(rules);
    match rules.shortest() {
        Some(_) => Ok(rules),
        None => Err(refused(
            Exit::Usage,
            "the configuration keeps these runs for ever: say how old they must be, as in --older-than 90d",
        )),
    }
}

fn add(all: &mut Vec<Count>, more: Vec<Count>) {
    for one in more {
        match all.iter_mut().find(|c| (&c.workflow, &c.state) == (&one.workflow, &one.state)) {
            Some(count) => count.runs += one.runs,
            None => all.push(one),
        }
    }
}

fn tell(global: &Global, counts: &[Count]) -> anyhow::Result<()> {
    match global.output {
        Format::Table => {
            for c in counts {
                say(&format!("{:>10}  {:9}  {}", c.runs, c.state, clean(&c.workflow)))?;
            }
            Ok(())
        }
        // No run has an id any more that could be named.
        Format::Id => Ok(()),
        format @ (Format::Json | Format::Jsonl) => {
            let told: Vec<_> =
                counts.iter().map(|c| json!({"workflow": c.workflow, "state": c.state, "runs": c.runs})).collect();
            json_list(format, &told)
        }
    }
}

fn counted(counts: &[Count]) -> String {
    match counts.iter().map(|c| c.runs).sum::<i64>() {
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    }
}

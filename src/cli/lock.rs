//! `stepd lock`: who keeps what from whom.

use crate::db::locks::{self, LockLine};

use super::client::short;
use super::output::{Format, columns, json_list, say, talk};
use super::text::{cell, span, state_style, table};
use super::{Exit, Global};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the locks that are held: the leases of running runs, and the places of concurrency keys; the longest first
    Ls(Args),
}

#[derive(clap::Args)]
pub(super) struct Args {
    /// lease: a worker has a run, and no second one can; key: a run has a place of its workflow's concurrency key
    #[arg(long, value_name = "KIND", value_parser = ["lease", "key"])]
    kind: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(super) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let Command::Ls(args) = command;
    let mut conn = global.connect().await?;
    let list = locks::list(&mut conn, args.kind.as_deref(), i64::from(args.limit)).await?;
    match global.output {
        Format::Table if list.is_empty() => talk("no locks: no run is at work"),
        Format::Table => {
            say(&drawn(&list, columns()))?;
            let total = list.first().map_or(0, |line| line.total);
            if total > i64::from(args.limit) {
                talk(&format!("{} of {total} are shown; --limit shows more", list.len()));
            }
        }
        Format::Id => list.iter().try_for_each(|l| say(&l.run.to_string()))?,
        Format::Json | Format::Jsonl => json_list(global.output, &list)?,
    }
    Ok(Exit::Ok)
}

fn drawn(list: &[LockLine], most: Option<usize>) -> String {
    let ids: Vec<_> = list.iter().map(|l| l.run).collect();
    let rows: Vec<_> = list
        .iter()
        .zip(short(&ids))
        .map(|(l, id)| {
            let what = if l.kind == "lease" { l.workflow.clone() } else { l.name.clone() };
            let held = l.since.map(|since| span(l.now - since)).unwrap_or_default();
            let holder = match (l.kind.as_str(), &l.holder) {
                ("lease", Some(worker)) => worker.clone(),
                ("lease", None) => "a worker that is gone".to_owned(),
                _ => id.clone(),
            };
            vec![
                cell(&l.kind),
                cell(what),
                cell(id),
                cell(&l.state).style(state_style(&l.state)),
                cell(holder),
                cell(held).right(),
                cell(l.expires_at.map(|at| format!("in {}", span(at - l.now))).unwrap_or_default()),
            ]
        })
        .collect();
    table(&["KIND", "LOCKED", "RUN", "STATE", "HOLDER", "HELD", "EXPIRES"], &rows, most)
}

//! `stepd check --in-flight`: the unfinished runs that a changed file would break, and why.

use std::path::PathBuf;

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::app::files;
use crate::db::in_flight::{self, InFlight, StepOf};
use crate::definition::{self, Definition, Recorded, misfit_of_input, misfits};
use crate::model::StepState;

use super::check::check_to;
use super::output::{Format, json as print, say, talk};
use super::text::clean;
use super::{Exit, Global};

/// Runs that are looked at at a time: their steps are read in one statement.
const PAGE: i64 = 500;

/// Reasons that are shown of one run.
const SHOWN: usize = 5;

/// A run that would break.
struct Broken {
    run: InFlight,
    why: Vec<String>,
}

/// Checks files, and then each good one against the runs in flight.
pub(super) async fn check(global: &Global, paths: &[PathBuf]) -> anyhow::Result<Exit> {
    // What is right is not worth a line among the runs.
    if check_to(paths, &mut std::io::sink(), &mut anstream::stderr())? != 0 {
        talk("the runs in flight have not been looked at: mend the files first");
        return Ok(Exit::Error);
    }
    let mut conn = global.connect().await?;
    let mut broken = 0;
    for path in files::find(paths)? {
        let source = path.display().to_string();
        let Ok((_, definition)) = definition::read(&source, files::read(&path)?) else { continue };
        broken += of_file(global, &mut conn, &source, &definition).await?;
    }
    Ok(if broken == 0 { Exit::Ok } else { Exit::Error })
}

async fn of_file(
    global: &Global,
    conn: &mut PgConnection,
    source: &str,
    definition: &Definition,
) -> anyhow::Result<usize> {
    let (mut after, mut seen, mut broken) = (Uuid::nil(), 0, 0);
    loop {
        let page = in_flight::runs(conn, &definition.name, &definition.hash, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        seen += page.len();
        let ids: Vec<Uuid> = page.iter().map(|r| r.id).collect();
        let steps = in_flight::steps(conn, &ids).await?;
        for run in page {
            let why = reasons(definition, &run, &steps);
            if !why.is_empty() {
                broken += 1;
                report(global, source, definition, &Broken { run, why })?;
            }
        }
    }
    let s = if seen == 1 { "" } else { "s" };
    talk(&match broken {
        0 => format!("{source}: fits all {seen} unfinished run{s} of {} that have not begun with it", definition.name),
        _ => format!(
            "{source}: breaks {broken} of {seen} unfinished run{s} of {}. They go on with the definition that they began with; \
             do not move them to this one (stepd retry --latest), but fork them from an earlier step (stepd fork --latest)",
            definition.name
        ),
    });
    Ok(broken)
}

fn reasons(definition: &Definition, run: &InFlight, steps: &[StepOf]) -> Vec<String> {
    if run.unpinned {
        let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
        return misfit_of_input(definition, &input).map(|f| f.message).into_iter().collect();
    }
    let first = steps.partition_point(|s| s.run < run.id);
    let own = steps[first..].iter().take_while(|s| s.run == run.id);
    let records: Vec<Recorded<'_>> = own
        .filter_map(|s| Some(Recorded { key: &s.key, kind: &s.kind, state: StepState::from_word(&s.state)? }))
        .collect();
    misfits(definition, &records)
}

fn report(global: &Global, source: &str, definition: &Definition, broken: &Broken) -> anyhow::Result<()> {
    let Broken { run, why } = broken;
    match global.output {
        Format::Id => say(&run.id.to_string())?,
        Format::Json | Format::Jsonl => print(
            Format::Jsonl,
            &json!({"id": run.id, "workflow": &*definition.name, "file": source, "state": run.state, "why": why}),
        )?,
        Format::Table => {
            let more = why.len().saturating_sub(SHOWN);
            let mut lines = vec![format!("{}  {}", run.id, run.state)];
            lines.extend(why.iter().take(SHOWN).map(|w| format!("  {}", clean(w))));
            lines.extend((more > 0).then(|| format!("  … and {more} more")));
            say(&lines.join("\n"))?;
        }
    }
    Ok(())
}

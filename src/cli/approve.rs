//! `stepd approve` and `stepd reject`: a person's answer.

use serde_json::json;

use crate::db::actions;

use super::client::run_id;
use super::output::{Format, json, say};
use super::text::clean;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// The step that waits; may be left out where only one does
    step: Option<String>,
    /// What to say with it, for whoever looks at the run later
    #[arg(long, short = 'm', value_name = "TEXT")]
    note: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Args, yes: bool) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let id = run_id(&mut conn, &args.run).await?;
    let step = actions::answer(&mut conn, id, args.step.as_deref(), args.note.as_deref(), yes).await?;
    let word = if yes { "approved" } else { "rejected" };
    match global.output {
        Format::Table => say(&format!("{id}  {word} {}", clean(&step)))?,
        Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => json(Format::Jsonl, &json!({"id": id, "step": step, "result": word}))?,
    }
    Ok(Exit::Ok)
}

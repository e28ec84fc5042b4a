//! `stepd approve` and `stepd reject`: a person's answer.

use serde_json::json;

use crate::db::actions::{self, Said};

use super::client::run_id;
use super::output::{Format, json, say};
use super::text::clean;
use super::{Exit, Global, values};

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

#[derive(clap::Args)]
pub(super) struct Approve {
    #[command(flatten)]
    args: Args,
    /// What a tool has asked for: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON")]
    answer: Option<String>,
}

pub(super) async fn approve(global: &Global, args: &Approve) -> anyhow::Result<Exit> {
    let answer = args.answer.as_deref().map(|text| values::json("--answer", text)).transpose()?;
    run(global, &args.args, Said::Yes(answer.as_ref().map(|a| a.as_str())), "approved").await
}

pub(super) async fn reject(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    run(global, args, Said::No, "rejected").await
}

async fn run(global: &Global, args: &Args, said: Said<'_>, word: &str) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let id = run_id(&mut conn, &args.run).await?;
    let step = actions::answer(&mut conn, id, args.step.as_deref(), args.note.as_deref(), said).await?;
    match global.output {
        Format::Table => say(&format!("{id}  {word} {}", clean(&step)))?,
        Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => json(Format::Jsonl, &json!({"id": id, "step": step, "result": word}))?,
    }
    Ok(Exit::Ok)
}

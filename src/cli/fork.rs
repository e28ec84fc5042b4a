//! `stepd fork`: a new run of a run, from a step on.

use serde_json::json;

use crate::db::actions;

use super::client::run_id;
use super::output::{Format, json, say, talk};
use super::{Exit, Global, values};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// The step from which on everything runs anew; steps that had ended before it began keep their results
    #[arg(long, value_name = "STEP")]
    from: String,
    /// Another input: JSON, @FILE, or - for stdin; by default that of the run
    #[arg(long, short, value_name = "JSON")]
    input: Option<String>,
    /// With the workflow's present definition, not with the one that the run began with (see: stepd check --in-flight)
    #[arg(long)]
    latest: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let input = args.input.as_deref().map(|text| values::json("--input", text)).transpose()?;
    let mut conn = global.connect().await?;
    let from = run_id(&mut conn, &args.run).await?;
    let input = input.as_ref().map(|i| i.as_str());
    let id = actions::fork(&mut conn, from, &args.from, input, args.latest).await?;
    match global.output {
        Format::Table => {
            talk(&format!("forked from {from}; stepd show {id} tells which steps it keeps"));
            say(&id.to_string())?;
        }
        Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => {
            json(global.output, &json!({"id": id, "forked_from": from, "from_step": args.from}))?;
        }
    }
    Ok(Exit::Ok)
}

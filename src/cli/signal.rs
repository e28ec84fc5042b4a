//! `stepd signal`.

use serde_json::json;

use crate::db::actions;

use super::client::run_id;
use super::output::{Format, json, say};
use super::{Exit, Global, values};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// The signal's name: what the step's `wait:` names
    name: String,
    /// What it carries: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    payload: String,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let payload = values::json("--payload", &args.payload)?;
    let mut conn = global.connect().await?;
    let id = run_id(&mut conn, &args.run).await?;
    let done = actions::signal(&mut conn, id, &args.name, payload.as_str()).await?;
    match global.output {
        Format::Table if done == "kept" => say(&format!("{id}  kept until a step waits for it"))?,
        Format::Table => say(&format!("{id}  {done}"))?,
        Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => json(Format::Jsonl, &json!({"id": id, "result": done}))?,
    }
    Ok(Exit::Ok)
}

//! `stepd emit`.

use serde_json::json;

use crate::db::actions;

use super::output::{Format, json, say};
use super::{Exit, Global, values};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The event's name: what the steps' `wait:` names
    name: String,
    /// What it carries: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    payload: String,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let payload = values::json("--payload", &args.payload)?;
    let mut conn = global.connect().await?;
    let reached = actions::emit(&mut conn, &args.name, payload.as_str()).await?;
    match global.output {
        Format::Table => say(&match reached {
            0 => "no run waits for it now; it is kept a while for those that will".to_owned(),
            1 => "reached 1 run; kept a while for those that will wait for it".to_owned(),
            n => format!("reached {n} runs; kept a while for those that will wait for it"),
        })?,
        Format::Id => {}
        Format::Json | Format::Jsonl => json(Format::Jsonl, &json!({"name": args.name, "reached": reached}))?,
    }
    Ok(Exit::Ok)
}

//! `stepd why`: one sentence.

use serde_json::json;

use crate::db::runs;

use super::client::run_id;
use super::errors::refused;
use super::output::{Format, json, say};
use super::text::clean;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let id = run_id(&mut conn, &args.run).await?;
    if runs::progress(&mut conn, id, false).await?.is_none() {
        return Err(refused(Exit::NotFound, format!("there is no run {id}")));
    }
    let why = runs::why(&mut conn, id).await?;
    match global.output {
        Format::Table => say(&clean(&why))?,
        Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => json(global.output, &json!({"id": id, "why": why}))?,
    }
    Ok(Exit::Ok)
}

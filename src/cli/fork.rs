//! `stepd fork`: a new run of a run, from a step on.

use serde_json::json;

use crate::db::{actions, runs};
use crate::model::Payload;

use super::client::run_id;
use super::output::{Format, json, say, talk};
use super::{Exit, Global, values};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// The step from which on everything runs anew; steps that had ended before it began keep their results
    #[arg(long, visible_alias = "step", value_name = "STEP")]
    from: String,
    /// Another input: JSON, @FILE, or - for stdin; by default that of the run
    #[arg(long, short, value_name = "JSON")]
    input: Option<String>,
    /// One value of the input, as PATH=JSON: order.items[0].count=3; what is no JSON is text. Others stay as they are. Repeatable
    #[arg(long, value_name = "PATH=JSON")]
    set: Vec<String>,
    /// With the workflow's present definition, not with the one that the run began with (see: stepd check --in-flight)
    #[arg(long)]
    latest: bool,
    /// This step alone runs anew: every other one that is done keeps its result, also what came after it
    #[arg(long)]
    alone: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut input = args.input.as_deref().map(|text| values::json("--input", text)).transpose()?;
    let mut conn = global.connect().await?;
    let from = run_id(&mut conn, &args.run).await?;
    if !args.set.is_empty() {
        let given = match input {
            Some(given) => given,
            None => {
                let run = runs::detail(&mut conn, from).await?;
                Payload::from_database(run.map_or_else(|| "{}".to_owned(), |run| run.input))
            }
        };
        let mut edited = given.value().map_err(|failure| anyhow::anyhow!("the input: {}", failure.message))?;
        for text in &args.set {
            values::set(&mut edited, text)?;
        }
        input = Some(Payload::from_value(&edited));
    }
    let input = input.as_ref().map(Payload::as_str);
    let id = actions::fork(&mut conn, from, &args.from, input, args.latest, args.alone).await?;
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

//! `stepd enqueue`: what an INSERT does, from a shell.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::db::{actions, definitions};
use crate::definition::{self, parse_duration};
use crate::model::{Payload, code};

use super::errors::refused;
use super::output::{Format, json, say, talk};
use super::{Exit, Global, follow, values};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The workflow's name
    workflow: String,
    /// Its input: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    input: String,
    /// The queue (default: as the workflow says)
    #[arg(long, short, value_name = "NAME")]
    queue: Option<String>,
    /// 0 to 9, lower first (default: as the workflow says)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=9))]
    priority: Option<i32>,
    /// Not before: a time (2026-07-01T12:00:00Z), a day, or a span from now (10m)
    #[arg(long, value_name = "TIME", value_parser = values::future)]
    run_at: Option<DateTime<Utc>>,
    /// At most one unfinished run of the workflow has this key; the id is that run's where there is one
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// Runs of one key are at work one at a time, or as many as the workflow says (default: as the workflow says)
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// The caller's W3C trace context: the run's trace links to it
    #[arg(long, value_name = "TRACEPARENT", env = "TRACEPARENT")]
    traceparent: Option<String>,
    /// Something to find the run by; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::label)]
    label: Vec<(String, String)>,
    /// What the run belongs to together with other runs: a conversation, an order
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Wait for the end: print the output, and end with the run's result
    #[arg(long)]
    wait: bool,
    /// With --wait: no longer than this (30s, 5m); the run goes on
    #[arg(long, value_name = "SPAN", requires = "wait", value_parser = parse_duration)]
    wait_timeout: Option<Duration>,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let input = values::json("--input", &args.input)?;
    let mut conn = global.connect().await?;
    fits(&mut conn, &args.workflow, &input).await?;
    let job = actions::NewJob {
        workflow: args.workflow,
        input: input.as_str().to_owned(),
        queue: args.queue,
        priority: args.priority,
        run_at: args.run_at,
        unique_key: args.unique_key,
        session_id: args.session,
        concurrency_key: args.concurrency_key,
        traceparent: args.traceparent,
        labels: values::labels(&args.label),
    };
    let id = actions::enqueue(&mut conn, &job).await?;
    if args.wait {
        talk(&format!("run {id}"));
        return follow::to_end(global, &mut conn, id, args.wait_timeout).await;
    }
    match global.output {
        Format::Table | Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => json(global.output, &json!({"id": id, "workflow": job.workflow}))?,
    }
    Ok(Exit::Ok)
}

/// An input that breaks the workflow's schema is refused before it becomes a run that can only fail. Where the definition
/// cannot be had (no right to read it, Rust code, a newer language), the first claim decides.
async fn fits(conn: &mut PgConnection, workflow: &str, input: &Payload) -> anyhow::Result<()> {
    let Ok(Some(stored)) = definitions::definition(conn, None, workflow).await else { return Ok(()) };
    let Some(Ok(definition)) = stored.body.map(|body| definition::load(workflow, &body)) else { return Ok(()) };
    check_input(&definition, input)
}

/// Holds an input against a definition's schema.
pub(super) fn check_input(definition: &definition::Definition, input: &Payload) -> anyhow::Result<()> {
    let Some(schema) = &definition.input else { return Ok(()) };
    input
        .value()
        .and_then(|value| schema.validate(&value, code::INVALID_INPUT))
        .map_err(|failure| refused(Exit::Usage, format!("{}: {}", definition.name, failure.message)))
}

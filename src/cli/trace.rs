//! `stepd trace`: traces, sent again.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use prost::bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use crate::app::{Daemon, traces};
use crate::db::DbError;
use crate::services::tracer::Options;
use crate::services::tracer::loader::{Deliver, Loader};
use crate::services::tracer::sender::{Sender, Verdict};

use super::client::{connect, run_id};
use super::errors::{refused, refused_with};
use super::output::{Format, json_list, say};
use super::text::clean;
use super::{Exit, Global};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Send a run's trace again, as its rows tell it now: all that is over of it, sampled or not, with the same ids
    Replay(Replay),
}

#[derive(clap::Args)]
pub(super) struct Replay {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// Only to this target; may be given several times (default: all that are configured)
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
}

pub(super) async fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let Command::Replay(args) = command;
    replay(global, args).await
}

async fn replay(global: &Global, args: &Replay) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    config.hide_secrets();
    let options = traces::options(&config)?;
    let known: Vec<&str> = options.targets.iter().map(|(name, _, _)| name.as_str()).collect();
    if let Some(unknown) = args.target.iter().find(|t| !known.contains(&t.as_str())) {
        let hint = format!("there are: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
        return Err(refused_with(Exit::Usage, format!("there is no target of traces `{unknown}`"), hint));
    }
    if known.is_empty() {
        return Err(refused_with(
            Exit::Usage,
            "traces are off: the configuration names no target",
            "[traces.NAME] in the configuration, or OTEL_EXPORTER_OTLP_ENDPOINT",
        ));
    }
    let db = Daemon::database(&config)?;
    let mut conn = connect(&db).await?;
    crate::db::migrate::check(&mut conn).await?;
    let run = run_id(&mut conn, &args.run).await?;
    drop(conn);
    let mut told = Vec::new();
    let pool = Options::readers(&db);
    for (name, sender, style) in &options.targets {
        if !args.target.is_empty() && !args.target.contains(name) {
            continue;
        }
        let mut once = Once { sender: sender.clone(), spans: 0, refused: 0 };
        let all = vec![(DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC)];
        let loader = Loader { pool: pool.clone(), style: style.clone() };
        let loaded = loader.tell(&BTreeMap::from([(run, all)]), None, &mut once).await.map_err(|halt| match halt {
            Halt::Database(error) => error.into(),
            Halt::NotTaken(why) => refused(Exit::Error, format!("the target `{name}` has not taken the trace: {why}")),
        })?;
        if loaded.gone > 0 {
            return Err(refused_with(
                Exit::NotFound,
                format!("there is no run {run}"),
                "stepd ls shows the latest runs",
            ));
        }
        if loaded.runs == 0 {
            return Err(refused(
                Exit::Error,
                format!("nothing of the run {run} is over yet: its trace is sent when it ends"),
            ));
        }
        told.push((name.clone(), once.spans, once.refused));
    }
    tell(global, run, &told)?;
    Ok(if told.iter().any(|(_, _, refused)| *refused > 0) { Exit::Error } else { Exit::Ok })
}

fn tell(global: &Global, run: Uuid, told: &[(String, usize, usize)]) -> anyhow::Result<()> {
    match global.output {
        Format::Id => Ok(say(&run.to_string())?),
        Format::Table => told.iter().try_for_each(|(name, spans, refused)| {
            let refused = if *refused > 0 { format!(", {refused} refused") } else { String::new() };
            Ok(say(&format!("{run}: {spans} spans to {}{refused}", clean(name)))?)
        }),
        format @ (Format::Json | Format::Jsonl) => {
            let one = |(name, spans, refused): &(String, usize, usize)| json!({"run": run, "target": name, "spans": spans, "refused": refused});
            json_list(format, &told.iter().map(one).collect::<Vec<_>>())
        }
    }
}

/// Sends without patience: somebody waits for the answer.
struct Once {
    sender: Arc<Sender>,
    spans: usize,
    refused: usize,
}

enum Halt {
    Database(DbError),
    NotTaken(String),
}

impl From<DbError> for Halt {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

impl Deliver for Once {
    type Stop = Halt;

    async fn deliver(&mut self, spans: Vec<Bytes>) -> Result<(), Halt> {
        let n = spans.len();
        match self.sender.send(self.sender.pack(&spans)).await {
            Verdict::Taken { refused, .. } => {
                self.spans += n.saturating_sub(refused);
                self.refused += refused;
                Ok(())
            }
            Verdict::Refused(why) | Verdict::Later { why, .. } => Err(Halt::NotTaken(why)),
            Verdict::TooLarge => Err(Halt::NotTaken("it is too large for it".to_owned())),
        }
    }
}

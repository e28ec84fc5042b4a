//! `stepd cancel` and `stepd retry`: by id, or all runs that a filter leaves.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{DbError, Trouble, actions, runs};

use super::client::run_id;
use super::errors::{refused, refused_with, told};
use super::output::{Format, json, say, talk};
use super::values::FilterArgs;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever looks at the run later
    #[arg(long, short = 'm', value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(clap::Args)]
pub(super) struct Retry {
    #[command(flatten)]
    which: Which,
}

#[derive(clap::Args)]
struct Which {
    /// The runs: ids, starts of ids, or @last; else a filter says which
    #[arg(value_name = "RUN")]
    runs: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// With a filter: do it, to all that match
    #[arg(long, short)]
    yes: bool,
}

/// What is done to each run.
enum Action<'a> {
    Cancel(Option<&'a str>),
    Retry,
}

impl Action<'_> {
    /// The states in which it can be done.
    fn fits(&self) -> &'static [&'static str] {
        match self {
            Self::Cancel(_) => &["scheduled", "queued", "held", "running", "waiting", "paused", "resuming"],
            Self::Retry => &["failed", "resuming"],
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Cancel(_) => "cancel",
            Self::Retry => "retry",
        }
    }

    async fn on(&self, conn: &mut PgConnection, run: Uuid) -> Result<String, DbError> {
        match self {
            Self::Cancel(reason) => actions::cancel(conn, run, *reason).await,
            Self::Retry => actions::retry(conn, run).await,
        }
    }

    /// What its answer means.
    fn told(&self, answer: &str) -> String {
        match (self, answer) {
            (Self::Cancel(_), "requested") => "cancel requested".into(),
            (Self::Cancel(_), answer) => answer.into(),
            (Self::Retry, state) => format!("retried, {state}"),
        }
    }
}

pub(super) async fn cancel(global: &Global, args: &Cancel) -> anyhow::Result<Exit> {
    act(global, &args.which, &Action::Cancel(args.reason.as_deref())).await
}

pub(super) async fn retry(global: &Global, args: &Retry) -> anyhow::Result<Exit> {
    act(global, &args.which, &Action::Retry).await
}

async fn act(global: &Global, which: &Which, action: &Action<'_>) -> anyhow::Result<Exit> {
    let word = action.word();
    match (which.runs.is_empty(), which.filter.is_empty()) {
        (true, true) => {
            return Err(refused_with(
                Exit::Usage,
                format!("which runs shall I {word}?"),
                format!("stepd {word} RUN…, or a filter: stepd {word} --workflow NAME --since 1h --yes"),
            ));
        }
        (false, false) => return Err(refused(Exit::Usage, "name runs, or filter them; not both")),
        _ => {}
    }
    let mut conn = global.connect().await?;
    if which.runs.is_empty() {
        return in_bulk(global, &mut conn, which, action).await;
    }
    let mut worst = Exit::Ok;
    for text in &which.runs {
        // One that cannot be helped keeps the others from nothing.
        if let Err(error) = by_name(global, &mut conn, text, action).await {
            let (text, exit) = told(&error);
            talk(&text);
            worst = exit;
            if exit == Exit::Unreachable {
                break;
            }
        }
    }
    Ok(worst)
}

async fn by_name(global: &Global, conn: &mut PgConnection, text: &str, action: &Action<'_>) -> anyhow::Result<()> {
    let id = run_id(conn, text).await?;
    let answer = action.on(conn, id).await?;
    report(global, id, action, &answer)
}

fn report(global: &Global, id: Uuid, action: &Action<'_>, answer: &str) -> anyhow::Result<()> {
    match global.output {
        Format::Table => say(&format!("{id}  {}", action.told(answer)))?,
        Format::Id => say(&id.to_string())?,
        Format::Json | Format::Jsonl => json(Format::Jsonl, &json!({"id": id, "result": answer}))?,
    }
    Ok(())
}

async fn in_bulk(global: &Global, conn: &mut PgConnection, which: &Which, action: &Action<'_>) -> anyhow::Result<Exit> {
    let mut filter = which.filter.filter();
    let fits = action.fits();
    if filter.states.is_empty() {
        filter.states = fits.iter().map(|s| (*s).to_owned()).collect();
    } else if let Some(odd) = filter.states.iter().find(|s| !fits.contains(&s.as_str())) {
        return Err(refused(Exit::Usage, format!("a run that is {odd} cannot be {}", past(action))));
    }
    let ids = runs::ids(&mut *conn, &filter).await?;
    let word = action.word();
    let count = counted(ids.len());
    if ids.is_empty() {
        talk(&format!("no run to {word}"));
        return Ok(Exit::Ok);
    }
    if !which.yes {
        return Err(refused_with(
            Exit::Usage,
            format!("this would {word} {count}"),
            "the same again with --yes does it",
        ));
    }
    let (mut done, mut missed) = (0_usize, 0_usize);
    for id in ids {
        match action.on(&mut *conn, id).await {
            Ok(answer) => {
                done += 1;
                report(global, id, action, &answer)?;
            }
            // It has moved on since it was counted.
            Err(e) if e.trouble == Trouble::Refused && e.sqlstate().is_some_and(|s| s.starts_with("SD01")) => {
                missed += 1
            }
            Err(e) => return Err(anyhow::Error::from(e).context(format!("after {}", counted(done)))),
        }
    }
    talk(&match missed {
        0 => format!("{} {}", counted(done), past(action)),
        n => format!("{} {}; {} had moved on meanwhile", counted(done), past(action), counted(n)),
    });
    Ok(Exit::Ok)
}

fn past(action: &Action<'_>) -> &'static str {
    match action {
        Action::Cancel(_) => "cancelled",
        Action::Retry => "retried",
    }
}

fn counted(n: usize) -> String {
    if n == 1 { "1 run".into() } else { format!("{n} runs") }
}

//! `stepd cancel`, `retry`, `pause` and `unpause`: by id, or all runs that a filter leaves.

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
    /// Go on with the workflow's present definition, not with the one that the run began with (see: stepd check --in-flight)
    #[arg(long)]
    latest: bool,
}

#[derive(clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever looks at the run later
    #[arg(long, short = 'm', value_name = "TEXT")]
    reason: Option<String>,
    /// Break off the step that runs now; after the unpause its on_interrupt says what becomes of it (by default it runs again)
    #[arg(long)]
    now: bool,
}

#[derive(clap::Args)]
pub(super) struct Unpause {
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
    Retry { latest: bool },
    Pause { reason: Option<&'a str>, now: bool },
    Unpause,
}

impl Action<'_> {
    /// The states in which it can be done.
    fn fits(&self) -> &'static [&'static str] {
        match self {
            Self::Cancel(_) => &["scheduled", "queued", "held", "running", "waiting", "paused", "resuming"],
            Self::Retry { .. } => &["failed", "resuming"],
            Self::Pause { .. } => &["scheduled", "queued", "held", "running", "waiting", "resuming"],
            Self::Unpause => &["paused"],
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Cancel(_) => "cancel",
            Self::Retry { .. } => "retry",
            Self::Pause { .. } => "pause",
            Self::Unpause => "unpause",
        }
    }

    fn past(&self) -> &'static str {
        match self {
            Self::Cancel(_) => "cancelled",
            Self::Retry { .. } => "retried",
            Self::Pause { .. } => "paused",
            Self::Unpause => "unpaused",
        }
    }

    async fn on(&self, conn: &mut PgConnection, run: Uuid) -> Result<String, DbError> {
        match self {
            Self::Cancel(reason) => actions::cancel(conn, run, *reason).await,
            Self::Retry { latest } => actions::retry(conn, run, *latest).await,
            Self::Pause { reason, now } => actions::pause(conn, run, *reason, *now).await,
            Self::Unpause => actions::unpause(conn, run).await,
        }
    }

    /// What its answer means, in a word.
    fn outcome(&self, answer: &str) -> &'static str {
        match (self, answer) {
            (Self::Cancel(_), "requested") => "cancel requested",
            (Self::Pause { .. }, "requested") => "pause requested",
            _ => self.past(),
        }
    }

    /// … and where the run stands now.
    fn told(&self, answer: &str) -> String {
        match (self, answer) {
            (Self::Pause { now: true, .. }, "requested") => {
                "pause requested: the step that runs now is broken off".into()
            }
            (Self::Pause { .. }, "requested") => "pause requested: the step that runs now ends first".into(),
            (Self::Cancel(_) | Self::Pause { .. }, _) => self.outcome(answer).into(),
            (Self::Retry { .. } | Self::Unpause, state) => format!("{}, {state}", self.past()),
        }
    }
}

pub(super) async fn cancel(global: &Global, args: &Cancel) -> anyhow::Result<Exit> {
    act(global, &args.which, &Action::Cancel(args.reason.as_deref())).await
}

pub(super) async fn retry(global: &Global, args: &Retry) -> anyhow::Result<Exit> {
    act(global, &args.which, &Action::Retry { latest: args.latest }).await
}

pub(super) async fn pause(global: &Global, args: &Pause) -> anyhow::Result<Exit> {
    act(global, &args.which, &Action::Pause { reason: args.reason.as_deref(), now: args.now }).await
}

pub(super) async fn unpause(global: &Global, args: &Unpause) -> anyhow::Result<Exit> {
    act(global, &args.which, &Action::Unpause).await
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
        return Err(refused(Exit::Usage, format!("a run that is {odd} cannot be {}", action.past())));
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
    let mut tally = Tally::default();
    for id in ids {
        match action.on(&mut *conn, id).await {
            Ok(answer) => {
                tally.add(action.outcome(&answer));
                report(global, id, action, &answer)?;
            }
            // It has moved on since it was counted.
            Err(e)
                if e.trouble == Trouble::Refused
                    && matches!(e.sqlstate().as_deref(), Some("SD010" | "SD011" | "SD012")) =>
            {
                tally.add("had moved on meanwhile");
            }
            Err(e) if e.trouble == Trouble::Lost => {
                talk(&tally.told(&count));
                return Err(e.into());
            }
            // One that cannot be helped keeps the others from nothing.
            Err(e) => {
                tally.failed += 1;
                talk(&format!("{id}  {}", told(&e.into()).0.trim_start_matches("stepd: ")));
            }
        }
    }
    talk(&tally.told(&count));
    Ok(if tally.failed == 0 { Exit::Ok } else { Exit::Error })
}

/// How often each outcome was met, in the order of its first time.
#[derive(Default)]
struct Tally {
    outcomes: Vec<(&'static str, usize)>,
    failed: usize,
}

impl Tally {
    fn add(&mut self, outcome: &'static str) {
        match self.outcomes.iter_mut().find(|(word, _)| *word == outcome) {
            Some((_, n)) => *n += 1,
            None => self.outcomes.push((outcome, 1)),
        }
    }

    /// `3 runs cancelled`, or `5 runs: 3 cancelled, 1 cancel requested, 1 refused`.
    fn told(&self, count: &str) -> String {
        match (self.outcomes.as_slice(), self.failed) {
            ([(outcome, _)], 0) => format!("{count} {outcome}"),
            (outcomes, failed) => {
                let mut parts: Vec<_> = outcomes.iter().map(|(outcome, n)| format!("{n} {outcome}")).collect();
                if failed > 0 {
                    parts.push(format!("{failed} refused"));
                }
                format!("{count}: {}", if parts.is_empty() { "none done".to_owned() } else { parts.join(", ") })
            }
        }
    }
}

fn counted(n: usize) -> String {
    if n == 1 { "1 run".into() } else { format!("{n} runs") }
}

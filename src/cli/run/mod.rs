//! `stepd run`: a workflow, here and now, without a daemon.
//!
//! The job goes to an exclusive queue with a name of its own that only this process serves: what is tried out never runs on a
//! production worker, and the definition that others have loaded under the same name stays theirs.

mod conflict;
mod ephemeral;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::app::build::{self, Parts};
use crate::app::{Config, Daemon, files};
use crate::db::actions::{self, NewJob, Said, Trial};
use crate::db::{Database, definitions, migrate, runs, server};
use crate::definition::{self, Definition, Diagnostics};
use crate::expression::{Host, nearest};
use crate::rules::policy::ResumePolicy;
use crate::services::catalog::Loaded;

use super::client::{connect, place};
use super::enqueue::check_input;
use super::errors::{refused, refused_with};
use super::follow::{self, Turning};
use super::output::talk;
use super::text::clean;
use super::{Exit, Global, start_logs, values};
use conflict::{OnConflict, Whose, whose};

/// Between two looks at the run.
const LOOK: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(super) struct Args {
    /// A workflow file, or the name of a workflow that the database knows
    #[arg(value_name = "FILE|WORKFLOW")]
    what: String,
    /// Its input: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    input: String,
    /// Something to find the run by; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::label)]
    label: Vec<(String, String)>,
    /// What the run belongs to together with other runs: a conversation, an order
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Without a database: nothing is kept, nothing survives this process
    #[arg(long)]
    ephemeral: bool,
    /// At most one unfinished run of the workflow has this key
    #[arg(long, value_name = "KEY", conflicts_with = "ephemeral")]
    key: Option<String>,
    /// What to do when another has it
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, requires = "key")]
    on_conflict: OnConflict,
    /// A failure ends the run: the workflow's `resume:` is not followed
    #[arg(long)]
    no_resume: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let mut config = global.configuration()?;
    if config.log_level == Config::default().log_level {
        // What this process does as a worker is of no interest here.
        config.log_level = "warn".into();
    }
    start_logs(&config);
    let input = values::json("--input", &args.input)?;
    let signals = Signals::new([SIGINT, SIGTERM])?;
    if args.ephemeral {
        let definition = read(&args.what)?.ok_or_else(|| {
            refused_with(Exit::NotFound, format!("there is no file {}", args.what), "--ephemeral knows files only")
        })?;
        let definition = adjusted(definition, &args);
        check_input(&definition, &input)?;
        return ephemeral::run(global, &config, (definition, input), args.session, signals).await;
    }
    let db = Daemon::database(&config)?;
    server::check(&db).await.with_context(|| place(&db))?;
    let mut conn = connect(&db).await?;
    migrate::check(&mut conn).await?;
    let definition = match read(&args.what)? {
        Some(definition) => definition,
        None => stored(&mut conn, &args.what).await?,
    };
    let definition = adjusted(definition, &args);
    check_input(&definition, &input)?;
    let source = Path::new(&args.what).exists().then(|| args.what.clone());
    let loaded = loaded(definition, source, &build::host(&config));
    let job = NewJob {
        workflow: loaded.name.clone(),
        input: input.as_str().to_owned(),
        labels: values::labels(&args.label),
        queue: Some(format!("run-{}", Uuid::now_v7())),
        unique_key: args.key,
        session_id: args.session,
        ..NewJob::default()
    };
    with_queue(global, config, db, &mut conn, loaded, (&job, args.on_conflict), signals).await
}

/// The definition in a file; `None` where there is no such file and the text may be a workflow's name.
fn read(what: &str) -> anyhow::Result<Option<Definition>> {
    let path = Path::new(what);
    let looks_like_file =
        what.contains('/') || path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
    if !path.is_file() && !looks_like_file {
        return Ok(None);
    }
    if !path.exists() {
        return Err(refused_with(Exit::NotFound, format!("there is no file {what}"), near(path)));
    }
    let bytes = files::read(path).with_context(|| format!("{what} cannot be read"))?;
    definition::read(what, bytes).map(|(_, definition)| Some(definition)).map_err(|d| wrong(&d))
}

/// The file that was probably meant, or what else to do.
fn near(path: &Path) -> String {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .map(|inside| inside.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    let wanted = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    match nearest(&wanted, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {}?", folder.join(name).display()),
        None => "a workflow that the database knows is named without / and without ending".to_owned(),
    }
}

/// The definition that the database holds for a workflow's name.
async fn stored(conn: &mut PgConnection, name: &str) -> anyhow::Result<Definition> {
    let Some(stored) = definitions::definition(&mut *conn, None, name).await? else {
        // As an INSERT would be refused, with the nearest name.
        definitions::refuse(conn, name).await.context("there is no such file")?;
        return Err(refused(Exit::NotFound, format!("there is neither a file nor a workflow {name}")));
    };
    let body = stored.body.ok_or_else(|| {
        refused(
            Exit::NotAllowed,
            format!("{name} is Rust code: only its own binary can run it; stepd enqueue {name} asks it to"),
        )
    })?;
    definition::load(name, &body).map_err(|d| wrong(&d))
}

fn wrong(diagnostics: &Diagnostics) -> anyhow::Error {
    talk(&diagnostics.to_string());
    let n = diagnostics.list.len();
    let errors = if n == 1 { "1 error".to_owned() } else { format!("{n} errors") };
    refused(Exit::Error, format!("{}: {errors}, nothing was run", diagnostics.source_name))
}

fn adjusted(mut definition: Definition, args: &Args) -> Definition {
    if args.no_resume {
        definition.resume = ResumePolicy { max_attempts: 0, ..ResumePolicy::default() };
    }
    definition
}

fn loaded(definition: Definition, source: Option<String>, host: &Arc<Host>) -> Loaded {
    let text = definition.source.to_string();
    files::as_loaded(definition, source, text, host)
}

/// What came of it.
enum Done {
    /// A run: its final state, and whether a signal ended it.
    Ran(Uuid, (String, bool)),
    /// None: another has its key.
    Not(Exit),
}

/// Everything between the making of the queue and its end.
async fn with_queue(
    global: &Global,
    mut config: Config,
    db: Database,
    conn: &mut PgConnection,
    loaded: Loaded,
    (job, on_conflict): (&NewJob, OnConflict),
    mut signals: Signals,
) -> anyhow::Result<Exit> {
    let queue = job.queue.clone().unwrap_or_default();
    definitions::exclusive_queue(&mut *conn, &queue).await?;
    config.queues = vec![queue.clone()];
    config.workflows.clear();
    let daemon = match Daemon::start(&config, db, Parts::default()).await {
        Ok(daemon) => daemon,
        Err(error) => {
            actions::drop_queue(conn, &queue, None).await?;
            return Err(error.into());
        }
    };
    let done = async {
        let (name, default) = (loaded.name.clone(), loaded.queue.clone());
        let (priority, source) = (loaded.priority, loaded.source.clone());
        let definition = daemon.catalog.try_out(loaded).await?;
        let trial = Trial { name: &name, definition, queue: &default, priority, source: source.as_deref() };
        loop {
            let id = actions::enqueue_trial(conn, &trial, job).await?;
            match whose(global, conn, id, &queue, on_conflict, &mut signals).await? {
                Whose::Ours => return anyhow::Ok(Done::Ran(id, to_end(conn, id, signals).await?)),
                Whose::Ended => {}
                Whose::Theirs(exit) => return Ok(Done::Not(exit)),
            }
        }
    }
    .await;
    daemon.shutdown().await;
    let own = match &done {
        Ok(Done::Ran(id, _)) => Some(*id),
        Ok(Done::Not(_)) | Err(_) => None,
    };
    actions::drop_queue(&mut *conn, &queue, own).await?;
    let (id, (state, interrupted)) = match done? {
        Done::Ran(id, ended) => (id, ended),
        Done::Not(exit) => return Ok(exit),
    };
    let exit = follow::result(global, conn, id, &state).await?;
    Ok(if interrupted { Exit::Interrupted } else { exit })
}

/// Follows the run to its end: the final state, and whether a signal ended it.
async fn to_end(conn: &mut PgConnection, id: Uuid, mut signals: Signals) -> anyhow::Result<(String, bool)> {
    let turning = Turning::new();
    turning.line(&format!("run {id}"));
    let mut interrupted = false;
    let (mut asked, mut told) = (Vec::new(), String::new());
    loop {
        let now = follow::progress(conn, id, &turning).await?;
        let Some(why) = now.why else { return Ok((now.state, interrupted)) };
        // A terminal shows it all the time; a log gets what it would else wait for without knowing.
        if !turning.is_shown() && now.state != told {
            if now.state == "resuming" {
                turning.line(&clean(&why));
            }
            told.clone_from(&now.state);
        }
        let work = async {
            for (step, prompt, schema) in runs::approvals(&mut *conn, id).await? {
                if !asked.contains(&step) {
                    asked.push(step.clone());
                    approval(&mut *conn, &turning, id, &step, (prompt.as_deref(), schema.as_deref())).await?;
                }
            }
            tokio::time::sleep(LOOK).await;
            anyhow::Ok(())
        };
        let signalled = tokio::select! {
            done = work => { done?; false }
            Some(_) = signals.next() => true,
        };
        if signalled {
            if interrupted {
                // Its steps die with this process; the run stays where it is.
                std::process::exit(Exit::Interrupted as i32);
            }
            interrupted = true;
            turning.line("cancelling the run; once more Ctrl-C ends at once");
            // It may have ended in this moment; the next look says so.
            let _ = actions::cancel(&mut *conn, id, Some("stepd run was interrupted")).await;
        }
    }
}

async fn approval(
    conn: &mut PgConnection,
    turning: &Turning,
    id: Uuid,
    step: &str,
    (prompt, schema): (Option<&str>, Option<&str>),
) -> anyhow::Result<()> {
    let question = clean(prompt.unwrap_or_default());
    let step_shown = clean(step);
    if let Some(schema) = schema {
        let schema = clean(schema);
        turning.line(&format!(
            "waits for an answer at {step_shown}: {question}\n  answer with: stepd approve {id} {step_shown} --answer JSON\n  that matches: {schema}"
        ));
        return Ok(());
    }
    if !can_ask() {
        turning.line(&format!(
            "waits for approval at {step_shown}: {question}\n  answer with: stepd approve {id} {step_shown}"
        ));
        return Ok(());
    }
    let (yes, note) = ask(turning, step, prompt).await?;
    match actions::answer(conn, id, Some(step), note.as_deref(), if yes { Said::Yes(None) } else { Said::No }).await {
        Ok(_) => {}
        // Somebody else was faster.
        Err(e) if e.sqlstate().is_some_and(|s| s.starts_with("SD01")) => turning.line(&clean(&e.to_string())),
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

/// Is there a person at the terminal?
fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for an approval: yes or no.
async fn ask(turning: &Turning, step: &str, prompt: Option<&str>) -> anyhow::Result<(bool, Option<String>)> {
    let question = format!("{}: {} [y/N] ", clean(step), clean(prompt.unwrap_or("approve?")));
    let answer = line(turning, question).await?;
    Ok((matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"), None))
}

/// Asks for JSON that matches a schema; an empty line is a no.
async fn ask_for(turning: &Turning, step: &str, prompt: &str, schema: &Value) -> anyhow::Result<Option<Value>> {
    let question = format!("{}: {} (JSON that matches {}) ", clean(step), clean(prompt), clean(&schema.to_string()));
    loop {
        let answer = line(turning, question.clone()).await?;
        match serde_json::from_str(answer.trim()) {
            Ok(value) => return Ok(Some(value)),
            Err(_) if answer.trim().is_empty() => return Ok(None),
            Err(error) => turning.line(&format!("that is no JSON: {error}")),
        }
    }
}

async fn line(turning: &Turning, question: String) -> anyhow::Result<String> {
    turning.hide(true);
    // Whatever stands on the line goes: it is a terminal.
    eprint!("\r\x1b[2K{question}");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    })
    .await?;
    turning.hide(false);
    answer.context("the answer cannot be read")
}

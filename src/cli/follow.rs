//! Waits for a run's end, shows how it goes, and ends as the run does.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::runs::{self, RunResult};
use crate::model::Failure;

use super::errors::refused;
use super::output::{Format, json, raw, say, talk};
use super::text::{clean, clean_json};
use super::{Exit, Global};

/// A look is one small statement by primary key; the pause between two grows to this.
const SLOWEST: Duration = Duration::from_millis(500);

/// A line that turns while something goes on; nothing where stderr is no terminal.
pub(super) struct Turning(Option<ProgressBar>);

impl Turning {
    pub(super) fn new() -> Self {
        let plain = !std::io::stderr().is_terminal() || std::env::var("TERM").as_deref() == Ok("dumb");
        if plain {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    /// Does anyone look?
    pub(super) fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// What goes on.
    pub(super) fn says(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(clean(text));
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| talk(text)),
            None => talk(text),
        }
    }

    /// Something else writes to the terminal meanwhile.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Out of the way, for a question on the terminal; and back.
    pub(super) fn hide(&self, hide: bool) {
        if let Some(bar) = &self.0 {
            let target = if hide { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
            bar.set_draw_target(target);
        }
    }
}

impl Drop for Turning {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Waits for a run's end and ends with its result; Ctrl-C ends the waiting, not the run.
pub(super) async fn to_end(
    global: &Global,
    conn: &mut PgConnection,
    id: Uuid,
    limit: Option<Duration>,
) -> anyhow::Result<Exit> {
    let turning = Turning::new();
    let timed_out = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let state = tokio::select! {
        state = ended(conn, id, &turning) => state?,
        () = timed_out => {
            drop(turning);
            return Err(refused(Exit::TimedOut, format!("run {id} has not ended in time; it goes on")));
        }
        _ = tokio::signal::ctrl_c() => {
            drop(turning);
            talk(&format!("run {id} goes on; stepd show {id}"));
            return Ok(Exit::Interrupted);
        }
    };
    drop(turning);
    result(global, conn, id, &state).await
}

/// Resolves with the final state.
pub(super) async fn ended(conn: &mut PgConnection, id: Uuid, turning: &Turning) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        let now = progress(conn, id, turning).await?;
        if now.why.is_none() {
            return Ok(now.state);
        }
        tokio::time::sleep((began.elapsed() / 8).clamp(Duration::from_millis(25), SLOWEST)).await;
    }
}

/// One look at a run, shown.
pub(super) async fn progress(conn: &mut PgConnection, id: Uuid, turning: &Turning) -> anyhow::Result<runs::Progress> {
    let now = runs::progress(&mut *conn, id, turning.is_shown())
        .await?
        .ok_or_else(|| refused(Exit::NotFound, format!("there is no run {id}")))?;
    if let Some(why) = &now.why {
        turning.says(&match now.done {
            0 => why.clone(),
            1 => format!("{why} · 1 step done"),
            n => format!("{why} · {n} steps done"),
        });
    }
    Ok(now)
}

/// Prints what a run ended with, and ends as it did.
pub(super) async fn result(global: &Global, conn: &mut PgConnection, id: Uuid, state: &str) -> anyhow::Result<Exit> {
    let RunResult { output, error, step } =
        runs::result(&mut *conn, id).await?.ok_or_else(|| refused(Exit::NotFound, format!("run {id} is gone")))?;
    tell(global, &id.to_string(), state, output.as_deref(), error.as_deref(), step.as_deref())
}

/// Prints a result: the output on stdout, or the failure on stderr; in JSON, one document on stdout either way.
pub(super) fn tell(
    global: &Global,
    id: &str,
    state: &str,
    output: Option<&str>,
    error: Option<&str>,
    step: Option<&str>,
) -> anyhow::Result<Exit> {
    match global.output {
        Format::Table => {
            if let Some(output) = output.filter(|_| state == "completed") {
                say(&clean_json(output))?;
            }
        }
        Format::Id => say(id)?,
        Format::Json | Format::Jsonl => {
            let document = json!({"id": id, "state": state, "output": output.map(raw), "error": error.map(raw)});
            json(global.output, &document)?;
        }
    }
    match state {
        "completed" => Ok(Exit::Ok),
        "cancelled" => {
            talk(&format!("stepd: run {id} was cancelled"));
            Ok(Exit::Cancelled)
        }
        _ => {
            let failure = error.and_then(|e| serde_json::from_str::<Failure>(e).ok());
            let why = failure.map_or_else(|| state.to_owned(), |f| f.to_string());
            let at = step.map(|s| format!(" at {s}")).unwrap_or_default();
            talk(&format!("stepd: run {id} failed{}: {}", clean(&at), clean(&why)));
            Ok(Exit::RunFailed)
        }
    }
}

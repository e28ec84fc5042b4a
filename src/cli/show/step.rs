//! `stepd show --step`: one step, and what its run knew before and after it.

use owo_colors::OwoColorize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::runs;
use crate::db::step::{self, AttemptLine};
use crate::definition::StateAt;
use crate::services::known;

use super::super::Exit;
use super::super::errors::refused_with;
use super::super::output::{Format, columns, json, raw, say};
use super::super::text::{clean, clean_json, state_style};
use super::{attempts, missing};

pub(super) async fn show(format: Format, conn: &mut PgConnection, run: Uuid, key: &str) -> anyhow::Result<Exit> {
    let Some(step) = step::one(&mut *conn, run, key).await? else {
        if runs::progress(&mut *conn, run, false).await?.is_none() {
            return Err(missing(run));
        }
        let hint = format!("stepd show {run} --all lists those that have begun");
        return Err(refused_with(Exit::NotFound, format!("run {run} has no step `{key}`"), hint));
    };
    let tries = step::attempts(&mut *conn, run, Some(key)).await?;
    // Pruned in between: there is nothing more to be told.
    let state = known::state_at(&mut *conn, run, key).await?.ok_or_else(|| missing(run))?;
    match format {
        Format::Table => say(&drawn(&step, &tries, &state)?)?,
        Format::Id => say(&run.to_string())?,
        Format::Json | Format::Jsonl => json(
            format,
            &json!({
                "run": run, "key": step.key, "kind": step.kind, "state": step.state, "label": step.label,
                "started_at": step.started_at, "ended_at": step.ended_at, "output": step.output.as_deref().map(raw),
                "error": step.error.as_deref().map(raw), "attempts": tries, "given": state.given, "before": state.before, "after": state.after,
            }),
        )?,
    }
    Ok(Exit::Ok)
}

fn drawn(step: &runs::StepLine, tries: &[AttemptLine], state: &StateAt) -> anyhow::Result<String> {
    let mut out = format!(
        "{} {} ({})\n\n{}\n",
        clean(&step.key).bold(),
        clean(&step.state).style(state_style(&step.state)),
        clean(&step.kind),
        attempts::drawn(tries, columns())
    );
    let pretty = |value: &Value| Ok::<_, serde_json::Error>(clean_json(&serde_json::to_string_pretty(value)?));
    for (name, value) in
        [("given", state.given.as_ref()), ("before", Some(&state.before)), ("after", state.after.as_ref())]
    {
        if let Some(value) = value {
            out.push_str(&format!("{}\n{}\n", name.bold(), pretty(value)?));
        }
    }
    Ok(out)
}

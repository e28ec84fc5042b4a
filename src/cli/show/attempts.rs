//! `stepd show --attempts`: every try of every step.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::runs;
use crate::db::step::{self, AttemptLine};

use super::super::Exit;
use super::super::output::{Format, columns, json_list, say, talk};
use super::super::text::{cell, span, state_style, table, time};
use super::missing;

pub(super) async fn show(format: Format, conn: &mut PgConnection, run: Uuid) -> anyhow::Result<Exit> {
    let attempts = step::attempts(&mut *conn, run, None).await?;
    if attempts.is_empty() && runs::progress(conn, run, false).await?.is_none() {
        return Err(missing(run));
    }
    match format {
        Format::Table if attempts.is_empty() => talk("no step has begun"),
        Format::Table | Format::Id => say(&drawn(&attempts, columns()))?,
        Format::Json | Format::Jsonl => json_list(format, &attempts)?,
    }
    Ok(Exit::Ok)
}

pub(super) fn drawn(attempts: &[AttemptLine], most: Option<usize>) -> String {
    let rows: Vec<_> = attempts
        .iter()
        .map(|a| {
            let took = a.started_at.zip(a.ended_at).map(|(from, to)| span(to - from)).unwrap_or_default();
            let again = a.retry_in_ms.map(|ms| format!("in {}", span(chrono::TimeDelta::milliseconds(ms))));
            vec![
                cell(&a.key),
                cell(a.attempt.to_string()).right(),
                cell(&a.state).style(state_style(&a.state)),
                cell(a.started_at.map(time).unwrap_or_default()),
                cell(took).right(),
                cell(again.unwrap_or_default()),
                cell(a.error_class.as_deref().unwrap_or_default()),
                cell(a.error_code.as_deref().unwrap_or_default()),
                cell(a.error_message.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    table(&["STEP", "TRY", "STATE", "STARTED", "TOOK", "AGAIN", "CLASS", "CODE", "ERROR"], &rows, most)
}

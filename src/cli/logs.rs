//! `stepd logs`: a run's history as lines.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::db::runs;

use super::client::run_id;
use super::errors::refused;
use super::history::{History, document, line};
use super::output::{Format, json, json_list, say};
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// Go on with what happens from now on, until the run has ended
    #[arg(long, short)]
    follow: bool,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let id = run_id(&mut conn, &args.run).await?;
    if runs::progress(&mut conn, id, false).await?.is_none() {
        return Err(refused(Exit::NotFound, format!("there is no run {id}")));
    }
    if global.output == Format::Id {
        say(&id.to_string())?;
        return Ok(Exit::Ok);
    }
    let mut history = History::new(id);
    if !args.follow {
        let lines = history.news(&mut conn).await?;
        match global.output {
            Format::Table | Format::Id => lines.iter().try_for_each(|l| say(&line(l)))?,
            Format::Json | Format::Jsonl => json_list(global.output, &lines.iter().map(document).collect::<Vec<_>>())?,
        }
        return Ok(Exit::Ok);
    }
    tokio::select! {
        done = follow(global, &mut conn, &mut history, id) => done.map(|()| Exit::Ok),
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

async fn follow(global: &Global, conn: &mut PgConnection, history: &mut History, id: uuid::Uuid) -> anyhow::Result<()> {
    loop {
        let began = Instant::now();
        // The state first: what led to the end is in the history by then.
        let now = runs::progress(&mut *conn, id, false).await?;
        for l in history.news(conn).await? {
            match global.output {
                Format::Table | Format::Id => say(&line(&l))?,
                Format::Json | Format::Jsonl => json(Format::Jsonl, &document(&l))?,
            }
        }
        if now.is_none_or(|now| now.why.is_none()) {
            return Ok(());
        }
        // A long history takes longer to be read: it is asked for less often.
        tokio::time::sleep(PAUSE.max(began.elapsed() * 4)).await;
    }
}

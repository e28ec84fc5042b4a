//! `stepd logs`: what happened to a run, and what its steps have written, as lines.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::logs::{self, LogLine, Place, Which};
use crate::db::runs::{self, HistoryLine};

use super::client::run_id;
use super::errors::refused;
use super::history::{self, History};
use super::output::{Format, json, json_list, say};
use super::text::clean;
use super::{Exit, Global, values};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    run: String,
    /// Go on with what happens from now on, until the run has ended
    #[arg(long, short)]
    follow: bool,
    /// Only of this step
    #[arg(long, short, value_name = "STEP")]
    step: Option<String>,
    /// Only of this attempt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    attempt: Option<i16>,
    /// Only since: a time (2026-07-01T12:00:00Z), a day, or a span (1h: in the last hour)
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    since: Option<DateTime<Utc>>,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// After a run's end, its last worker may still have lines to write.
const LAST_WORDS: Duration = Duration::from_millis(1_500);

/// A line: what happened, or what a step has written.
enum Line {
    Happened(Box<HistoryLine>),
    Written(LogLine),
}

impl Line {
    fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Happened(line) => line.at,
            Self::Written(line) => line.at,
        }
    }

    /// For people; of what is written, the step and the line.
    fn text(&self) -> String {
        match self {
            Self::Happened(line) => history::line(line),
            Self::Written(line) => {
                let at = line.at.format("%Y-%m-%dT%H:%M:%S%.3fZ");
                let attempt = if line.attempt > 1 { format!("#{}", line.attempt) } else { String::new() };
                format!("{at}  {}{attempt} | {}", clean(&line.key), clean(&line.text))
            }
        }
    }

    /// For programs: `event` is `written` for what a step has written.
    fn document(&self) -> Value {
        match self {
            Self::Happened(line) => history::document(line),
            Self::Written(l) => json!({
                "at": l.at, "event": "written", "key": l.key, "attempt": l.attempt, "epoch": l.epoch, "line": l.line,
                "stream": l.stream, "level": l.level, "text": l.text,
            }),
        }
    }
}

/// A run's lines, looked at again and again.
struct Story {
    run: Uuid,
    history: History,
    which: Which,
    place: Place,
}

impl Story {
    /// What is new, in the order of time; of what is written at most a page. True: there is more already.
    async fn news(&mut self, conn: &mut PgConnection) -> anyhow::Result<(Vec<Line>, bool)> {
        let which = &self.which;
        let happened = self.history.news(conn).await?.into_iter().filter(|l| {
            which.key.as_ref().is_none_or(|key| l.key.as_ref() == Some(key))
                && which.attempt.is_none_or(|n| l.attempt == Some(n.into()))
                && which.since.is_none_or(|since| l.at >= since)
        });
        let mut lines: Vec<Line> = happened.map(|line| Line::Happened(Box::new(line))).collect();
        let (written, more) = logs::next(&mut *conn, self.run, which, &mut self.place).await?;
        lines.extend(written.into_iter().map(Line::Written));
        lines.sort_by_key(Line::at);
        Ok((lines, more))
    }
}

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
    let which = Which { key: args.step.clone(), attempt: args.attempt, since: args.since };
    let mut story = Story { run: id, history: History::new(id), which, place: Place::default() };
    if !args.follow {
        whole(global, &mut conn, &mut story).await?;
        return Ok(Exit::Ok);
    }
    tokio::select! {
        done = follow(global, &mut conn, &mut story) => done.map(|()| Exit::Ok),
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

/// All that there is now.
async fn whole(global: &Global, conn: &mut PgConnection, story: &mut Story) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    loop {
        let (news, more) = story.news(conn).await?;
        lines.extend(news);
        if !more {
            break;
        }
    }
    lines.sort_by_key(Line::at);
    match global.output {
        Format::Table | Format::Id => Ok(lines.iter().try_for_each(|l| say(&l.text()))?),
        Format::Json | Format::Jsonl => json_list(global.output, &lines.iter().map(Line::document).collect::<Vec<_>>()),
    }
}

async fn follow(global: &Global, conn: &mut PgConnection, story: &mut Story) -> anyhow::Result<()> {
    let mut ended: Option<Instant> = None;
    loop {
        let began = Instant::now();
        // The state first: what led to the end is in the history by then.
        let now = runs::progress(&mut *conn, story.run, false).await?;
        let (lines, more) = story.news(conn).await?;
        for line in lines {
            match global.output {
                Format::Table | Format::Id => say(&line.text())?,
                Format::Json | Format::Jsonl => json(Format::Jsonl, &line.document())?,
            }
        }
        if more {
            continue;
        }
        if now.is_none_or(|now| now.why.is_none()) {
            if ended.get_or_insert(began).elapsed() > LAST_WORDS {
                return Ok(());
            }
        } else {
            ended = None;
        }
        // A long history takes longer to be read: it is asked for less often.
        tokio::time::sleep(PAUSE.max(began.elapsed() * 4)).await;
    }
}

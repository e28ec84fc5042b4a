//! `stepd doctor`: what is wrong around stepd, and what to do about it. The questions are asked here; what the answers mean is
//! decided in `judge`, and what can be seen of this machine in `machine`.

mod judge;
mod machine;
mod traced;

use std::fmt::Write;
use std::time::Duration;

use owo_colors::{OwoColorize, Style};
use serde_json::json;
use sqlx::PgConnection;

use crate::app::{Config, Daemon, build};
use crate::db::doctor::Way;
use crate::db::{Database, DbError, doctor, migrate, operate};
use crate::definition::parse_duration;
use crate::steps::ProcessOptions;

use super::output::{Format, json, json_list, say, talk};
use super::text::clean;
use super::{Exit, Global};

use judge::{Finding, Level};

#[derive(clap::Args)]
pub(super) struct Args {
    /// A transaction that is open for longer than this is a finding
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = parse_duration)]
    transaction_age: Duration,
    /// Only the targets of traces: sends each a test span, and says what it answers
    #[arg(long)]
    traces: bool,
}

/// A server of tools that has not answered by then is not well.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A notification that has not arrived by then does not arrive.
const HEAR_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    if args.traces {
        let findings = traced::findings(&config).await?;
        show(global, &findings)?;
        return Ok(if findings.iter().any(|f| f.level == Level::Wrong) { Exit::Error } else { Exit::Ok });
    }
    let db = Daemon::database(&config)?;
    let mut findings = Vec::new();
    let mut conn = match doctor::connect(&db).await {
        Ok(conn) => conn,
        Err(error) => {
            findings.push(judge::unreachable(&error.to_string()));
            show(global, &findings)?;
            return Ok(super::errors::told(&error.into()).1);
        }
    };
    let server = ask(&mut findings, "server", doctor::server(&mut conn).await);
    findings.extend(server.as_ref().map(judge::server));
    findings.extend(server.as_ref().map(judge::role));
    findings.extend(server.as_ref().map(judge::sight));
    findings.push(schema(&mut conn).await);
    let has_schema = findings.last().is_some_and(|f| f.level == Level::Ok);
    sessions(&db, &mut conn, has_schema, &mut findings).await;
    if let Some(server) = &server {
        #[expect(clippy::disallowed_methods, reason = "this machine's clock is what is asked about")]
        let here = chrono::Utc::now();
        let again = doctor::server(&mut conn).await.map_or(server.now, |s| s.now);
        findings.push(judge::clock(again - here));
        let workers = if has_schema { operate::workers(&mut conn).await.unwrap_or_default() } else { Vec::new() };
        let here = machine::hostname();
        let needs = workers.len().max(usize::from(workers.iter().all(|w| w.host != here)));
        findings.push(judge::connections(server, i64::try_from(needs).unwrap_or(i64::MAX)));
    }
    let oldest = ask(&mut findings, "oldest transaction", doctor::oldest_transaction(&mut conn).await);
    findings.extend(oldest.map(|t| judge::transaction(t.as_ref(), args.transaction_age)));
    let held_back = ask(&mut findings, "dead rows", doctor::held_back(&mut conn).await);
    findings.extend(held_back.map(|h| judge::held_back(h.as_ref())));
    if has_schema {
        tables(&mut conn, server.as_ref(), &mut findings).await;
        let workers = ask(&mut findings, "workers", operate::workers(&mut conn).await);
        findings.extend(workers.map(|w| judge::workers(&w)));
        let queues = ask(&mut findings, "queue lag", operate::queues(&mut conn, None).await);
        findings.extend(queues.map(|q| judge::lag(&q)));
        let unserved = ask(&mut findings, "runs without a worker", doctor::unserved(&mut conn).await);
        findings.extend(unserved.map(|u| judge::unserved(&u)));
        let breakers = ask(&mut findings, "failing steps", doctor::breakers(&mut conn).await);
        findings.extend(breakers.iter().flatten().map(judge::failing));
    }
    findings.push(disk(&db, &mut conn, server.as_ref()).await);
    findings.push(tool_servers(&config).await);
    show(global, &findings)?;
    Ok(if findings.iter().any(|f| f.level == Level::Wrong) { Exit::Error } else { Exit::Ok })
}

/// An answer; where there is none, that is a finding.
fn ask<T>(findings: &mut Vec<Finding>, check: &'static str, answer: Result<T, DbError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            findings.push(judge::unanswered(check, &error));
            None
        }
    }
}

async fn schema(conn: &mut PgConnection) -> Finding {
    let asked = async {
        let (schema, serves) = migrate::applied(conn).await?;
        let fits = match migrate::fits(schema, serves, migrate::latest()) {
            Ok(()) => migrate::ours(conn, migrate::MIGRATIONS).await?,
            unfit => unfit,
        };
        Ok(judge::schema(fits, schema))
    };
    asked.await.unwrap_or_else(|error| judge::unanswered("schema version", &error))
}

/// What stands between this program and the backends, and whether notifications come through it.
async fn sessions(db: &Database, conn: &mut PgConnection, has_schema: bool, findings: &mut Vec<Finding>) {
    let way = ask(findings, "pooler", doctor::way(db).await);
    findings.extend(way.as_ref().map(judge::pooler));
    let pooled = way.is_some_and(|way| way != Way::Direct);
    let wanted = if has_schema { doctor::notifies(conn).await.unwrap_or(true) } else { true };
    match doctor::hears(db, HEAR_WITHIN).await {
        Ok(hears) => findings.push(judge::notifications(hears, wanted, pooled)),
        Err(_) if pooled => findings.push(judge::notifications(false, wanted, pooled)),
        Err(error) => findings.push(judge::unanswered("notifications", &error)),
    }
}

async fn tables(conn: &mut PgConnection, server: Option<&doctor::Server>, findings: &mut Vec<Finding>) {
    let Some(tables) = ask(findings, "autovacuum", operate::tables(&mut *conn).await) else { return };
    if let Some(server) = server {
        findings.push(judge::autovacuum(server, &tables));
    }
    findings.push(judge::statistics(&tables));
}

async fn disk(db: &Database, conn: &mut PgConnection, server: Option<&doctor::Server>) -> Finding {
    let local =
        db.options().get_socket().is_some() || matches!(db.options().get_host(), "localhost" | "127.0.0.1" | "::1");
    let path = if local { doctor::data_directory(conn).await.ok() } else { None };
    let space = path.as_deref().and_then(machine::space);
    judge::disk(space, path.as_deref(), server.map(|s| s.bytes))
}

/// Whether the servers of tools that the configuration names answer; from here, as a daemon on this host would ask them.
async fn tool_servers(config: &Config) -> Finding {
    config.hide_secrets();
    let (_registry, outside) = match build::kinds(config, ProcessOptions::own_guard()) {
        Ok(built) => built,
        Err(error) => return judge::no_servers(&error.to_string()),
    };
    let answers = outside.servers.ask_all(ANSWER_WITHIN).await;
    outside.servers.close().await;
    judge::tool_servers(&answers)
}

fn show(global: &Global, findings: &[Finding]) -> anyhow::Result<()> {
    match global.output {
        Format::Table => say(&drawn(findings))?,
        Format::Id => findings.iter().filter(|f| f.level == Level::Wrong).try_for_each(|f| say(f.check))?,
        Format::Json | Format::Jsonl => {
            let list: Vec<_> = findings
                .iter()
                .map(|f| json!({"check": f.check, "level": f.level.word(), "says": f.says, "advice": f.advice}))
                .collect();
            match global.output {
                Format::Json => json(global.output, &list)?,
                _ => json_list(global.output, &list)?,
            }
        }
    }
    let wrong = findings.iter().filter(|f| f.level == Level::Wrong).count();
    talk(&match wrong {
        0 => "nothing is wrong".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        n => format!("{n} things are wrong"),
    });
    Ok(())
}

/// One line a finding, and below it what to do.
fn drawn(findings: &[Finding]) -> String {
    let widest = findings.iter().map(|f| f.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for f in findings {
        let style = match f.level {
            Level::Ok => Style::new().green(),
            Level::Note => Style::new().yellow(),
            Level::Wrong => Style::new().red().bold(),
            Level::Unknown => Style::new().dimmed(),
        };
        let level = format!("{:7}", f.level.word());
        let _ = writeln!(out, "{}  {:widest$}  {}", level.style(style), f.check, clean(&f.says));
        if let Some(advice) = &f.advice {
            let _ = writeln!(out, "{:9}{:widest$}  do: {}", "", "", clean(advice));
        }
    }
    out
}

#[cfg(test)]
mod tests;

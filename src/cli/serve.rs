//! `stepd serve`: the daemon.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::app::build::{self, Parts};
use crate::app::config::{Flag, Sources};
use crate::app::{Config, Daemon, files};
use crate::db::{Database, DbError, Trouble, definitions, migrate, server};

use super::{Exit, Global, start_logs};

#[derive(clap::Args)]
pub(super) struct Args {
    /// A folder (or file) of workflow definitions, instead of the configured ones; may be given several times
    #[arg(long, short, value_name = "DIR")]
    workflows: Vec<PathBuf>,
    /// A queue to serve; may be given several times (default: all that are not exclusive)
    #[arg(long, short, value_name = "NAME")]
    queue: Vec<String>,
    /// Runs at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u64>,
    /// Do not create or update the schema at start
    #[arg(long)]
    no_migrate: bool,
}

impl Args {
    fn sources(&self, global: &Global) -> Sources {
        let mut sources = global.sources();
        let paths = self.workflows.iter().map(|p| p.display().to_string()).collect();
        let number = self.concurrency.iter().map(ToString::to_string).collect();
        let given = [
            ("--workflows", "workflows", paths),
            ("--queue", "queues", self.queue.clone()),
            ("--concurrency", "concurrency", number),
        ];
        let given = given.into_iter().filter(|(_, _, texts): &(_, _, Vec<String>)| !texts.is_empty());
        sources.flags.extend(given.map(|(flag, key, texts)| Flag { flag, key, texts }));
        sources
    }
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let sources = args.sources(global);
    let config = sources.load()?.config;
    start_logs(&config);
    let db = Daemon::database(&config)?;
    let host = build::host(&config);
    let workflows = files::load(&config.workflows, &host)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    tokio::select! {
        ready = reach(&db, !args.no_migrate) => ready?,
        Some(_) = signals.next() => return Ok(Exit::Ok),
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workflows = workflows.len(),
        concurrency = config.concurrency,
        "starting"
    );
    settle(&config, &db).await?;
    let parts = Parts { workflows, failpoints: failpoints()?, ..Parts::default() };
    let daemon = Daemon::start(&config, db, parts).await?;
    let early = tokio::select! {
        _ = daemon.presence.present() => {
            tracing::info!("ready");
            None
        }
        signal = signals.next() => signal,
    };
    serve(&config, daemon, early, signals).await
}

/// Waits for signals, from the one on that came before the daemon was ready: reload on SIGHUP, drain on the first SIGTERM or
/// SIGINT, exit on the second.
async fn serve(config: &Config, daemon: Daemon, early: Option<i32>, mut signals: Signals) -> anyhow::Result<Exit> {
    let mut said = early;
    loop {
        match said {
            Some(SIGHUP) => reload(config, &daemon).await,
            Some(_) => break,
            None => {}
        }
        said = signals.next().await;
        if said.is_none() {
            break;
        }
    }
    tracing::info!("stopping: claiming nothing more, running steps may end within the grace time");
    tokio::select! {
        clean = daemon.shutdown() => {
            tracing::info!(clean, "stopped");
            Ok(if clean { Exit::Ok } else { Exit::Error })
        }
        () = second(&mut signals) => {
            tracing::warn!("second signal: exiting at once");
            std::process::exit(Exit::Error as i32);
        }
    }
}

async fn second(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        if signal != SIGHUP {
            return;
        }
    }
    std::future::pending().await
}

/// Everything new is read and checked, then swapped in whole; or the old set stays, and the log says why.
async fn reload(config: &Config, daemon: &Daemon) {
    match files::load(&config.workflows, &build::host(config)) {
        Ok(workflows) => {
            let n = workflows.len();
            match daemon.catalog.load(workflows).await {
                Ok(changed) => tracing::info!(workflows = n, changed, "reloaded"),
                Err(error) => tracing::error!(%error, "reload failed; the old definitions stay"),
            }
        }
        Err(error) => tracing::error!(%error, "reload failed; the old definitions stay"),
    }
}

/// What the configuration says of the whole database.
async fn settle(config: &Config, db: &Database) -> Result<(), DbError> {
    let Some(choice) = &config.on_unknown_workflow else { return Ok(()) };
    if definitions::on_unknown_workflow(db.pool(), choice).await? {
        tracing::info!(choice, "an INSERT with an unknown workflow does this from now on");
    }
    Ok(())
}

/// Waits for Postgres, however late it starts, and brings the schema up to date.
async fn reach(db: &Database, migrate_now: bool) -> Result<(), DbError> {
    // Each reason once: what comes and goes by turns is still said once.
    let mut told = HashSet::new();
    loop {
        let tried = async {
            server::check(db).await?;
            let mut conn = db.connect("migrate", &[("lock_timeout", "5s")]).await?;
            if migrate_now {
                let done = migrate::migrate(&mut conn).await?;
                if let Some(version) = done.last() {
                    tracing::info!(version, "schema migrated");
                }
            }
            migrate::check(&mut conn).await
        };
        match tried.await {
            Ok(()) => return Ok(()),
            Err(error) if error.trouble == Trouble::Refused => return Err(error),
            Err(error) => {
                if told.insert(error.to_string()) {
                    match error.trouble {
                        Trouble::Busy => {
                            tracing::warn!(%error, "a table that the migration changes is in use; trying again")
                        }
                        _ => tracing::warn!(%error, "postgres cannot be used yet; trying again"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

#[cfg(feature = "failpoints")]
fn failpoints() -> anyhow::Result<crate::testing::Failpoints> {
    let text = std::env::var("STEPD_FAILPOINTS").unwrap_or_default();
    crate::testing::Failpoints::parse(&text).map_err(|e| anyhow::anyhow!(e))
}

#[cfg(not(feature = "failpoints"))]
fn failpoints() -> anyhow::Result<crate::testing::Failpoints> {
    Ok(crate::testing::Failpoints::default())
}

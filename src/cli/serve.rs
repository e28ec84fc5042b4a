//! `stepd serve`: the daemon.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::build::{self, Parts};
use crate::app::config::{Flag, Sources};
use crate::app::herald::{Herald, Remark};
use crate::app::reload::Reloaded;
use crate::app::systemd::Systemd;
use crate::app::{Config, Daemon, files, site, traces};
use crate::db::{Database, DbError, Trouble, definitions, migrate, server};
use crate::http::Site;

use crate::telemetry::logs;

use super::{Exit, Global, errors, serve_http, start_logs};

/// Between two tries to reach Postgres at the start …
const AGAIN: Duration = Duration::from_millis(500);

/// The longest that requests under way keep a daemon that has ended.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// … each of which gives the daemon this much more time to start.
const STARTING: Duration = Duration::from_secs(60);

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
    /// The form of the log: auto, json, pretty or journald
    #[arg(long, value_name = "FORMAT", alias = "log")]
    log_format: Option<String>,
    /// What is logged: a level, or a filter as in info,stepd=debug
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// A file for a JSON line about each attempt that has failed
    #[arg(long, value_name = "FILE")]
    error_log: Option<PathBuf>,
    /// Do not create or update the schema at start
    #[arg(long)]
    no_migrate: bool,
    /// Serve HTTP alone: run nothing, and be no worker
    #[arg(long, conflicts_with_all = ["workflows", "queue", "concurrency", "error_log"])]
    no_work: bool,
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
            ("--log-format", "log_format", self.log_format.iter().cloned().collect()),
            ("--log-level", "log_level", self.log_level.iter().cloned().collect()),
            ("--error-log", "error_log", self.error_log.iter().map(|p| p.display().to_string()).collect()),
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
    let served = match args.no_work {
        true => serve_http::serve(sources, config, !args.no_migrate).await,
        false => serve(sources, config, !args.no_migrate).await,
    };
    match served {
        // Whoever collects lines gets lines, to the last.
        Err(error) if !logs::are_for_people() => {
            let (text, exit) = errors::told(&error);
            tracing::error!("{}", text.trim_start_matches("stepd: "));
            Ok(exit)
        }
        done => done,
    }
}

async fn serve(sources: Sources, config: Config, migrate_now: bool) -> anyhow::Result<Exit> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let systemd = Arc::new(Systemd::from_env());
    let db = Daemon::database(&config)?;
    let workflows = files::load(&config, &build::host(&config))?;
    tokio::select! {
        ready = reach(&db, migrate_now, &systemd) => ready?,
        () = told_to_end(&mut signals) => return Ok(Exit::Ok),
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workflows = workflows.len(),
        concurrency = config.concurrency,
        "starting"
    );
    tell_traces(&config)?;
    let parts = Parts { workflows, failpoints: failpoints()?, ..Parts::default() };
    let starting = async {
        build::patiently(async || settle(&config, &db).await).await?;
        Daemon::start(&config, db.clone(), parts).await
    };
    let daemon = tokio::select! {
        started = starting => started?,
        () = told_to_end(&mut signals) => return Ok(Exit::Ok),
    };
    let (stop_site, stopped) = watch::channel(false);
    let site =
        site::bind(&config, &daemon.db, daemon.readiness(), daemon.servers(), daemon.metrics.clone(), stopped).await?;
    if let Some(site) = &site {
        tracing::info!(address = %site.address(), "listening");
    }
    let early = tokio::select! {
        _ = daemon.presence.present() => None,
        signal = signals.next() => signal,
    };
    let remark = Arc::<Remark>::default();
    let mut serving = Serving { sources, config, daemon, site: site.as_ref().map(site::Bound::site), systemd, remark };
    if early.is_none() {
        tracing::info!("ready");
        serving.systemd.ready("ready");
    }
    let herald = Herald::new(&serving.daemon, serving.systemd.clone(), serving.remark.clone());
    let mut beside = JoinSet::new();
    beside.spawn(herald.run());
    let mut sites = JoinSet::new();
    if let Some(site) = site {
        sites.spawn(site.serve());
    }
    serving.until_told(early, &mut signals).await;
    let ended = serving.end(signals).await;
    // Looked at to the last; streams end, and their readers go to another worker's.
    stop_site.send_replace(true);
    let _ = tokio::time::timeout(CLOSING, async { while sites.join_next().await.is_some() {} }).await;
    ended
}

/// Resolves at SIGTERM or SIGINT. A reload has no meaning before the daemon is ready, nor after it was told to end.
pub(super) async fn told_to_end(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        if signal != SIGHUP {
            return;
        }
        tracing::info!("no reload now: the daemon is starting, or stopping");
    }
    std::future::pending().await
}

struct Serving {
    sources: Sources,
    config: Config,
    daemon: Daemon,
    site: Option<Arc<Site>>,
    systemd: Arc<Systemd>,
    remark: Arc<Remark>,
}

impl Serving {
    /// Waits for signals, from the one on that came before the daemon was ready: reloads on SIGHUP, returns on the first SIGTERM
    /// or SIGINT.
    async fn until_told(&mut self, early: Option<i32>, signals: &mut Signals) {
        let mut said = early;
        loop {
            match said {
                Some(SIGHUP) => self.reload().await,
                Some(_) => return,
                None => {}
            }
            said = signals.next().await;
            if said.is_none() {
                return;
            }
        }
    }

    /// Drains; a second signal ends at once.
    async fn end(self, mut signals: Signals) -> anyhow::Result<Exit> {
        tracing::info!("stopping: claiming nothing more, running steps may end within the grace time");
        self.systemd.stopping(self.daemon.patience());
        tokio::select! {
            clean = self.daemon.shutdown() => {
                tracing::info!(clean, "stopped");
                Ok(if clean { Exit::Ok } else { Exit::Error })
            }
            () = told_to_end(&mut signals) => {
                tracing::warn!("second signal: exiting at once");
                std::process::exit(Exit::Error as i32);
            }
        }
    }

    /// Everything new is read and checked, then swapped in whole; or the old set stays, and the log and the status say why.
    async fn reload(&mut self) {
        self.systemd.reloading();
        match self.daemon.reload(&self.sources, &mut self.config, self.site.as_deref()).await {
            Ok(Reloaded { workflows, changed, keys, restart }) => {
                tracing::info!(workflows, changed, keys = keys.join(", "), "reloaded");
                let waiting = restart.join(", ");
                if !restart.is_empty() {
                    tracing::warn!(keys = waiting, "these keys have changed too, and need a restart");
                }
                self.remark.set((!restart.is_empty()).then(|| format!("a restart is needed for {waiting}")));
            }
            Err(error) => {
                tracing::error!(%error, "reload failed: everything stays as it was");
                let first = error.to_string().lines().collect::<Vec<_>>().join(" ");
                self.remark.set(Some(format!("reload failed: {first}")));
            }
        }
        let remark = Herald::new(&self.daemon, self.systemd.clone(), self.remark.clone()).status();
        self.systemd.ready(&remark.unwrap_or_default());
    }
}

/// One line for each target, or that there is none.
fn tell_traces(config: &Config) -> anyhow::Result<()> {
    let targets = traces::told(config)?;
    if targets.is_empty() {
        tracing::info!("traces are off: no target is configured");
    }
    for target in targets {
        let (project, content) = (target.project.unwrap_or_default(), target.content);
        tracing::info!(target.name = target.name, url = target.url, project, content, "traces go there");
    }
    Ok(())
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
pub(super) async fn reach(db: &Database, migrate_now: bool, systemd: &Systemd) -> Result<(), DbError> {
    // Each reason once: what comes and goes by turns is still said once.
    let mut told = HashSet::new();
    loop {
        let tried = async {
            server::check(db).await?;
            if migrate_now {
                let done = migrate::migrate_under_load(db).await?;
                if let Some(version) = done.last() {
                    tracing::info!(version, "schema migrated");
                }
            }
            migrate::check(&mut db.connect_past_pooler("migrate", &[]).await?).await
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
                systemd.still_starting(&format!("waiting: {error}"), STARTING);
                tokio::time::sleep(AGAIN).await;
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

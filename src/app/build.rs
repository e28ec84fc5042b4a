//! Builds the daemon: every service with what it needs, nothing started that has not been told to.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::db::liveness::Registration;
use crate::db::sql_step::Database as Connections;
use crate::db::{Database, DbError, Hosts, Trouble};
use crate::engine::{GateKeeper, Ports, ServerClock};
use crate::expression::Host;
use crate::http::Readiness;
use crate::rules::limits::{Limits, Resource};
use crate::services::acknowledged::Acknowledged;
use crate::services::catalog::{Catalog, Loaded};
use crate::services::children::ChildRuns;
use crate::services::claimer::Claimer;
use crate::services::connectivity::Connectivity;
use crate::services::daily::Daily;
use crate::services::logs::Logs;
use crate::services::periodic::drive;
use crate::services::presence::{self, Presence};
use crate::services::progress::Progress;
use crate::services::repair::Repair;
use crate::services::requests::Requests;
use crate::services::retention::{Export, Pruner, Walk};
use crate::services::runs::Runs;
use crate::services::scheduler::Scheduler;
use crate::services::shared::{Backoff, Hints};
use crate::services::sql_effect::{NamedDatabase, OwnDatabase};
use crate::services::stager::Stager;
use crate::services::sweeper::Sweeper;
use crate::services::tables::Tables;
use crate::services::tracer::{self, AllFigures, Keeper};
use crate::services::writer::{PgJournal, Writers};
use crate::steps::{Child, Models, ProcessOptions, Registry, Servers, Sql, StepOptions, standard_registry};
use crate::telemetry::failures::Failures;
use crate::telemetry::metrics::{Form, Metrics};
use crate::telemetry::step_log::StepLogs;
use crate::testing::Failpoints;

use super::config::{Config, ConfigError};
use super::{gauges, outside, traces};

/// The presence ticks every second; a reconnect may take some.
const PRESENCE_BOUND: Duration = Duration::from_secs(20);

/// The claimer looks every two seconds; a claim may take as long as its session lets it, a reconnect five seconds.
const CLAIMER_BOUND: Duration = Duration::from_secs(30);

/// What stops a daemon from being built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database.
    #[error("{}", told(.0))]
    Database(#[from] DbError),
    /// A configured host or network for `http` steps.
    #[error("http_allow: {0}")]
    Allow(String),
    /// A server or a model of the configuration.
    #[error("{0}")]
    Outside(String),
    /// The file for failures.
    #[error("error_log: {path} cannot be opened: {error}")]
    ErrorLog {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A secret that is named and not there.
    #[error("{key} names the secret `{name}`, which is not there: add it to [secrets]")]
    MissingSecret {
        /// Where.
        key: String,
        /// Its name.
        name: String,
    },
    /// The role of `sql` steps is unknown, not to be had, or of no use.
    #[error("{0}")]
    SqlRole(String),
    /// A thread.
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
}

fn told(error: &DbError) -> String {
    match error.trouble {
        Trouble::Refused => format!("the database refused: {error}"),
        Trouble::Lost | Trouble::Busy | Trouble::Short => format!("the database cannot be used now: {error}"),
    }
}

/// Asks the database again while it is away, or busy: it may go at any moment, also between two things that a start needs of it.
///
/// # Errors
/// It refuses.
pub async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, DbError>) -> Result<T, DbError> {
    let (mut backoff, mut told) = (Backoff::default(), false);
    loop {
        match ask().await {
            Err(error) if error.trouble != Trouble::Refused => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "postgres cannot be used yet; trying again");
                }
                tokio::time::sleep(backoff.pause()).await;
            }
            done => return done,
        }
    }
}

/// A daemon at work.
pub struct Daemon {
    /// Its place among the workers.
    pub presence: Presence,
    /// Its runs.
    pub runs: Arc<Runs>,
    /// Its workflows.
    pub catalog: Arc<Catalog>,
    /// Its database.
    pub db: Database,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What has come of its traces, by target.
    pub traced: AllFigures,
    pub(super) outside: Outside,
    pub(super) connectivity: Arc<Connectivity>,
    pub(super) progress: Arc<Progress>,
    pub(super) failures: Failures,
    pub(super) grace: Duration,
    pub(super) stop: watch::Sender<bool>,
    /// The stop of what must go on until the drain has ended.
    pub(super) drained: watch::Sender<bool>,
    pub(super) services: JoinSet<()>,
    pub(super) writers: Writers,
    pub(super) thread: Option<std::thread::JoinHandle<()>>,
}

/// What is not in the configuration.
#[derive(Default)]
pub struct Parts {
    /// Workflows to load before the first claim.
    pub workflows: Vec<Loaded>,
    /// Kinds of step beside the standard ones, or in place of those of the same name.
    pub kinds: Registry,
    /// Part of somebody else's program, whose `main` does not know the guard of `run` and `exec` steps.
    pub embedded: bool,
    /// For tests.
    pub failpoints: Failpoints,
}

/// The configured values for `${{ env.* }}` and `${{ secrets.* }}`.
#[must_use]
pub fn host(config: &Config) -> Arc<Host> {
    let env = config.env.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect::<serde_json::Map<_, _>>();
    Arc::new(Host { env: Arc::new(env.into()), secrets: Arc::new(config.secrets.clone()) })
}

/// All kinds of step that a configuration allows, without `sql`.
///
/// # Errors
/// `http_allow` has an entry that is neither a host nor a network; a server or a model makes no sense.
pub fn registry(config: &Config) -> Result<Registry, BuildError> {
    traces::options(config)?;
    kinds(config, ProcessOptions::own_guard()).map(|(registry, _)| registry)
}

/// What steps talk to, beside the kinds that do: a reload replaces it, and the end of the daemon ends it.
#[derive(Clone, Default)]
pub struct Outside {
    /// For `mcp`.
    pub servers: Arc<Servers>,
    /// For `llm`.
    pub models: Arc<Models>,
}

impl Outside {
    /// Takes up what a configuration says.
    ///
    /// # Errors
    /// A server or a model makes no sense: then all is as before.
    pub fn replace(&self, config: &Config) -> Result<(), BuildError> {
        let (servers, models) = (outside::servers(config)?, outside::models(config)?);
        self.servers.replace(servers);
        self.models.replace(models);
        Ok(())
    }
}

/// All kinds of step that a configuration allows, without `sql`, and what they talk to.
///
/// # Errors
/// As [`registry`].
pub fn kinds(config: &Config, guard: Vec<OsString>) -> Result<(Registry, Outside), BuildError> {
    let outside = Outside::default();
    outside.replace(config)?;
    let mut options = StepOptions::default();
    options.process.output_limit = config.max_output_bytes;
    options.process.guard = guard;
    options.process.limits = limits(config)?;
    options.http.allow = config
        .http_allow
        .iter()
        .map(|text| text.parse().map_err(|e| BuildError::Allow(format!("`{text}`: {e}"))))
        .collect::<Result<_, _>>()?;
    (options.servers, options.models) = (outside.servers.clone(), outside.models.clone());
    Ok((standard_registry(options), outside))
}

/// What the programs of a step may use.
fn limits(config: &Config) -> Result<Limits, BuildError> {
    config.limits.iter().try_fold(Limits::default(), |limits, (name, text)| {
        let wrong = |why: String| BuildError::Outside(format!("limits.{name}: {why}"));
        let resource = Resource::named(name).ok_or_else(|| wrong("there is no such limit".to_owned()))?;
        Ok(limits.with(resource, resource.read(text).map_err(wrong)?))
    })
}

async fn sql(
    config: &Config,
    db: &Database,
    acknowledged: &Arc<Acknowledged>,
    failpoints: &Failpoints,
) -> Result<Sql, BuildError> {
    let hosts = match &config.sql_url {
        Some(url) => super::config::hosts_of(url).map_err(|why| ConfigError::Url(format!("sql_url: {why}")))?.into(),
        None => db.hosts().clone(),
    };
    let to_own = Connections::under_role(hosts, config.sql_connections, config.sql_role.as_deref());
    let guarded = config.sql_role.is_some() || config.sql_url.is_some();
    if guarded {
        check_role(&to_own).await?;
    }
    let own = OwnDatabase::new(db.clone(), to_own, guarded, acknowledged.clone(), failpoints.clone());
    Ok(connections(config, Sql::new(own))?)
}

/// The role that is to keep `sql` steps from stepd's own tables must do that, and be able to record a finished step.
async fn check_role(statements: &Connections) -> Result<(), BuildError> {
    let rights = patiently(async || statements.rights().await)
        .await
        .map_err(|e| BuildError::SqlRole(format!("sql_role, sql_url: {e}")))?;
    let role = &rights.role;
    if rights.writes {
        return Err(BuildError::SqlRole(format!(
            "sql_role, sql_url: the role {role} may write to stepd's own tables, which it is there to prevent; name one that may not"
        )));
    }
    if !rights.records {
        let grants = rights.grants();
        return Err(BuildError::SqlRole(format!(
            "sql_role, sql_url: the role {role} may not record a finished step; run: {grants}"
        )));
    }
    Ok(())
}

/// The `sql` kind with the configured connections.
///
/// # Errors
/// The URL of one cannot be read.
pub fn connections(config: &Config, mut sql: Sql) -> Result<Sql, ConfigError> {
    for (name, url) in &config.connections {
        let hosts =
            super::config::hosts_of(url).map_err(|why| ConfigError::Url(format!("connections.{name}: {why}")))?;
        let hosts = Hosts::elsewhere(hosts);
        sql = sql.with_connection(name.clone(), NamedDatabase(Connections::new(hosts, config.sql_connections)));
    }
    Ok(sql)
}

impl Daemon {
    /// Starts a daemon: loads its workflows, registers, and begins to claim.
    ///
    /// # Errors
    /// The configuration makes no sense, or the database refuses.
    pub async fn start(config: &Config, db: Database, parts: Parts) -> Result<Self, BuildError> {
        let progress = Arc::new(Progress::default());
        let hints = Arc::new(Hints::default());
        let metrics = gauges::of_process(&db);
        let connectivity = Arc::new(Connectivity::new(metrics.clone()));
        #[expect(clippy::disallowed_methods, reason = "until the registration brings the database's time")]
        let clock = Arc::new(ServerClock::new(Utc::now()));
        let (keeper, gate) = GateKeeper::new();
        let guard = if parts.embedded { Vec::new() } else { ProcessOptions::own_guard() };
        let own = super::files::own_kinds(&parts.kinds);
        let children = Child::new(ChildRuns::new(db.clone(), parts.failpoints.clone()));
        let acknowledged = Arc::new(Acknowledged::default());
        let sql = sql(config, &db, &acknowledged, &parts.failpoints).await?;
        let tracing = traces::options(config)?;
        patiently(async || tracing.announce(&db).await).await?;
        let (registry, outside) = kinds(config, guard)?;
        let registry = registry.with(sql).with(children).and(parts.kinds);
        let catalog = Arc::new(Catalog::new(db.clone(), super::files::compiler_with(host(config), own)));
        patiently(async || catalog.load(parts.workflows.clone()).await).await?;
        let told = (&connectivity, &progress, &metrics);
        let (journal, writers) =
            PgJournal::start(&db, config.concurrency, &hints, &acknowledged, told, &parts.failpoints);
        let (logs, failures) = (StepLogs::new(config.step_log_bytes), Failures::default());
        tell_failures(&failures, config)?;
        let ports = Arc::new(Ports {
            journal: Arc::new(journal),
            registry: Arc::new(registry),
            gate: gate.clone(),
            clock: clock.clone(),
            max_output: config.max_output_bytes,
            logs: logs.clone(),
            failures: failures.clone(),
            metrics: metrics.clone(),
            traces: traces::noted(config),
        });
        let runs = Runs::new(config.concurrency, ports, catalog.clone(), hints.clone());
        let (suspects_tx, suspects) = mpsc::channel(64);
        // Weak: the thread must not keep the journal alive, whose last handle ends the writers.
        let lost = Arc::downgrade(&runs);
        let (presence, thread) = presence::start(presence::Start {
            db: db.clone(),
            registration: registration(config),
            hints: hints.clone(),
            connectivity: connectivity.clone(),
            acknowledged,
            gate: keeper,
            pulse: progress.pulse("presence", PRESENCE_BOUND),
            clock: clock.clone(),
            suspects: suspects_tx,
            on_lost: Box::new(move |worker| {
                if let Some(runs) = lost.upgrade() {
                    runs.lose(worker);
                }
            }),
        })?;
        let serves = (!config.queues.is_empty()).then(|| config.queues.clone());
        // A pass makes two or three statements.
        let pool_bound = PRESENCE_BOUND + 4 * Duration::from_secs(config.statement_timeout_seconds);
        let (stop, stopping) = watch::channel(false);
        let (drained, draining) = watch::channel(false);
        let mut services = JoinSet::new();
        let claimer = Claimer {
            db: db.clone(),
            presence: presence.clone(),
            runs: runs.clone(),
            catalog: catalog.clone(),
            hints: hints.clone(),
            connectivity: connectivity.clone(),
            metrics: metrics.clone(),
            gate,
            serves,
            pulse: progress.pulse("claimer", CLAIMER_BOUND),
            failpoints: parts.failpoints.clone(),
        };
        services.spawn(claimer.run(stopping.clone()));
        services.spawn(runs.clone().give_back_at_losses(connectivity.losses(), stopping.clone()));
        let sweeper = Sweeper {
            db: db.clone(),
            presence: presence.clone(),
            hints: hints.clone(),
            suspects,
            pulse: progress.pulse("sweeper", pool_bound),
            metrics: metrics.clone(),
            failpoints: parts.failpoints,
        };
        services.spawn(sweeper.run(stopping.clone()));
        let repair = Repair::new(db.clone(), metrics.clone());
        services.spawn(drive(repair, progress.pulse("repair", pool_bound), stopping.clone()));
        let scheduler = Scheduler { db: db.clone(), hints: hints.clone(), metrics: metrics.clone() };
        services.spawn(drive(scheduler, progress.pulse("scheduler", pool_bound), stopping.clone()));
        let stager = Stager { db: db.clone(), hints: hints.clone(), cost: Duration::ZERO, after: None, staged: None };
        services.spawn(drive(stager, progress.pulse("stager", pool_bound), stopping.clone()));
        let pruner = Pruner {
            db: db.clone(),
            catalog: catalog.clone(),
            rules: config.retention(),
            export: config.retention_export.clone().map(Export::Folder),
            at: Walk::default(),
        };
        // A pass is up to three things on the pool.
        services.spawn(drive(pruner, progress.pulse("retention", pool_bound * 3), stopping.clone()));
        services.spawn(drive(
            Daily { db: db.clone(), runs: runs.clone(), started: 0 },
            progress.pulse("daily", pool_bound),
            stopping.clone(),
        ));
        services.spawn(drive(Tables { db: db.clone() }, progress.pulse("tables", pool_bound), stopping.clone()));
        // What the last runs leave is still sent.
        let traced = tracer::start(&tracing, &db, &runs, &mut services, &draining);
        let keeper = Keeper { db: db.clone(), options: tracing, figures: traced.clone(), after: uuid::Uuid::nil() };
        services.spawn(drive(keeper, progress.pulse("traces", pool_bound * 2), stopping));
        let requests = Requests {
            db: db.clone(),
            runs: runs.clone(),
            presence: presence.clone(),
            hints,
            took: std::time::Duration::ZERO,
        };
        // A run that is drained may still be cancelled, and answered.
        services.spawn(drive(requests, progress.pulse("requests", pool_bound), draining.clone()));
        // What the last steps write is kept, too.
        services.spawn(Logs { db: db.clone(), logs, clock }.run(draining));
        gauges::of_worker(&metrics, &runs, &presence, &progress, config.concurrency);
        gauges::of_outside(&metrics, &outside);
        gauges::of_traces(&metrics, &traced);
        let grace = Duration::from_secs(config.grace_seconds);
        let thread = Some(thread);
        Ok(Self {
            presence,
            runs,
            catalog,
            db,
            metrics,
            traced,
            outside,
            connectivity,
            progress,
            failures,
            grace,
            stop,
            drained,
            services,
            writers,
            thread,
        })
    }

    /// Whether it can do its work: it is registered among the workers, the database answers, and nobody has asked for its end.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let (presence, connectivity) = (self.presence.clone(), self.connectivity.clone());
        let stopping = self.stop.subscribe();
        Arc::new(move || match (presence.worker(), connectivity.is_away()) {
            _ if *stopping.borrow() => Err("it drains: it claims nothing more, and ends".to_owned()),
            (_, true) => Err("Postgres is away".to_owned()),
            (None, _) => Err("not registered among the workers".to_owned()),
            (Some(_), false) => Ok(true),
        })
    }

    /// What it counts and knows of itself, in Prometheus' text format.
    #[must_use]
    pub fn metrics_page(&self) -> String {
        self.metrics.page(Form::Plain)
    }

    /// The servers of tools: a reload replaces them.
    #[must_use]
    pub fn servers(&self) -> Arc<Servers> {
        self.outside.servers.clone()
    }

    /// Makes the database of a configuration.
    ///
    /// # Errors
    /// There is no URL, or it is none.
    pub fn database(config: &Config) -> Result<Database, ConfigError> {
        let patience = Duration::from_secs(config.statement_timeout_seconds);
        let direct = config.direct_database()?.map(Into::into);
        Ok(Database::new(config.database()?, config.database_pool, patience).with_direct(direct))
    }
}

/// Tells failures where a configuration says.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn tell_failures(failures: &Failures, config: &Config) -> Result<(), BuildError> {
    let path = config.error_log.as_deref();
    let named = |error| BuildError::ErrorLog { path: path.unwrap_or(Path::new("")).display().to_string(), error };
    failures.open(path).map_err(named)
}

fn registration(config: &Config) -> Registration {
    Registration {
        host: nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_else(|| "unknown".into()),
        pid: i32::try_from(std::process::id()).unwrap_or(0),
        version: env!("CARGO_PKG_VERSION"),
        queues: (!config.queues.is_empty()).then(|| config.queues.clone()),
        slots: i32::try_from(config.concurrency).unwrap_or(i32::MAX),
        lease_ms: i32::try_from(config.lease_seconds.saturating_mul(1000)).unwrap_or(i32::MAX),
    }
}

//! The engine inside of somebody's binary: built, started, shut down.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::app::build::{self, Parts};
use crate::app::config::Sources;
use crate::app::{Config, Daemon, files};
use crate::db::{definitions, migrate};
use crate::steps::{Registry, Step};

use super::client::{Client, options};
use super::error::Error;
use super::workflow::{Workflow, WorkflowFn};

/// The queue of all who name none: its jobs are for every worker.
const COMMON: &str = "default";

/// A heartbeat a second, and three of them.
const MIN_LEASE: Duration = Duration::from_secs(3);

/// The engine at work in this process: it claims the jobs of its queues and runs their workflows. Made by [`Stepd::builder`].
///
/// Dropping it without [`Stepd::shutdown`] is like a crash: what it ran is taken up by the next process.
pub struct Stepd {
    daemon: Daemon,
    client: Client,
}

impl Stepd {
    /// Nothing yet: add a queue and a workflow, and start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What enqueues and awaits, to be cloned into handlers. A `Stepd` can be used as one, too.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What this process has counted, in Prometheus' text format, for a page of your own server (`docs/metrics.md`); the figures of the whole
    /// database are not among it.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.daemon.metrics_page()
    }

    /// Stops claiming, lets running steps end within the grace time, interrupts the rest (nothing counts against them; they
    /// are resumed by the next process), and writes what is finished. True when all of that was done.
    pub async fn shutdown(self) -> bool {
        self.daemon.shutdown().await
    }
}

impl Deref for Stepd {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::fmt::Debug for Stepd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepd").finish_non_exhaustive()
    }
}

/// What a [`Stepd`] is made of.
#[must_use = "nothing happens before start"]
pub struct Builder {
    options: Option<Result<PgConnectOptions, Error>>,
    config: Config,
    lease: Duration,
    migrate: bool,
    traces: bool,
    workflows: Vec<Workflow>,
    files: Vec<PathBuf>,
    kinds: Registry,
}

impl Default for Builder {
    fn default() -> Self {
        let config = Config::default();
        Self {
            options: None,
            lease: Duration::from_secs(config.lease_seconds),
            config,
            migrate: true,
            traces: false,
            workflows: Vec::new(),
            files: Vec::new(),
            kinds: Registry::default(),
        }
    }
}

impl Builder {
    /// Where the database is: `postgres://user:password@host:5432/database`. By default the variable `DATABASE_URL` says it.
    pub fn database(mut self, url: &str) -> Self {
        self.options = Some(options(url));
        self
    }

    /// Where the database is, as connection options.
    pub fn connect_options(mut self, options: PgConnectOptions) -> Self {
        self.options = Some(Ok(options));
        self
    }

    /// A queue of this binary's own; the first is the one that its workflows' jobs go to by default.
    ///
    /// The queue is exclusive: only processes that name it serve it, and they should all be this binary. A worker that does not have
    /// the code of a workflow must not claim its runs.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.config.queues.push(name.into());
        self
    }

    /// A workflow: `async fn(&Ctx<'_>, Input) -> Result<Output, Halt>`, under the name that jobs give.
    pub fn workflow<I, O, F>(self, name: impl Into<String>, function: F) -> Self
    where
        I: serde::de::DeserializeOwned + Send + 'static,
        O: serde::Serialize + Send + 'static,
        F: for<'r> WorkflowFn<'r, I, O> + 'static,
    {
        self.register(Workflow::new(name, function))
    }

    /// A workflow with more to say than its name: what it is a method of, its queue, its resumes, its time limit.
    pub fn register(mut self, workflow: Workflow) -> Self {
        self.workflows.push(workflow);
        self
    }

    /// A folder of workflow files, or one file, that this binary serves, too. Where a file names no queue, its jobs go to the
    /// binary's first one.
    pub fn workflow_files(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// A kind of step of your own, for [`Ctx::call`](super::Ctx::call) and for workflow files, where its name is a key like `http` and
    /// takes a mapping, its parameters: `greet: {name: "${{ input.name }}"}`. One with the name of a standard kind replaces it.
    pub fn kind(mut self, kind: impl Step + 'static) -> Self {
        self.kinds = self.kinds.with(kind);
        self
    }

    /// Runs at once; 100 by default.
    pub fn concurrency(mut self, runs: usize) -> Self {
        self.config.concurrency = runs.max(1);
        self
    }

    /// How long others wait for a sign of life of this process before they take its runs over, where its session lock cannot tell
    /// (behind a transaction pooler, after a cut network); 15 s by default, at least 3 s.
    pub fn lease(mut self, span: Duration) -> Self {
        self.lease = span;
        self
    }

    /// How long running steps are given to end by themselves at a shutdown; 25 s by default.
    pub fn grace(mut self, span: Duration) -> Self {
        self.config.grace_seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
        self
    }

    /// The largest output of a step or a run, in bytes of JSON; 16 MiB by default.
    pub fn max_output_bytes(mut self, bytes: usize) -> Self {
        self.config.max_output_bytes = bytes;
        self
    }

    /// Do not create or update stepd's two schemas at the start: somebody else does (`stepd migrate`).
    pub fn without_migrations(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Exports the traces of its runs as the environment says: `OTEL_EXPORTER_OTLP_ENDPOINT` and its like, and the variables of LangSmith and
    /// Langfuse (`docs/traces.md`). Without any of them nothing is exported.
    pub fn traces_from_env(mut self) -> Self {
        self.traces = true;
        self
    }

    /// Brings the schema up to date, registers the workflows, and begins to claim.
    ///
    /// # Errors
    /// Something is missing or contradicts itself, a workflow file is wrong, or the database cannot be had.
    pub async fn start(mut self) -> Result<Stepd, Error> {
        // For `http` steps. A second call fails harmlessly: the program's own provider stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let loaded = self.loaded()?;
        if self.lease < MIN_LEASE {
            return Err(wrong(&format!(
                "a lease of {:?} is too short: a living worker must be able to show itself in time, so give it {MIN_LEASE:?} or more",
                self.lease
            )));
        }
        self.config.lease_seconds = self.lease.as_secs();
        if self.traces {
            let seen = Sources::of_environment().map_err(|e| wrong(&e.to_string()))?.config;
            self.config = self.config.with_traces_of(seen);
            self.config.hide_secrets();
        }
        let options = match self.options.take() {
            Some(options) => options?,
            None => match std::env::var("DATABASE_URL") {
                Ok(url) => options(&url)?,
                Err(_) => return Err(wrong("no database: say .database(\"postgres://…\"), or set DATABASE_URL")),
            },
        };
        let client = Client::with_options(options);
        let mut conn = client.db.connect("start", &[("lock_timeout", "5s")]).await?;
        if self.migrate {
            migrate::migrate(&mut conn).await?;
        }
        migrate::check(&mut conn).await?;
        for queue in &self.config.queues {
            definitions::exclusive_queue(&mut conn, queue).await?;
        }
        drop(conn);
        let parts = Parts { workflows: loaded, kinds: self.kinds, embedded: true, ..Parts::default() };
        let daemon = Daemon::start(&self.config, client.db.clone(), parts).await?;
        daemon.presence.present().await;
        Ok(Stepd { daemon, client })
    }

    /// All workflows, each with a queue that this binary serves.
    fn loaded(&mut self) -> Result<Vec<crate::services::catalog::Loaded>, Error> {
        let Some(own) = self.config.queues.first().cloned() else {
            return Err(wrong("no queue: name one that only this binary serves, as in .queue(\"orders\")"));
        };
        if self.config.queues.iter().any(|q| q == COMMON) {
            return Err(wrong(
                "the queue `default` is everybody's: name one that only this binary serves, as in .queue(\"orders\")",
            ));
        }
        let code = std::mem::take(&mut self.workflows).into_iter().map(|w| w.loaded(&own));
        let mut loaded = code.collect::<Result<Vec<_>, _>>()?;
        let (host, kinds) = (build::host(&self.config), files::own_kinds(&self.kinds));
        let read = files::load_with(&self.files, &host, &kinds).map_err(|e| wrong(&e.to_string()))?;
        loaded.extend(read.into_iter().map(|mut file| {
            if file.queue == COMMON {
                file.queue.clone_from(&own);
            }
            file
        }));
        let mut names = std::collections::HashSet::new();
        for workflow in &loaded {
            let (name, queue) = (&workflow.name, &workflow.queue);
            if !names.insert(name.clone()) {
                return Err(wrong(&format!("two workflows have the name `{name}`; rename one of them")));
            }
            if !self.config.queues.contains(queue) {
                return Err(wrong(&format!(
                    "the workflow `{name}` goes to the queue `{queue}`, which this binary does not serve; add .queue(\"{queue}\")"
                )));
            }
        }
        Ok(loaded)
    }
}

fn wrong(text: &str) -> Error {
    Error::Configuration(text.to_owned())
}

//! A reload: everything new is read and checked, and swapped in as a whole; or all stays as it is.

use std::time::Duration;

use crate::db::{DbError, definitions};
use crate::http::Site;
use crate::telemetry::logs;

use super::build::{self, BuildError, Daemon};
use super::config::{Config, ConfigError, Sources};
use super::files::{self, LoadError};
use super::site::{self, SiteError};

/// What a reload takes up; the rest is built into a running daemon.
const LIVE: [&str; 13] = [
    "workflows",
    "workflow_owners",
    "env",
    "secrets",
    "mcp",
    "models",
    "log_level",
    "error_log",
    "grace_seconds",
    "on_unknown_workflow",
    "http_hosts",
    "http_tokens",
    "http_hooks",
];

/// Why nothing was taken up.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It makes no sense.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What it says of the HTTP server.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Workflow files are wrong.
    #[error(transparent)]
    Files(#[from] LoadError),
    /// The definitions cannot be registered.
    #[error("the definitions cannot be registered: {0}")]
    Database(#[from] DbError),
}

/// What a reload has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The workflows that there are now.
    pub workflows: usize,
    /// How many of them are new to the database.
    pub changed: usize,
    /// The keys that have changed, and are in force.
    pub keys: Vec<&'static str>,
    /// The keys that have changed, and are in force after a restart.
    pub restart: Vec<&'static str>,
}

impl Daemon {
    /// Reads everything again. `running` is the configuration in force, and becomes the new one; `site` is the HTTP server, where
    /// there is one.
    ///
    /// # Errors
    /// Something is wrong with what was read: then nothing has changed.
    pub async fn reload(
        &mut self,
        sources: &Sources,
        running: &mut Config,
        site: Option<&Site>,
    ) -> Result<Reloaded, ReloadError> {
        let new = sources.load()?.config;
        // Also what needs a restart must be right: the restart will come.
        build::registry(&new)?;
        let rules = site::rules(&new)?;
        let host = build::host(&new);
        new.hide_secrets();
        let loaded = files::load(&new, &host)?;
        build::tell_failures(&self.failures, &new)?;
        let (keys, restart) = running.differing(&new).into_iter().partition(|key| LIVE.contains(key));
        let workflows = loaded.len();
        let changed = self.catalog.swap(loaded, files::compiler(host)).await?;
        // After the files, which the database may refuse; this it refuses only when it is away, and the next reload writes it.
        if let Some(choice) = &new.on_unknown_workflow {
            definitions::on_unknown_workflow(self.db.pool(), choice).await?;
        }
        self.outside.replace(&new)?;
        if let Some(site) = site {
            site.replace(rules);
        }
        logs::set_level(&new.log_level);
        self.grace = Duration::from_secs(new.grace_seconds);
        *running = Config {
            workflows: new.workflows,
            workflow_owners: new.workflow_owners,
            env: new.env,
            secrets: new.secrets,
            mcp: new.mcp,
            models: new.models,
            log_level: new.log_level,
            error_log: new.error_log,
            grace_seconds: new.grace_seconds,
            on_unknown_workflow: new.on_unknown_workflow,
            http_hosts: new.http_hosts,
            http_tokens: new.http_tokens,
            http_hooks: new.http_hooks,
            ..running.clone()
        };
        Ok(Reloaded { workflows, changed, keys, restart })
    }
}

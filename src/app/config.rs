//! Configuration: flags > environment > file > defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

/// A heartbeat a second, and three of them.
const MIN_LEASE: u64 = 3;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "/etc/stepd/stepd.toml";

/// Everything that can be configured. `config/stepd.toml` shows every key with its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `postgres://user:password@host:port/database`; `DATABASE_URL` says the same.
    pub database_url: Option<String>,
    /// Folders and files of workflow definitions.
    pub workflows: Vec<PathBuf>,
    /// The queues to serve; empty: all that are not exclusive.
    pub queues: Vec<String>,
    /// Runs at once.
    pub concurrency: usize,
    /// Seconds that running steps are given at a shutdown.
    pub grace_seconds: u64,
    /// Seconds without a heartbeat after which others may take over.
    pub lease_seconds: u64,
    /// The largest output of a step or a run, in bytes.
    pub max_output_bytes: usize,
    /// `pretty` or `json`; unset: pretty on a terminal.
    pub log_format: Option<String>,
    /// As in `RUST_LOG`.
    pub log_level: String,
    /// Hosts and networks that `http` steps may reach though they are private.
    pub http_allow: Vec<String>,
    /// Under which role `sql` steps run in stepd's own database.
    pub sql: SqlConfig,
    /// Named connections for `sql` steps.
    pub connections: BTreeMap<String, String>,
    /// Values for `${{ env.* }}`.
    pub env: BTreeMap<String, String>,
    /// Values for `${{ secrets.* }}`.
    pub secrets: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database_url: None,
            workflows: Vec::new(),
            queues: Vec::new(),
            concurrency: 100,
            grace_seconds: 25,
            lease_seconds: 15,
            max_output_bytes: 16 << 20,
            log_format: None,
            log_level: "info".into(),
            http_allow: Vec::new(),
            sql: SqlConfig::default(),
            connections: BTreeMap::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}

/// Who `sql` steps are in stepd's own database: at most one of the two. Unset: the daemon's own role, which may do anything there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqlConfig {
    /// A role that the daemon's own login may take (`SET ROLE`): guards against mistakes.
    pub role: Option<String>,
    /// Another login to the same database: guards against malice, too.
    pub url: Option<String>,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or a variable cannot be read.
    #[error("the configuration cannot be read: {0}; config/stepd.toml shows every key")]
    Read(#[from] config::ConfigError),
    /// The lease is too short.
    #[error(
        "lease_seconds is {0}; at least {MIN_LEASE} are needed, for a living worker must be able to show itself in time"
    )]
    Lease(u64),
    /// Two answers to one question.
    #[error("sql.role and sql.url are both set: a login of its own (url) needs no role beside it, remove one")]
    SqlRole,
    /// No database.
    #[error("no database: set DATABASE_URL, or database_url in the configuration, or pass --database-url")]
    NoDatabase,
    /// The URL is none.
    #[error("the database URL cannot be read: {0}; it looks like postgres://user:password@host:5432/database")]
    Url(String),
}

impl Config {
    /// Reads the file (the named one must exist), then `STEPD_*`, then `DATABASE_URL`.
    ///
    /// # Errors
    /// The file or a variable cannot be read, or has an unknown key.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        builder = match file {
            Some(file) => builder.add_source(config::File::from(file).format(config::FileFormat::Toml)),
            None => builder.add_source(config::File::new(DEFAULT_FILE, config::FileFormat::Toml).required(false)),
        };
        let environment = config::Environment::with_prefix("STEPD")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .list_separator(",")
            .with_list_parse_key("workflows")
            .with_list_parse_key("queues")
            .with_list_parse_key("http_allow")
            .source(Some(own_environment()));
        let mut read: Self = builder.add_source(environment).build()?.try_deserialize()?;
        if let Ok(url) = std::env::var("DATABASE_URL")
            && std::env::var_os("STEPD_DATABASE_URL").is_none()
        {
            read.database_url = Some(url);
        }
        if read.lease_seconds < MIN_LEASE {
            return Err(ConfigError::Lease(read.lease_seconds));
        }
        if read.sql.role.is_some() && read.sql.url.is_some() {
            return Err(ConfigError::SqlRole);
        }
        Ok(read)
    }

    /// The database's options.
    ///
    /// # Errors
    /// There is no URL, or it is none.
    pub fn database(&self) -> Result<PgConnectOptions, ConfigError> {
        let url = self.database_url.as_deref().ok_or(ConfigError::NoDatabase)?;
        if let Some((scheme, _)) = url.split_once("://").filter(|(s, _)| !matches!(*s, "postgres" | "postgresql")) {
            return Err(ConfigError::Url(format!("it begins with {scheme}://, and stepd works with Postgres alone")));
        }
        PgConnectOptions::from_str(url).map_err(|e| {
            ConfigError::Url(match e {
                sqlx::Error::Configuration(why) => why.to_string(),
                other => other.to_string(),
            })
        })
    }
}

/// The variables that are configuration; `STEPD_CONFIG`, `STEPD_POSTGRES_BIN` and what steps are given are read elsewhere.
fn own_environment() -> config::Map<String, String> {
    const ELSEWHERE: [&str; 8] = [
        "STEPD_CONFIG",
        "STEPD_POSTGRES_BIN",
        "STEPD_FAILPOINTS",
        "STEPD_RUN_ID",
        "STEPD_STEP_KEY",
        "STEPD_IDEMPOTENCY_KEY",
        "STEPD_EPOCH",
        "STEPD_ATTEMPT",
    ];
    std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| {
            k.starts_with("STEPD_") && !ELSEWHERE.contains(&k.as_str()) && !k.starts_with("STEPD_ATTEMPT_")
        })
        .collect()
}

//! Configuration: flags outweigh the environment, which outweighs the file, which outweighs the defaults.
//!
//! Each source is a layer of the `config` crate, checked before it is merged: everything that is wrong anywhere is said at once,
//! with the place where it stands. A merged value knows where it came from; `stepd config` shows it.

mod database;
mod environment;
mod file;
mod keys;
mod layer;
mod outside;
mod profiles;
mod shown;
mod tracing;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::telemetry::redact;

use environment::Variable;
use layer::{Folders, Layer};

pub(crate) use database::hosts_of;
pub use layer::Complaint;
pub(crate) use outside::masked;
pub(crate) use profiles::is_name;
pub use profiles::{HttpHook, HttpToken, McpServer, Model, TraceTarget};
pub use shown::Shown;

/// Every key with its default and its meaning, as a file to start from.
pub const TEMPLATE: &str = include_str!("../../../config/stepd.toml");

/// Where the HTTP server listens unless something else is said. (7837 spells STEP.)
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7837";

/// The files that are looked for when none is named: a project's own, then the machine's.
const DEFAULT_FILES: [&str; 2] = ["stepd.toml", "/etc/stepd/stepd.toml"];

/// Everything that can be configured. `config/stepd.toml` says what each key means.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Config {
    pub database_url: Option<String>,
    pub database_url_file: Option<PathBuf>,
    pub database_host: Option<String>,
    pub database_port: Option<String>,
    pub database_name: Option<String>,
    pub database_user: Option<String>,
    pub database_password: Option<String>,
    pub database_password_file: Option<PathBuf>,
    pub database_sslmode: Option<String>,
    pub database_sslrootcert: Option<PathBuf>,
    pub database_pool: u32,
    pub sql_connections: usize,
    pub sql_role: Option<String>,
    pub sql_url: Option<String>,
    pub statement_timeout_seconds: u64,
    pub workflows: Vec<PathBuf>,
    pub queues: Vec<String>,
    pub on_unknown_workflow: Option<String>,
    pub concurrency: usize,
    pub grace_seconds: u64,
    pub lease_seconds: u64,
    pub max_output_bytes: usize,
    pub log_format: String,
    pub log_level: String,
    pub step_log_bytes: usize,
    pub error_log: Option<PathBuf>,
    pub http_allow: Vec<String>,
    pub http_listen: String,
    pub http_hosts: Vec<String>,
    pub http_documents: String,
    pub http_timeout_seconds: u64,
    pub retention_export: Option<PathBuf>,
    pub retention: BTreeMap<String, String>,
    pub retention_workflows: BTreeMap<String, String>,
    pub trace_ratio: f64,
    pub trace_errors: String,
    pub trace_wait_seconds: u64,
    pub trace_keep_hours: u64,
    pub trace_backlog_runs: u64,
    pub trace_service: String,
    pub trace_workflows: BTreeMap<String, String>,
    pub trace_attributes: BTreeMap<String, String>,
    pub traces: BTreeMap<String, TraceTarget>,
    pub connections: BTreeMap<String, String>,
    pub mcp: BTreeMap<String, McpServer>,
    pub models: BTreeMap<String, Model>,
    pub http_tokens: BTreeMap<String, HttpToken>,
    pub http_hooks: BTreeMap<String, HttpHook>,
    pub env: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database_url: None,
            database_url_file: None,
            database_host: None,
            database_port: None,
            database_name: None,
            database_user: None,
            database_password: None,
            database_password_file: None,
            database_sslmode: None,
            database_sslrootcert: None,
            // Staging, sweeping, settling, loading. With the presence, the claimer and two writers, six.
            database_pool: 2,
            sql_connections: 8,
            sql_role: None,
            sql_url: None,
            statement_timeout_seconds: 30,
            workflows: Vec::new(),
            queues: Vec::new(),
            on_unknown_workflow: None,
            concurrency: 100,
            grace_seconds: 25,
            lease_seconds: 15,
            max_output_bytes: 16 << 20,
            log_format: "auto".into(),
            log_level: "info".into(),
            step_log_bytes: 256 << 10,
            error_log: None,
            http_allow: Vec::new(),
            http_listen: DEFAULT_LISTEN.into(),
            http_hosts: Vec::new(),
            http_documents: "off".into(),
            http_timeout_seconds: 30,
            retention_export: None,
            retention: BTreeMap::new(),
            retention_workflows: BTreeMap::new(),
            trace_ratio: 1.0,
            trace_errors: "on".into(),
            trace_wait_seconds: 3_600,
            trace_keep_hours: 24,
            trace_backlog_runs: 1_000_000,
            trace_service: "stepd".into(),
            trace_workflows: BTreeMap::new(),
            trace_attributes: BTreeMap::new(),
            traces: BTreeMap::new(),
            connections: BTreeMap::new(),
            mcp: BTreeMap::new(),
            models: BTreeMap::new(),
            http_tokens: BTreeMap::new(),
            http_hooks: BTreeMap::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Everything that is wrong, in the order of the sources.
    #[error("{}", told(.0))]
    Wrong(Vec<Complaint>),
    /// What has been checked cannot be merged.
    #[error("the configuration cannot be put together: {0}")]
    Merge(#[from] config::ConfigError),
    /// Two answers to one question.
    #[error("sql_role and sql_url are both set: a login of its own (sql_url) needs no role beside it, remove one")]
    SqlRole,
    /// No database.
    #[error(
        "no database: set DATABASE_URL, or PGHOST and the like, or database_url in the configuration, or pass --database-url"
    )]
    NoDatabase,
    /// The URL is none.
    #[error("the database URL cannot be used: {0}")]
    Url(String),
}

fn told(wrong: &[Complaint]) -> String {
    let lines: Vec<String> = wrong.iter().map(|c| format!("\n  {}: {}", c.place, c.what)).collect();
    let n = if wrong.len() == 1 { "an error".to_owned() } else { format!("{} errors", wrong.len()) };
    format!("the configuration has {n}:{}", lines.concat())
}

/// A value given on the command line: the flag, the key, the texts.
#[derive(Clone, Debug)]
pub struct Flag {
    /// `--concurrency`
    pub flag: &'static str,
    /// `concurrency`
    pub key: &'static str,
    /// One text, or the items of a list.
    pub texts: Vec<String>,
}

/// Where the configuration comes from; read again at each reload.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that was named; it must exist.
    pub file: Option<PathBuf>,
    /// What the command line says.
    pub flags: Vec<Flag>,
    /// Credentials that this process may not see are passed over: systemd 252 shows them to ExecStart= alone, and what is
    /// checked before a reload is the rest.
    pub without_hidden: bool,
}

/// A configuration, and where each value came from.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    merged: config::Value,
}

impl Sources {
    /// What the environment says, and no file: a program's own may be none of stepd's business.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn of_environment() -> Result<Loaded, ConfigError> {
        Self::default().load_from(&environment::variables(), &[])
    }

    /// Reads and merges all sources.
    ///
    /// # Errors
    /// Everything that is wrong in any of them.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        self.load_from(&environment::variables(), &DEFAULT_FILES.map(PathBuf::from))
    }

    fn load_from(&self, environment: &[Variable], defaults: &[PathBuf]) -> Result<Loaded, ConfigError> {
        let credentials = environment.iter().find(|(name, _)| name == "CREDENTIALS_DIRECTORY");
        let credentials = credentials.and_then(|(_, path)| path.as_ref().ok()).map(PathBuf::from);
        let file = self.file.clone().or_else(|| defaults.iter().find(|p| p.exists()).cloned());
        let own = file.as_ref().and_then(|f| f.parent()).map(ToOwned::to_owned);
        let unseen = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
        let hidden =
            credentials.as_ref().is_some_and(|c| std::fs::read_dir(c).is_err_and(unseen)) && self.without_hidden;
        let folders = Folders { own, credentials, hidden };
        let mut layers = Vec::new();
        if let Some(file) = &file {
            layers.push(self.read_file(file, &folders));
        }
        layers.push(layer::credentials(&folders));
        layers.extend(environment::layers(environment));
        layers.push(self.flags());
        for (n, layer) in layers.iter_mut().enumerate() {
            // Only the file's paths are beside the file.
            let own = folders.own.clone().filter(|_| n == 0 && file.is_some());
            layer.read_files(&Folders { own, ..folders.clone() });
            layer.replace_database();
        }
        let wrong: Vec<Complaint> = layers.iter_mut().flat_map(|l| std::mem::take(&mut l.wrong)).collect();
        if !wrong.is_empty() {
            return Err(ConfigError::Wrong(wrong));
        }
        let merged = layers.into_iter().fold(config::Config::builder(), |b, layer| b.add_source(layer)).build()?;
        let config: Config = merged.clone().try_deserialize()?;
        let incomplete = tracing::incomplete(&config);
        if !incomplete.is_empty() {
            return Err(ConfigError::Wrong(incomplete));
        }
        if config.sql_role.is_some() && config.sql_url.is_some() {
            return Err(ConfigError::SqlRole);
        }
        if !matches!(database::hosts(&config), Ok(_) | Err(ConfigError::NoDatabase)) {
            database::hosts(&config)?;
        }
        Ok(Loaded { config, file, merged: merged.cache })
    }

    fn read_file(&self, file: &Path, folders: &Folders) -> Layer {
        let mut unread = Layer::default();
        let place = file.display().to_string();
        if self.file.is_none() && file.is_relative() && !is_trusted(file) {
            unread.complain(place, "it belongs to another user; if it is the right one, name it: --config FILE");
            return unread;
        }
        match std::fs::read_to_string(file) {
            Ok(text) => file::read(file, &text, folders),
            Err(error) => {
                unread.complain(
                    place,
                    format!("the configuration file cannot be read: {error}; stepd config --template makes one"),
                );
                unread
            }
        }
    }

    fn flags(&self) -> Layer {
        let mut layer = Layer::default();
        for Flag { flag, key, texts } in &self.flags {
            let Some(key) = keys::find(key) else { continue };
            match key.form {
                keys::Form::Texts | keys::Form::Paths => {
                    let items = texts.iter().map(|t| config::Value::new(None, t.as_str())).collect();
                    layer.set(key.name, config::ValueKind::Array(items), flag);
                }
                _ => texts.iter().for_each(|text| layer.text(key, text, flag)),
            }
        }
        layer
    }
}

/// A file that just lies in the working directory counts only if this user, or root, has put it there.
fn is_trusted(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.uid() == 0 || m.uid() == nix::unistd::geteuid().as_raw())
}

impl Config {
    /// The hosts of the database, in the order in which they are tried.
    ///
    /// # Errors
    /// There is no database, or the URL is none.
    pub fn database(&self) -> Result<Vec<PgConnectOptions>, ConfigError> {
        database::hosts(self)
    }

    /// Makes a URL the database, whatever else was said of one.
    pub fn use_database(&mut self, url: &str) {
        self.database_url = Some(url.to_owned());
        (self.database_url_file, self.database_password_file) = (None, None);
        (self.database_host, self.database_port, self.database_name) = (None, None, None);
        (self.database_user, self.database_password) = (None, None);
        (self.database_sslmode, self.database_sslrootcert) = (None, None);
    }

    /// This one, with what the other says of traces.
    #[must_use]
    pub fn with_traces_of(self, other: Self) -> Self {
        Self {
            traces: other.traces,
            trace_ratio: other.trace_ratio,
            trace_errors: other.trace_errors,
            trace_wait_seconds: other.trace_wait_seconds,
            trace_keep_hours: other.trace_keep_hours,
            trace_backlog_runs: other.trace_backlog_runs,
            trace_service: other.trace_service,
            trace_workflows: other.trace_workflows,
            trace_attributes: other.trace_attributes,
            ..self
        }
    }

    /// Hides from now on what must never be shown.
    pub fn hide_secrets(&self) {
        let secrets: Vec<String> = self.secrets.values().cloned().chain(self.keys_of_others()).collect();
        redact::add(&secrets, &self.passwords());
    }

    /// What lets stepd in elsewhere and stands in the configuration itself, not under `secrets`.
    fn keys_of_others(&self) -> impl Iterator<Item = String> {
        let tables =
            self.mcp.values().flat_map(|s| [&s.env, &s.headers]).chain(self.models.values().map(|m| &m.headers));
        let tables = tables.chain(self.traces.values().map(|t| &t.headers));
        let signed = self.http_hooks.values().filter_map(|h| h.secret.as_ref());
        let traced = self.traces.values().flat_map(|t| [&t.api_key, &t.secret_key]).flatten();
        let told = tables.clone().flatten().filter(|(name, _)| outside::is_telling(name)).map(|(_, value)| value);
        let whole = told.chain(signed).chain(traced).chain(self.models.values().filter_map(|m| m.api_key.as_ref()));
        let urls = self.mcp.values().filter_map(|s| s.url.as_ref());
        let urls = urls.chain(self.models.values().filter_map(|m| m.base_url.as_ref()));
        let urls = urls.chain(self.traces.values().filter_map(|t| t.url.as_ref()));
        let urls = urls.chain(tables.flatten().map(|(_, value)| value));
        whole.flat_map(|value| outside::credentials(value)).chain(urls.flat_map(|url| outside::in_url(url)))
    }

    /// The passwords of databases.
    fn passwords(&self) -> Vec<String> {
        let urls = self.connections.values().chain(&self.database_url).chain(&self.sql_url);
        let in_urls = urls.filter_map(|url| database::password(url));
        self.database_password.iter().cloned().chain(in_urls).collect()
    }

    /// The keys in which two configurations differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let (a, b) = (self.as_json(), other.as_json());
        keys::KEYS.iter().map(|k| k.name).filter(|name| a.get(*name) != b.get(*name)).collect()
    }

    fn as_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

#[cfg(test)]
mod tests;

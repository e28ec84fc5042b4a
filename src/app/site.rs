//! The HTTP server of a configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::db::Database;
use crate::http::{Access, Older, Readiness, Rules, Scope, Server, Site, Token};
use crate::steps::Servers;
use crate::telemetry::metrics::Metrics;

use super::config::{Config, DEFAULT_LISTEN};
use super::hooks::hooks;

/// A body may be larger than the largest input by what stands around it.
const AROUND: usize = 64 << 10;

/// What is wrong with what a configuration says of the server.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// No address.
    #[error("http_listen: `{0}` is no address; write one such as \"127.0.0.1:7837\", or \"off\"")]
    Address(String),
    /// Open to everybody.
    #[error(
        "http_listen: {0} is open to other machines, and there is no token; add one to [http_tokens] (stepd token NAME --scope operate makes it)"
    )]
    NoToken(SocketAddr),
    /// A token without a part.
    #[error("http_tokens.{0}: it needs sha256 (64 hexadecimal digits) and scope")]
    Token(String),
    /// A webhook that cannot be.
    #[error("{0}")]
    Hook(String),
    /// The address cannot be had.
    #[error("http_listen: cannot listen at {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
}

/// A server that is bound and not serving yet.
pub struct Bound {
    server: Server,
    site: Arc<Site>,
    limit: usize,
    stop: watch::Receiver<bool>,
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What is served: to be given other rules.
    #[must_use]
    pub fn site(&self) -> Arc<Site> {
        self.site.clone()
    }

    /// Serves until it is stopped.
    pub async fn serve(self) {
        self.server.serve(self.site, self.limit, self.stop).await;
    }
}

/// Binds the server that a configuration asks for; `None`: it asks for none, or another process has the default address.
///
/// # Errors
/// The configuration makes no sense, or the address that it names cannot be had.
pub async fn bind(
    config: &Config,
    db: &Database,
    ready: Readiness,
    servers: Arc<Servers>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) -> Result<Option<Bound>, SiteError> {
    if config.http_listen == OFF {
        return Ok(None);
    }
    let (rules, address) = (rules(config)?, address(config)?);
    let server = match Server::bind(address).await {
        Ok(server) => server,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && config.http_listen == DEFAULT_LISTEN => {
            tracing::warn!(%address, "no HTTP server: another process has the default address; http_listen names another, or \"off\"");
            return Ok(None);
        }
        Err(error) => return Err(SiteError::Bind(address, error)),
    };
    let access = Access::new(server.address(), rules);
    let patience = Duration::from_secs(config.http_timeout_seconds);
    let older = Older::new(config.http_documents == "on", servers);
    let site = Arc::new(Site::new(db, access, ready, metrics, stop.clone()).with_older(older).with_patience(patience));
    Ok(Some(Bound { server, site, limit: config.max_output_bytes + AROUND, stop }))
}

/// No server.
const OFF: &str = "off";

fn address(config: &Config) -> Result<SocketAddr, SiteError> {
    config.http_listen.parse().map_err(|_| SiteError::Address(config.http_listen.clone()))
}

/// What a configuration says of who may do what.
///
/// # Errors
/// It makes no sense, or opens the server to everybody.
pub fn rules(config: &Config) -> Result<Rules, SiteError> {
    let tokens = tokens(config)?;
    if config.http_listen != OFF {
        let address = address(config)?;
        if tokens.is_empty() && !address.ip().is_loopback() {
            return Err(SiteError::NoToken(address));
        }
    }
    let hooks = hooks(config).map_err(SiteError::Hook)?;
    Ok(Rules { tokens, hosts: config.http_hosts.clone(), hooks })
}

fn tokens(config: &Config) -> Result<BTreeMap<Arc<str>, Token>, SiteError> {
    let token = |(name, said): (&String, &super::config::HttpToken)| {
        let hash = said.sha256.as_deref().and_then(digest);
        let scope = said.scope.as_deref().and_then(Scope::from_word);
        match (hash, scope) {
            (Some(hash), Some(scope)) => Ok((Arc::from(name.as_str()), Token { hash, scope })),
            _ => Err(SiteError::Token(name.clone())),
        }
    };
    config.http_tokens.iter().map(token).collect()
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

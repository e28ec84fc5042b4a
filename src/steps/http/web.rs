//! The client of everything that asks another server.

use std::error::Error as _;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response};
use rustls::pki_types::pem;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::ErrorKind;

use crate::model::{Failure, code};
use crate::steps::short::{self, Shortage};

use super::target::{Guarded, Targets};
use super::{chain, failed};

/// Long enough for a far host with a lost packet, short enough to be told from a slow answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Below the minute after which common servers and balancers close idle connections on their side.
const IDLE: Duration = Duration::from_secs(30);

/// Connections to other servers, kept for the next request to the same. Where no file is left for one, the request waits for it.
#[derive(Debug)]
pub(in crate::steps) struct Web {
    /// Made for the first request: to read the machine's root certificates takes a while, and many daemons ask nobody.
    client: OnceLock<Client>,
    /// Where requests may go; `None`: to what the configuration itself names (a model's endpoint, an MCP server). Whoever may write there
    /// may also allow hosts, so that no address is refused.
    targets: Option<Targets>,
    short: Shortage,
}

impl Default for Web {
    fn default() -> Self {
        Self { client: OnceLock::new(), targets: None, short: Shortage::of("request", "made") }
    }
}

impl Web {
    /// Connections to these targets alone.
    pub(super) fn to(targets: Targets) -> Self {
        Self { targets: Some(targets), ..Self::default() }
    }

    /// The client that requests are built with.
    ///
    /// # Errors
    /// The machine's certificates cannot be read, also after a wait.
    pub(in crate::steps) async fn client(&self) -> Result<&Client, Failure> {
        let since = Instant::now();
        loop {
            if let Some(client) = self.made() {
                return Ok(client);
            }
            match connect(self.targets.as_ref()) {
                Ok(client) => return Ok(self.client.get_or_init(|| client)),
                Err(error) if self.short.wait(&error, since).await => {}
                Err(error) => {
                    let message = format!("this worker cannot make HTTP requests: {}", chain(&error));
                    return Err(Failure::transient(code::CONNECTION, message));
                }
            }
        }
    }

    /// The client, where one has been made.
    pub(in crate::steps) fn made(&self) -> Option<&Client> {
        self.client.get()
    }

    /// Sends a request to `place`, as messages call it.
    ///
    /// # Errors
    /// It got no answer. Nothing was sent where there was no file for a connection.
    pub(in crate::steps) async fn send(&self, request: Request, place: &str) -> Result<Response, Failure> {
        let client = self.client().await?;
        let since = Instant::now();
        let mut next = request;
        loop {
            let again = next.try_clone();
            let error = match client.execute(next).await {
                Ok(response) => {
                    self.short.over();
                    return Ok(response);
                }
                Err(error) => error,
            };
            match (lack(&error).map(io::Error::from_raw_os_error), again) {
                (Some(lack), Some(again)) if self.short.wait(&lack, since).await => next = again,
                _ => return Err(failed(place, error)),
            }
        }
    }
}

/// What the machine was short of, where no connection could be opened for it.
fn lack(error: &reqwest::Error) -> Option<i32> {
    if !error.is_connect() {
        return None;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>().filter(|error| short::passes(error)) {
            return error.raw_os_error();
        }
        cause = inner.source();
    }
    None
}

fn connect(targets: Option<&Targets>) -> io::Result<Client> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls()?)
        .user_agent(concat!("stepd/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE);
    let made = match targets {
        Some(targets) => builder.dns_resolver(Guarded(targets.clone())).build(),
        None => builder.build(),
    };
    made.map_err(io::Error::other)
}

/// Trust in the machine's root certificates: in all of them, or an error where a lack of files or memory kept some from being read. A
/// machine without any can still make requests without encryption.
fn tls() -> io::Result<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        match error.kind {
            ErrorKind::Io { inner, .. } | ErrorKind::Pem(pem::Error::Io(inner)) if short::passes(&inner) => {
                return Err(inner);
            }
            _ => tracing::warn!(%error, "a root certificate of this machine is not trusted: it cannot be read"),
        }
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let provider = rustls::crypto::ring::default_provider().into();
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

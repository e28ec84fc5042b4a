//! Who may do what: tokens and their scopes, and the walls against a browser that is misled.
//!
//! - A request names a host that is known: else a page whose name was bound to this address anew (DNS rebinding) could read.
//! - A request that changes something comes from no other origin, and with a token.
//! - A token is known by its SHA-256 alone, compared in constant time.
//! - Reading without a token is for who sits at this machine: the address is a loopback address, and so is the name in the request.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Site;
use super::problem::Problem;

/// What a token is good for. Each scope includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Looking.
    Read,
    /// Enqueueing runs, sending signals and events.
    Enqueue,
    /// Everything: cancel, pause, retry, fork, approve, queues, schedules.
    Operate,
}

impl Scope {
    /// The scope of that name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "read" => Some(Self::Read),
            "enqueue" => Some(Self::Enqueue),
            "operate" => Some(Self::Operate),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Enqueue => "enqueue",
            Self::Operate => "operate",
        }
    }
}

/// A token, without itself.
#[derive(Clone, Debug)]
pub struct Token {
    /// The SHA-256 of the token.
    pub hash: [u8; 32],
    /// What it is good for.
    pub scope: Scope,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's name; `None`: without one.
    pub name: Option<Arc<str>>,
    scope: Scope,
}

impl Caller {
    /// May they do what needs this scope?
    pub(super) fn needs(&self, scope: Scope) -> Result<(), Problem> {
        if self.scope >= scope && (scope == Scope::Read || self.name.is_some()) {
            return Ok(());
        }
        Err(match &self.name {
            Some(name) => Problem::new(
                StatusCode::FORBIDDEN,
                format!("the token `{name}` is good for `{}`, and this needs `{}`", self.scope.word(), scope.word()),
            ),
            None => Problem::new(StatusCode::UNAUTHORIZED, format!("this needs a token of scope `{}`", scope.word()))
                .hint("send it as Authorization: Bearer …; `stepd token` makes one"),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let none = || Problem::new(StatusCode::UNAUTHORIZED, "this needs a token");
        parts.extensions.get::<Self>().cloned().ok_or_else(none)
    }
}

/// Wrong tokens from one address within [`WINDOW`], after which it is not listened to.
const TRIES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered.
const REMEMBERED: usize = 10_000;

/// The rules of one server.
#[derive(Debug)]
pub struct Access {
    tokens: BTreeMap<Arc<str>, Token>,
    /// Names by which the server may be called, beside those of this machine; empty with `anywhere`: any.
    hosts: Vec<String>,
    /// Does it listen beyond this machine?
    anywhere: bool,
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Access {
    /// The rules of a server that listens at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, tokens: BTreeMap<Arc<str>, Token>, hosts: Vec<String>) -> Self {
        let anywhere = !address.ip().is_loopback();
        Self { tokens, hosts, anywhere, failures: Mutex::default() }
    }

    fn check_host(&self, host: &str) -> Result<(), Problem> {
        let name = host_of(host);
        let known = is_local(name) || self.hosts.iter().any(|h| h.eq_ignore_ascii_case(name));
        if known || self.anywhere && self.hosts.is_empty() {
            return Ok(());
        }
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, format!("this server is not known as `{name}`"))
            .hint("add the name to http_hosts"))
    }

    fn caller(&self, headers: &HeaderMap, host: &str, peer: IpAddr) -> Result<Option<Caller>, Problem> {
        if let Some(token) = bearer(headers) {
            self.not_too_often(peer)?;
            let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
            // All of them are looked at, whichever it is.
            let mut found = None;
            for (name, known) in &self.tokens {
                if bool::from(known.hash.ct_eq(&hash)) {
                    found = Some(Caller { name: Some(name.clone()), scope: known.scope });
                }
            }
            return match found {
                Some(caller) => Ok(Some(caller)),
                None => {
                    self.failed(peer);
                    Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is not known"))
                }
            };
        }
        let forwarded = ["forwarded", "x-forwarded-for"].iter().any(|h| headers.contains_key(*h));
        let here = !self.anywhere && is_local(host_of(host)) && !forwarded;
        Ok(here.then_some(Caller { name: None, scope: Scope::Read }))
    }

    fn not_too_often(&self, peer: IpAddr) -> Result<(), Problem> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(&peer) {
            Some((n, since)) if *n >= TRIES && since.elapsed() < WINDOW => {
                Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens from this address")
                    .hint("wait a minute"))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, peer: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= REMEMBERED {
            failures.retain(|_, (_, since)| since.elapsed() < WINDOW);
        }
        let entry = failures.entry(peer).or_insert((0, Instant::now()));
        if entry.1.elapsed() >= WINDOW {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }
}

/// Lets a request through to what it asks for, with who asks; or says why not.
pub(super) async fn guard(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match admitted(&site.access, peer.ip(), &request) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn admitted(access: &Access, peer: IpAddr, request: &Request) -> Result<Option<Caller>, Problem> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    access.check_host(host)?;
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let upgrades = headers.contains_key(header::UPGRADE);
    if let Some(origin) = headers.get(header::ORIGIN).filter(|_| changes || upgrades) {
        let own = origin.to_str().ok().and_then(|o| o.split_once("://")).is_some_and(|(_, place)| place == host);
        if !own {
            return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin may not do this"));
        }
    }
    access.caller(headers, host, peer)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The name in a `Host`, without the port.
fn host_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn access(address: &str) -> Access {
        let token = |word: &str, scope| Token { hash: Sha256::digest(word.as_bytes()).into(), scope };
        let tokens = [("ops".into(), token("geheim", Scope::Operate)), ("app".into(), token("offen", Scope::Enqueue))];
        Access::new(address.parse().unwrap(), tokens.into(), vec!["stepd.example".into()])
    }

    fn asked(access: &Access, request: &[(&str, &str)], method: Method) -> Result<Option<Caller>, u16> {
        let mut built = Request::builder().method(method).uri("/api/v1/runs");
        for (name, value) in request {
            built = built.header(*name, *value);
        }
        admitted(access, "10.0.0.9".parse().unwrap(), &built.body(Body::empty()).unwrap()).map_err(|p| p.status)
    }

    #[test]
    fn a_name_that_was_bound_to_this_address_anew_is_not_served() {
        let local = access("127.0.0.1:7837");
        for host in ["localhost:7837", "127.0.0.1", "[::1]:7837", "stepd.example"] {
            assert!(asked(&local, &[("host", host)], Method::GET).is_ok(), "{host}");
        }
        for host in ["evil.example:7837", "localhost.evil.example", "", "127.0.0.1.evil"] {
            assert_eq!(asked(&local, &[("host", host)], Method::GET).unwrap_err(), 421, "{host}");
        }
    }

    #[test]
    fn without_a_token_only_this_machine_may_look_and_nobody_may_act() {
        let local = access("127.0.0.1:7837");
        let caller = asked(&local, &[("host", "localhost")], Method::GET).unwrap().unwrap();
        assert!(caller.needs(Scope::Read).is_ok());
        assert_eq!(caller.needs(Scope::Enqueue).unwrap_err().status, 401);
        // A proxy on this machine serves others.
        for headers in [&[("host", "stepd.example")][..], &[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")]] {
            assert!(asked(&local, headers, Method::GET).unwrap().is_none());
        }
        assert!(asked(&access("0.0.0.0:7837"), &[("host", "localhost")], Method::GET).unwrap().is_none());
    }

    #[test]
    fn a_token_is_good_for_its_scope_and_a_wrong_one_for_nothing() {
        let open = access("0.0.0.0:7837");
        let with = |token: &str| asked(&open, &[("host", "stepd.example"), ("authorization", token)], Method::POST);
        let caller = with("Bearer offen").unwrap().unwrap();
        assert!(caller.needs(Scope::Read).is_ok() && caller.needs(Scope::Enqueue).is_ok());
        assert_eq!(caller.needs(Scope::Operate).unwrap_err().status, 403);
        assert!(with("bearer geheim").unwrap().unwrap().needs(Scope::Operate).is_ok());
        for _ in 0..TRIES {
            assert_eq!(with("Bearer geraten").unwrap_err(), 401);
        }
        assert_eq!(with("Bearer geheim").unwrap_err(), 429, "from that address nothing more is tried");
    }

    #[test]
    fn a_page_of_another_origin_may_not_act() {
        let local = access("127.0.0.1:7837");
        let from = |origin, method| asked(&local, &[("host", "localhost:7837"), ("origin", origin)], method);
        assert!(from("http://localhost:7837", Method::POST).is_ok());
        for origin in ["http://evil.example", "null", "http://localhost:9999"] {
            assert_eq!(from(origin, Method::POST).unwrap_err(), 403, "{origin}");
            assert!(from(origin, Method::GET).is_ok(), "reading an answer is what the browser itself forbids");
        }
    }
}

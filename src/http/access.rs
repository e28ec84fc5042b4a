//! Who may do what: tokens and their scopes, and the walls against a browser that is misled.
//!
//! - A request names a host that is known: else a page whose name was bound to this address anew (DNS rebinding) could read.
//! - A request that changes something comes from no other origin, and with a token.
//! - A token is known by its SHA-256 alone, compared in constant time.
//! - Reading without a token is for who sits at this machine: the address is a loopback address, and so is the name in the request.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::hooks::Hook;
use super::problem::Problem;
use super::{Site, session};

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

    pub(super) fn word(self) -> &'static str {
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
    pub(super) scope: Scope,
    /// When their session ends, in seconds since 1970; `None`: it is none.
    pub(super) until: Option<u64>,
    /// The token's.
    hash: Option<[u8; 32]>,
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
            None => nobody(),
        })
    }
}

fn nobody() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "this needs a token")
        .hint("send it as Authorization: Bearer …; `stepd token NAME --scope read` makes one")
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

/// Wrong tokens from one address within [`WINDOW`], after which it is not listened to.
const TRIES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered.
const REMEMBERED: usize = 10_000;

/// What the configuration says of who may do what.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// By name.
    pub tokens: BTreeMap<Arc<str>, Token>,
    /// Names by which the server may be called, beside those of this machine; empty with `anywhere`: any.
    pub hosts: Vec<String>,
    /// Webhooks that are taken, by name.
    pub hooks: BTreeMap<String, Hook>,
}

/// The rules of one server.
#[derive(Debug)]
pub struct Access {
    rules: RwLock<Arc<Rules>>,
    /// Does it listen beyond this machine?
    anywhere: bool,
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Access {
    /// The rules of a server that listens at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, rules: Rules) -> Self {
        let anywhere = !address.ip().is_loopback();
        Self { rules: RwLock::new(Arc::new(rules)), anywhere, failures: Mutex::default() }
    }

    /// Other rules, from now on.
    pub(super) fn replace(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The webhook of that name.
    pub(super) fn hook(&self, name: &str) -> Option<Hook> {
        self.rules().hooks.get(name).cloned()
    }

    fn check_host(&self, host: &str) -> Result<(), Problem> {
        let (name, rules) = (host_of(host), self.rules());
        let known = is_local(name) || rules.hosts.iter().any(|h| h.eq_ignore_ascii_case(name));
        if known || self.anywhere && rules.hosts.is_empty() {
            return Ok(());
        }
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, format!("this server is not known as `{name}`"))
            .hint("add the name to http_hosts"))
    }

    /// Whose token that is. A wrong one counts against its sender; a right one is let through whatever others have sent from the same
    /// address, which may be a proxy's.
    pub(super) fn known(&self, token: &str, sender: IpAddr) -> Result<(Caller, Token), Problem> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        // All of them are looked at, whichever it is.
        let mut found = None;
        for (name, known) in &self.rules().tokens {
            if bool::from(known.hash.ct_eq(&hash)) {
                let caller = Caller { name: Some(name.clone()), scope: known.scope, until: None, hash: Some(hash) };
                found = Some((caller, known.clone()));
            }
        }
        found.ok_or_else(|| self.failed(sender, Problem::new(StatusCode::UNAUTHORIZED, "the token is not known")))
    }

    /// Whose session that is.
    async fn of_session(&self, site: &Site, headers: &HeaderMap) -> Result<Option<Caller>, Problem> {
        let Some((name, until, mac)) = session::said(headers) else { return Ok(None) };
        let Some((name, token)) = self.rules().tokens.get_key_value(name).map(|(n, t)| (n.clone(), t.clone())) else {
            return Ok(None);
        };
        let holds = session::holds(site.session_key().await?, &token, &name, until, &mac);
        let caller = Caller { name: Some(name), scope: token.scope, until: Some(until), hash: Some(token.hash) };
        Ok(holds.then_some(caller))
    }

    /// May they still look? A token may have gone, a session may have ended.
    pub(super) fn still(&self, caller: &Caller) -> bool {
        let Some(name) = &caller.name else { return true };
        let rules = self.rules();
        rules.tokens.get(name).is_some_and(|t| Some(t.hash) == caller.hash && t.scope == caller.scope)
            && caller.until.is_none_or(|until| until > session::now())
    }

    /// Who needs no token: who sits at this machine, to look.
    fn here(&self, headers: &HeaderMap, host: &str) -> Option<Caller> {
        let forwarded = ["forwarded", "x-forwarded-for"].iter().any(|h| headers.contains_key(*h));
        let here = !self.anywhere && is_local(host_of(host)) && !forwarded;
        here.then_some(Caller { name: None, scope: Scope::Read, until: None, hash: None })
    }

    /// Somebody has guessed: what he is told.
    pub(super) fn failed(&self, sender: IpAddr, told: Problem) -> Problem {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= REMEMBERED {
            failures.retain(|_, (_, since)| since.elapsed() < WINDOW);
        }
        if failures.len() >= REMEMBERED {
            failures.clear();
        }
        let entry = failures.entry(sender).or_insert((0, Instant::now()));
        if entry.1.elapsed() >= WINDOW {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
        if entry.0 <= TRIES {
            return told;
        }
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens or signatures from this address")
            .hint("wait a minute")
    }
}

/// Whose failures count together: an address; behind a proxy on this machine, the one that the proxy names.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let named = headers.get_all("x-forwarded-for").iter().next_back().and_then(|h| h.to_str().ok());
    let named = named.and_then(|list| list.rsplit(',').next()?.trim().parse().ok());
    named.filter(|_| peer.is_loopback()).unwrap_or(peer)
}

/// Lets a request through to what it asks for, with who asks; or says why not.
pub(super) async fn guard(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    match admitted(&site, peer.ip(), &head).await {
        Ok(caller) => {
            if let Some(caller) = caller {
                head.extensions.insert(caller);
            }
            next.run(Request::from_parts(head, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admitted(site: &Site, peer: IpAddr, request: &Parts) -> Result<Option<Caller>, Problem> {
    let (access, headers) = (&site.access, &request.headers);
    let host = host(headers);
    let origin = checked(access, request)?;
    // What calls here signs what it sends; a token of ours it does not have.
    if request.uri.path().starts_with("/hooks/") {
        return Ok(None);
    }
    if let Some(token) = bearer(headers) {
        return access.known(token, client(peer, headers)).map(|(caller, _)| Some(caller));
    }
    match access.of_session(site, headers).await? {
        // Browsers say where a change comes from; what does not is none, and has no business with a session.
        Some(_) if changes(request) && origin.is_none() => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "with a session, a change needs the header Origin or Sec-Fetch-Site",
        )
        .hint("programs send the token itself: Authorization: Bearer …")),
        Some(caller) => Ok(Some(caller)),
        // Before its body is read: nothing is changed without a token.
        None if changes(request) => Ok(None),
        None => Ok(access.here(headers, host)),
    }
}

/// The walls that stand before everything: by which name the server was called, and whose page it was. Gives what
/// [`own_origin`] does.
fn checked(access: &Access, request: &Parts) -> Result<Option<bool>, Problem> {
    let headers = &request.headers;
    access.check_host(host(headers))?;
    let own = own_origin(headers, host(headers));
    if own == Some(false) && (changes(request) || headers.contains_key(header::UPGRADE)) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin may not do this"));
    }
    Ok(own)
}

fn changes(request: &Parts) -> bool {
    !matches!(request.method, Method::GET | Method::HEAD)
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default()
}

/// Does it come from a page of this server, as the browser says? `None`: no browser says anything.
fn own_origin(headers: &HeaderMap, host: &str) -> Option<bool> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or("?").to_owned();
    if let Some(origin) = headers.get(header::ORIGIN).map(text) {
        return Some(origin.split_once("://").is_some_and(|(_, place)| place.eq_ignore_ascii_case(host)));
    }
    let site = headers.get("sec-fetch-site").map(text);
    site.map(|site| matches!(site.as_str(), "same-origin" | "none"))
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
#[path = "access_tests.rs"]
mod tests;

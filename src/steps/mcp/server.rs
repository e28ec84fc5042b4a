//! One server: its connection, made with the first call and again after a loss; the era that it speaks; its tools.
//!
//! Which era it is, is asked first. A program is sent `server/discover`: an answer is the modern era, any other error or thirty seconds
//! of silence mean `initialize`. A URL is sent the same: where that is refused with an error that only a modern server
//! gives, the versions in it decide; any other refusal means `initialize`. What was found is kept with the connection.
//!
//! A program that ended is started again by the next call: at once after the first end, then after pauses that double, until a call has been
//! answered. Calls in between fail, transient, and are told when to come back: no slot is held for a server that cannot run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::model::{Failure, code};
use crate::steps::breaker::Breaker;
use crate::steps::calls::Calling;
use crate::steps::step::StepOutput;

use super::message::{Answer, Era, LEGACY, MODERN, MODERN_ERRORS, Request, RpcError, UNSUPPORTED_VERSION, client};
use super::pipe::Pipe;
use super::remote::{Remote, Trouble};
use super::{Limits, ServerOptions, Servers, result};

/// A program that has not answered `server/discover` by then is of the older kind. Those that say nothing at all to it are rare and pay
/// this once; a modern one that starts for the first time, on a busy machine, may need more than ten seconds to load its libraries, and would
/// be taken for an older one for as long as it runs.
const SILENCE: Duration = Duration::from_secs(30);
/// A server must be ready in this time; the first start of one that is fetched by a package runner takes a while.
const READY: Duration = Duration::from_secs(60);
/// The longest pause before a program is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a list of tools is believed.
const FRESH: Duration = Duration::from_secs(300);
/// Pages of a list of tools: a server that never ends its list must not hold us.
const PAGES: usize = 100;

/// A tool, as its server describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for people and models.
    pub description: String,
    /// What its arguments must match.
    pub schema: Value,
}

/// A call of a tool.
pub(super) struct ToolCall<'a> {
    pub tool: &'a str,
    pub arguments: Map<String, Value>,
    pub meta: Map<String, Value>,
}

impl ToolCall<'_> {
    pub(super) fn params(&self) -> Map<String, Value> {
        let arguments = self.arguments.clone().into();
        Map::from_iter([("name".to_owned(), self.tool.into()), ("arguments".to_owned(), arguments)])
    }
}

/// A server of the configuration.
pub(super) struct Server {
    name: Arc<str>,
    options: ServerOptions,
    /// Closed while it answers.
    pub(super) breaker: Breaker,
    ids: AtomicU64,
    /// Held while a connection is made: the calls of this server wait for it, those of others do not.
    state: tokio::sync::Mutex<State>,
    tools: Mutex<Option<(Instant, Arc<Vec<Tool>>)>>,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    /// Ends since a call was last answered.
    ends: u32,
    not_before: Option<Instant>,
}

/// A connection, and the era that it speaks.
struct Live {
    link: Link,
    era: Era,
}

enum Link {
    Pipe(Pipe),
    Remote(Remote),
}

impl Link {
    async fn exchange(
        &self,
        era: &Era,
        request: &Request,
        meta: Map<String, Value>,
        limits: Limits,
    ) -> Result<Answer, Trouble> {
        match self {
            Self::Pipe(pipe) => pipe.exchange(era, request, meta, limits).await.map_err(Trouble::Failed),
            Self::Remote(remote) => remote.exchange(era, request, meta, limits).await,
        }
    }

    fn ended(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.ended(),
            Self::Remote(_) => false,
        }
    }
}

impl Server {
    pub(super) fn new(name: &str, options: ServerOptions) -> Self {
        let (ids, state, tools) = (AtomicU64::new(1), tokio::sync::Mutex::default(), Mutex::default());
        let breaker = Breaker::new(format!("the MCP server `{name}`"), options.rest);
        Self { name: name.into(), options, breaker, ids, state, tools }
    }

    pub(super) fn options(&self) -> &ServerOptions {
        &self.options
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A call of one of its tools, for its trace: by the conventions of MCP and of tools at once.
    pub(super) fn describe(&self, call: &mut Calling, tool: &str, arguments: &Map<String, Value>) {
        call.named(|| format!("tools/call {tool}"));
        call.set("mcp.method.name", "tools/call");
        call.set("gen_ai.operation.name", "execute_tool");
        call.set("gen_ai.tool.name", tool);
        call.set("gen_ai.tool.type", "extension");
        call.set("stepd.mcp.server", &*self.name);
        match &self.options.url {
            Some(url) => {
                call.set("network.transport", "tcp");
                call.set("server.address", url.host_str().unwrap_or_default());
                if let Some(port) = url.port_or_known_default() {
                    call.set("server.port", port);
                }
            }
            None => call.set("network.transport", "pipe"),
        }
        call.input(|| Value::Object(arguments.clone()).to_string());
    }

    /// The revision of the protocol that it speaks, as far as is known.
    pub(super) async fn version(&self) -> Option<String> {
        self.state.lock().await.live.as_ref().and_then(|live| live.era.version().map(str::to_owned))
    }

    /// What a tool has answered.
    pub(super) async fn output(&self, all: &Servers, tool: &str, said: Value) -> Result<StepOutput, Failure> {
        match result::output(&self.name, tool, said) {
            Err(failure) if failure.code == code::TOOL_ERROR => Err(self.named(all, tool, failure).await),
            done => done,
        }
    }

    /// The failure of an error that answers a call.
    pub(super) async fn refused(&self, all: &Servers, tool: &str, error: &RpcError) -> Failure {
        self.named(all, tool, result::refused(&self.name, tool, error, self.options.afu9)).await
    }

    /// Servers say in many ways that there is no such tool; their lists say it in one.
    async fn named(&self, all: &Servers, tool: &str, failure: Failure) -> Failure {
        match self.tools(all).await {
            Ok(tools) if !tools.is_empty() && !tools.iter().any(|t| t.name == tool) => {
                result::unknown(&self.name, tool, &tools)
            }
            _ => failure,
        }
    }

    /// Its tools, from its list or from what is remembered of it.
    pub(super) async fn tools(&self, all: &Servers) -> Result<Arc<Vec<Tool>>, Failure> {
        if let Some(known) = self.known_tools().await {
            return Ok(known);
        }
        let mut tools = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES {
            let params = cursor.take().map(|cursor| ("cursor".to_owned(), cursor)).into_iter().collect();
            let page = match self.ask(all, "tools/list", params, None, Map::new()).await? {
                Answer::Result(page) => page,
                Answer::Error(error) => return Err(result::refused(&self.name, "tools/list", &error, false)),
            };
            tools.extend(page.get("tools").and_then(Value::as_array).into_iter().flatten().filter_map(tool));
            cursor = page.get("nextCursor").filter(|c| !c.is_null()).cloned();
            if cursor.is_none() {
                break;
            }
        }
        let tools = Arc::new(tools);
        *self.tools.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), tools.clone()));
        Ok(tools)
    }

    async fn known_tools(&self) -> Option<Arc<Vec<Tool>>> {
        let live = self.state.lock().await.live.clone();
        let changed = live.as_deref().is_some_and(|live| match &live.link {
            Link::Pipe(pipe) => pipe.tools_changed() || pipe.ended(),
            Link::Remote(_) => false,
        });
        let known = self.tools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|(at, _)| !changed && at.elapsed() < FRESH).map(|(_, tools)| tools)
    }

    /// Ends its program.
    pub(super) async fn close(&self) {
        let live = self.state.lock().await.live.take();
        if let Some(Link::Pipe(pipe)) = live.as_deref().map(|live| &live.link) {
            pipe.end().await;
        }
    }

    /// One request. A lost session, or a server that speaks another version than before, is met anew, once.
    pub(super) async fn ask(
        &self,
        all: &Servers,
        method: &'static str,
        params: Map<String, Value>,
        name: Option<&str>,
        meta: Map<String, Value>,
    ) -> Result<Answer, Failure> {
        let limits = Limits { idle: self.options.idle, longest: self.options.longest };
        for first in [true, false] {
            let live = self.live(all).await?;
            let request = self.request(method, params.clone(), name);
            match live.link.exchange(&live.era, &request, meta.clone(), limits).await {
                Ok(Answer::Error(error)) if first && error.code == UNSUPPORTED_VERSION => {}
                Err(Trouble::Refused(status, error, _))
                    if first && stale(&live.era, status.as_u16(), error.as_ref()) => {}
                Ok(answer) => {
                    self.state.lock().await.ends = 0;
                    return Ok(answer);
                }
                // Modern servers say with a status, too, what is wrong with a request.
                Err(Trouble::Refused(status, Some(error), _)) if matches!(status.as_u16(), 400 | 404 | 405 | 422) => {
                    return Ok(Answer::Error(error));
                }
                Err(trouble) => return Err(trouble.into()),
            }
            let mut state = self.state.lock().await;
            state.live.take_if(|known| Arc::ptr_eq(known, &live));
        }
        Err(Failure::transient(code::CONNECTION, format!("the MCP server `{}` does not keep to a version", self.name)))
    }

    fn request(&self, method: &'static str, params: Map<String, Value>, name: Option<&str>) -> Request {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        Request { id, method, params, name: name.map(str::to_owned) }
    }

    /// The connection; made where there is none.
    async fn live(&self, all: &Servers) -> Result<Arc<Live>, Failure> {
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| !live.link.ended()) {
            return Ok(live.clone());
        }
        let now = Instant::now();
        if state.live.take().is_some() {
            state.ended(now);
        }
        if let Some(pause) = state.not_before.and_then(|at| at.checked_duration_since(now)).filter(|p| !p.is_zero()) {
            let ends = state.ends;
            let message =
                format!("the MCP server `{}` has ended {ends} times; it is started again in {pause:.1?}", self.name);
            let mut failure = Failure::transient(code::CONNECTION, message);
            failure.retry_after_ms = u64::try_from(pause.as_millis()).ok();
            return Err(failure);
        }
        let met = tokio::time::timeout(READY, self.meet(all)).await;
        match met.unwrap_or_else(|_| Err(super::timed_out(&self.name, READY, "to get ready"))) {
            Ok(live) => {
                let live = Arc::new(live);
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(failure) => {
                if self.options.url.is_none() {
                    state.ended(Instant::now());
                }
                Err(failure)
            }
        }
    }

    /// Connects, and finds out what the server speaks.
    async fn meet(&self, all: &Servers) -> Result<Live, Failure> {
        if let Some(url) = &self.options.url {
            let remote = Remote::new(&self.name, &self.options, url, &all.web)?;
            return self.era_of(Link::Remote(remote)).await;
        }
        let live = self.era_of(Link::Pipe(self.start(all).await?)).await?;
        if !live.link.ended() {
            return Ok(live);
        }
        // Some older servers end when anything comes before `initialize`.
        self.initialize(Link::Pipe(self.start(all).await?)).await
    }

    async fn start(&self, all: &Servers) -> Result<Pipe, Failure> {
        let launcher = all.launcher.get().ok_or_else(|| {
            Failure::permanent(code::INTERNAL, "MCP servers cannot be started here: this is a bug in stepd")
        })?;
        Pipe::start(&self.name, &self.options, launcher).await
    }

    async fn era_of(&self, link: Link) -> Result<Live, Failure> {
        if self.options.afu9 {
            return Ok(Live { link, era: Era::Afu9 });
        }
        // The time to get ready is not that of a call.
        let limits = Limits { idle: self.options.idle.max(READY), longest: self.options.longest };
        let silence = if matches!(link, Link::Pipe(_)) { SILENCE } else { READY };
        let request = self.request("server/discover", Map::new(), None);
        let asked = link.exchange(&Era::Modern, &request, Map::new(), limits);
        let modern = match tokio::time::timeout(silence, asked).await {
            Ok(Ok(Answer::Result(said))) => speaks_modern(&said["supportedVersions"]).unwrap_or(true),
            Ok(Ok(Answer::Error(error)) | Err(Trouble::Refused(_, Some(error), _))) => says_modern(&error),
            Ok(Err(Trouble::Refused(status, None, failure))) => match status.as_u16() {
                400 | 404..=406 | 415 | 422 => false,
                _ => return Err(failure),
            },
            Ok(Err(Trouble::Failed(_))) if link.ended() => return Ok(Live { link, era: Era::Modern }),
            Ok(Err(trouble)) => return Err(trouble.into()),
            Err(_) => false,
        };
        if modern { Ok(Live { link, era: Era::Modern }) } else { self.initialize(link).await }
    }

    async fn initialize(&self, link: Link) -> Result<Live, Failure> {
        if let Link::Remote(remote) = &link {
            remote.forget_session();
        }
        let mut era = Era::Legacy { version: LEGACY[0].to_owned() };
        let params = json!({"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": client()});
        let request = self.request("initialize", params.as_object().cloned().unwrap_or_default(), None);
        let limits = Limits { idle: self.options.idle.max(READY), longest: self.options.longest };
        let said = match link.exchange(&era, &request, Map::new(), limits).await? {
            Answer::Result(said) => said,
            Answer::Error(error) => {
                let message = format!("the MCP server `{}` refuses to begin: {}", self.name, error.message);
                return Err(Failure::permanent(code::MCP, message).with_details(result::details(&error)));
            }
        };
        let version = said.get("protocolVersion").and_then(Value::as_str).unwrap_or(LEGACY[0]);
        if !LEGACY.contains(&version) {
            let known = LEGACY.join(", ");
            let message = format!("the MCP server `{}` speaks `{version}`; stepd speaks {MODERN}, {known}", self.name);
            return Err(Failure::permanent(code::MCP, message));
        }
        era = Era::Legacy { version: version.to_owned() };
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        match &link {
            Link::Pipe(pipe) => pipe.notify(&ready).await?,
            Link::Remote(remote) => remote.notify(&era, &ready, limits.idle).await?,
        }
        Ok(Live { link, era })
    }
}

impl State {
    /// A program has ended, or could not get ready.
    fn ended(&mut self, now: Instant) {
        let pause = match self.ends {
            0 => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 1).min(5)).min(LONGEST_PAUSE),
        };
        self.ends = self.ends.saturating_add(1);
        self.not_before = Some(now + pause);
    }
}

/// Does a refusal mean that what is known of the server no longer holds?
fn stale(era: &Era, status: u16, error: Option<&RpcError>) -> bool {
    match era {
        // The session is gone.
        Era::Legacy { .. } => status == 404,
        Era::Modern => error.is_some_and(|e| e.code == UNSUPPORTED_VERSION),
        Era::Afu9 => false,
    }
}

/// Is our modern version among these?
fn speaks_modern(versions: &Value) -> Option<bool> {
    versions.as_array().map(|all| all.iter().any(|v| v.as_str() == Some(MODERN)))
}

/// Does this error say that the server is a modern one?
fn says_modern(error: &RpcError) -> bool {
    match error.code {
        UNSUPPORTED_VERSION => speaks_modern(&error.data["supported"]).unwrap_or(false),
        code => MODERN_ERRORS.contains(&code),
    }
}

fn tool(said: &Value) -> Option<Tool> {
    let text = |key: &str| said.get(key).and_then(Value::as_str);
    Some(Tool {
        name: text("name")?.to_owned(),
        description: text("description").or_else(|| text("title")).unwrap_or_default().to_owned(),
        schema: said.get("inputSchema").filter(|s| s.is_object()).cloned().unwrap_or_else(|| json!({"type": "object"})),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_again_and_again_is_started_after_longer_and_longer_pauses() {
        let mut state = State::default();
        let now = Instant::now();
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                state.ended(now);
                state.not_before.unwrap().duration_since(now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn the_era_is_read_from_what_is_refused() {
        let error = |code, data| RpcError { code, message: String::new(), data };
        assert!(says_modern(&error(-32022, json!({"supported": [MODERN]}))));
        assert!(!says_modern(&error(-32022, json!({"supported": ["2099-01-01"]}))));
        assert!(says_modern(&error(-32021, Value::Null)));
        assert!(!says_modern(&error(-32601, Value::Null)) && !says_modern(&error(-32602, Value::Null)));
    }
}

//! `mcp`: a call of a tool, on a server that the configuration names.
//!
//! | parameter | meaning |
//! |---|---|
//! | `server`, `tool` | what is called |
//! | `args` | its arguments, an object |
//! | `tools` | in place of these three: a list of `[server, tool]`; the output is what the servers say of each (for an agent) |
//!
//! The raw result is `{structured, content}`. The output is the structured content where there is one (a lone `{"result": x}` is
//! `x`), else the first text: parsed where it is JSON. `isError` is the failure `tool_error`, which is repeated only where
//! `retry.only` names it; what the connection does wrong is transient.
//!
//! Every call carries `_meta["dev.stepd/idempotencyKey"]`, the same on every attempt, and the trace context. Of an attempt that
//! ends early the server is told.
//!
//! # Why no SDK
//! A client that only calls tools is these few hundred lines, most of which an SDK would not spare us: programs are started
//! from the thread that the kernel's parent-death signal is bound to, carry the marker by which the guard finds them, and die with
//! their whole tree ([`super::process`]); the eras are told apart before the first call ([`server`]); AFU-9's dialect is no MCP at
//! all; the limits of a call are ours. The official SDK would bring its own processes, its own timers and two dozen crates to a
//! cold build, and changes with every revision of the protocol.
//!
//! # Parts
//! [`message`] the words of each era · [`pipe`] a server that is a child process · [`remote`] one behind a URL · [`server`] what is known of one,
//! its connection and its tools · [`talk`] a call of more than one exchange · [`result`] what an answer means for the step.

mod message;
mod pipe;
mod remote;
mod result;
mod server;
mod talk;
#[cfg(test)]
mod talk_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire_tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::{Failure, code};

use super::breaker::Circuit;
use super::calls::Calling;
use super::http::Web;
use super::params::Params;
use super::process::Launcher;
use super::step::{BoxFuture, Flow, Step, StepCx, StepOutput, StopReason};

pub use server::Tool;
use server::{Server, ToolCall};
use talk::Talk;

/// A server of the configuration: a program, or a URL.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    /// The program and its arguments; empty where there is a URL.
    pub command: Vec<String>,
    /// Its environment, beside the usual variables.
    pub env: BTreeMap<String, String>,
    /// Where it is, if it is no program.
    pub url: Option<reqwest::Url>,
    /// Headers of every request.
    pub headers: BTreeMap<String, String>,
    /// It speaks AFU-9's dialect.
    pub afu9: bool,
    /// The longest that a call may be without an answer or any progress.
    pub idle: Duration,
    /// The longest that a call may take, whatever its progress.
    pub longest: Duration,
    /// How long a person's answer is waited for, where a tool asks for input; then it is declined.
    pub input: Duration,
    /// How long the server is left alone when it does not answer at all.
    pub rest: Duration,
    /// The largest message.
    pub max_message: usize,
}

/// Between two looks at a task whose server does not say how often.
const TASK_LOOK: Duration = Duration::from_secs(1);
/// How long a server is given to hear that a task is not wanted any more.
const FAREWELL: Duration = Duration::from_secs(3);

/// How long one request may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    idle: Duration,
    longest: Duration,
}

fn timed_out(server: &str, limit: Duration, how: &str) -> Failure {
    let message = format!("the MCP server `{server}` took longer than {limit:?} {how}");
    Failure::transient(code::TIMEOUT, message)
}

/// The servers, shared by the kind and by whoever replaces them at a reload.
#[derive(Default)]
pub struct Servers {
    all: Mutex<BTreeMap<String, Arc<Server>>>,
    launcher: OnceLock<Launcher>,
    web: Arc<Web>,
}

impl Servers {
    /// Makes these the servers. One whose options are as they were keeps its connection; the others end with their last call.
    pub fn replace(&self, options: BTreeMap<String, ServerOptions>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *all);
        for (name, options) in options {
            let kept = old.remove(&name).filter(|server| *server.options() == options);
            let server = kept.unwrap_or_else(|| Arc::new(Server::new(&name, options)));
            all.insert(name, server);
        }
    }

    /// What a server says of its tools.
    ///
    /// # Errors
    /// There is no such server, or it does not answer.
    pub async fn tools(&self, server: &str) -> Result<Arc<Vec<Tool>>, Failure> {
        self.server(server)?.tools(self).await
    }

    /// Asks every server for its tools: why one does not answer, where it does not within `limit`. A program that is not there is started.
    pub async fn ask_all(&self, limit: Duration) -> BTreeMap<String, Result<(), Failure>> {
        let all: Vec<_> = self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let ask = async |server: Arc<Server>| {
            let asked = server.ask(self, "tools/list", Map::new(), None, Map::new());
            let answer = match tokio::time::timeout(limit, asked).await {
                Ok(answer) => answer.map(drop),
                Err(_) => Err(timed_out(server.name(), limit, "to answer")),
            };
            (server.name().to_owned(), answer)
        };
        futures_util::future::join_all(all.into_iter().map(ask)).await.into_iter().collect()
    }

    /// How the breaker of each of them stands.
    #[must_use]
    pub fn breakers(&self) -> Vec<(String, Circuit)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, server)| (name.clone(), server.breaker.circuit())).collect()
    }

    /// Ends all programs, and waits for that.
    pub async fn close(&self) {
        let all = std::mem::take(&mut *self.all.lock().unwrap_or_else(PoisonError::into_inner));
        futures_util::future::join_all(all.values().map(|server| server.close())).await;
    }

    fn server(&self, name: &str) -> Result<Arc<Server>, Failure> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).cloned().ok_or_else(|| {
            let known = match all.is_empty() {
                true => "none".to_owned(),
                false => all.keys().cloned().collect::<Vec<_>>().join(", "),
            };
            let message = format!(
                "this worker's configuration has no MCP server `{name}` (it has {known}): add [mcp.{name}] with a command or a url"
            );
            Failure::permanent(code::DEFINITION, message)
        })
    }
}

/// The kind `mcp`.
#[derive(Clone)]
pub struct Mcp(Arc<Servers>);

impl Mcp {
    /// The kind, over these servers.
    pub(super) fn new(servers: Arc<Servers>, launcher: Launcher) -> Self {
        // Set already: the servers have been given to another registry of this process before, and keep its launcher.
        let _ = servers.launcher.set(launcher);
        Self(servers)
    }

    async fn call(&self, cx: &StepCx, params: Value) -> Result<Flow, Failure> {
        let mut params = Params::new("mcp", params)?;
        if let Some(Value::Array(wanted)) = params.take("tools") {
            return self.describe(&wanted).await.map(|tools| Flow::Done(StepOutput::plain(tools)));
        }
        let (server, tool) = (params.required("server")?, params.required("tool")?);
        let arguments = params.object("args")?;
        let server = self.0.server(&server)?;
        let mut call = cx.call(true);
        server.describe(&mut call, &tool, &arguments);
        // Boxed: a call may start a server on its way, and is large.
        let done = Box::pin(self.call_tool(cx, &call, &server, &tool, arguments)).await;
        if let Some(version) = server.version().await {
            call.set("mcp.protocol.version", version);
        }
        told(&mut call, &done);
        call.end(&done);
        done
    }

    async fn call_tool(
        &self,
        cx: &StepCx,
        call: &Calling,
        server: &Arc<Server>,
        tool: &str,
        arguments: Map<String, Value>,
    ) -> Result<Flow, Failure> {
        let mut meta = Map::new();
        meta.insert("dev.stepd/idempotencyKey".into(), (*cx.idempotency_key()).into());
        meta.extend(call.context(cx).map(|trace| ("traceparent".to_owned(), Value::from(&*trace))));
        let talk = Talk::new(server, &self.0, ToolCall { tool, arguments, meta }, cx);
        let attempt = async {
            tokio::select! {
                biased;
                done = talk.go() => done,
                why = cx.stop.stopped() => {
                    if let (Some(kept), StopReason::Timeout | StopReason::Cancelled) = (&cx.kept, why) {
                        let _ = tokio::time::timeout(FAREWELL, Talk::cancel(server, &self.0, kept)).await;
                    }
                    Err(match why {
                        // Silence, and a sign of it.
                        StopReason::Timeout if cx.kept.is_none() => Failure::transient(code::TIMEOUT, "no answer in time"),
                        _ => Failure::permanent(code::INTERRUPTED, "the attempt was stopped"),
                    })
                }
            }
        };
        Box::pin(server.breaker.guard(cx, attempt)).await
    }

    /// Name, description and schema of some tools.
    async fn describe(&self, wanted: &[Value]) -> Result<Value, Failure> {
        let mut found = Vec::new();
        for pair in wanted {
            let word = |n: usize| pair.get(n).and_then(Value::as_str).unwrap_or_default();
            let (server, name) = (word(0), word(1));
            let tools = self.0.tools(server).await?;
            let tool =
                tools.iter().find(|tool| tool.name == name).ok_or_else(|| result::unknown(server, name, &tools))?;
            found.push(serde_json::json!({
                "server": server, "tool": name, "description": tool.description, "schema": tool.schema,
            }));
        }
        Ok(Value::Array(found))
    }
}

/// What came of a call, for its trace.
fn told(call: &mut Calling, done: &Result<Flow, Failure>) {
    match done {
        Ok(Flow::Done(output)) => call.output(|| output.default.to_string()),
        Err(failure) => {
            // The conventions' own word for a tool's own error; a refusal is told by its number.
            let number =
                failure.details.as_ref().filter(|_| failure.code != code::TOOL_ERROR).map(|d| d["code"].clone());
            if let Some(number) = number.filter(Value::is_number) {
                call.set("rpc.response.status_code", number.to_string());
            }
        }
        Ok(_) => {}
    }
}

impl Step for Mcp {
    fn kind(&self) -> &'static str {
        "mcp"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(self.call(cx, params))
    }

    fn stop_grace(&self) -> Option<Duration> {
        Some(FAREWELL + Duration::from_secs(1))
    }
}

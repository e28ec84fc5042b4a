//! A server behind a URL (streamable HTTP): one POST a request, answered by JSON or by a stream of events that ends with the answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::{Map, Value};

use crate::model::{Failure, code};
use crate::steps::http::{self, Web};
use crate::telemetry::context;
use crate::telemetry::step_log::{LogLevel, Stream};

use super::message::{self, Answer, Era, Incoming, MODERN, Request, RpcError};
use super::{Limits, ServerOptions};

/// Bytes of a failure's body that are read.
const EXCERPT: usize = 64 << 10;

/// Such a server.
pub(super) struct Remote {
    name: Arc<str>,
    url: Url,
    headers: HeaderMap,
    web: Arc<Web>,
    /// Of a legacy server that keeps sessions.
    session: Mutex<Option<HeaderValue>>,
    max_message: usize,
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// The server refused the request as a whole; where it said so in JSON-RPC, its error.
    Refused(StatusCode, Option<RpcError>, Failure),
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(_, Some(error), failure) => {
                Self { message: format!("{}: {}", failure.message, error.message), ..failure }
            }
            Trouble::Refused(_, None, failure) | Trouble::Failed(failure) => failure,
        }
    }
}

/// A request of a server with sessions that ended without an answer: closing the connection does not end its work there.
struct Open<'a> {
    remote: &'a Remote,
    era: &'a Era,
    id: u64,
    answered: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.answered || !matches!(self.era, Era::Legacy { .. }) {
            return;
        }
        // Nobody waits for it, and it ends by its own limit.
        let Some(client) = self.remote.web.made() else { return };
        let request = self.remote.post(client, self.era, None, &message::cancelled(self.id));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(request.timeout(Duration::from_secs(5)).send());
        }
    }
}

impl Remote {
    pub(super) fn new(name: &Arc<str>, options: &ServerOptions, url: &Url, web: &Arc<Web>) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        for (key, value) in &options.headers {
            let wrong = |what: &str| {
                Failure::permanent(code::DEFINITION, format!("mcp.{name}.headers: {what} `{key}` cannot be sent"))
            };
            let key: HeaderName = key.parse().map_err(|_| wrong("the header"))?;
            headers.insert(key, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong("the value of"))?);
        }
        let (name, url, web) = (name.clone(), url.clone(), web.clone());
        Ok(Self { name, url, headers, web, session: Mutex::default(), max_message: options.max_message })
    }

    /// Forgets the session: the next `initialize` begins another.
    pub(super) fn forget_session(&self) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One request and its answer.
    pub(super) async fn exchange(
        &self,
        era: &Era,
        request: &Request,
        meta: Map<String, Value>,
        limits: Limits,
    ) -> Result<Answer, Trouble> {
        let mut open = Open { remote: self, era, id: request.id, answered: false };
        let done = tokio::time::timeout(limits.longest, self.answer(era, request, meta, limits.idle)).await;
        // Only one that may still be at work there has to be told.
        open.answered = matches!(&done, Ok(Ok(_) | Err(Trouble::Refused(..))));
        match done {
            Ok(done) => done,
            Err(_) => Err(super::timed_out(&self.name, limits.longest, "in all").into()),
        }
    }

    /// Says something that has no answer.
    pub(super) async fn notify(&self, era: &Era, message: &Value, idle: Duration) -> Result<(), Failure> {
        let client = self.web.client().await?;
        self.send(self.post(client, era, None, message).timeout(idle)).await.map(drop)
    }

    fn place(&self) -> String {
        format!("the MCP server `{}` at {}", self.name, http::place(&self.url))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let place = self.place();
        self.web.send(request.build().map_err(|error| http::failed(&place, error))?, &place).await
    }

    fn post(&self, client: &Client, era: &Era, request: Option<&Request>, body: &Value) -> RequestBuilder {
        let mut headers = self.headers.clone();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        match era {
            Era::Modern => {
                set("mcp-protocol-version", MODERN);
                if let Some(request) = request {
                    set("mcp-method", request.method);
                    if let Some(name) = &request.name {
                        set("mcp-name", name);
                    }
                }
            }
            Era::Legacy { version } if request.is_none_or(|r| r.method != "initialize") => {
                set("mcp-protocol-version", version);
                let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(session) = session {
                    headers.insert("mcp-session-id", session);
                }
            }
            Era::Legacy { .. } | Era::Afu9 => {}
        }
        if !matches!(era, Era::Afu9) {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        client.post(self.url.clone()).headers(headers).body(body.to_string())
    }

    async fn answer(
        &self,
        era: &Era,
        request: &Request,
        meta: Map<String, Value>,
        idle: Duration,
    ) -> Result<Answer, Trouble> {
        let client = self.web.client().await?;
        let sent = self.send(self.post(client, era, Some(request), &era.message(request, meta)));
        let silent = || super::timed_out(&self.name, idle, "without an answer or any progress");
        let mut response = tokio::time::timeout(idle, sent).await.map_err(|_| silent())??;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        if request.method == "initialize"
            && let Some(session) = response.headers().get("mcp-session-id")
        {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let events = kind.starts_with("text/event-stream");
        let mut events = events.then(Events::default);
        let mut whole = Vec::new();
        loop {
            let chunk = tokio::time::timeout(idle, response.chunk()).await.map_err(|_| silent())?;
            let chunk = chunk.map_err(|error| http::failed(&self.place(), error))?;
            match (&mut events, chunk) {
                (Some(events), Some(chunk)) => {
                    events.push(&chunk);
                    while let Some(data) = events.next() {
                        match incoming(&data) {
                            Incoming::Answer(id, answer) if id == request.id => return Ok(answer),
                            Incoming::Log(level, text) => log(level, &text),
                            _ => {}
                        }
                    }
                }
                (None, Some(chunk)) => whole.extend_from_slice(&chunk),
                (Some(_), None) => break,
                (None, None) => match incoming(&whole) {
                    Incoming::Answer(id, answer) if id == request.id => return Ok(answer),
                    _ => break,
                },
            }
            if whole.len() + events.as_ref().map_or(0, Events::held) > self.max_message {
                let limit = self.max_message;
                let message = format!(
                    "{} answered with more than {limit} bytes: ask for less, or raise max_output_bytes",
                    self.place()
                );
                return Err(Failure::permanent(code::TOO_LARGE, message).into());
            }
        }
        let message = format!("{} ended its answer before it was whole", self.place());
        Err(Failure::transient(code::CONNECTION, message).into())
    }

    async fn refused(&self, response: Response) -> Trouble {
        let (status, headers, place) = (response.status(), response.headers().clone(), self.place());
        let body = http::body(&place, response, EXCERPT).await.map(|(bytes, _)| bytes).unwrap_or_default();
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let error = said.as_ref().and_then(|v| v.get("error")).filter(|e| e.is_object()).map(message::rpc_error);
        Trouble::Refused(status, error, http::unsuccessful(&place, status, &headers, &body))
    }
}

/// The answer to a request, if that is what the text is.
fn incoming(text: &[u8]) -> Incoming {
    serde_json::from_slice(text).map_or(Incoming::Other, message::read)
}

/// What the server says on the way belongs to the attempt at hand.
fn log(level: LogLevel, text: &str) {
    if let Some(place) = context::here() {
        place.log.push(Stream::Server, level, text.trim_end());
    }
}

/// A stream of server-sent events: the data of each.
#[derive(Default)]
struct Events {
    text: Vec<u8>,
    read: usize,
    data: Vec<u8>,
}

impl Events {
    fn push(&mut self, chunk: &[u8]) {
        self.text.drain(..self.read);
        self.read = 0;
        self.text.extend_from_slice(chunk);
    }

    fn held(&self) -> usize {
        self.text.len() + self.data.len()
    }

    /// The data of the next event that is whole.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = &self.text[self.read..];
            let end = rest.iter().position(|b| *b == b'\n')?;
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            if line.is_empty() {
                self.read += end + 1;
                if !self.data.is_empty() {
                    return Some(std::mem::take(&mut self.data));
                }
                continue;
            }
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
            self.read += end + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_whatever_pieces_they_come_in() {
        let text = b": hello\r\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nid: 3\ndata:two\n\ndata: half";
        for size in [1, 3, 7, text.len()] {
            let mut events = Events::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                events.push(chunk);
                while let Some(data) = events.next() {
                    found.push(String::from_utf8(data).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":\n1}", "two"], "in pieces of {size}");
        }
    }
}

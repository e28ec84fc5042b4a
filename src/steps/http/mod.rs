//! `http`: one request as a step.
//!
//! | parameter | meaning |
//! |---|---|
//! | `method` | absent: `GET` |
//! | `url` | `http` or `https` |
//! | `query` | an object that is added to the URL; strings as they are, all else as JSON; null leaves out |
//! | `headers` | an object; values as in `query` |
//! | `json` | any value, sent as JSON |
//! | `body` | a string, sent as it is |
//! | `form` | an object, sent as a form; values as in `query`. There is one of `json`, `body` and `form` |
//!
//! `Idempotency-Key` and `traceparent` are added unless `headers` has them. Status 2xx is success. The
//! raw result is `{status, headers, body}`, header names in lower case; the output is the body: parsed
//! when it is JSON (and no number in it would lose digits), else text, null when empty.
//!
//! Redirects are not followed and proxies not used: a request goes to the host that is written in the
//! workflow, or nowhere. Where that may be stands in [`target`].

mod request;
mod response;
mod target;
#[cfg(test)]
mod tests;
mod web;

use std::error::Error as _;

use serde_json::Value;

use crate::model::{Failure, code};

use super::calls::Calling;
use super::step::{BoxFuture, Flow, Step, StepCx, StepOutput};

pub(super) use response::{body, retry_after, unsuccessful};
pub use target::{Allowed, InvalidTarget};
use target::{Forbidden, Targets};
pub(super) use web::Web;

/// How requests are made.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Private, loopback and link-local targets that are allowed all the same.
    pub allow: Vec<Allowed>,
    /// The most bytes of a response's body, unpacked.
    pub max_body: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { allow: Vec::new(), max_body: 16 << 20 }
    }
}

/// The kind `http`.
#[derive(Debug)]
pub struct Http {
    web: Web,
    targets: Targets,
    max_body: usize,
}

impl Http {
    /// The kind, with a connection pool of its own.
    #[must_use]
    pub fn new(options: HttpOptions) -> Self {
        let targets = Targets::new(options.allow);
        Self { web: Web::to(targets.clone()), targets, max_body: options.max_body }
    }

    async fn send(&self, cx: &StepCx, call: &mut Calling, params: Value) -> Result<StepOutput, Failure> {
        let client = self.web.client().await?;
        let request = request::build(client, cx, call.context(cx), params)?;
        describe(call, &request);
        // The resolver is not asked for addresses that stand in the URL.
        self.targets.check_url(request.url()).map_err(|forbidden| forbidden.failure())?;
        let place = format!("{} {}", request.method(), place(request.url()));
        let response = self.web.send(request, &place).await?;
        call.set("http.response.status_code", response.status().as_u16());
        let output = response::read(&place, response, self.max_body).await?;
        call.output(|| output.default.to_string());
        Ok(output)
    }
}

/// A request, for its trace. Without the query, where secrets stand.
pub(super) fn describe(call: &mut Calling, request: &reqwest::Request) {
    let url = request.url();
    call.named(|| request.method().to_string());
    call.set("http.request.method", request.method().as_str());
    call.set("url.full", place(url));
    call.set("server.address", url.host_str().unwrap_or_default());
    if let Some(port) = url.port_or_known_default() {
        call.set("server.port", port);
    }
    if let Some(body) = request.body().and_then(reqwest::Body::as_bytes) {
        call.input(|| String::from_utf8_lossy(body).into_owned());
    }
}

impl Step for Http {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let mut call = cx.call(true);
            let done = self.send(cx, &mut call, params).await;
            call.end(&done);
            done.map(Flow::Done)
        })
    }
}

/// A URL for people: without user, password, query and fragment, where secrets stand.
pub(super) fn place(url: &reqwest::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// A request that got no answer, or not all of it.
pub(super) fn failed(place: &str, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(forbidden) = inner.downcast_ref::<Forbidden>() {
            return forbidden.failure();
        }
        cause = inner.source();
    }
    let code = if error.is_timeout() { code::TIMEOUT } else { code::CONNECTION };
    Failure::transient(code, format!("{place} got no answer: {}", chain(&error)))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

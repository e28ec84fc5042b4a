//! One request to a target, and what its answer means.

use std::io::Write as _;
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};
use prost::Message as _;
use prost::bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};

use crate::telemetry::redact;
use crate::telemetry::traces::otlp::{Request, Resource, ResourceSpans, Response, Scope, ScopeSpans, attribute};

/// A target that has not answered by then does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// It may ask for a pause of this length at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Characters of an answer that are told.
const WORDS: usize = 300;

/// The most of an answer that is read: one that goes on for ever is not waited for.
const ANSWER_BYTES: usize = 64 << 10;

/// What became of a request.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The target has it, but for so many spans.
    Taken {
        /// How many it has refused.
        refused: usize,
        /// Why.
        why: String,
    },
    /// It will never take it.
    Refused(String),
    /// It is too large in one piece.
    TooLarge,
    /// Not now.
    Later {
        /// What was wrong.
        why: String,
        /// When the target wants to be asked again.
        after: Option<Duration>,
    },
}

/// The way to one target.
#[derive(Debug)]
pub struct Sender {
    client: Client,
    url: Url,
    headers: HeaderMap,
    resource: Resource,
}

impl Sender {
    /// A way with a connection of its own.
    ///
    /// # Errors
    /// No HTTP client can be made on this machine.
    pub fn new(url: Url, headers: HeaderMap, resource: &[(String, String)]) -> Result<Self, reqwest::Error> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .user_agent(concat!("stepd/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .pool_max_idle_per_host(1);
        // What is on this machine is not behind a proxy.
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let client = if local { builder.no_proxy() } else { builder }.build()?;
        let attributes = resource.iter().map(|(name, value)| attribute(name.as_str(), value.as_str())).collect();
        Ok(Self { client, url, headers, resource: Resource { attributes } })
    }

    /// The packed body of a request with these encoded spans. Takes some milliseconds for each megabyte.
    #[must_use]
    pub fn pack(&self, spans: &[Bytes]) -> Bytes {
        let scope = Scope { name: "stepd".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: spans.to_vec() }];
        let resource = Some(self.resource.clone());
        let request = Request { resource_spans: vec![ResourceSpans { resource, scope_spans }] };
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        // Into memory: cannot fail.
        let _ = packed.write_all(&request.encode_to_vec());
        packed.finish().unwrap_or_default().into()
    }

    /// Sends a packed body.
    pub async fn send(&self, body: Bytes) -> Verdict {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        let request =
            request.header(CONTENT_TYPE, "application/x-protobuf").header(CONTENT_ENCODING, "gzip").body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Verdict::Later { why: told(error), after: None },
        };
        let (status, headers) = (response.status(), response.headers().clone());
        match beginning(response).await {
            Ok(body) => judge(status, &headers, &body),
            Err(_) if !status.is_success() => judge(status, &headers, &[]),
            Err(error) => Verdict::Later { why: told(error), after: None },
        }
    }
}

/// The first [`ANSWER_BYTES`] of a body; what a target says about spans is short.
async fn beginning(mut response: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES {
        let Some(chunk) = response.chunk().await? else { break };
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES - body.len())]);
    }
    Ok(body)
}

fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    if error.is_timeout() { format!("no answer within {PATIENCE:?}") } else { text }
}

/// What an answer means. A key that is wrong may be put right, and what is to be sent is kept meanwhile.
fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    if status.is_success() {
        // LangSmith and others answer in words of their own: that is as good as an empty answer.
        let said = Response::decode(body).ok().and_then(|r| r.partial_success);
        let refused = said.as_ref().map_or(0, |p| usize::try_from(p.rejected_spans).unwrap_or(0));
        return Verdict::Taken { refused, why: said.map(|p| p.error_message).unwrap_or_default() };
    }
    let words: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(WORDS).collect();
    let why = redact::hide(format!("it answers {status}: {words}").trim_end_matches([':', ' '])).into_owned();
    match status.as_u16() {
        413 => Verdict::TooLarge,
        401 | 403 | 404 | 407 | 408 | 425 | 429 | 500.. => {
            let seconds = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
            Verdict::Later { why, after: seconds.map(|s| Duration::from_secs(s).min(LONGEST_PAUSE)) }
        }
        _ => Verdict::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;
    use crate::telemetry::traces::otlp::PartialSuccess;

    #[tokio::test]
    async fn an_answer_that_goes_on_for_ever_is_read_to_a_point_and_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let target = tokio::task::spawn_blocking(move || {
            let (mut line, _) = listener.accept().unwrap();
            let _ = line.read(&mut [0; 4_096]).unwrap();
            line.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let mut sent = 0;
            while line.write_all(&[b'x'; 1 << 16]).is_ok() {
                sent += 1 << 16;
            }
            sent
        });
        let sender = Sender::new(url.parse().unwrap(), HeaderMap::new(), &[]).unwrap();
        let verdict = sender.send(sender.pack(&[])).await;
        assert_eq!(verdict, Verdict::Taken { refused: 0, why: String::new() });
        // Beyond what was read, it could write what the sockets of both sides hold.
        let sent = target.await.unwrap();
        assert!(sent < 64 << 20, "{sent} bytes were taken");
    }

    #[test]
    fn an_answer_says_whether_to_send_again_now_or_never() {
        let of = |status: u16, body: &[u8]| judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body);
        assert_eq!(of(200, b""), Verdict::Taken { refused: 0, why: String::new() });
        assert_eq!(of(202, b"{\"message\":\"ok\"}"), Verdict::Taken { refused: 0, why: String::new() });
        let part =
            Response { partial_success: Some(PartialSuccess { rejected_spans: 2, error_message: "old".into() }) };
        assert_eq!(of(200, &part.encode_to_vec()), Verdict::Taken { refused: 2, why: "old".into() });
        for later in [401, 403, 404, 408, 429, 500, 502, 503, 504] {
            assert!(matches!(of(later, b"no"), Verdict::Later { after: None, .. }), "{later}");
        }
        for never in [301, 400, 415, 422] {
            assert!(matches!(of(never, b"no"), Verdict::Refused(why) if why.ends_with("no")), "{never}");
        }
        assert_eq!(of(413, b""), Verdict::TooLarge);
        let asked = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        let later = judge(StatusCode::TOO_MANY_REQUESTS, &asked, b"");
        assert!(matches!(later, Verdict::Later { after: Some(span), .. } if span == Duration::from_secs(7)));
    }
}

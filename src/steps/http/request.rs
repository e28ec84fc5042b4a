//! From a step's parameters to a request.

use std::sync::Arc;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Url};
use serde_json::{Map, Value};

use crate::model::Failure;
use crate::steps::params::{Params, text};
use crate::steps::step::StepCx;

/// Headers that frame the message or choose its receiver: an author who sets them could make one
/// request look like two, or reach another host than the one that was checked.
const OURS: [&str; 7] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "proxy-authorization"];

/// The request, or what is wrong with the parameters.
pub(super) fn build(client: &Client, cx: &StepCx, trace: Option<Arc<str>>, params: Value) -> Result<Request, Failure> {
    let mut params = Params::new("http", params)?;
    let method = params.string("method")?.unwrap_or_else(|| "GET".into()).to_ascii_uppercase();
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| params.wrong("method", "is no HTTP method"))?;
    let url = url(&mut params)?;
    let mut headers = headers(cx, trace, &mut params)?;
    let (json, body, form) = (params.take("json"), params.string("body")?, params.object("form")?);
    if !form.is_empty() {
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/x-www-form-urlencoded"));
    }
    let mut request = client.request(method, url).headers(headers);
    match (json, body, form.is_empty()) {
        (None, None, true) => {}
        (Some(json), None, true) => request = request.json(&json),
        (None, Some(body), true) => request = request.body(body),
        (None, None, false) => {
            let text = serde_urlencoded::to_string(named_texts(form).collect::<Vec<_>>());
            request = request.body(text.map_err(|error| params.wrong("form", &format!("makes no form: {error}")))?);
        }
        _ => return Err(params.wrong("body", "stands beside `json` or `form`: keep one of them")),
    }
    request.build().map_err(|error| params.wrong("url", &format!("makes no request: {}", error.without_url())))
}

/// Names and texts; null leaves out.
fn named_texts(fields: Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, text(value)))
}

fn url(params: &mut Params) -> Result<Url, Failure> {
    let given = params.required("url")?;
    // The URL standard drops line breaks and tabs silently; an author never means them.
    if given.chars().any(|c| c.is_control() || c == ' ') {
        return Err(params.wrong("url", "holds a space or a control character"));
    }
    let mut url = Url::parse(&given).map_err(|error| params.wrong("url", &format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(params.wrong("url", "must begin with http:// or https:// and name a host"));
    }
    let query = params.object("query")?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(named_texts(query));
    }
    Ok(url)
}

fn headers(cx: &StepCx, trace: Option<Arc<str>>, params: &mut Params) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in params.object("headers")? {
        if value.is_null() {
            continue;
        }
        let parsed: HeaderName =
            name.parse().map_err(|_| params.wrong("headers", &format!("has a name that is none: {name:?}")))?;
        if OURS.contains(&parsed.as_str()) {
            return Err(params.wrong("headers", &format!("sets `{parsed}`, which stepd sets itself")));
        }
        // The value is not shown: it may be a secret.
        let value = HeaderValue::from_bytes(text(value).as_bytes())
            .map_err(|_| params.wrong("headers", &format!("has a line break or control character in `{parsed}`")))?;
        headers.insert(parsed, value);
    }
    let key = cx.idempotency_key();
    let ours = [("idempotency-key", Some(&key)), ("traceparent", trace.as_ref())];
    for (name, value) in ours {
        // A step's key may hold what no header can (a map's label); it is percent-encoded then.
        let value = value.and_then(|value| HeaderValue::from_str(&ascii(value)).ok());
        if let (false, Some(value)) = (headers.contains_key(name), value) {
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

fn ascii(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_graphic() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

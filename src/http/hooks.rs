//! Webhooks in: what others tell becomes an event or a run, once it is proved by its signature who says it.
//!
//! The signature is an HMAC-SHA256 of the body as it came, byte for byte, or of a time and the body; the time must be near.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use sqlx::Connection as _;

use crate::db::{actions, deliveries};
use crate::expression::{Host, LazyJson, LazyRun, Scope, StepIds, Steps, Template, View};
use crate::model::Payload;

use super::access::client;
use super::problem::Problem;
use super::runs::{called_by, fits};
use super::things::{At, acting_as};
use super::{Site, session};

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new().route("/hooks/{name}", post(take))
}

/// What comes of a webhook.
#[derive(Clone, Debug)]
pub enum Does {
    /// An event of this name.
    Emit(String),
    /// A run of this workflow, of which there is at most one unfinished with the key.
    Enqueue(String, Option<Template>),
}

/// A webhook that is taken.
#[derive(Clone, Debug)]
pub struct Hook {
    /// What it is signed with.
    pub secret: String,
    /// Where the signature stands.
    pub header: HeaderName,
    /// `t=…,v1=…` over time and body; the seconds that the time may be away. `None`: over the body alone.
    pub tolerance: Option<u64>,
    /// What comes of it.
    pub does: Does,
    /// Only of those for which this is true.
    pub when: Option<Template>,
    /// What its sender calls the delivery, the same when it is sent again; `None`: what senders usually call it.
    pub delivery: Option<Template>,
    /// The input, or the event's payload.
    pub input: Template,
    /// `env` in expressions.
    pub host: Arc<Host>,
}

impl Hook {
    /// Is it signed, and now?
    fn is_signed(&self, headers: &HeaderMap, body: &[u8], now: u64) -> bool {
        let Some(said) = headers.get(&self.header).and_then(|h| h.to_str().ok()) else { return false };
        let Some(tolerance) = self.tolerance else {
            let said = said.strip_prefix("sha256=").unwrap_or(said);
            return bytes(said).is_some_and(|mac| self.verifies(&[body], &mac));
        };
        let parts = || said.split(',').filter_map(|part| part.trim().split_once('='));
        let Some((_, time)) = parts().find(|(name, _)| *name == "t") else { return false };
        let near = time.parse::<u64>().is_ok_and(|t| t.abs_diff(now) <= tolerance);
        // While a secret is replaced, there are two.
        let mut macs = parts().filter(|(name, _)| *name == "v1").take(4).filter_map(|(_, mac)| bytes(mac));
        near && macs.any(|mac| self.verifies(&[time.as_bytes(), b".", body], &mac))
    }

    fn verifies(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        // A key may have any length.
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()) else { return false };
        parts.iter().for_each(|part| hmac.update(part));
        hmac.verify_slice(mac).is_ok()
    }

    /// What its sender calls this delivery. Without a word in the configuration: GitHub's header, that of Standard Webhooks, or, where the
    /// time is signed, the `id` of the body, which is Stripe's.
    fn delivery(&self, view: &View) -> Result<Option<String>, Problem> {
        if let Some(template) = &self.delivery {
            return match value(template, view, "delivery")? {
                Value::Null => Err(unnamed("null")),
                Value::String(text) if text.is_empty() => Err(unnamed("empty")),
                named => Ok(Some(text(&named))),
            };
        }
        let raw = view.raw.as_deref().unwrap_or(&Value::Null);
        let header = |name: &str| raw["headers"][name].as_str();
        let id = self.tolerance.and_then(|_| raw["body"]["id"].as_str());
        let named = header("x-github-delivery").or_else(|| header("webhook-id")).or(id);
        Ok(named.filter(|name| !name.is_empty()).map(ToOwned::to_owned))
    }

    /// What its expressions see: `body`, `headers`, `query`.
    fn view(&self, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> View {
        let hidden = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, self.header.clone()];
        let text = |v: &axum::http::HeaderValue| Value::from(String::from_utf8_lossy(v.as_bytes()).into_owned());
        let headers: Map<String, Value> = headers
            .iter()
            .filter(|(n, _)| !hidden.contains(n))
            .map(|(n, v)| (n.as_str().to_owned(), text(v)))
            .collect();
        let query: Vec<(String, String)> =
            serde_urlencoded::from_str(uri.query().unwrap_or_default()).unwrap_or_default();
        let query: Map<String, Value> = query.into_iter().map(|(k, v)| (k, v.into())).collect();
        // What is no JSON is text.
        let body: Value =
            serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned().into());
        let scope = Scope {
            input: Arc::new(LazyJson::new(Payload::from_value(&Value::Null))),
            run: Arc::new(LazyRun::new(Box::new(|| Arc::new(Value::Null)))),
            host: self.host.clone(),
            steps: Arc::new(Steps::new(Arc::new(StepIds::new([])), None)),
            item: None,
            outer: None,
        };
        let raw = json!({"body": body, "headers": headers, "query": query});
        View { scope: Arc::new(scope), step: None, raw: Some(Arc::new(raw)) }
    }
}

/// Hexadecimal digits, or Base64: no text is both of an HMAC's length.
fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.len() == 64 { session::unhex(text) } else { base64(text) }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let six = LETTERS.iter().position(|l| *l == letter)?;
        bits = (bits << 6 | u32::try_from(six).ok()?) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Takes a webhook.
async fn take(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    At(name): At<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let Some(hook) = site.access.hook(&name) else {
        return Err(Problem::not_found(format!("there is no hook `{name}`"))
            .hint("[http_hooks] in the configuration names them"));
    };
    // Not before: nobody has a body read for a hook that is not there, nor without a signature.
    let read = async { site.unproven.read(request).await.map(Some) };
    let body = if headers.contains_key(&hook.header) { read.await? } else { None };
    let signed = body.filter(|(body, _)| hook.is_signed(&headers, body, session::now()));
    let Some((body, _)) = signed else {
        let what = if hook.tolerance.is_some() { "of the time and the body, and the time near" } else { "of the body" };
        let told = Problem::new(
            StatusCode::UNAUTHORIZED,
            format!("the signature is missing or wrong: {} is to be the HMAC-SHA256 {what}", hook.header),
        );
        return Err(site.access.failed(client(peer.ip(), &headers), told));
    };
    let view = hook.view(&uri, &headers, &body);
    if let Some(when) = &hook.when
        && !truth(&value(when, &view, "when")?)?
    {
        return Ok((StatusCode::OK, Json(json!({"ignored": true}))).into_response());
    }
    let delivery = hook.delivery(&view)?;
    let answer = taken(&site, &name, &hook, (&view, called_by(&headers)), delivery.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Does what comes of a delivery, or tells what came of it when it was sent before: both are one transaction.
async fn taken(
    site: &Arc<Site>,
    name: &str,
    hook: &Hook,
    (view, traceparent): (&View, Option<String>),
    delivery: Option<&str>,
) -> Result<Value, Problem> {
    let input = Payload::from_value(&value(&hook.input, view, "input")?);
    let mut conn = acting_as(site, &format!("hook {name}")).await?;
    let mut tx = conn.begin().await?;
    if let Some(delivery) = delivery
        && !deliveries::take(&mut tx, name, delivery).await?
    {
        let said = deliveries::answer(&mut tx, name, delivery).await?;
        return Ok(again(said.as_deref()));
    }
    let answer = match &hook.does {
        Does::Emit(event) => json!({"runs": actions::emit(&mut *tx, event, input.as_str()).await?}),
        Does::Enqueue(workflow, key) => {
            let key = key.as_ref().map(|key| value(key, view, "unique_key")).transpose()?;
            let job = actions::NewJob {
                workflow: workflow.clone(),
                input: input.as_str().to_owned(),
                unique_key: key.as_ref().map(text),
                traceparent,
                labels: json!({}),
                ..Default::default()
            };
            fits(&mut tx, workflow, &input).await?;
            let (id, created) = actions::enqueue_within(&mut tx, &job).await?;
            json!({"id": id, "created": created})
        }
    };
    if let Some(delivery) = delivery {
        deliveries::answered(&mut tx, name, delivery, &answer.to_string()).await?;
    }
    tx.commit().await?;
    Ok(answer)
}

/// The first answer, which has no further effect.
fn again(said: Option<&str>) -> Value {
    let said = said.and_then(|text| serde_json::from_str(text).ok());
    let mut answer: Map<String, Value> = said.unwrap_or_default();
    answer.entry("created").and_modify(|created| *created = false.into());
    answer.insert("again".to_owned(), true.into());
    answer.into()
}

/// A text as it is, all else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn unnamed(what: &str) -> Problem {
    let words = format!("the hook's delivery: it is {what}, and should name the delivery");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, words)
}

fn value(template: &Template, view: &View, part: &str) -> Result<Value, Problem> {
    let failed = |f: crate::model::Failure| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the hook's {part}: {}", f.message))
    };
    template.eval(view).map_err(failed)
}

fn truth(value: &Value) -> Result<bool, Problem> {
    let no = || {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the hook's when: it is {value}, and should be true or false"),
        )
    };
    value.as_bool().ok_or_else(no)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(tolerance: Option<u64>) -> Hook {
        Hook {
            secret: "It's a Secret to Everybody".into(),
            header: HeaderName::from_static("x-signature"),
            tolerance,
            does: Does::Emit("e".into()),
            when: None,
            delivery: None,
            input: Template::constant(Value::Null),
            host: Arc::default(),
        }
    }

    fn signed(hook: &Hook, value: &str, body: &[u8], now: u64) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("x-signature", value.parse().unwrap());
        hook.is_signed(&headers, body, now)
    }

    #[test]
    fn a_body_is_signed_as_github_says_it_in_its_own_example() {
        let hook = hook(None);
        let mac = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert!(
            signed(&hook, &format!("sha256={mac}"), b"Hello, World!", 0) && signed(&hook, mac, b"Hello, World!", 0)
        );
        assert!(signed(&hook, "dXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhc=", b"Hello, World!", 0), "in Base64");
        for wrong in [&mac[1..], &mac[..32], "", "sha256=", "sha256=zz", "ä", &mac.replace('7', "8")] {
            assert!(!signed(&hook, wrong, b"Hello, World!", 0), "{wrong}");
        }
        assert!(!signed(&hook, mac, b"Hello, World", 0));
        assert!(!hook.is_signed(&HeaderMap::new(), b"Hello, World!", 0));
    }

    #[test]
    fn a_signature_with_a_time_holds_for_that_time() {
        let hook = hook(Some(300));
        let mut mac = Hmac::<Sha256>::new_from_slice(hook.secret.as_bytes()).unwrap();
        mac.update(b"1000.{}");
        let mac = session::hex(&mac.finalize().into_bytes());
        let both = format!("t=1000,v1={},v1={mac},v0=x", "0".repeat(64));
        for (now, holds) in [(1000, true), (700, true), (1300, true), (1301, false), (699, false)] {
            assert_eq!(signed(&hook, &both, b"{}", now), holds, "{now}");
        }
        for wrong in [format!("t=1001,v1={mac}"), format!("v1={mac}"), format!("t=1000,v0={mac}"), mac.clone()] {
            assert!(!signed(&hook, &wrong, b"{}", 1000), "{wrong}");
        }
        assert!(!signed(&hook, &both, b"{ }", 1000));
    }
}

//! The session of a browser: a token, given once, becomes a cookie that scripts cannot read and other sites cannot send.
//!
//! The cookie is a statement (which token, until when) signed with the hash of that token and a key of the database. So it needs no
//! table, every server on the database knows it, and it ends with its time, with the token's removal from the configuration, and
//! with a new key. Neither what the configuration has nor what the database has is enough to make one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Site;
use super::access::{Caller, Token, client};
use super::problem::Problem;
use super::things::Given;

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    // From whoever asks: no more of a body is read than a token needs.
    OpenApiRouter::new().routes(routes!(who, begin, end)).layer(DefaultBodyLimit::max(4_096))
}

/// The cookie's name.
const COOKIE: &str = "stepd_session";

/// How long a session lasts.
const LASTS: Duration = Duration::from_secs(12 * 3600);

/// The time in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the end of a session is for browsers; no run depends on it")]
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn signature(key: &str, token: &Token, name: &str, until: u64) -> Option<Hmac<Sha256>> {
    let key = [key.as_bytes(), &token.hash].concat();
    // A key may have any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("stepd session\n{name}\n{until}").as_bytes());
    Some(mac)
}

/// The value of the cookie.
fn written(key: &str, token: &Token, name: &str, until: u64) -> Option<String> {
    let mac = signature(key, token, name, until)?.finalize().into_bytes();
    Some(format!("{name}.{until}.{}", hex(&mac)))
}

/// What a cookie says, before anything of it is believed: the token's name, the end, the signature.
pub(super) fn said(headers: &HeaderMap) -> Option<(&str, u64, Vec<u8>)> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|h| h.to_str().ok());
    let mut pairs = cookies.flat_map(|h| h.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE)?;
    let mut parts = value.splitn(3, '.');
    let (name, until, mac) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    Some((name, until, unhex(mac)?))
}

/// Is that the signature of it, and the end not reached?
pub(super) fn holds(key: &str, token: &Token, name: &str, until: u64, mac: &[u8]) -> bool {
    until > now() && signature(key, token, name, until).is_some_and(|m| m.verify_slice(mac).is_ok())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes of hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

/// Who asks.
#[derive(Serialize, ToSchema)]
struct Who {
    /// The token's name; null: nobody is known.
    name: Option<String>,
    /// `read`, `enqueue`, `operate`; null: nothing is open without a token.
    scope: Option<&'static str>,
    /// When the session ends, where it is one.
    expires_at: Option<DateTime<Utc>>,
}

impl Who {
    fn is(caller: Option<&Caller>) -> Self {
        let until = caller.and_then(|c| c.until).and_then(|s| i64::try_from(s).ok());
        Self {
            name: caller.and_then(|c| c.name.as_deref()).map(ToOwned::to_owned),
            scope: caller.map(|c| c.scope.word()),
            expires_at: until.and_then(|s| DateTime::from_timestamp(s, 0)),
        }
    }
}

/// Who this request comes from, and what they may do.
#[utoipa::path(get, path = "/session", tag = "sessions",
    responses((status = 200, body = Who), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn who(caller: Option<Extension<Caller>>) -> Json<Who> {
    Json(Who::is(caller.as_deref()))
}

/// A token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Begin {
    token: String,
}

/// Give a token, get a session: an HttpOnly, SameSite=Strict cookie for browsers.
#[utoipa::path(post, path = "/session", request_body = Begin, tag = "sessions",
    responses((status = 200, body = Who), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn begin(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Given(begin): Given<Begin>,
) -> Result<Response, Problem> {
    let (mut caller, token) = site.access.known(begin.token.trim(), client(peer.ip(), &headers))?;
    let until = now() + LASTS.as_secs();
    caller.until = Some(until);
    let name = caller.name.as_deref().unwrap_or_default();
    let value = written(site.session_key().await?, &token, name, until);
    let value = value.ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no session can be made"))?;
    Ok(with_cookie(&headers, &value, LASTS.as_secs(), Json(Who::is(Some(&caller)))))
}

/// End the session of this browser.
#[utoipa::path(delete, path = "/session", tag = "sessions",
    responses((status = 200, body = Who), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn end(headers: HeaderMap) -> Response {
    with_cookie(&headers, "", 0, Json(Who::is(None)))
}

fn with_cookie(headers: &HeaderMap, value: &str, seconds: u64, body: Json<Who>) -> Response {
    // The page itself came over TLS, or a proxy says so: then the cookie never goes over anything else.
    let says = |name, text: &str| headers.get(name).and_then(|h| h.to_str().ok()).is_some_and(|v| v.starts_with(text));
    let secure = says(header::ORIGIN.as_str(), "https://") || says("x-forwarded-proto", "https");
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let mut response = body.into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::super::access::Scope;
    use super::*;

    #[test]
    fn a_session_is_good_for_its_token_its_database_and_its_time_alone() {
        let token = |hash| Token { hash: [hash; 32], scope: Scope::Operate };
        let until = now() + 100;
        let mut headers = HeaderMap::new();
        let value = written("key", &token(1), "ops", until).unwrap();
        headers.insert(header::COOKIE, format!("a=b; {COOKIE}={value}").parse().unwrap());
        let (name, said_until, mac) = said(&headers).unwrap();
        assert_eq!((name, said_until), ("ops", until));
        assert!(holds("key", &token(1), name, until, &mac));
        assert!(!holds("key", &token(2), name, until, &mac), "another token of that name");
        assert!(!holds("other", &token(1), name, until, &mac), "another database");
        assert!(!holds("key", &token(1), "app", until, &mac) && !holds("key", &token(1), name, until + 1, &mac));
        let past = now() - 1;
        let mac = signature("key", &token(1), "ops", past).unwrap().finalize().into_bytes();
        assert!(!holds("key", &token(1), "ops", past, &mac));
    }

    #[test]
    fn what_is_no_session_is_none() {
        for value in ["", "x", "ops.1", "ops.x.00", "ops.1.0", "ops.1.äö", "..", "ops.1.zz"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_bytes(format!("{COOKIE}={value}").as_bytes()).unwrap());
            assert!(said(&headers).is_none_or(|(_, _, mac)| mac.len() < 32), "{value}");
        }
    }
}

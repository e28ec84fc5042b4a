//! From a response to the step's result.

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::model::{Failure, code};
use crate::steps::step::StepOutput;

use super::failed;

/// Bytes of a failure's body that are kept in its details.
const EXCERPT: usize = 64 << 10;
/// A server may ask for a pause of so many seconds at most: a mistaken date must not park a step for years.
const LONGEST_PAUSE: i64 = 24 * 3600;

/// Reads the body and says whether it is a success. `place` names the request in messages.
pub(super) async fn read(place: &str, mut response: Response, max_body: usize) -> Result<StepOutput, Failure> {
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    if !status.is_success() {
        let body = body(place, response, EXCERPT).await.map(|(bytes, _)| bytes).unwrap_or_default();
        return Err(unsuccessful(place, status, &headers, &body));
    }
    let (bytes, whole) = body(place, response, max_body).await?;
    if !whole {
        let message = format!("{place} answered with more than {max_body} bytes: ask for less, or raise the limit");
        return Err(Failure::permanent(code::TOO_LARGE, message));
    }
    let body = value(&headers, bytes);
    let raw = json!({"status": status.as_u16(), "headers": header_object(&headers), "body": &body});
    Ok(StepOutput { raw, default: body })
}

/// At most `limit` bytes of the body, and whether that is all of it.
pub(in crate::steps) async fn body(
    place: &str,
    mut response: Response,
    limit: usize,
) -> Result<(Vec<u8>, bool), Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(place, error))? {
        let room = limit - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

fn value(headers: &HeaderMap, bytes: Vec<u8>) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    let text = String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // What calls itself HTML or a picture is not guessed at; `text/plain` and nothing often are JSON.
    let guess = named.is_empty() || named.contains("json") || named.starts_with("text/plain");
    guess.then(|| serde_json::from_str(&text).ok()).flatten().unwrap_or(Value::String(text))
}

fn header_object(headers: &HeaderMap) -> Value {
    let mut object = Map::new();
    for name in headers.keys() {
        let all: Vec<_> = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        object.insert(name.as_str().to_owned(), Value::String(all.join(", ")));
    }
    Value::Object(object)
}

/// The failure of a status that is no success.
pub(in crate::steps) fn unsuccessful(place: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let code = format!("http_{}", status.as_u16());
    let mut message = format!("{place} answered {status}");
    if status.is_redirection() {
        message.push_str(": redirects are not followed, name the final address");
    }
    let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    let failure = if passes { Failure::transient(code, message) } else { Failure::permanent(code, message) };
    let details = json!({
        "status": status.as_u16(),
        "headers": header_object(headers),
        "body": String::from_utf8_lossy(body),
    });
    let mut failure = failure.with_details(details);
    failure.retry_after_ms = retry_after(headers);
    failure
}

/// `Retry-After` in milliseconds: seconds, or a date, which is read against the server's own clock
/// (`Date`) where it gives one.
pub(in crate::steps) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value: &reqwest::header::HeaderValue| value.to_str().ok());
    let date = |text: &str| DateTime::parse_from_rfc2822(text.trim()).ok().map(|date| date.to_utc());
    let asked = text(RETRY_AFTER)?.trim();
    let seconds = match asked.parse::<u64>() {
        Ok(seconds) => i64::try_from(seconds).unwrap_or(LONGEST_PAUSE),
        Err(_) => {
            #[expect(clippy::disallowed_methods, reason = "a server that gives a date and no clock of its own")]
            let now = text(DATE).and_then(date).unwrap_or_else(Utc::now);
            (date(asked)? - now).num_seconds().max(0)
        }
    };
    u64::try_from(seconds.min(LONGEST_PAUSE) * 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(retry: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        assert_eq!(asked("120", None), Some(120_000));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:30 GMT", Some("Wed, 21 Oct 2015 07:28:00 GMT")), Some(30_000));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:30 GMT", None), Some(0));
        assert_eq!(asked("99999999999999999999", None), None);
        assert_eq!(asked("9999999999", None), Some(86_400_000));
        assert_eq!(asked("soon", None), None);
    }
}

//! What handlers share: how a request is read, and the connection on which something is done in a caller's name.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use crate::db::actions;

use super::Site;
use super::access::Caller;
use super::problem::Problem;

/// The parts of a query string that a handler knows. An unknown one is an error: a filter with a typo would leave everything.
pub(super) trait Known: DeserializeOwned {
    const KEYS: &'static [&'static str];
}

/// What the query string asks for.
pub(super) struct Asked<T>(pub T);

impl<S: Send + Sync, T: Known> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        known(parts.uri.query(), &[T::KEYS])?;
        parsed(parts.uri.query()).map(Self)
    }
}

/// Two kinds of them in one query string.
pub(super) struct AskedBoth<A, B>(pub A, pub B);

impl<S: Send + Sync, A: Known, B: Known> FromRequestParts<S> for AskedBoth<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query();
        known(query, &[A::KEYS, B::KEYS])?;
        Ok(Self(parsed(query)?, parsed(query)?))
    }
}

fn parsed<T: DeserializeOwned>(query: Option<&str>) -> Result<T, Problem> {
    serde_urlencoded::from_str(query.unwrap_or_default()).map_err(|e| Problem::bad(format!("the query string: {e}")))
}

fn known(query: Option<&str>, keys: &[&[&str]]) -> Result<(), Problem> {
    let given: Vec<(String, String)> = parsed(query)?;
    match given.iter().find(|(key, _)| !keys.iter().any(|k| k.contains(&key.as_str()))) {
        Some((unknown, _)) => {
            let all = keys.concat().join(", ");
            Err(Problem::bad(format!("there is no parameter `{unknown}`")).hint(format!("there are: {all}")))
        }
        None => Ok(()),
    }
}

/// What the path names.
pub(super) struct At<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(named) = Path::<T>::from_request_parts(parts, state).await.map_err(|e| {
            let text = e.body_text();
            Problem::bad(format!("the path: {}", text.trim_start_matches("Invalid URL: ")))
        })?;
        Ok(Self(named))
    }
}

/// A JSON body.
pub(super) struct Given<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match in_time(bound(&request), Json::<T>::from_request(request, state)).await? {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(refused(&rejection)),
        }
    }
}

/// A body of any kind.
pub(super) struct InTime<T>(pub T);

impl<S: Send + Sync> FromRequest<S> for InTime<Bytes> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = in_time(bound(&request), Bytes::from_request(request, state)).await?;
        read.map(Self)
            .map_err(|rejection| Problem::new(rejection.status(), format!("the body: {}", rejection.body_text())))
    }
}

/// A body comes within this time.
#[derive(Clone, Copy)]
pub(super) struct InTimeOf(pub Duration);

fn bound(request: &Request) -> Option<Duration> {
    request.extensions().get::<InTimeOf>().map(|bound| bound.0)
}

async fn in_time<T>(bound: Option<Duration>, body: impl Future<Output = T>) -> Result<T, Problem> {
    let Some(bound) = bound else { return Ok(body.await) };
    let late = |_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the body has not come within {} s", bound.as_secs()))
            .hint("http_timeout_seconds says how long it may take")
    };
    tokio::time::timeout(bound, body).await.map_err(late)
}

fn refused(rejection: &JsonRejection) -> Problem {
    let status = match rejection {
        JsonRejection::JsonDataError(_) => StatusCode::UNPROCESSABLE_ENTITY,
        JsonRejection::MissingJsonContentType(_) => {
            return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON")
                .hint("send Content-Type: application/json");
        }
        other => other.status(),
    };
    let text = rejection.body_text();
    // axum's own words name its types.
    let words =
        ["Failed to deserialize the JSON body into the target type: ", "Failed to parse the request body as JSON: "];
    let detail = words.iter().fold(text.as_str(), |text, words| text.trim_start_matches(words));
    Problem::new(status, format!("the body: {detail}"))
}

/// A connection on which something is done, in the name of who asks: the audit trail has it.
pub(super) async fn acting(site: &Arc<Site>, caller: &Caller) -> Result<PoolConnection<Postgres>, Problem> {
    acting_as(site, caller.name.as_deref().unwrap_or_default()).await
}

/// … in a name.
pub(super) async fn acting_as(site: &Arc<Site>, name: &str) -> Result<PoolConnection<Postgres>, Problem> {
    let mut conn = site.actors.acquire().await?;
    actions::act_as(&mut *conn, name).await?;
    Ok(conn)
}

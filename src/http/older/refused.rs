//! What went wrong, as the older system said it: `{error, message?}`.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::DbError;

use super::super::access::Caller;
use super::super::problem::{Problem, advice};
use super::super::things::InTime;

/// An answer that is none, in the shape of the older system.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Refused {
    /// What is wrong.
    error: String,
    /// What more is known, or what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The execution that goes on, where this answer came before its end.
    #[serde(rename = "executionId", skip_serializing_if = "Option::is_none")]
    execution: Option<Uuid>,
    #[serde(skip)]
    status: StatusCode,
}

impl Refused {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), message: None, execution: None, status }
    }

    pub(super) fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// … of an execution that goes on.
    pub(super) fn of(mut self, execution: Uuid) -> Self {
        self.execution = Some(execution);
        self
    }

    pub(super) fn no_execution() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Execution not found")
    }

    pub(super) fn no_step() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Step not found").message("a step is there from the moment it starts")
    }

    pub(super) fn no_workflow() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Workflow not found")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, advice(self.status), Json(self)).into_response()
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if problem.code.as_deref() == Some("SD010") {
            return Self::no_execution().message(problem.detail);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Self::new(status, "Database not available").message(problem.detail);
        }
        Self { error: problem.detail, message: problem.hint, execution: None, status }
    }
}

impl From<DbError> for Refused {
    fn from(error: DbError) -> Self {
        Problem::from(error).into()
    }
}

/// Who asks.
pub(super) struct Who(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        Ok(Self(Caller::from_request_parts(parts, state).await?))
    }
}

/// An execution's id. What is no id is one of no execution.
pub(super) struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let named = Path::<Uuid>::from_request_parts(parts, state).await;
        named.map(|Path(id)| Self(id)).map_err(|_| Refused::no_execution())
    }
}

/// An execution's id, and which of its steps.
pub(super) struct StepAt(pub Uuid, pub String);

impl<S: Send + Sync> FromRequestParts<S> for StepAt {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let named = Path::<(Uuid, String)>::from_request_parts(parts, state).await;
        named.map(|Path((id, step))| Self(id, step)).map_err(|_| Refused::no_execution())
    }
}

/// A workflow's name.
pub(super) struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let named = Path::<String>::from_request_parts(parts, state).await;
        named.map(|Path(name)| Self(name)).map_err(|_| Refused::no_workflow())
    }
}

/// A JSON body, whatever its content type says.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let InTime(bytes) = InTime::from_request(request, state).await.map_err(|problem| {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            Refused::new(status, "Invalid request body").message(problem.detail)
        })?;
        let read = serde_json::from_slice(&bytes);
        read.map(Self).map_err(|e| Refused::bad("Invalid request body").message(e.to_string()))
    }
}

/// A number of the query string, from `low` to `high`. The older system left out of account what it did not know, and so does this.
pub(super) fn number(query: Option<&str>, name: &str, default: i64, (low, high): (i64, i64)) -> Result<i64, Refused> {
    let given: Vec<(String, String)> = serde_urlencoded::from_str(query.unwrap_or_default())
        .map_err(|e| Refused::bad("Invalid query string").message(e.to_string()))?;
    let Some((_, text)) = given.iter().find(|(key, _)| key == name) else { return Ok(default) };
    match text.parse() {
        Ok(n) if (low..=high).contains(&n) => Ok(n),
        _ => Err(Refused::bad(format!("{name} must be a whole number from {low} to {high}"))),
    }
}

//! What went wrong, as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::db::{DbError, Trouble};

/// An answer that is none.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Where the problem is explained; `about:blank` where the status says all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in one sentence.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// stepd's own code: `SD010`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl Problem {
    /// A problem that the status names.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            hint: None,
            code: None,
        }
    }

    /// The request makes no sense.
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// There is nothing of that name.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], advice(status), Json(self)).into_response()
    }
}

/// What a program reads of such an answer: how to be let in, when to come again, what to speak instead.
pub(super) fn advice(status: StatusCode) -> HeaderMap {
    let said = match status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "60")),
        StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "2")),
        StatusCode::UPGRADE_REQUIRED => Some((header::UPGRADE, "websocket")),
        _ => None,
    };
    said.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        let state = error.sqlstate().unwrap_or_default();
        let code = state.starts_with("SD").then(|| state.clone());
        let status = match state.as_str() {
            "SD010" | "SD014" => StatusCode::NOT_FOUND,
            "SD001" | "SD002" | "SD015" | "SD016" | "SD017" => StatusCode::UNPROCESSABLE_ENTITY,
            "SD011" | "SD012" | "SD013" | "SD020" | "SD030" => StatusCode::CONFLICT,
            "57014" | "55P03" => StatusCode::SERVICE_UNAVAILABLE,
            _ if error.trouble != Trouble::Refused => StatusCode::SERVICE_UNAVAILABLE,
            // What the caller wrote is refused by a constraint or a type.
            s if ["22", "23", "54"].iter().any(|class| s.starts_with(class)) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if state == "42501" {
            tracing::error!(%error, "the database login of this server may not do what a request needs");
            return Self::new(status, "this server's login may not do that in the database")
                .hint("GRANT stepd_serve TO its login (stepd migrate --roles makes the role)");
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%error, "a request failed at the database");
            return Self::new(status, "the database refused; the log of this process has its words");
        }
        let mut text = error.to_string();
        if let Some(code) = &code {
            text =
                text.trim_start_matches("stepd ").trim_start_matches(code.as_str()).trim_start_matches(": ").to_owned();
        }
        // The whole row, with its input: nobody asked for it.
        let detail = error.detail().filter(|d| !d.starts_with("Failing row contains"));
        let mut problem = Self::new(status, detail.map_or(text.clone(), |d| format!("{text}: {d}")));
        problem.hint = error.hint();
        if let Some(code) = code {
            problem.kind = format!("/errors/{code}");
            problem.code = Some(code);
        }
        problem
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        DbError::from(error).into()
    }
}

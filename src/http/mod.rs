//! The HTTP server: the API under `/api/v1`, the dashboard, and what load balancers ask.
//!
//! Handlers hold no rules: they parse, ask `db`, and answer. Whatever is read goes over a pool of its own, so that no
//! number of watchers takes a connection from the engine.

mod access;
mod acts;
mod bulk;
mod compare;
mod costs;
mod definitions;
mod explained;
mod health;
mod hooks;
mod hub;
mod listen;
mod lists;
mod logs;
mod metrics;
mod older;
mod openapi;
mod page;
mod patient;
mod problem;
mod runs;
mod session;
mod socket;
mod stats;
mod step;
mod stream;
mod things;
mod timeline;
mod told;
mod unproven;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, middleware};
use sqlx::PgPool;
use tokio::sync::{OnceCell, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

use crate::db::{Database, server};
use crate::telemetry::metrics::{Metrics, about};

pub use access::{Access, Rules, Scope, Token};
use bulk::Bulk;
pub use hooks::{Does, Hook};
use hub::Hub;
pub use listen::Server;
use metrics::Figures;
pub use older::Older;
use problem::Problem;
use unproven::Unproven;

/// Connections for reading, at the most.
const READERS: u32 = 4;

/// … and for acting.
const ACTORS: u32 = 2;

/// A statement of a page that takes longer helps nobody; and to compile one takes longer than it does.
const SESSION: [(&str, &str); 3] = [("statement_timeout", "15s"), ("lock_timeout", "5s"), ("jit", "off")];

/// Where nobody says how long clients may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says whether this process can do its work, and whether that is more than to serve; the error says what is missing.
pub type Readiness = Arc<dyn Fn() -> Result<bool, String> + Send + Sync>;

/// What the handlers are given.
pub struct Site {
    readers: PgPool,
    /// For what is done, in the name of who asks.
    actors: PgPool,
    access: Access,
    /// What sessions are signed with, once it is known.
    key: OnceCell<String>,
    ready: Readiness,
    older: Older,
    hub: Hub,
    /// Turns true when the server is to end: streams end.
    stop: watch::Receiver<bool>,
    kept: stats::Kept,
    /// How long a client may take to send a body, and to take up what it is sent.
    patience: Duration,
    bulk: Bulk,
    unproven: Unproven,
    metrics: Arc<Metrics>,
    figures: Arc<Figures>,
}

impl Site {
    /// On this database, under these rules.
    #[must_use]
    pub fn new(
        db: &Database,
        access: Access,
        ready: Readiness,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (figures, hub) = (Arc::new(Figures::new()), Hub::new());
        let (known, places) = (figures.clone(), hub.places.clone());
        metrics.shelf().reads(move |page| {
            known.write(page);
            page.count(&about::STREAMS, &[], hub::STREAMS.saturating_sub(places.available_permits()));
        });
        let readers = db.reading_pool("http", READERS, &SESSION);
        let actors = db.reading_pool("http act", ACTORS, &SESSION);
        let older = Older::default();
        Self {
            readers,
            actors,
            access,
            key: OnceCell::new(),
            ready,
            older,
            hub,
            stop,
            kept: stats::Kept::new(),
            patience: PATIENCE,
            bulk: Bulk::default(),
            unproven: Unproven::default(),
            metrics,
            figures,
        }
    }

    /// With clients that may take this long to send a body, and to take up what they are sent.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// With what the endpoints of the older system need.
    #[must_use]
    pub fn with_older(self, older: Older) -> Self {
        Self { older, ..self }
    }

    /// Takes up what a configuration says by now. What was begun under a rule that is gone ends.
    pub fn replace(&self, rules: Rules) {
        self.access.replace(rules);
    }

    /// Makes the figures of the whole database for the metrics, as long as somebody scrapes.
    async fn watch_figures(self: Arc<Self>) {
        self.figures.make(&self.readers).await;
    }

    async fn session_key(&self) -> Result<&str, Problem> {
        Ok(self.key.get_or_try_init(|| server::session_key(&self.readers)).await?)
    }
}

/// Everything that is served. A body may be as large as `body_limit`, in bytes.
pub fn router(site: Arc<Site>, body_limit: usize) -> Router {
    let (api, document) = openapi::routes().split_for_parts();
    api.merge(openapi::served(document))
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(page::routes())
        .merge(explained::routes())
        .merge(hooks::routes())
        .fallback(async || Problem::not_found("there is nothing here; /api/v1/openapi.json lists what there is"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this cannot be done here; /api/v1/openapi.json lists what can",
            )
        })
        .layer(middleware::from_fn_with_state(site.clone(), access::guard))
        .layer(DefaultBodyLimit::max(body_limit))
        .layer(Extension(things::InTimeOf(site.patience)))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(SMALL).and(NotForContentType::SSE)))
        .layer(middleware::map_response(walled))
        .layer(middleware::from_fn_with_state(site.clone(), metrics::count))
        .with_state(site)
}

/// Answers that are smaller are not worth the compression.
const SMALL: u64 = 4 << 10;

/// What stands on every answer: nothing may be loaded from elsewhere, nor put into a frame, nor guessed, nor told to others; and
/// nothing is kept, unless the answer says that it may be.
const WALLS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

async fn walled(mut response: Response) -> Response {
    for (name, value) in WALLS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// What a panic says is for the log.
fn panicked(said: Box<dyn Any + Send>) -> Response {
    let words = said.downcast_ref::<String>().map(String::as_str).or_else(|| said.downcast_ref::<&str>().copied());
    tracing::error!(panic = words.unwrap_or("?"), "a request met a fault of stepd");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault of stepd; the log of this process has its words")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_panic_says_is_not_told() {
        for said in [Box::new("geheim") as Box<dyn Any + Send>, Box::new("geheim".to_owned()), Box::new(7)] {
            let answer = walled(panicked(said)).await;
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
            let body = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("\"status\":500") && !body.contains("geheim"), "{body}");
        }
    }
}

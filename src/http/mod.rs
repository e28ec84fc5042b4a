//! The HTTP server: the API under `/api/v1`, and what load balancers ask.
//!
//! Handlers hold no rules: they parse, ask `db`, and answer. Whatever is read goes over a pool of its own, so that no
//! number of watchers takes a connection from the engine.

mod access;
mod acts;
mod health;
mod listen;
mod lists;
mod openapi;
mod problem;
mod runs;
mod stream;
mod things;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use sqlx::PgPool;
use tokio::sync::watch;

use crate::db::Database;

pub use access::{Access, Scope, Token};
pub use listen::Server;

/// Connections for reading, at the most.
const READERS: u32 = 4;

/// … and for acting.
const ACTORS: u32 = 2;

/// A statement of a page that takes longer helps nobody.
const SESSION: [(&str, &str); 2] = [("statement_timeout", "15s"), ("lock_timeout", "5s")];

/// Says whether this process can do its work; the error says what is missing.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the handlers are given.
pub struct Site {
    readers: PgPool,
    /// For what is done, in the name of who asks.
    actors: PgPool,
    access: Access,
    ready: Readiness,
    /// Turns true when the server is to end: streams end.
    stop: watch::Receiver<bool>,
}

impl Site {
    /// On this database, under these rules.
    #[must_use]
    pub fn new(db: &Database, access: Access, ready: Readiness, stop: watch::Receiver<bool>) -> Self {
        let readers = db.reading_pool("http", READERS, &SESSION);
        let actors = db.reading_pool("http act", ACTORS, &SESSION);
        Self { readers, actors, access, ready, stop }
    }
}

/// Everything that is served. A body may be as large as `body_limit`, in bytes.
pub fn router(site: Arc<Site>, body_limit: usize) -> Router {
    let (api, document) = openapi::routes().split_for_parts();
    api.merge(openapi::served(document))
        .merge(health::routes())
        .fallback(async || {
            problem::Problem::not_found("there is nothing here; /api/v1/openapi.json lists what there is")
        })
        .method_not_allowed_fallback(async || {
            problem::Problem::new(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "this cannot be done here; /api/v1/openapi.json lists what can",
            )
        })
        .layer(axum::middleware::from_fn_with_state(site.clone(), access::guard))
        .layer(DefaultBodyLimit::max(body_limit))
        .layer(tower_http::catch_panic::CatchPanicLayer::new())
        .with_state(site)
}

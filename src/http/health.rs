//! What load balancers and supervisors ask.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::db::server;

use super::Site;

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

/// The process turns.
async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// It can do its work: the database answers; and, where it is to run jobs (`works`), it is registered among the workers.
async fn readyz(State(site): State<Arc<Site>>) -> (StatusCode, Json<Value>) {
    // At once when its end is asked for, so that nobody sends it more; what is under way is finished.
    let ready = if *site.stop.borrow() { Err("it ends".to_owned()) } else { (site.ready)() };
    let answers = server::answers(&site.readers).await;
    let reason = match (answers, ready) {
        (Ok(()), Ok(works)) => return (StatusCode::OK, Json(json!({"status": "ready", "works": works}))),
        (Err(error), _) => format!("the database does not answer: {error}"),
        (_, Err(why)) => why,
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "unready", "reason": reason})))
}

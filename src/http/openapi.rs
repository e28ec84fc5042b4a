//! The API's description, made from the handlers.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Site, acts, compare, costs, definitions, lists, logs, older, runs, session, stats, step, stream, timeline,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "stepd", description = "Durable workflows on Postgres: runs, what is done to them, and what they wait for."),
    modifiers(&Bearer),
    security(("bearer" = []), ("session" = [])),
    // Named by paths alone.
    components(schemas(lists::QueueVerb, lists::ScheduleVerb)),
    tags(
        (name = "runs", description = "Look at runs, and enqueue them."),
        (name = "actions", description = "Act on runs."),
        (name = "streams", description = "What happens, as it happens."),
        (name = "sessions", description = "Who asks; and what a browser has instead of a token."),
        (name = "workflows", description = "What may be run."),
        (name = "schedules", description = "What runs by the clock."),
        (name = "queues", description = "Where runs stand in line, and who serves them."),
        (name = "older", description = "The endpoints of the older system (AFU-9), with its shapes."),
    ),
)]
struct Api;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("stepd_session")));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("bearer", scheme);
        components.add_security_scheme("session", cookie);
    }
}

/// All handlers under `/api/v1`, each with its description.
pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    let runs = runs::routes()
        .merge(step::routes())
        .merge(timeline::routes())
        .merge(definitions::routes())
        .merge(logs::routes());
    let api = runs.merge(acts::routes()).merge(lists::routes()).merge(stream::routes()).merge(session::routes());
    let api = api.merge(stats::routes()).merge(compare::routes()).merge(costs::routes());
    OpenApiRouter::with_openapi(Api::openapi()).nest("/api/v1", api).nest("/api", older::routes())
}

/// The description itself.
pub(super) fn served(document: utoipa::openapi::OpenApi) -> Router<Arc<Site>> {
    let text: Arc<str> = document.to_pretty_json().unwrap_or_default().into();
    let answer = move || {
        let text = text.to_string();
        async move { ([(header::CONTENT_TYPE, "application/json")], text) }
    };
    Router::new().route("/api/v1/openapi.json", get(answer))
}

//! The dashboard: a page, its scripts and styles, embedded in the binary.
//!
//! It is a program that runs in the browser and speaks to `/api/v1` like any other client: so there is nothing that it can do and the
//! API cannot, and a page costs the daemon one file and some JSON. It is plain JavaScript in modules, without a framework: what there is
//! to draw (bars over time, long lists that must not jump) is drawn by hand in any case, and nothing has to be built, vendored or updated.
//!
//! Everything but the page itself stands under a folder named after its content, and is kept by browsers for ever. All text reaches the
//! page as text nodes, and the policy that is sent with it allows no other script than these files.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::Site;
use super::problem::Problem;

#[derive(RustEmbed)]
#[folder = "src/http/assets"]
struct Assets;

/// Paths at which the page is: it looks itself at which.
const PAGES: [&str; 12] = [
    "/",
    "/runs",
    "/runs/{id}",
    "/compare",
    "/analytics",
    "/waiting",
    "/workflows",
    "/workflows/{name}",
    "/schedules",
    "/queues",
    "/workers",
    "/health",
];

const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

const FOR_EVER: &str = "public, max-age=31536000, immutable";

pub(super) fn routes() -> Router<Arc<Site>> {
    let pages = PAGES.iter().fold(Router::new(), |router, path| router.route(path, get(page)));
    pages.route("/assets/{version}/{*path}", get(asset)).route("/favicon.ico", get(icon))
}

/// Of all that is embedded. A debug build reads the files anew each time, so that they can be edited.
fn version() -> String {
    #[cfg(debug_assertions)]
    return digest();
    #[cfg(not(debug_assertions))]
    {
        static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        VERSION.get_or_init(digest).clone()
    }
}

fn digest() -> String {
    let mut names: Vec<Cow<'static, str>> = Assets::iter().collect();
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(Assets::get(&name).map(|file| file.data).unwrap_or_default());
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

async fn page(headers: HeaderMap) -> Response {
    let version = version();
    let tag = format!("\"{version}\"");
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|t| t.as_bytes() == tag.as_bytes());
    let text = Assets::get("index.html").map(|file| String::from_utf8_lossy(&file.data).replace("@VERSION@", &version));
    let shared = [
        (header::ETAG, tag.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    ];
    match text {
        _ if known => (StatusCode::NOT_MODIFIED, shared).into_response(),
        Some(text) => (shared, text).into_response(),
        None => Problem::not_found("this build has no dashboard").into_response(),
    }
}

async fn asset(Path((asked, path)): Path<(String, String)>) -> Response {
    let Some(file) = Assets::get(&path) else {
        return Problem::not_found(format!("there is no asset `{path}`")).into_response();
    };
    // A page of another version, behind the same name during an upgrade: it gets what there is, and does not keep it.
    let keep = if asked == version() { FOR_EVER } else { "no-store" };
    let shared = [
        (header::CACHE_CONTROL, keep),
        (header::CONTENT_TYPE, kind(&path)),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (shared, file.data.into_owned()).into_response()
}

async fn icon() -> Response {
    asset(Path((version(), "icon.svg".to_owned()))).await
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, end)| end) {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "html" => "text/html; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_assets_is_from_elsewhere_or_becomes_markup_by_itself() {
        for name in Assets::iter() {
            let text = String::from_utf8(Assets::get(&name).unwrap().data.into_owned()).unwrap();
            let text = text.replace("http://www.w3.org/", "");
            for word in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=\"",
            ] {
                assert!(!text.contains(word), "{name} has {word}");
            }
            assert_ne!(kind(&name), "application/octet-stream", "{name}");
        }
    }
}

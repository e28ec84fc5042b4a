//! What an error means and what to do about it: where the `type` of a problem leads.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::model::errors;

use super::Site;
use super::problem::Problem;

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new().route("/errors", get(all)).route("/errors/{code}", get(one))
}

/// One error: a page for a browser, the text for everything else.
async fn one(Path(code): Path<String>, headers: HeaderMap) -> Response {
    let Some(text) = errors::explanation(&code) else {
        return Problem::not_found(format!("there is no error `{code}`"))
            .hint("/errors lists them all")
            .into_response();
    };
    let wants = headers.get(header::ACCEPT).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if wants.contains("text/html") {
        return Html(page(&code, &body(text))).into_response();
    }
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], text).into_response()
}

/// All of them.
async fn all() -> Html<String> {
    let mut list = String::from("<h1>Errors</h1><ul>");
    for (code, text) in errors::PAGES {
        let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        let _ = write!(list, "<li><a href=\"/errors/{code}\">{}</a></li>", inline(title));
    }
    Html(page("Errors", &(list + "</ul>")))
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{} · stepd</title><main>{body}</main></html>",
        escaped(title)
    )
}

/// The few forms that the pages have: a heading, a paragraph, a list, a block of code.
fn body(text: &str) -> String {
    let mut html = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        if let Some(code) = block.strip_prefix("```") {
            let code = code.split_once('\n').map_or("", |(_, code)| code).trim_end_matches("```");
            let _ = write!(html, "<pre>{}</pre>", escaped(code));
        } else if let Some(heading) = block.strip_prefix("## ") {
            let _ = write!(html, "<h2>{}</h2>", inline(heading));
        } else if let Some(heading) = block.strip_prefix("# ") {
            let _ = write!(html, "<h1>{}</h1>", inline(heading));
        } else if let Some(items) = block.strip_prefix("- ") {
            let items: String = items.split("\n- ").map(|i| format!("<li>{}</li>", inline(i))).collect();
            let _ = write!(html, "<ul>{items}</ul>");
        } else {
            let _ = write!(html, "<p>{}</p>", inline(block));
        }
    }
    html
}

/// Text, with its `code`.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) }).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_page_without_a_rest_of_its_marks() {
        for (code, text) in errors::PAGES {
            let html = body(text);
            assert!(html.starts_with("<h1>") && html.contains("<h2>What to do</h2>"), "{code}: {html}");
            let outside: String = html.split("<code>").map(|p| p.split_once("</code>").map_or(p, |(_, p)| p)).collect();
            assert!(!outside.contains("\n- ") && !outside.contains("## ") && !outside.contains('`'), "{code}: {html}");
        }
    }
}

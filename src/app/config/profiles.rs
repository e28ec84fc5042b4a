//! `[mcp.<name>]`, `[models.<name>]`, `[http_tokens.<name>]`, `[http_hooks.<name>]`: what stepd talks to, and who talks to it, each a table of its own.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use serde::{Deserialize, Serialize};

use super::keys::{self, Form, Key, key, secret};
use super::layer::Layer;

/// A server of `mcp` steps.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct McpServer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_seconds: Option<u64>,
}

/// A model of `llm` and `agent` steps.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Model {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_input: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_output: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_cached_input: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured: Option<String>,
}

/// A token of the HTTP API.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HttpToken {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// A webhook that the HTTP server takes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HttpHook {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
}

/// A target of traces.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct TraceTarget {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value_bytes: Option<u64>,
}

/// The parts of a target of traces.
pub(super) const TARGET: [Key; 9] = [
    key("profile", Form::Word(&["otlp", "langsmith", "langfuse"])),
    key("url", Form::Text),
    secret("headers", Form::Table),
    secret("api_key", Form::Text),
    key("public_key", Form::Text),
    secret("secret_key", Form::Text),
    key("project", Form::Text),
    key("content", Form::Word(&["off", "on"])),
    key("max_value_bytes", Form::Number(256, 1_000_000)),
];

/// The parts of a webhook.
pub(super) const HOOK: [Key; 10] = [
    secret("secret", Form::Text),
    key("header", Form::Text),
    key("signed", Form::Word(&["body", "time_and_body"])),
    key("tolerance_seconds", Form::Number(1, 86_400)),
    key("workflow", Form::Text),
    key("event", Form::Text),
    key("when", Form::Text),
    key("input", Form::Text),
    key("unique_key", Form::Text),
    key("delivery", Form::Text),
];

/// The parts of a token.
pub(super) const TOKEN: [Key; 2] =
    [key("sha256", Form::Text), key("scope", Form::Word(&["read", "enqueue", "operate"]))];

/// The parts of a server.
pub(super) const SERVER: [Key; 10] = [
    key("command", Form::Text),
    key("args", Form::Texts),
    secret("env", Form::Table),
    key("url", Form::Text),
    secret("headers", Form::Table),
    key("dialect", Form::Word(&["auto", "afu9"])),
    key("idle_seconds", Form::Number(1, 86_400)),
    key("max_seconds", Form::Number(1, 604_800)),
    key("input_seconds", Form::Number(0, 31_536_000)),
    key("rest_seconds", Form::Number(1, 86_400)),
];

/// The parts of a model.
pub(super) const MODEL: [Key; 10] = [
    key("base_url", Form::Text),
    key("model", Form::Text),
    secret("api_key", Form::Text),
    secret("headers", Form::Table),
    key("price_input", Form::Price),
    key("price_output", Form::Price),
    key("price_cached_input", Form::Price),
    key("timeout_seconds", Form::Number(1, 86_400)),
    key("rest_seconds", Form::Number(1, 86_400)),
    key("structured", Form::Word(&["schema", "json", "none"])),
];

/// Names that workflow files can use.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

impl Layer {
    /// Takes in what a source says of one entry.
    pub(super) fn profile(&mut self, key: &str, name: &str, said: Self, place: &str) {
        self.wrong.extend(said.wrong);
        let place = Some(place.to_owned());
        let new = |place| Value::new(place, Map::<String, Value>::new());
        let table = self.values.entry(key.to_owned()).or_insert_with(|| new(None));
        let ValueKind::Table(table) = &mut table.kind else { return };
        let entry = table.entry(name.to_owned()).or_insert_with(|| new(place.as_ref()));
        if let ValueKind::Table(parts) = &mut entry.kind {
            parts.extend(said.values);
        }
    }

    /// One part of an entry, given as text: `store__url` by a variable, `store.url` by a credential.
    pub(super) fn part(&mut self, key: &str, parts: &'static [Key], name: &str, text: &str, place: &str) {
        let (entry, part) = name.split_once("__").or_else(|| name.split_once('.')).unwrap_or((name, ""));
        let plain = parts.iter().filter(|p| !p.form.is_table());
        let Some(found) = plain.clone().find(|p| p.name == part) else {
            let advice = match keys::suggestion(part, plain.clone().map(|p| p.name)) {
                Some(near) => format!("did you mean `{key}.{entry}.{near}`?"),
                None => format!("name one of: {}", plain.map(|p| p.name).collect::<Vec<_>>().join(", ")),
            };
            return self.complain(place, format!("`{key}.{entry}` has no part `{part}` here; {advice}"));
        };
        if !is_name(entry) {
            return self.complain(place, wrong_name(key, entry));
        }
        let mut said = Self::default();
        said.text(found, text, place);
        self.profile(key, entry, said, place);
    }
}

pub(super) fn wrong_name(key: &str, name: &str) -> String {
    format!("`{key}.{name}`: a name has lower-case letters, digits, `_` and `-`, and begins with a letter")
}

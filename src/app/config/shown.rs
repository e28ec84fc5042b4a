//! The effective values, and where each came from.

use config::{Value, ValueKind};
use serde::Serialize;

use super::keys::{Form, KEYS, Key};
use super::{Config, Loaded, database, outside};

/// One effective value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// `concurrency`, `secrets.stripe`
    pub key: String,
    /// The value; a secret as `***`; null: not set.
    pub value: serde_json::Value,
    /// `default`, `STEPD_CONCURRENCY`, `--concurrency`, `/etc/stepd/stepd.toml:3`, …
    pub source: String,
}

const HIDDEN: &str = "***";

impl Loaded {
    /// Every key in the order of the template; tables entry by entry.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let values = self.config.as_json();
        let said = match &self.merged.kind {
            ValueKind::Table(said) => Some(said),
            _ => None,
        };
        let origin = |value: Option<&Value>| {
            let value = value.filter(|v| v.kind != ValueKind::Nil);
            value.and_then(Value::origin).unwrap_or("default").to_owned()
        };
        let mut shown = Vec::new();
        for key in &KEYS {
            let value = values.get(key.name).cloned().unwrap_or_default();
            let said = said.and_then(|s| s.get(key.name));
            match (value.as_object(), said.map(|s| &s.kind)) {
                (Some(entries), Some(ValueKind::Table(said))) if matches!(key.form, Form::Profiles(_)) => {
                    for (name, entry) in entries {
                        shown.extend(profile(key, name, entry, said.get(name), &origin));
                    }
                }
                (Some(entries), Some(ValueKind::Table(said))) => {
                    for (name, value) in entries {
                        let value = hidden(key, value.clone());
                        shown.push(Shown {
                            key: format!("{}.{name}", key.name),
                            value,
                            source: origin(said.get(name)),
                        });
                    }
                }
                _ => shown.push(Shown { key: key.name.to_owned(), value: hidden(key, value), source: origin(said) }),
            }
        }
        shown
    }
}

/// The parts of a server or a model that are set.
fn profile(
    key: &Key,
    name: &str,
    entry: &serde_json::Value,
    said: Option<&Value>,
    origin: &dyn Fn(Option<&Value>) -> String,
) -> Vec<Shown> {
    let Form::Profiles(parts) = key.form else { return Vec::new() };
    let inside = |value: Option<&Value>, name: Option<&str>| match value.map(|v| &v.kind) {
        Some(ValueKind::Table(said)) => name.map_or_else(|| said.values().next(), |name| said.get(name)).cloned(),
        _ => None,
    };
    let source = |part: &str| {
        let said = inside(said, Some(part));
        // A table that was merged has forgotten where it came from; what is in it has not.
        origin(inside(said.as_ref(), None).or(said).as_ref())
    };
    let shown = |part: &Key| {
        let value = hidden(part, entry.get(part.name)?.clone());
        Some(Shown { key: format!("{}.{name}.{}", key.name, part.name), value, source: source(part.name) })
    };
    parts.iter().filter_map(shown).collect()
}

fn hidden(key: &Key, value: serde_json::Value) -> serde_json::Value {
    match &value {
        serde_json::Value::String(text) if key.form == Form::Url || key.name == "connections" => {
            database::masked(text).into()
        }
        serde_json::Value::String(_) if key.secret => HIDDEN.into(),
        serde_json::Value::String(text) if matches!(key.name, "url" | "base_url") => outside::masked(text).into(),
        serde_json::Value::Object(entries) if key.secret => {
            entries.keys().map(|name| (name.clone(), serde_json::Value::from(HIDDEN))).collect()
        }
        _ => value,
    }
}

impl Config {
    /// The names of all keys.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|k| k.name)
    }
}

//! `limits` of a step: what its programs may use.

use serde_json::{Map, Value};

use crate::expression::nearest;
use crate::rules::limits::Resource;

use super::diagnostics::Report;
use super::fields::{mapping, wrong};
use super::node::{Entry, NodeValue};

/// What a step's programs may use.
pub(super) fn limits(entry: &Entry, report: &mut Report<'_>) -> Value {
    let mut all = Map::new();
    for inner in mapping(entry, report).unwrap_or_default() {
        let Some(resource) = Resource::named(&inner.key) else {
            let known = || Resource::ALL.into_iter().map(Resource::name);
            let meant = nearest(&inner.key, known());
            let help = format!("it may have: {}", known().collect::<Vec<_>>().join(", "));
            report.name(inner.key_span, format!("`limits` has no key `{}`", inner.key), meant, &help);
            continue;
        };
        let counted = matches!(resource, Resource::Processes | Resource::OpenFiles);
        let text = match &inner.value.value {
            NodeValue::String(text) if !counted => text.clone(),
            NodeValue::Number(number) if counted => number.to_string(),
            _ if counted => {
                wrong(inner, "a whole number", report);
                continue;
            }
            _ => {
                wrong(inner, "text with a unit, such as 512MiB of memory or 30s of processor time", report);
                continue;
            }
        };
        match resource.read(&text) {
            Ok(limit) => drop(all.insert(inner.key.clone(), limit.into())),
            Err(why) => report.error(inner.value.span, why),
        }
    }
    all.into()
}

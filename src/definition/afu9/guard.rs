//! The two guards of AFU-9: HOLD waits for a person, RED ends the run. They look at all variables between any two steps.

use serde_json::Value;

use super::Context;

/// Is the run on HOLD?
#[must_use]
pub fn hold(context: &Context) -> bool {
    let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some("HOLD");
    let variables = context.variables();
    is(context.get("issue").and_then(|issue| issue.get("state")))
        || is(variables.get("issue").and_then(|issue| issue.get("state")))
        || is(variables.get("issueState"))
}

/// The verdict that ends the run, in AFU-9's words.
#[must_use]
pub fn red(context: &Context) -> Option<&'static str> {
    let objects = context.variables().as_object()?.values().filter(|v| v.is_object());
    objects.flat_map(|v| [Some(v), v.get("verdict").filter(|inner| inner.is_object())]).flatten().find_map(verdict)
}

fn verdict(object: &Value) -> Option<&'static str> {
    let says = |key: &str, word: &str| object.get(key).and_then(Value::as_str) == Some(word);
    if says("simpleVerdict", "RED") {
        Some("RED verdict triggered - critical failure detected")
    } else if says("verdictType", "REJECTED") {
        Some("REJECTED verdict triggered - deployment rejected")
    } else if says("action", "ABORT") {
        Some("ABORT action triggered - workflow must terminate")
    } else {
        None
    }
}

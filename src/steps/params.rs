//! Reading a step's parameters: every complaint names the kind, the parameter, and what it should be.

use serde_json::{Map, Value};
use std::time::Duration;

use crate::model::{Failure, code};

/// The parameters of one attempt, taken out one by one.
pub(crate) struct Params {
    kind: &'static str,
    map: Map<String, Value>,
}

impl Params {
    /// The parameters of a step of that kind.
    pub(crate) fn new(kind: &'static str, params: Value) -> Result<Self, Failure> {
        match params {
            Value::Object(map) => Ok(Self { kind, map }),
            _ => Err(Failure::permanent(
                code::INVALID_PARAMS,
                format!("the parameters of `{kind}` are no object: this is a bug in stepd"),
            )),
        }
    }

    /// A complaint about one of them.
    pub(crate) fn wrong(&self, name: &str, must: &str) -> Failure {
        wrong(self.kind, name, must)
    }

    /// A value, null and absent being the same. It is moved out, not cloned.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.get_mut(name).map(Value::take).filter(|v| !v.is_null())
    }

    /// A string that may be absent.
    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    /// A string that must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<String, Failure> {
        self.string(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A span in milliseconds that may be absent.
    pub(crate) fn millis(&mut self, name: &str) -> Result<Option<Duration>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(ms) => Ok(Some(Duration::from_millis(ms))),
                None => Err(self.wrong(name, "must be a whole number of milliseconds, not below 0")),
            },
        }
    }

    /// An object that may be absent.
    pub(crate) fn object(&mut self, name: &str) -> Result<Map<String, Value>, Failure> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(self.wrong(name, "must be an object")),
        }
    }
}

/// A complaint about a parameter of a kind.
pub(crate) fn wrong(kind: &str, name: &str, must: &str) -> Failure {
    Failure::permanent(code::INVALID_PARAMS, format!("parameter `{name}` of the `{kind}` step {must}"))
}

/// A value as plain text: strings as they are, all else as JSON.
pub(crate) fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

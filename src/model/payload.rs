//! JSON that is carried, not interpreted.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::failure::{Failure, code};

/// JSON text: valid by construction, kept byte for byte, cheap to clone.
///
/// Inputs and outputs travel as text from row to row, so that a number with thirty digits or a
/// `\u0000` survives the journey; they become a [`Value`] only where an expression looks inside.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Arc<str>);

impl Payload {
    /// The JSON `null`.
    #[must_use]
    pub fn null() -> Self {
        Self("null".into())
    }

    /// Text that the database has already accepted as JSON. It is not checked again: a value that
    /// serde cannot read (1e400, a nesting deeper than 128) fails in [`Payload::value`], where only
    /// the job that looks at it is harmed.
    #[must_use]
    pub fn from_database(text: String) -> Self {
        Self(text.into())
    }

    /// Text from outside.
    ///
    /// # Errors
    /// The parser's complaint, when the text is not JSON.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<&RawValue>(text).map(|raw| Self(raw.get().into()))
    }

    /// The text of a value.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    /// The text of anything that serde can write.
    ///
    /// # Errors
    /// A permanent failure `invalid_json`, when the type cannot be written as JSON (a map with keys
    /// that are not strings, for example).
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self, Failure> {
        serde_json::to_string(value)
            .map(|text| Self(text.into()))
            .map_err(|e| Failure::permanent(code::INVALID_JSON, format!("the value cannot be written as JSON: {e}")))
    }

    /// The parsed value.
    ///
    /// # Errors
    /// A permanent failure `invalid_json`, when serde cannot hold the value.
    pub fn value(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.0).map_err(|e| {
            let why = match e.to_string() {
                // serde_json's own limit; Postgres takes some thousand.
                why if why.starts_with("recursion limit") => "it is nested deeper than 127 levels".to_owned(),
                why => why,
            };
            Failure::permanent(code::INVALID_JSON, format!("the JSON cannot be read: {why}"))
        })
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes of the text.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: JSON text has at least one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is it the JSON `null`?
    #[must_use]
    pub fn is_null(&self) -> bool {
        &*self.0 == "null"
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

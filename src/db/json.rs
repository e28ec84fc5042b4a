//! JSON that Postgres gives as text goes on as JSON, byte for byte.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// JSON text as JSON.
pub(super) fn text<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: &RawValue = serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
    raw.serialize(serializer)
}

/// JSON text as JSON, where there is any.
#[expect(clippy::ref_option, reason = "serde calls it so")]
pub(super) fn text_or_null<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => self::text(text, serializer),
        None => serializer.serialize_none(),
    }
}

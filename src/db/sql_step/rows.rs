//! Rows as JSON, from the server's text form of each value.

use serde_json::{Map, Value};
use sqlx::postgres::{PgColumn, PgRow, PgTypeInfo, PgTypeKind};
use sqlx::{Column as _, Row as _, ValueRef as _};

use crate::model::{Failure, code};

// The types that are more than text in JSON, by the ids that every Postgres gives them.
const BOOL: u32 = 16;
const INTEGERS: [u32; 4] = [20, 21, 23, 26];
const DECIMALS: [u32; 3] = [700, 701, 1700];
const JSON: [u32; 2] = [114, 3802];
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const VOID: u32 = 2278;

/// One row, and how many bytes of text it had.
pub(super) fn object(row: &PgRow) -> Result<(Map<String, Value>, usize), Failure> {
    let mut object = Map::new();
    let mut size = 0;
    for (n, column) in row.columns().iter().enumerate() {
        let raw = row.try_get_raw(n).map_err(|error| super::failure(&error))?;
        let value = if raw.is_null() {
            Value::Null
        } else {
            let text = raw.as_str().map_err(|error| {
                Failure::permanent(code::INTERNAL, format!("column `{}` is no text: {error}", column.name()))
            })?;
            size += text.len();
            self::value(column.type_info(), text)
        };
        if object.insert(column.name().to_owned(), value).is_some() {
            return Err(twice(column));
        }
    }
    Ok((object, size))
}

fn twice(column: &PgColumn) -> Failure {
    let name = column.name();
    let message = format!("two columns of the result are named `{name}`: give one of them another name with AS");
    Failure::permanent(code::INVALID_PARAMS, message)
}

fn value(kind: &PgTypeInfo, text: &str) -> Value {
    if let PgTypeKind::Array(element) = kind.kind() {
        let id = element.oid().map_or(0, |oid| oid.0);
        return array(text, id).unwrap_or_else(|| text.into());
    }
    scalar(kind.oid().map_or(0, |oid| oid.0), text)
}

fn scalar(id: u32, text: &str) -> Value {
    match id {
        BOOL => Value::Bool(text == "t"),
        VOID => Value::Null,
        // What is no JSON number (NaN, Infinity) stays text.
        id if INTEGERS.contains(&id) || DECIMALS.contains(&id) => {
            serde_json::from_str(text).map_or(text.into(), Value::Number)
        }
        id if JSON.contains(&id) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        TIMESTAMP | TIMESTAMPTZ => Value::String(iso(text)),
        _ => text.into(),
    }
}

/// ISO 8601: `2026-01-02 03:04:05+00` becomes `2026-01-02T03:04:05Z`. `infinity` and years before
/// Christ stay as the server writes them.
fn iso(text: &str) -> String {
    if !text.starts_with(|c: char| c.is_ascii_digit()) || text.ends_with("BC") {
        return text.to_owned();
    }
    let text = text.replacen(' ', "T", 1);
    match text.strip_suffix("+00") {
        Some(utc) => format!("{utc}Z"),
        None => text,
    }
}

/// An array's text form; `None` where it is written in a way that is not read here (own lower bounds).
fn array(text: &str, element: u32) -> Option<Value> {
    let mut rest = text;
    let value = nested(&mut rest, element)?;
    rest.is_empty().then_some(value)
}

fn nested(rest: &mut &str, element: u32) -> Option<Value> {
    *rest = rest.strip_prefix('{')?;
    let mut items = Vec::new();
    if let Some(after) = rest.strip_prefix('}') {
        *rest = after;
        return Some(Value::Array(items));
    }
    loop {
        let item = match rest.chars().next()? {
            '{' => nested(rest, element)?,
            '"' => scalar(element, &quoted(rest)?),
            _ => {
                let end = rest.find([',', '}'])?;
                let (word, after) = rest.split_at(end);
                *rest = after;
                if word == "NULL" { Value::Null } else { scalar(element, word) }
            }
        };
        items.push(item);
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return Some(Value::Array(items));
        }
        *rest = rest.strip_prefix(',')?;
    }
}

fn quoted(rest: &mut &str) -> Option<String> {
    let mut word = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(word);
            }
            '\\' => word.push(chars.next()?.1),
            c => word.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arrays_are_read_with_their_quotes_nulls_and_dimensions() {
        assert_eq!(array("{}", 23), Some(json!([])));
        assert_eq!(array("{1,NULL,3}", 23), Some(json!([1, null, 3])));
        assert_eq!(array("{{1,2},{3,4}}", 20), Some(json!([[1, 2], [3, 4]])));
        assert_eq!(array(r#"{"a,b","q\"\\",NULL,"NULL",c}"#, 25), Some(json!(["a,b", "q\"\\", null, "NULL", "c"])));
        assert_eq!(array(r#"{"{\"a\": [1]}"}"#, 3802), Some(json!([{"a": [1]}])));
        assert_eq!(array("[2:3]={1,2}", 23), None);
        assert_eq!(array("{1", 23), None);
    }

    #[test]
    fn instants_are_iso_and_the_odd_ones_stay() {
        assert_eq!(iso("2026-01-02 03:04:05.6+00"), "2026-01-02T03:04:05.6Z");
        assert_eq!(iso("2026-01-02 03:04:05"), "2026-01-02T03:04:05");
        assert_eq!(iso("infinity"), "infinity");
        assert_eq!(iso("0044-03-15 00:00:00 BC"), "0044-03-15 00:00:00 BC");
    }
}

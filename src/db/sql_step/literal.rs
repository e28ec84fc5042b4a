//! JSON values as SQL literals.
//!
//! A literal of unknown type takes the type of the parameter that it stands for, through that type's
//! own input function: so a JSON string may stand for a date, a uuid, a numeric of forty digits.

use serde_json::Value;

/// What a parameter's type asks of its literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `json`, `jsonb`: every value is itself.
    Json,
    /// An array of elements of such a form.
    Array(Element),
    /// Anything else: a text that the type reads.
    Text,
}

/// The same for an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Json,
    Text,
}

impl Form {
    /// From the names of a type and, of an array, its element type.
    pub(super) fn of(name: &str, is_array: bool, element: &str) -> Self {
        let is_json = |name: &str| matches!(name, "json" | "jsonb");
        match (is_array, is_json(name)) {
            (true, _) => Self::Array(if is_json(element) { Element::Json } else { Element::Text }),
            (false, true) => Self::Json,
            (false, false) => Self::Text,
        }
    }
}

/// A NUL byte cannot stand in any text of Postgres.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HasNul;

/// Adds the literal to a statement. Needs `standard_conforming_strings`.
pub(super) fn push(sql: &mut String, value: &Value, form: Form) -> Result<(), HasNul> {
    let text = match (value, form) {
        (Value::Null, _) => {
            sql.push_str("NULL");
            return Ok(());
        }
        (Value::Array(items), Form::Array(element)) => {
            let mut text = String::new();
            array(&mut text, items, element);
            text
        }
        (Value::String(text), Form::Text | Form::Array(_)) => text.clone(),
        (other, _) => other.to_string(),
    };
    if text.contains('\0') {
        return Err(HasNul);
    }
    sql.push('\'');
    sql.push_str(&text.replace('\'', "''"));
    sql.push('\'');
    Ok(())
}

/// The text of an array: `{"a",NULL,{"nested"}}`, every element in quotes.
fn array(text: &mut String, items: &[Value], element: Element) {
    text.push('{');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        match (item, element) {
            (Value::Null, _) => text.push_str("NULL"),
            // In an array of json a list is an element, elsewhere a further dimension.
            (Value::Array(inner), Element::Text) => array(text, inner, element),
            (Value::String(word), Element::Text) => quoted(text, word),
            (other, _) => quoted(text, &other.to_string()),
        }
    }
    text.push('}');
}

fn quoted(text: &mut String, word: &str) {
    text.push('"');
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_are_quoted_and_arrays_are_arrays() {
        let of = |value: Value, form| {
            let mut sql = String::new();
            push(&mut sql, &value, form).map(|()| sql)
        };
        assert_eq!(of(json!(null), Form::Json).unwrap(), "NULL");
        assert_eq!(of(json!("it's \\ 'x'"), Form::Text).unwrap(), r"'it''s \ ''x'''");
        assert_eq!(of(json!("s"), Form::Json).unwrap(), r#"'"s"'"#);
        assert_eq!(of(json!(1.5), Form::Text).unwrap(), "'1.5'");
        assert_eq!(
            of(json!(["a'\"", null, [true]]), Form::Array(Element::Text)).unwrap(),
            r#"'{"a''\"",NULL,{"true"}}'"#
        );
        assert_eq!(of(json!([[1], "s"]), Form::Array(Element::Json)).unwrap(), r#"'{"[1]","\"s\""}'"#);
        assert_eq!(of(json!([1]), Form::Text).unwrap(), "'[1]'");
        assert_eq!(of(json!("a\u{0}"), Form::Text), Err(HasNul));
    }
}

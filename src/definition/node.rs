//! A YAML or JSON document as a tree that knows where each part stands.

use serde_json::{Number, Value};

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Span {
    /// From 1.
    pub(super) line: usize,
    /// From 1, in characters.
    pub(super) column: usize,
    /// In bytes.
    pub(super) start: usize,
    /// In bytes.
    pub(super) end: usize,
}

impl Span {
    /// The place of `text` inside this span, whose own text is `source`; the span itself where it is not found (a folded
    /// or escaped string).
    pub(super) fn within(self, source: &str, text: &str) -> Self {
        match source.find(text).filter(|_| !text.is_empty()) {
            Some(at) => self.skip_in(source, at, text.len()),
            None => self,
        }
    }

    /// The place `at` bytes into this span, whose own text is `source`, and `length` bytes long.
    pub(super) fn skip_in(self, source: &str, at: usize, length: usize) -> Self {
        let before = source.get(..at).unwrap_or_default();
        let (line, column) = match before.rfind('\n') {
            Some(last) => (self.line + before.matches('\n').count(), before[last + 1..].chars().count() + 1),
            None => (self.line, self.column + before.chars().count()),
        };
        let start = self.start + at;
        Self { line, column, start, end: (start + length).min(self.end.max(start)) }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: NodeValue,
    pub(super) span: Span,
}

/// The kinds of value.
#[derive(Clone, Debug)]
pub(super) enum NodeValue {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Node,
}

impl Node {
    /// The plain JSON.
    pub(super) fn json(&self) -> Value {
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(b) => Value::Bool(*b),
            NodeValue::Number(n) => Value::Number(n.clone()),
            NodeValue::String(s) => Value::String(s.clone()),
            NodeValue::Seq(items) => items.iter().map(Self::json).collect(),
            NodeValue::Map(entries) => entries.iter().map(|e| (e.key.clone(), e.value.json())).collect(),
        }
    }

    /// The entry of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            NodeValue::Map(entries) => entries.iter().find(|e| e.key == key),
            NodeValue::Null | NodeValue::Bool(_) | NodeValue::Number(_) | NodeValue::String(_) | NodeValue::Seq(_) => {
                None
            }
        }
    }

    /// The text, if it is one.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            NodeValue::String(s) => Some(s),
            NodeValue::Null | NodeValue::Bool(_) | NodeValue::Number(_) | NodeValue::Seq(_) | NodeValue::Map(_) => None,
        }
    }

    /// What it is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "nothing",
            NodeValue::Bool(_) => "a boolean",
            NodeValue::Number(_) => "a number",
            NodeValue::String(_) => "text",
            NodeValue::Seq(_) => "a list",
            NodeValue::Map(_) => "a mapping",
        }
    }
}

//! Plain paths: `steps.order.output.items[0]["sku"]`, looked up without the expression library.

use std::borrow::Cow;

use serde_json::Value;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// `.name` or `["name"]`.
    Key(Box<str>),
    /// `[0]`.
    Index(usize),
}

/// A name and what follows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The first name: `input`, `steps`, …
    pub root: Box<str>,
    /// The rest.
    pub segments: Vec<Segment>,
}

/// Words of the expression language that look like names.
const RESERVED: [&str; 12] = ["true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if"];

impl Path {
    /// The path that a text is, or `None` when it is any other expression.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (root, mut rest) = name(text)?;
        if RESERVED.contains(&root) || root == "else" {
            return None;
        }
        let mut segments = Vec::new();
        while !rest.is_empty() {
            let segment;
            (segment, rest) = segment_of(rest)?;
            segments.push(segment);
        }
        Some(Self { root: root.into(), segments })
    }

    /// The path as text, up to and including segment `count`.
    #[must_use]
    pub fn text(&self, count: usize) -> String {
        let mut out = self.root.to_string();
        for segment in self.segments.iter().take(count) {
            push(&mut out, segment);
        }
        out
    }
}

/// Appends a segment to the text of a path.
pub(super) fn push(out: &mut String, segment: &Segment) {
    match segment {
        Segment::Key(key) if name(key).is_some_and(|(_, rest)| rest.is_empty()) => {
            out.push('.');
            out.push_str(key);
        }
        Segment::Key(key) => out.push_str(&format!("[{key:?}]")),
        Segment::Index(i) => out.push_str(&format!("[{i}]")),
    }
}

fn name(text: &str) -> Option<(&str, &str)> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_alphabetic() || first == b'_') {
        return None;
    }
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'_')).unwrap_or(text.len());
    Some(text.split_at(end))
}

fn segment_of(text: &str) -> Option<(Segment, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let (key, rest) = name(rest)?;
        return Some((Segment::Key(key.into()), rest));
    }
    let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
    let quoted = |q: char| inside.strip_prefix(q).and_then(|s| s.strip_suffix(q)).filter(|s| !s.contains([q, '\\']));
    if let Some(key) = quoted('"').or_else(|| quoted('\'')) {
        return Some((Segment::Key(key.into()), rest));
    }
    // A leading zero is left to the library, which may read it otherwise.
    let plain = inside.bytes().all(|b| b.is_ascii_digit()) && (inside == "0" || !inside.starts_with('0'));
    let index = if plain { inside.parse().ok()? } else { return None };
    Some((Segment::Index(index), rest))
}

/// What a plain path met on its way through a value.
pub(super) enum Found<'a> {
    /// The value.
    Value(Cow<'a, Value>),
    /// Segment number `.0` does not exist; `.1` are the names that do.
    Missing(usize, Vec<String>),
    /// A case whose meaning is the library's business (an index into a string).
    Odd,
}

/// Walks `segments` from `value`. `done` is the number of segments of the whole path that lie before them.
pub(super) fn walk<'a>(value: &'a Value, segments: &[Segment], done: usize) -> Found<'a> {
    let mut at = value;
    for (i, segment) in segments.iter().enumerate() {
        let next = match (at, segment) {
            (Value::Object(map), Segment::Key(key)) => map.get(&**key),
            (Value::Array(list), Segment::Index(index)) => list.get(*index),
            (Value::String(_), Segment::Index(_)) => return Found::Odd,
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return Found::Missing(done + i, keys(at)),
        }
    }
    Found::Value(Cow::Borrowed(at))
}

/// The names that a value has, for a suggestion.
pub(super) fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map.keys().take(200).cloned().collect(),
        _ => Vec::new(),
    }
}

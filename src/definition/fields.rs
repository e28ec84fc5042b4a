//! Reads the fields of a mapping: typed, with complaints where the type is wrong.

use std::time::Duration;

use crate::expression::nearest;

use super::diagnostics::Report;
use super::duration::parse_duration;
use super::node::{Entry, Node, NodeValue, Span};
use super::synonyms::{as_written, instead_of, surely_instead_of};

/// Complains about keys that neither `known` nor `quiet` names.
pub(super) fn unknown_keys(node: &Node, known: &[&str], quiet: &[&str], what: &str, report: &mut Report<'_>) {
    let NodeValue::Map(entries) = &node.value else { return };
    let expected = |key: &str| known.contains(&key) || quiet.contains(&key);
    for entry in entries.iter().filter(|e| !expected(&e.key)) {
        if report.is_full() {
            return;
        }
        let message = format!("{what} has no key `{}`", entry.key);
        if let Some(help) = surely_instead_of(&entry.key) {
            report.help(entry.key_span, message, help);
            continue;
        }
        match (nearest(&entry.key, known.iter().copied()), instead_of(&entry.key)) {
            (None, Some(help)) => report.help(entry.key_span, message, help),
            (meant, _) => report.name(entry.key_span, message, meant, &format!("it may have: {}", known.join(", "))),
        }
    }
}

/// A step of a kind, as a sentence begins.
pub(super) fn a_step(kind: &str) -> String {
    let spoken = kind.starts_with(['a', 'e', 'i', 'o']) || ["http", "llm", "mcp"].contains(&kind);
    format!("{} `{kind}` step", if spoken { "an" } else { "a" })
}

/// Complains where a value is of the wrong type.
pub(super) fn wrong(entry: &Entry, expected: &str, report: &mut Report<'_>) {
    report.error(at(entry), format!("`{}` must be {expected}, not {}", entry.key, entry.value.kind()));
}

/// Where to point for a value: an empty one has no place of its own.
pub(super) fn at(entry: &Entry) -> Span {
    match entry.value.value {
        NodeValue::Null => entry.key_span,
        _ => entry.value.span,
    }
}

/// Text.
pub(super) fn text<'n>(entry: &'n Entry, report: &mut Report<'_>) -> Option<&'n str> {
    let text = entry.value.as_str();
    match as_written(&entry.key) {
        Some(help) if text.is_none() => {
            let message = format!("`{}` must be text, not {}", entry.key, entry.value.kind());
            report.help(at(entry), message, help);
        }
        _ if text.is_none() => wrong(entry, "text", report),
        _ => {}
    }
    text
}

/// A duration that stands in the file itself.
pub(super) fn duration(entry: &Entry, report: &mut Report<'_>) -> Option<Duration> {
    match &entry.value.value {
        NodeValue::String(text) if text.contains("${{") => {
            report.error(entry.value.span, format!("`{}` takes no expression: write a duration", entry.key));
            None
        }
        NodeValue::String(text) => match parse_duration(text) {
            Ok(span) => Some(span),
            Err(message) => {
                report.error(entry.value.span, message);
                None
            }
        },
        NodeValue::Number(n) => {
            report.help(
                entry.value.span,
                format!("`{}` needs a unit", entry.key),
                format!("write {n}s, {n}m or {n}ms"),
            );
            None
        }
        NodeValue::Null | NodeValue::Bool(_) | NodeValue::Seq(_) | NodeValue::Map(_) => {
            wrong(entry, "a duration such as 30s or 5m", report);
            None
        }
    }
}

/// A duration that is not zero.
pub(super) fn limit(entry: &Entry, report: &mut Report<'_>) -> Option<Duration> {
    let span = duration(entry, report)?;
    if span.is_zero() {
        report.help(
            entry.value.span,
            format!("`{}` is zero", entry.key),
            "write a duration such as 30s, or leave it out",
        );
        return None;
    }
    Some(span)
}

/// A whole number within bounds.
pub(super) fn whole(entry: &Entry, from: u64, to: u64, report: &mut Report<'_>) -> Option<u64> {
    match &entry.value.value {
        NodeValue::Number(n) => {
            let number = n.as_u64().filter(|n| (from..=to).contains(n));
            if number.is_none() {
                report.error(
                    entry.value.span,
                    format!("`{}` must be a whole number from {from} to {to}, not {n}", entry.key),
                );
            }
            number
        }
        NodeValue::String(text) if text.parse::<u64>().is_ok() => {
            let message = format!("`{}` must be a whole number from {from} to {to}, not text", entry.key);
            report.help(entry.value.span, message, "write it without quotation marks");
            None
        }
        _ => {
            wrong(entry, &format!("a whole number from {from} to {to}"), report);
            None
        }
    }
}

/// One of some words.
pub(super) fn word<T: Copy>(entry: &Entry, words: &[(&str, T)], report: &mut Report<'_>) -> Option<T> {
    let list = || words.iter().map(|(w, _)| *w).collect::<Vec<_>>().join(", ");
    let Some(text) = entry.value.as_str() else {
        wrong(entry, &format!("one of {}", list()), report);
        return None;
    };
    let found = words.iter().find(|(w, _)| *w == text).map(|(_, value)| *value);
    if found.is_none() {
        let meant = nearest(text, words.iter().map(|(w, _)| *w));
        let message = format!("`{}` cannot be `{text}`", entry.key);
        report.name(entry.value.span, message, meant, &format!("it is one of: {}", list()));
    }
    found
}

/// A list; `None` with a complaint where it is none.
pub(super) fn list<'n>(entry: &'n Entry, report: &mut Report<'_>) -> Option<&'n [Node]> {
    match &entry.value.value {
        NodeValue::Seq(items) => Some(items),
        _ => {
            let message = format!("`{}` must be a list, not {}", entry.key, entry.value.kind());
            report.help(at(entry), message, "write [a, b], or one `- …` a line");
            None
        }
    }
}

/// A mapping; `None` with a complaint where it is none.
pub(super) fn mapping<'n>(entry: &'n Entry, report: &mut Report<'_>) -> Option<&'n [Entry]> {
    match &entry.value.value {
        NodeValue::Map(entries) => Some(entries),
        _ => {
            let message = format!("`{}` must be a mapping, not {}", entry.key, entry.value.kind());
            report.help(
                at(entry),
                message,
                as_written(&entry.key).unwrap_or("write {key: value}, or one `key: value` a line"),
            );
            None
        }
    }
}

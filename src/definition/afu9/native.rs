//! `stepd import`: a document in the native language, for whoever wants to go on in it.

use std::collections::HashMap;

use serde_json::Value;

use crate::rules::policy::{Backoff, RetryPolicy};

use super::context::{Piece, pieces};
use super::expression::{Expr, Operator};
use super::{Compat, Document, ToolStep};

/// The YAML of a document.
///
/// A variable becomes the output of the step that last assigned it; `repo` and `issue` become parts of the input. What cannot be
/// said in the native language stands in a comment.
#[must_use]
pub fn to_native(name: &str, source_name: &str, document: &Document) -> String {
    let mut out = format!(
        "# Imported from {source_name}, an AFU-9 document. The input is what its context's `input` was, with\n"
    );
    out.push_str("# `repo` in it. Numbers and booleans keep their types here, where AFU-9 made text of them.\n");
    for note in notes(document) {
        out.push_str(&format!("# Note: {note}\n"));
    }
    out.push_str(&format!("name: {name}\nresume: never\n"));
    if let Some(limit) = document.timeout {
        out.push_str(&format!("timeout: {}ms\n", limit.as_millis()));
    }
    out.push_str("steps:\n");
    let mut known = Variables::default();
    for step in &document.steps {
        out.push_str(&step_of(document, step, &known));
        if let Some(variable) = &step.assign {
            known.steps.insert(variable.clone(), id(step));
        }
    }
    if document.steps.is_empty() {
        out.push_str("  - {id: nothing, set: null}\n");
    }
    let mut variables: Vec<_> = known.steps.iter().collect();
    variables.sort();
    let parts: Vec<String> = variables.iter().map(|(name, step)| format!("'{name}': steps.{step}.output")).collect();
    out.push_str(&format!("output: \"{{{}}}\"\n", parts.join(", ")));
    out
}

/// What the translation cannot keep.
fn notes(document: &Document) -> Vec<String> {
    let mut notes =
        vec!["HOLD and RED are guards of AFU-9; load the document itself, as it is, to keep them.".to_owned()];
    if document.filling.compat == Compat::Engine {
        notes.push("it asked for `afu9-engine`; what stands here is the documented meaning.".into());
    }
    let mut seen: Vec<&str> = Vec::new();
    for step in &document.steps {
        if let Some(variable) = step.assign.as_deref() {
            if seen.contains(&variable) {
                let after = if step.condition.is_some() { "; null where that is skipped" } else { "" };
                notes.push(format!(
                    "`{variable}` is assigned again; behind `{}` it is that step's output{after}.",
                    step.name
                ));
            }
            seen.push(variable);
        }
    }
    notes
}

/// A key may stand twice, with a number behind it.
fn id(step: &ToolStep) -> String {
    step.key.replace('[', "_").replace(']', "")
}

#[derive(Default)]
struct Variables {
    /// The step that assigned each, so far.
    steps: HashMap<String, String>,
}

impl Variables {
    /// A path as a native one.
    fn path(&self, path: &str) -> String {
        let parts: Vec<String> =
            path.replace('[', ".").replace(']', "").split('.').map(|p| p.trim().to_owned()).collect();
        let (first, rest) = parts.split_first().map_or(("", &[][..]), |(f, r)| (f.as_str(), r));
        let variable = |name: &str, rest: &[String]| match self.steps.get(name) {
            Some(step) => joined(&format!("steps.{step}.output"), rest),
            None => joined(&joined("input.variables", &[name.to_owned()]), rest),
        };
        match (first, rest) {
            ("input", rest) => joined("input", rest),
            ("repo", rest) => joined("input.repo", rest),
            ("variables", [name, rest @ ..]) => variable(name, rest),
            ("variables", []) => "input.variables".to_owned(),
            ("issue", rest) if !self.steps.contains_key("issue") => joined("input.issue", rest),
            (name, rest) => variable(name, rest),
        }
    }

    /// A value, its placeholders made native.
    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.iter().map(|v| self.value(v)).collect(),
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), self.value(v))).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        let one = |piece: Piece<'_>| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Path(path) if is_path(path) => format!("${{{{ {} }}}}", self.path(path)),
            Piece::Path(other) => format!("${{{other}}}"),
        };
        pieces(text).into_iter().map(one).collect()
    }

    fn expression(&self, expr: &Expr) -> String {
        match expr {
            Expr::Literal(None | Some(Value::Null)) => "none".into(),
            Expr::Literal(Some(value)) => value.to_string(),
            Expr::Path(path) => format!("({} | default(none))", self.path(path)),
            Expr::Text(text) => self.quoted(text),
            Expr::Not(inner) => format!("(not {})", self.expression(inner)),
            Expr::And(left, right) => format!("({} and {})", self.expression(left), self.expression(right)),
            Expr::Or(left, right) => format!("({} or {})", self.expression(left), self.expression(right)),
            Expr::Compare(operator, left, right) => {
                let word = match operator {
                    Operator::Same | Operator::Equal => "==",
                    Operator::Differs | Operator::Unequal => "!=",
                    Operator::Less => "<",
                    Operator::LessOrEqual => "<=",
                    Operator::More => ">",
                    Operator::MoreOrEqual => ">=",
                };
                format!("({} {word} {})", self.expression(left), self.expression(right))
            }
        }
    }

    fn quoted(&self, text: &str) -> String {
        let parts: Vec<String> = pieces(text)
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
                Piece::Path(path) => format!("({} | default(''))", self.path(path)),
            })
            .collect();
        match parts.as_slice() {
            [] => "''".into(),
            // A lone placeholder in quotation marks is text.
            [one] if one.starts_with('(') => format!("({one} ~ '')"),
            [one] => one.clone(),
            many => format!("({})", many.join(" ~ ")),
        }
    }
}

/// A path as it may stand in a document: words, and places in lists.
fn is_path(text: &str) -> bool {
    let word =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    text.replace('[', ".").replace(']', "").split('.').all(|part| word(part.trim()))
}

fn joined(base: &str, rest: &[String]) -> String {
    let mut out = base.to_owned();
    for part in rest {
        let word = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if part.parse::<usize>().is_ok() {
            out.push_str(&format!("[{part}]"));
        } else if word {
            out.push_str(&format!(".{part}"));
        } else {
            out.push_str(&format!("['{}']", part.replace('\'', "\\'")));
        }
    }
    out
}

fn step_of(document: &Document, step: &ToolStep, known: &Variables) -> String {
    let mut out = format!("  - id: {}\n    mcp: {}\n", id(step), quoted(&step.tool));
    if let Some(expr) =
        step.condition.as_ref().and_then(|c| c.tree().cloned().or_else(|| super::expression::parse(c.text()).ok()))
    {
        // `if` takes nothing but true and false; AFU-9 took anything.
        out.push_str(&format!("    if: {}\n", quoted(&format!("true if {} else false", known.expression(&expr)))));
    }
    if step.params.as_object().is_none_or(|p| !p.is_empty()) {
        out.push_str(&format!("    args: {}\n", known.value(&step.params)));
    }
    out.push_str(&format!("    retry: {}\n", retry(&step.retry)));
    if document.continue_on_error {
        out.push_str("    on_error: continue\n");
    }
    out
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn retry(policy: &RetryPolicy) -> String {
    if policy.max_attempts == 1 {
        return "{max_attempts: 1}".into();
    }
    let word = match policy.backoff {
        Backoff::Constant => "constant",
        Backoff::Linear => "linear",
        Backoff::Exponential => "exponential",
    };
    let (initial, max) = (policy.initial.as_millis(), policy.max.max(policy.initial).as_millis());
    format!("{{max_attempts: {}, backoff: {word}, initial: {initial}ms, max: {max}ms, jitter: 0}}", policy.max_attempts)
}

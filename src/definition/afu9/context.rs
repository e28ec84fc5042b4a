//! The names of an AFU-9 run, and placeholders filled in from them.

use serde_json::{Map, Value};

use crate::model::{Failure, code};

use super::{Compat, Filling};

/// What a document's placeholders and conditions see: `variables`, `input`, `repo`, `issue`.
#[derive(Clone, Debug, Default)]
pub struct Context {
    root: Map<String, Value>,
}

const KEYS: [&str; 4] = ["variables", "input", "repo", "issue"];

impl Context {
    /// Of a run's input: a whole context (`{"variables": …, "input": …, "repo": …}`), or what the context's `input` is; then its
    /// `repo` is the context's, too.
    #[must_use]
    pub fn of(input: Value) -> Self {
        let whole = input.as_object().is_some_and(|map| {
            let inner = |key: &str| map.get(key).is_some_and(Value::is_object);
            (inner("input") || inner("variables")) && map.keys().all(|k| KEYS.contains(&k.as_str()))
        });
        let mut root = match input {
            Value::Object(map) if whole => map,
            input => {
                let repo = input.get("repo").cloned();
                let mut root = Map::from_iter([("input".to_owned(), input)]);
                root.extend(repo.map(|repo| ("repo".to_owned(), repo)));
                root
            }
        };
        for key in ["variables", "input"] {
            root.entry(key).or_insert_with(|| Value::Object(Map::new()));
        }
        Self { root }
    }

    /// The variables: what the run gives in the end.
    #[must_use]
    pub fn variables(&self) -> &Value {
        self.root.get("variables").unwrap_or(&Value::Null)
    }

    /// What the run was given.
    #[must_use]
    pub fn input(&self) -> &Value {
        self.root.get("input").unwrap_or(&Value::Null)
    }

    /// All of it.
    #[must_use]
    pub fn into_json(self) -> Value {
        Value::Object(self.root)
    }

    /// Sets a variable. A result that is nothing assigns nothing.
    pub fn assign(&mut self, name: &str, value: Value) {
        if let (false, Some(Value::Object(variables))) = (value.is_null(), self.root.get_mut("variables")) {
            variables.insert(name.to_owned(), value);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.root.get(key)
    }

    /// What a path leads to. Documented: from `input`, `repo` and `variables`, else from a variable of that name, else from the
    /// context. The engine: from the context alone, and blanks belong to the names.
    pub(super) fn find(&self, path: &str, compat: Compat) -> Option<&Value> {
        let steps = path.replace('[', ".").replace(']', "");
        let mut parts = steps.split('.');
        let first = parts.next()?;
        let start = match compat {
            Compat::Engine => self.root.get(first)?,
            Compat::Documented => {
                let first = first.trim();
                let own = ["input", "repo", "variables"].contains(&first);
                let variable = self.variables().get(first).filter(|_| !own);
                variable.or_else(|| self.root.get(first))?
            }
        };
        parts.try_fold(start, |at, part| {
            let part = if compat == Compat::Documented { part.trim().trim_matches(['\'', '"']) } else { part };
            match at {
                Value::Array(items) => items.get(part.parse::<usize>().ok()?),
                Value::Object(map) => map.get(part),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            }
        })
    }

    /// A value with all its placeholders filled in.
    ///
    /// # Errors
    /// A path that leads nowhere, by name.
    pub fn fill(&self, value: &Value, how: Filling) -> Result<Value, Failure> {
        Ok(match value {
            Value::String(text) => self.fill_text(text, how)?,
            Value::Array(items) => Value::Array(items.iter().map(|v| self.fill(v, how)).collect::<Result<_, _>>()?),
            Value::Object(map) => Value::Object(
                map.iter().map(|(k, v)| Ok((k.clone(), self.fill(v, how)?))).collect::<Result<_, Failure>>()?,
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    fn fill_text(&self, text: &str, how: Filling) -> Result<Value, Failure> {
        let pieces = pieces(text);
        if let ([Piece::Path(path)], Compat::Documented) = (pieces.as_slice(), how.compat)
            && let Some(value) = self.find(path, how.compat)
            && (how.typed || value.is_object() || value.is_array())
        {
            return Ok(value.clone());
        }
        let mut out = String::with_capacity(text.len());
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Path(path) => match self.find(path, how.compat) {
                    Some(value) => out.push_str(&text_of(value, how.compat)),
                    None if how.keep || how.compat == Compat::Engine || is_code(path) => {
                        out.push_str(&format!("${{{path}}}"));
                    }
                    None => return Err(missing(path)),
                },
            }
        }
        Ok(out.into())
    }
}

/// Is it no path at all, but a call or a calculation, such as `new Date().toISOString()`? No reading of a document ever ran one: it
/// is text that has always been handed on as it is.
fn is_code(text: &str) -> bool {
    text.contains(['(', ')', '+', '*', '/', '=', '<', '>', '!', '&', '|', '?', ';', ','])
}

fn missing(path: &str) -> Failure {
    let shown: String = path.chars().take(200).collect();
    Failure::permanent(
        code::INVALID_PARAMS,
        format!("`${{{shown}}}` leads nowhere: no such variable has been assigned, and the input has no such part"),
    )
}

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    /// What stands between `${` and `}`.
    Path(&'t str),
}

/// A text, taken apart at its placeholders. What is open, or empty, is text.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let (mut rest, mut from) = (text, 0);
    while let Some(at) = rest[from..].find("${").map(|at| from + at) {
        match rest[at + 2..].find('}') {
            Some(0) => from = at + 3,
            Some(length) => {
                out.extend((at > 0).then(|| Piece::Text(&rest[..at])));
                out.push(Piece::Path(&rest[at + 2..at + 2 + length]));
                rest = &rest[at + 3 + length..];
                from = 0;
            }
            None => break,
        }
    }
    out.extend((!rest.is_empty()).then_some(Piece::Text(rest)));
    out
}

/// A value inside of a text: as JSON, or as the engine's language would write it.
pub(super) fn text_of(value: &Value, compat: Compat) -> String {
    match (value, compat) {
        (Value::String(text), _) => text.clone(),
        (Value::Object(_), Compat::Engine) => "[object Object]".into(),
        (Value::Array(items), Compat::Engine) => {
            let part = |v: &Value| if v.is_null() { String::new() } else { text_of(v, compat) };
            items.iter().map(part).collect::<Vec<_>>().join(",")
        }
        (Value::Number(n), _) => match n.as_f64().filter(|f| n.is_f64() && f.fract() == 0.0 && f.abs() < 1e15) {
            Some(whole) => format!("{whole:.0}"),
            None => n.to_string(),
        },
        (other, _) => other.to_string(),
    }
}

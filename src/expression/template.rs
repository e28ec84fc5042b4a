//! JSON with expressions in its strings.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::model::{Failure, code};

use super::bridge::size;
use super::compile::Expression;
use super::error::ExpressionError;
use super::limits::RESULT_BYTES;
use super::scope::View;
use super::split::{Piece, has_expression, split};

/// A compiled template.
#[derive(Clone, Debug)]
pub enum Template {
    /// Nothing to evaluate.
    Constant(Arc<Value>),
    /// A string that is exactly one `${{ }}`: the value keeps its type.
    Value(Arc<Expression>),
    /// Text with expressions in it: strings bare, others as compact JSON.
    Text(Arc<[Part]>),
    /// An array with something to evaluate in it.
    Array(Arc<[Template]>),
    /// An object with something to evaluate in it.
    Object(Arc<[(String, Template)]>),
}

/// A part of a text.
#[derive(Debug)]
pub enum Part {
    /// Text.
    Text(String),
    /// The text of an expression's value.
    Expression(Expression),
    /// The same as one piece of a URL: whatever would begin another piece is encoded.
    Component(Expression),
}

impl Template {
    /// A constant.
    #[must_use]
    pub fn constant(value: Value) -> Self {
        Self::Constant(Arc::new(value))
    }

    /// Compiles every string in a value.
    ///
    /// # Errors
    /// The first expression that cannot be compiled.
    pub fn compile(value: &Value) -> Result<Self, ExpressionError> {
        Ok(match value {
            Value::String(text) => return Self::string(text),
            Value::Array(items) => Self::array(items.iter().map(Self::compile).collect::<Result<_, _>>()?),
            Value::Object(map) => Self::object(
                map.iter().map(|(k, v)| Ok((k.clone(), Self::compile(v)?))).collect::<Result<_, ExpressionError>>()?,
            ),
            other => Self::constant(other.clone()),
        })
    }

    /// A string: exactly one `${{ }}` keeps its value's type.
    ///
    /// # Errors
    /// The first expression that cannot be compiled.
    pub fn string(text: &str) -> Result<Self, ExpressionError> {
        Ok(match parts(text)? {
            None => Self::constant(text.into()),
            Some(mut parts) => match (parts.len(), parts.pop()) {
                (1, Some(Part::Expression(e))) => Self::Value(Arc::new(e)),
                (_, last) => {
                    parts.extend(last);
                    Self::Text(parts.into())
                }
            },
        })
    }

    /// A string that stays one, also where it is exactly one `${{ }}` (an argument of a program, a header).
    ///
    /// # Errors
    /// The first expression that cannot be compiled.
    pub fn text(text: &str) -> Result<Self, ExpressionError> {
        Ok(match parts(text)? {
            None => Self::constant(text.into()),
            Some(parts) => Self::Text(parts.into()),
        })
    }

    /// The text of a URL. Where the text itself says where the URL leads, a value is one piece of it, and cannot become another
    /// host, another folder or another parameter. What stands at the very beginning is a URL, and taken as it is.
    ///
    /// # Errors
    /// The first expression that cannot be compiled.
    pub fn url(text: &str) -> Result<Self, ExpressionError> {
        let Some(parts) = parts(text)? else { return Ok(Self::constant(text.into())) };
        let piece = |(place, part)| match part {
            Part::Expression(e) if place > 0 => Part::Component(e),
            part => part,
        };
        Ok(Self::Text(parts.into_iter().enumerate().map(piece).collect()))
    }

    /// An array; constant when all its items are.
    #[must_use]
    pub fn array(items: Vec<Self>) -> Self {
        match items.iter().map(Self::as_constant).collect::<Option<Vec<_>>>() {
            Some(values) => Self::constant(Value::Array(values.into_iter().cloned().collect())),
            None => Self::Array(items.into()),
        }
    }

    /// An object; constant when all its values are.
    #[must_use]
    pub fn object(entries: Vec<(String, Self)>) -> Self {
        match entries.iter().map(|(k, t)| t.as_constant().map(|v| (k, v))).collect::<Option<Vec<_>>>() {
            Some(values) => {
                Self::constant(Value::Object(values.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect()))
            }
            None => Self::Object(entries.into()),
        }
    }

    /// The value, where there is nothing to evaluate.
    #[must_use]
    pub fn as_constant(&self) -> Option<&Value> {
        match self {
            Self::Constant(value) => Some(value),
            Self::Value(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Calls `f` for each expression in it.
    pub fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Expression)) {
        match self {
            Self::Constant(_) => {}
            Self::Value(e) => f(e),
            Self::Text(parts) => parts.iter().for_each(|p| match p {
                Part::Text(_) => {}
                Part::Expression(e) | Part::Component(e) => f(e),
            }),
            Self::Array(items) => items.iter().for_each(|t| t.each(f)),
            Self::Object(entries) => entries.iter().for_each(|(_, t)| t.each(f)),
        }
    }

    /// Evaluates all expressions.
    ///
    /// # Errors
    /// As [`Expression::eval`]; `too_large` when the whole is larger than the limit.
    pub fn eval(&self, view: &View) -> Result<Value, Failure> {
        let mut budget = RESULT_BYTES;
        self.eval_in(view, &mut budget)
    }

    fn eval_in(&self, view: &View, budget: &mut usize) -> Result<Value, Failure> {
        Ok(match self {
            Self::Constant(value) => Value::clone(value),
            Self::Value(e) => {
                let value = e.eval(view)?;
                spend(budget, size(&value))?;
                value.into_owned()
            }
            Self::Text(parts) => Value::String(text(parts, view, budget)?),
            Self::Array(items) => {
                Value::Array(items.iter().map(|t| t.eval_in(view, budget)).collect::<Result<_, _>>()?)
            }
            Self::Object(entries) => {
                let mut map = Map::with_capacity(entries.len());
                for (key, template) in entries.iter() {
                    map.insert(key.clone(), template.eval_in(view, budget)?);
                }
                Value::Object(map)
            }
        })
    }
}

fn parts(text: &str) -> Result<Option<Vec<Part>>, ExpressionError> {
    if !has_expression(text) {
        return Ok(None);
    }
    let pieces = split(text).map_err(|e| {
        let mut error = ExpressionError::new(text.lines().next().unwrap_or_default(), e.message);
        error.offset = Some(e.offset);
        error
    })?;
    let compiled = pieces.into_iter().map(|piece| match piece {
        Piece::Text(text) => Ok(Part::Text(text.to_owned())),
        Piece::Expression { source, .. } => Expression::compile(source).map(Part::Expression),
    });
    compiled.collect::<Result<Vec<_>, _>>().map(Some)
}

fn text(parts: &[Part], view: &View, budget: &mut usize) -> Result<String, Failure> {
    let mut out = String::new();
    for part in parts {
        let before = out.len();
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Expression(e) => out.push_str(&bare(e.eval(view)?.as_ref())),
            Part::Component(e) => component(&mut out, &bare(e.eval(view)?.as_ref())),
        }
        spend(budget, out.len() - before)?;
    }
    if parts.iter().any(|part| matches!(part, Part::Component(_))) && leaves_its_folder(&out) {
        let message = "`.` or `..` as a piece of the URL would lead to another place: no value may be one";
        return Err(Failure::permanent(code::EXPRESSION, message));
    }
    Ok(out)
}

/// Strings bare, others as compact JSON.
fn bare(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// All but letters, digits and `-._~` is percent-encoded.
fn component(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Is a piece of the path a dot or two, in any spelling that URLs have for them?
fn leaves_its_folder(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.split('/').any(|piece| matches!(piece.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | ".."))
}

fn spend(budget: &mut usize, bytes: usize) -> Result<(), Failure> {
    *budget = budget.checked_sub(bytes).ok_or_else(|| {
        Failure::permanent(
            code::TOO_LARGE,
            format!("the evaluated parameters are larger than {} MiB: hand on less", RESULT_BYTES / 1024 / 1024),
        )
    })?;
    Ok(())
}

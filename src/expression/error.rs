//! Why an expression cannot be compiled or evaluated.

use std::fmt;

use crate::model::{Failure, code};

/// A complaint about one expression. It names the expression and the name at fault, never a value: values may be secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// The expression's text.
    pub expression: String,
    /// What is wrong, without the expression.
    pub message: String,
    /// A name that was probably meant.
    pub suggestion: Option<String>,
    /// Where in the expression, in bytes, if known.
    pub offset: Option<usize>,
}

impl ExpressionError {
    pub(super) fn new(expression: &str, message: impl Into<String>) -> Self {
        Self { expression: expression.to_owned(), message: message.into(), suggestion: None, offset: None }
    }

    pub(super) fn suggest(mut self, name: Option<String>) -> Self {
        self.suggestion = name;
        self
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.message.starts_with(&format!("`{}`", self.expression)) {
            write!(f, " in `{}`", self.expression)?;
        }
        match &self.suggestion {
            Some(name) => write!(f, "; did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ExpressionError {}

impl From<ExpressionError> for Failure {
    fn from(e: ExpressionError) -> Self {
        Self::permanent(code::EXPRESSION, e.to_string())
    }
}

/// The candidate that was probably meant by `name`: near enough in spelling, and the nearest of all.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = match name.chars().count() {
        0..=3 => 1,
        4..=6 => 2,
        _ => 3,
    };
    // Too far away already by their lengths: of a long word and many candidates the distances would take seconds.
    let length = name.chars().count();
    let near = |c: &&str| *c != name && c.chars().count().abs_diff(length) <= limit;
    candidates
        .into_iter()
        .filter(near)
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= limit && *distance < c.chars().count())
        // The same among equals at every run: some candidates come out of a hash map.
        .min()
        .map(|(_, c)| c)
}

//! Whether a step runs. Values are compared; no text is ever run as code.

use serde_json::Value;

use super::context::{Piece, pieces, text_of};
use super::expression::{Expr, Wrong, parse, truthy};
use super::{Compat, Context};

/// A step's `if` or `condition`.
#[derive(Clone, Debug)]
pub struct Condition {
    text: String,
    meaning: Meaning,
}

#[derive(Clone, Debug)]
enum Meaning {
    /// All three spellings: `${path}`, `${a} === 'x'`, `${a === 'x'}`.
    Documented(Expr),
    /// Placeholders are pasted as text, and the text is read.
    Engine,
}

impl Condition {
    /// Reads a condition.
    pub(super) fn new(text: &str, compat: Compat) -> Result<Self, Wrong> {
        let meaning = match compat {
            Compat::Documented => Meaning::Documented(parse(text)?),
            Compat::Engine => Meaning::Engine,
        };
        Ok(Self { text: text.to_owned(), meaning })
    }

    /// As it stands in the document.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it was read as, where that is a tree.
    pub(super) fn tree(&self) -> Option<&Expr> {
        match &self.meaning {
            Meaning::Documented(expr) => Some(expr),
            Meaning::Engine => None,
        }
    }

    /// Does it hold?
    #[must_use]
    pub fn holds(&self, context: &Context) -> bool {
        match &self.meaning {
            Meaning::Documented(expr) => {
                let names = |path: &str| Ok(context.find(path, Compat::Documented).cloned());
                expr.eval(&names, Some(context)).is_ok_and(|v| truthy(v.as_ref()))
            }
            Meaning::Engine => as_the_engine(&self.text, context),
        }
    }
}

/// As AFU-9's engine decided, but for running the text as code: what is not plain comparison or logic of literals skips the step.
fn as_the_engine(text: &str, context: &Context) -> bool {
    if let [Piece::Path(path)] = pieces(text).as_slice() {
        return truthy(context.find(path, Compat::Engine));
    }
    let mut pasted = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => pasted.push_str(text),
            Piece::Path(path) => match context.find(path, Compat::Engine) {
                Some(value) => pasted.push_str(&text_of(value, Compat::Engine)),
                // Left as it is, and what is left as it is skips the step.
                None => return false,
            },
        }
    }
    if pasted.contains("${") {
        return false;
    }
    let compares = ["===", "!==", "==", "!=", "<", ">"].iter().any(|word| pasted.contains(word));
    match pasted.trim() {
        "true" => true,
        "" | "false" | "null" | "undefined" => false,
        _ if !compares => true,
        code => {
            // A name is a ReferenceError there.
            let nobody = |_: &str| Err::<Option<Value>, ()>(());
            parse(code).is_ok_and(|e| e.eval(&nobody, None).is_ok_and(|v| truthy(v.as_ref())))
        }
    }
}

//! The little language of AFU-9's conditions: paths, literals, comparisons, logic. Nothing in it can be called, so no text can
//! do anything but be true or false.

use serde_json::Value;

use super::context::{Piece, pieces, text_of};
use super::{Compat, Context};

/// Nesting of a condition: above any that a person writes.
const DEPTH: usize = 50;

/// Characters of a condition.
const LENGTH: usize = 4_000;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Literal(Option<Value>),
    Path(String),
    /// A quoted text with placeholders in it.
    Text(String),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Operator, Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Same,
    Differs,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// What is wrong with a text, and where in it, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) message: String,
}

/// Longer ones first: `===` begins with `==`.
const OPERATORS: [(&str, Operator); 8] = [
    ("===", Operator::Same),
    ("!==", Operator::Differs),
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::MoreOrEqual),
    ("<", Operator::Less),
    (">", Operator::More),
];

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Expr, Wrong> {
    if text.len() > LENGTH {
        return Err(Wrong { at: 0, message: format!("the condition is longer than {LENGTH} characters") });
    }
    let mut reader = Reader { text, at: 0, depth: 0 };
    let expr = reader.or()?;
    reader.blanks();
    match reader.rest().chars().next() {
        None => Ok(expr),
        Some(c) => Err(reader.wrong(format!("`{c}` is not expected here"))),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn wrong(&self, message: impl Into<String>) -> Wrong {
        Wrong { at: self.at, message: message.into() }
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn takes(&mut self, word: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn or(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.and()?;
        while self.takes("||") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.compared()?;
        while self.takes("&&") {
            left = Expr::And(Box::new(left), Box::new(self.compared()?));
        }
        Ok(left)
    }

    fn compared(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.unary()?;
        while let Some((_, operator)) = OPERATORS.iter().find(|(word, _)| self.takes(word)) {
            left = Expr::Compare(*operator, Box::new(left), Box::new(self.unary()?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, Wrong> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.wrong("the condition is nested too deeply"));
        }
        self.blanks();
        let negated = !self.rest().starts_with("!=") && self.takes("!");
        let expr = if negated { self.unary().map(|e| Expr::Not(Box::new(e))) } else { self.atom() };
        self.depth -= 1;
        expr
    }

    fn atom(&mut self) -> Result<Expr, Wrong> {
        for (open, close) in [("${", "}"), ("(", ")")] {
            if self.takes(open) {
                let inner = self.or()?;
                return if self.takes(close) {
                    Ok(inner)
                } else {
                    Err(self.wrong(format!("`{close}` is missing here")))
                };
            }
        }
        match self.rest().chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote),
            Some(c) if c.is_ascii_digit() || c == '-' || c == '.' => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => Ok(self.word()),
            Some(c) => Err(self.wrong(format!("`{c}` is not expected here"))),
            None => Err(self.wrong("something is missing at the end")),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Expr, Wrong> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => out.extend(chars.next().map(|(_, c)| c)),
                c if c == quote => {
                    self.at += at + 1;
                    return Ok(Expr::Text(out));
                }
                c => out.push(c),
            }
        }
        Err(self.wrong("this quotation mark is not closed"))
    }

    fn number(&mut self) -> Result<Expr, Wrong> {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | 'e' | 'E'))).unwrap_or(rest.len());
        let number: Value = serde_json::from_str(&rest[..end]).map_err(|_| self.wrong("this is no number"))?;
        self.at += end;
        Ok(Expr::Literal(Some(number)))
    }

    /// A path, or one of the words that are values.
    fn word(&mut self) -> Expr {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '[' | ']' | '-' | '$')))
            .unwrap_or(rest.len());
        self.at += end;
        match &rest[..end] {
            "true" => Expr::Literal(Some(Value::Bool(true))),
            "false" => Expr::Literal(Some(Value::Bool(false))),
            "null" => Expr::Literal(Some(Value::Null)),
            "undefined" => Expr::Literal(None),
            path => Expr::Path(path.to_owned()),
        }
    }
}

/// Where an expression's names lead: nowhere is `undefined`; `Err`: there are no names here at all.
pub(super) type Names<'a> = &'a dyn Fn(&str) -> Result<Option<Value>, ()>;

impl Expr {
    /// Its value; `None` is `undefined`.
    pub(super) fn eval(&self, names: Names<'_>, context: Option<&Context>) -> Result<Option<Value>, ()> {
        let value = |e: &Expr| e.eval(names, context);
        Ok(match self {
            Self::Literal(literal) => literal.clone(),
            Self::Path(path) => names(path)?,
            Self::Text(text) => Some(filled(text, context).into()),
            Self::Not(inner) => Some((!truthy(value(inner)?.as_ref())).into()),
            Self::And(left, right) => match value(left)? {
                left if truthy(left.as_ref()) => value(right)?,
                left => left,
            },
            Self::Or(left, right) => match value(left)? {
                left if truthy(left.as_ref()) => left,
                _ => value(right)?,
            },
            Self::Compare(operator, left, right) => {
                Some(compare(*operator, value(left)?.as_ref(), value(right)?.as_ref()).into())
            }
        })
    }
}

/// A quoted text with its placeholders filled in.
fn filled(text: &str, context: Option<&Context>) -> String {
    let Some(context) = context else { return text.to_owned() };
    let one = |piece: Piece<'_>| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Path(path) => {
            context.find(path, Compat::Documented).map(|v| text_of(v, Compat::Documented)).unwrap_or_default()
        }
    };
    pieces(text).into_iter().map(one).collect()
}

/// Is a value as good as true?
pub(super) fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(Value::Number(n)) => n.as_f64().is_some_and(|f| f != 0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

fn compare(operator: Operator, left: Option<&Value>, right: Option<&Value>) -> bool {
    match operator {
        Operator::Same => same(left, right),
        Operator::Differs => !same(left, right),
        Operator::Equal => equal(left, right),
        Operator::Unequal => !equal(left, right),
        Operator::Less => ordered(left, right).is_some_and(std::cmp::Ordering::is_lt),
        Operator::LessOrEqual => ordered(left, right).is_some_and(std::cmp::Ordering::is_le),
        Operator::More => ordered(left, right).is_some_and(std::cmp::Ordering::is_gt),
        Operator::MoreOrEqual => ordered(left, right).is_some_and(std::cmp::Ordering::is_ge),
    }
}

fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a == b || a.as_f64() == b.as_f64(),
        (left, right) => left == right,
    }
}

/// `==`: null is undefined, and a number is equal to its text.
fn equal(left: Option<&Value>, right: Option<&Value>) -> bool {
    let nothing = |v: Option<&Value>| v.is_none_or(Value::is_null);
    if nothing(left) || nothing(right) {
        return nothing(left) && nothing(right);
    }
    let whole = |v: Option<&Value>| v.is_some_and(|v| v.is_object() || v.is_array());
    match (left, right) {
        (Some(Value::String(a)), Some(Value::String(b))) => a == b,
        _ if whole(left) || whole(right) => same(left, right),
        _ => number(left) == number(right),
    }
}

fn ordered(left: Option<&Value>, right: Option<&Value>) -> Option<std::cmp::Ordering> {
    match (left, right) {
        (Some(Value::String(a)), Some(Value::String(b))) => Some(a.cmp(b)),
        _ => number(left).partial_cmp(&number(right)),
    }
}

fn number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Null) => 0.0,
        Some(Value::Bool(b)) => f64::from(u8::from(*b)),
        Some(Value::Number(n)) => n.as_f64().unwrap_or(f64::NAN),
        Some(Value::String(text)) if text.trim().is_empty() => 0.0,
        Some(Value::String(text)) => text.trim().parse().unwrap_or(f64::NAN),
        Some(Value::Array(_) | Value::Object(_)) | None => f64::NAN,
    }
}

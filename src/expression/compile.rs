//! One expression: compiled at load, evaluated for each attempt.

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

use crate::model::Failure;

use super::bridge::{Export, FUNCTIONS, Names, Trace};
use super::error::{ExpressionError, nearest};
use super::limits::{BRACKETS, FUEL, LINKS, SOURCE_BYTES};
use super::path::{Found, Path, Segment};
use super::scope::View;

/// One environment for all: expressions share nothing but filters and tests.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(FUEL));
    // Deep enough for people; the default of 500 frames is meant for a main thread's stack, not a worker's.
    env.set_recursion_limit(100);
    super::filters::install(&mut env);
    env.remove_global("debug");
    env.remove_global("namespace");
    env
});

/// A compiled expression.
pub struct Expression {
    source: Arc<str>,
    code: Code,
    references: Vec<Path>,
    /// Does it ask for names that may be missing (`is defined`, `default`)?
    forgiving: bool,
}

enum Code {
    Path(Path),
    /// The path beside it is the same thing, where a path's odd case needs the library.
    Library(minijinja::Expression<'static, 'static>),
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.source)
    }
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// A syntax error, or a filter or test that does not exist.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        let source = source.trim();
        if source.len() > SOURCE_BYTES {
            let start: String = source.chars().take(40).collect();
            return Err(ExpressionError::new(&start, "the expression is too long"));
        }
        let fail = |message: String| ExpressionError::new(source, message);
        nesting(source).map_err(&fail)?;
        if let Some(path) = Path::parse(source) {
            let references = vec![path.clone()];
            return Ok(Self { source: source.into(), code: Code::Path(path), references, forgiving: false });
        }
        if source.is_empty() {
            return Err(fail("there is no expression".into()));
        }
        let compiled = ENVIRONMENT.compile_expression_owned(source.to_owned()).map_err(|e| syntax(source, &e))?;
        let called = called(source);
        known(source, &called)?;
        let mut references: Vec<Path> = compiled
            .undeclared_variables(true)
            .iter()
            .filter_map(|text| Path::parse(text))
            .filter(|path| !FUNCTIONS.contains(&&*path.root))
            .collect();
        references.sort_by_key(|path| path.text(usize::MAX));
        let forgiving = called.iter().any(|c| FORGIVING.contains(&c.word));
        Ok(Self { source: source.into(), code: Code::Library(compiled), references, forgiving })
    }

    /// The expression's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The paths that the expression names; `steps["a"]` counts as `steps`.
    #[must_use]
    pub fn references(&self) -> &[Path] {
        &self.references
    }

    /// Does a secret flow into the result?
    #[must_use]
    pub fn uses_secrets(&self) -> bool {
        self.references.iter().any(|p| &*p.root == "secrets")
    }

    /// May names that it mentions be missing?
    #[must_use]
    pub fn is_forgiving(&self) -> bool {
        self.forgiving
    }

    /// Evaluates it. A plain path borrows what it finds.
    ///
    /// # Errors
    /// A permanent failure `expression`: a missing name, a wrong type, a limit; `invalid_json`, when a value cannot be read.
    pub fn eval<'a>(&'a self, view: &'a View) -> Result<Cow<'a, Value>, Failure> {
        match &self.code {
            Code::Path(path) => match view.find(path)? {
                Found::Value(value) => Ok(value),
                Found::Missing(at, names) => Err(self.missing(path, at, &names).into()),
                Found::Odd => {
                    let compiled =
                        ENVIRONMENT.compile_expression(&self.source).map_err(|e| syntax(&self.source, &e))?;
                    self.library(|root| compiled.eval(root), view).map(Cow::Owned)
                }
            },
            Code::Library(compiled) => self.library(|root| compiled.eval(root), view).map(Cow::Owned),
        }
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// As [`Self::eval`]; and when the result is neither true nor false.
    pub fn eval_bool(&self, view: &View) -> Result<bool, Failure> {
        match self.eval(view)?.as_ref() {
            Value::Bool(b) => Ok(*b),
            other => {
                let message =
                    format!("the condition must be true or false, not {} (compare it with something)", kind(other));
                Err(ExpressionError::new(&self.source, message).into())
            }
        }
    }

    fn library(
        &self,
        eval: impl FnOnce(minijinja::Value) -> Result<minijinja::Value, minijinja::Error>,
        view: &View,
    ) -> Result<Value, Failure> {
        let trace = Arc::new(Trace::default());
        let names = Names { view: view.clone(), trace: trace.clone() };
        let result = self.caught(|| eval(minijinja::Value::from_object(names)))?;
        if let Some(failure) = trace.unreadable.get() {
            return Err(failure.clone());
        }
        let missing = || {
            trace.missing.get().map(|(path, meant)| {
                ExpressionError::new(&self.source, format!("`{path}` does not exist")).suggest(meant.clone()).into()
            })
        };
        // The library lets many an undefined value pass as empty; we do so only where the expression asks for it.
        if let Some(failure) = missing().filter(|_| !self.forgiving) {
            return Err(failure);
        }
        let undefined = |message: &str| missing().unwrap_or_else(|| self.odd(message));
        match result {
            Ok(value) if value.is_undefined() => Err(undefined("the result is undefined")),
            Ok(value) => self.caught(|| Export::convert(&value))?.map_err(|message| undefined(&message)),
            Err(e) if e.kind() == ErrorKind::UndefinedError => Err(undefined("a name does not exist")),
            Err(e) => Err(self.failed(&e)),
        }
    }

    /// The library panics over some slices that go backwards (`[][::-1]`): at once, or when what it has promised is read.
    fn caught<T>(&self, call: impl FnOnce() -> T) -> Result<T, Failure> {
        let none = "the expression cannot be evaluated: does a slice in it go backwards over nothing?";
        catch_unwind(AssertUnwindSafe(call)).map_err(|_| self.odd(none))
    }

    fn odd(&self, message: &str) -> Failure {
        ExpressionError::new(&self.source, message).into()
    }

    fn failed(&self, e: &minijinja::Error) -> Failure {
        let message = match (e.kind(), e.detail()) {
            (ErrorKind::OutOfFuel, _) => "the expression takes too long: let a step do this work".to_owned(),
            // The library's details may quote values, and one of them may be a secret.
            (kind, Some(detail)) if !self.uses_secrets() => format!("{kind}: {detail}"),
            (kind, _) => kind.to_string(),
        };
        self.odd(&message)
    }

    fn missing(&self, path: &Path, at: usize, names: &[String]) -> ExpressionError {
        let meant = match path.segments.get(at) {
            Some(Segment::Key(key)) => nearest(key, names.iter().map(String::as_str)).map(str::to_owned),
            _ => None,
        };
        let mut message = format!("`{}` does not exist", path.text(at + 1));
        if meant.is_none() && &*path.root != "secrets" && matches!(path.segments.get(at), Some(Segment::Key(_))) {
            message.push_str(&format!(" (`{}` has {})", path.text(at), parts(names)));
        }
        ExpressionError::new(&self.source, message).suggest(meant)
    }
}

/// The names of the parts that there are, where they are few and short.
fn parts(names: &[String]) -> String {
    const MOST: usize = 8;
    let shown: Vec<&str> = names.iter().take(MOST).map(String::as_str).filter(|n| n.len() <= 40).collect();
    match shown.is_empty() {
        true => "no parts".to_owned(),
        false => format!("{}{}", shown.join(", "), if shown.len() < names.len() { ", …" } else { "" }),
    }
}

/// Words that make sense of missing names; where one stands, the library's own strictness has to do.
const FORGIVING: [&str; 10] =
    ["defined", "undefined", "default", "d", "selectattr", "rejectattr", "map", "groupby", "attr", "in"];

/// The JSON type of a value, with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn syntax(source: &str, e: &minijinja::Error) -> ExpressionError {
    let detail = e.detail().unwrap_or("it cannot be read");
    let mut error = ExpressionError::new(source, format!("syntax error: {detail}"));
    error.offset = e.range().map(|r| r.start);
    error
}

/// The library goes down an expression's tree by calls, when it reads, compiles and drops it, and a chain (`a.b.b`, `1+1+1`) is as deep as
/// it is long: neither may reach the end of a thread's stack. And so many lists in lists are a text without a bound where they are made one.
fn nesting(source: &str) -> Result<(), String> {
    let brackets = source.bytes().filter(|b| b"([{".contains(b)).count();
    match brackets > BRACKETS || depth(source) > LINKS {
        true => Err(format!(
            "the expression is nested too deeply, or has a chain of more than {LINKS} links, or more than {BRACKETS} brackets: let a step do this work"
        )),
        false => Ok(()),
    }
}

/// What stands within a bracket, or outside of all.
#[derive(Default)]
struct Level {
    /// Between the last comma and here: links, and the depth of the deepest bracket.
    links: usize,
    inner: usize,
    /// Before the last comma.
    deepest: usize,
}

impl Level {
    fn comma(&mut self) {
        self.deepest = self.deepest.max(self.links + self.inner);
        (self.links, self.inner) = (0, 0);
    }
}

/// No tree of this text is deeper: every operator, dot and filter is a link, and those between two commas are one chain. Quoted text is skipped.
fn depth(source: &str) -> usize {
    let bytes = source.as_bytes();
    let mut open = Vec::new();
    let mut here = Level::default();
    let mut i = 0;
    while i < bytes.len() {
        let start = i;
        i += 1;
        match bytes[start] {
            quote @ (b'"' | b'\'') => {
                while i < bytes.len() && bytes[i] != quote {
                    i += 1 + usize::from(bytes[i] == b'\\');
                }
                i += 1;
            }
            b'(' | b'[' | b'{' => open.push(std::mem::take(&mut here)),
            b')' | b']' | b'}' => here = closed(here, open.pop().unwrap_or_default()),
            b',' | b':' => here.comma(),
            // Each of a prefix is a call of the parser's, which takes more than a link.
            b'-' => here.links += 2,
            b'.' | b'|' | b'+' | b'*' | b'/' | b'%' | b'~' | b'=' | b'<' | b'>' | b'!' => here.links += 1,
            b if b.is_ascii_alphabetic() || b == b'_' => {
                i += bytes[i..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                here.links += match &source[start..i] {
                    "not" => 2,
                    "and" | "or" | "if" | "else" | "is" | "in" => 1,
                    _ => 0,
                };
            }
            _ => {}
        }
    }
    while let Some(outer) = open.pop() {
        here = closed(here, outer);
    }
    here.comma();
    here.deepest
}

/// The outer level, after an inner one has come to its end.
fn closed(mut inner: Level, mut outer: Level) -> Level {
    inner.comma();
    outer.inner = outer.inner.max(inner.deepest + 2);
    outer.links += 1;
    outer
}

/// What a word in an expression is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Filter,
    Test,
    In,
}

/// A filter, a test, or the operator `in`, with its place in bytes.
struct Called<'a> {
    call: Call,
    word: &'a str,
    offset: usize,
}

/// The filters and tests that an expression calls: the library lists neither. Quoted text is skipped.
fn called(source: &str) -> Vec<Called<'_>> {
    let bytes = source.as_bytes();
    let (mut out, mut i, mut expects) = (Vec::new(), 0, None);
    while i < bytes.len() {
        let b = bytes[i];
        let start = i;
        i += 1;
        if b == b'"' || b == b'\'' {
            while i < bytes.len() && bytes[i] != b {
                i += 1 + usize::from(bytes[i] == b'\\');
            }
            i += 1;
            expects = None;
        } else if b == b'|' {
            expects = Some(Call::Filter);
        } else if b.is_ascii_alphabetic() || b == b'_' {
            i += bytes[i..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
            let word = &source[start..i];
            let attribute = source[..start].trim_end().ends_with('.');
            match (word, expects) {
                ("not", Some(Call::Test)) => {}
                (_, Some(call)) => {
                    out.push(Called { call, word, offset: start });
                    expects = None;
                }
                ("is", None) if !attribute => expects = Some(Call::Test),
                ("in", None) if !attribute => out.push(Called { call: Call::In, word, offset: start }),
                _ => {}
            }
        } else if !b.is_ascii_whitespace() {
            expects = None;
        }
    }
    out
}

/// The library looks filters and tests up when it runs; a typo must be seen at load.
fn known(source: &str, called: &[Called<'_>]) -> Result<(), ExpressionError> {
    for Called { call, word, offset } in called {
        let (kind, names): (_, &[&str]) = match call {
            Call::Filter => ("filter", &FILTERS),
            Call::Test => ("test", &TESTS),
            Call::In => continue,
        };
        if !names.contains(word) {
            let mut error = ExpressionError::new(source, format!("there is no {kind} `{word}`"))
                .suggest(nearest(word, names.iter().copied()).map(str::to_owned));
            error.offset = Some(*offset);
            return Err(error);
        }
    }
    Ok(())
}

/// The library's filters, less the removed ones; a test holds the list against the library.
pub(super) const FILTERS: [&str; 40] = [
    "lower",
    "upper",
    "title",
    "capitalize",
    "replace",
    "length",
    "count",
    "dictsort",
    "items",
    "reverse",
    "trim",
    "join",
    "split",
    "lines",
    "default",
    "d",
    "round",
    "abs",
    "int",
    "float",
    "attr",
    "first",
    "last",
    "min",
    "max",
    "sort",
    "list",
    "string",
    "bool",
    "sum",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "groupby",
    "unique",
    "chain",
    "zip",
    "tojson",
];

/// The library's tests.
pub(super) const TESTS: [&str; 36] = [
    "undefined",
    "defined",
    "none",
    "safe",
    "escaped",
    "boolean",
    "odd",
    "even",
    "divisibleby",
    "number",
    "integer",
    "int",
    "float",
    "string",
    "sequence",
    "iterable",
    "mapping",
    "startingwith",
    "endingwith",
    "lower",
    "upper",
    "sameas",
    "eq",
    "equalto",
    "ne",
    "lt",
    "lessthan",
    "le",
    "gt",
    "greaterthan",
    "ge",
    "in",
    "true",
    "false",
    "filter",
    "test",
];

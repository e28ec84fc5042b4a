//! Which names an expression may use where it stands, seen at load.

use crate::expression::{Expression, ExpressionError, Path, Piece, Segment, Template, nearest, split};

use super::diagnostics::Report;
use super::node::{Entry, Node, NodeValue, Span};
use super::schema::Schema;
use super::scope::holder;

/// The steps of a list that have ended before a certain one.
#[derive(Clone, Debug)]
pub(super) enum Before {
    /// All that stand before this place.
    Prefix(usize),
    /// Those whose bit is set.
    Set(Vec<u64>),
}

/// Nothing has.
static NOTHING: Before = Before::Prefix(0);

impl Before {
    /// One bit for each of so many steps.
    pub(super) fn bits(&self, count: usize) -> Vec<u64> {
        let mut bits = match self {
            Self::Prefix(_) => Vec::new(),
            Self::Set(bits) => bits.clone(),
        };
        bits.resize(count.div_ceil(64).max(bits.len()), 0);
        if let Self::Prefix(end) = self {
            (0..(*end).min(count)).for_each(|place| bits[place / 64] |= 1 << (place % 64));
        }
        bits
    }

    pub(super) fn has(&self, place: usize) -> bool {
        match self {
            Self::Prefix(end) => place < *end,
            Self::Set(bits) => bits.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1),
        }
    }
}

/// The names in scope at one place.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// The workflow's input.
    pub(super) input: Option<&'a Schema>,
    /// The steps of the list: id, and whether it is a map.
    pub(super) steps: &'a [(&'a str, bool)],
    /// Those that have ended.
    pub(super) before: &'a Before,
    /// The step that the expression belongs to.
    pub(super) own: Option<usize>,
    /// The `switch` in whose branch that step stands.
    pub(super) within: Option<usize>,
    /// From where to where the steps of the same list stand: those that `needs` can name.
    pub(super) list: (usize, usize),
    /// The steps of the scope as they stand in the file.
    pub(super) nodes: &'a [Node],
    /// The item's name, inside a map; `index` inside a `repeat`.
    pub(super) item: Option<&'a str>,
    /// Is it known how the run ends?
    pub(super) ending: bool,
    /// `step`, in parameters.
    pub(super) step: bool,
    /// The names of the raw result, in `output`.
    pub(super) raw: &'a [&'a str],
    /// The names round the map.
    pub(super) outer: Option<&'a Names<'a>>,
}

/// Is an id in use in this list or one round it?
pub(super) fn taken(names: Option<&Names<'_>>, id: &str) -> bool {
    names.is_some_and(|n| n.steps.iter().any(|(other, _)| *other == id) || taken(n.outer, id))
}

const STEP: [&str; 3] = ["key", "attempt", "idempotency_key"];
const RUN: [&str; 4] = ["id", "workflow", "scheduled_for", "session_id"];
const RUN_AT_END: [&str; 5] = ["id", "workflow", "scheduled_for", "session_id", "state"];
const ERROR: [&str; 4] = ["class", "code", "message", "details"];
const ATTRIBUTES: [&str; 5] = ["output", "state", "error", "count", "failed"];

impl<'a> Names<'a> {
    /// Those of a scope of these steps, none of which has ended.
    pub(super) fn new(input: Option<&'a Schema>, steps: &'a [(&'a str, bool)]) -> Self {
        let (own, within, list, item, ending, step, outer) = (None, None, (0, 0), None, false, false, None);
        Self { input, steps, before: &NOTHING, own, within, list, nodes: &[], item, ending, step, raw: &[], outer }
    }
}

impl Names<'_> {
    fn roots(&self) -> Vec<&str> {
        let mut names = vec!["input", "steps", "run", "env", "secrets"];
        names.extend(self.ending.then_some("error"));
        names.extend(self.step.then_some("step"));
        names.extend(self.raw);
        let mut at = Some(self);
        while let Some(n) = at {
            for name in n.item.iter().flat_map(|i| [*i, "index"]) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            at = n.outer;
        }
        names
    }

    /// Checks the names of a compiled expression.
    fn check(&self, expression: &Expression, span: Span, report: &mut Report<'_>) {
        for path in expression.references() {
            let at = locate(report, span, path);
            self.path(path, expression.is_forgiving(), at, report);
        }
    }

    fn path(&self, path: &Path, forgiving: bool, span: Span, report: &mut Report<'_>) {
        let first = match path.segments.first() {
            Some(Segment::Key(key)) => Some(&**key),
            _ => None,
        };
        let root = &*path.root;
        if self.raw.contains(&root) {
            return;
        }
        match (root, first) {
            ("input", Some(key)) if !forgiving => input_property(self.input, key, span, report),
            ("steps", Some(id)) => self.steps(id, path, span, report),
            ("run", Some("state")) if self.ending => {}
            ("run", Some("state")) => report.help(
                span,
                "`run.state` is only known when the run is about to end",
                "use `steps.<id>.state` for the state of a step",
            ),
            ("run", Some(key)) if !RUN.contains(&key) => {
                let known = if self.ending { &RUN_AT_END[..] } else { &RUN };
                attribute("run", key, known, span, report);
            }
            ("step", Some(key)) if self.step && !STEP.contains(&key) => attribute("step", key, &STEP, span, report),
            ("error", Some(key)) if self.ending && !ERROR.contains(&key) => error_part("error", key, span, report),
            ("secrets", None) => {
                report.help(span, "`secrets` can only be used one by one", "name one: `secrets.<name>`")
            }
            _ if self.roots().contains(&root) => {}
            _ => self.unknown(root, span, report),
        }
    }

    fn steps(&self, id: &str, path: &Path, span: Span, report: &mut Report<'_>) {
        let Some(place) = self.steps.iter().position(|(other, _)| *other == id) else {
            match self.outer {
                Some(outer) if taken(Some(outer), id) => outer.steps(id, path, span, report),
                _ => self.unknown_step(id, span, report),
            }
            return;
        };
        if !self.before.has(place) {
            self.too_early(id, place, span, report);
        }
        match path.segments.get(1) {
            Some(Segment::Key(key)) if !ATTRIBUTES.contains(&&**key) => {
                let meant = nearest(key, ATTRIBUTES).map(|n| format!("steps.{id}.{n}"));
                let help = format!("the output's parts are under `steps.{id}.output`");
                report.name(span, format!("a step has no `{key}`"), meant.as_deref(), &help);
            }
            Some(Segment::Key(key)) if ["count", "failed"].contains(&&**key) && !self.steps[place].1 => {
                report.error(span, format!("only a `map` has `{key}`, and `{id}` is none"));
            }
            Some(Segment::Key(key)) if &**key == "error" => {
                if let Some(Segment::Key(part)) = path.segments.get(2)
                    && !ERROR.contains(&&**part)
                {
                    error_part(&format!("steps.{id}.error"), part, span, report);
                }
            }
            _ => {}
        }
    }

    fn unknown_step(&self, id: &str, span: Span, report: &mut Report<'_>) {
        let (mut known, mut at): (Vec<&str>, _) = (Vec::new(), Some(self));
        while let Some(n) = at {
            if let Some(holder) = holder(n.nodes, id) {
                let help =
                    format!("say in the `output:` of `{holder}` what is needed, and use `steps.{holder}.output`");
                return report.help(span, format!("step `{id}` is known inside of `{holder}` only"), help);
            }
            known.extend(n.steps.iter().map(|(other, _)| *other));
            at = n.outer;
        }
        let meant = nearest(id, known.iter().copied()).map(|n| format!("steps.{n}"));
        report.name(span, format!("there is no step `{id}`"), meant.as_deref(), &there_are(known));
    }

    /// A step that has not ended yet.
    fn too_early(&self, id: &str, place: usize, span: Span, report: &mut Report<'_>) {
        if self.own == Some(place) {
            let help = "in `output`, the names of its raw result are known by themselves";
            return report.help(span, format!("step `{id}` cannot see its own result here"), help);
        }
        let message = format!("step `{id}` has not ended when this is evaluated");
        if self.within == Some(place) {
            report.help(span, message, format!("`{id}` ends after the steps of its branches"));
        } else if (self.list.0..self.list.1).contains(&place) {
            report.help(span, message, format!("name `{id}` in `needs`, or move this step behind it"));
        } else {
            report.help(span, message, "what is used here must have ended before: only such steps can be named");
        }
    }

    fn unknown(&self, root: &str, span: Span, report: &mut Report<'_>) {
        let message = format!("`{root}` is not known here");
        let help = match root {
            "step" => "`step` is known in a step's parameters",
            "event" => "`event` is known in the `output` of a `wait` step",
            "error" => "`error` is known in `undo`, `on_failure` and `finally`; use `steps.<id>.error`",
            "item" | "index" => {
                "`item` and `index` are known in the steps of a `map`, `item` by the name after `as`; `index` in those of a `repeat`, too"
            }
            _ => "",
        };
        let roots = self.roots();
        let meant = match taken(Some(self), root) {
            true => Some(format!("steps.{root}.output")),
            false => nearest(root, roots.iter().copied()).map(str::to_owned),
        };
        let known = format!("known are: {}", roots.join(", "));
        report.name(
            span,
            message,
            meant.as_deref().filter(|_| help.is_empty()),
            if help.is_empty() { &known } else { help },
        );
    }
}

/// Complains about a property of the input that its schema does not have.
pub(super) fn input_property(input: Option<&Schema>, key: &str, span: Span, report: &mut Report<'_>) {
    let Some(names) = input.and_then(Schema::names).filter(|names| !names.contains(&key)) else { return };
    let meant = nearest(key, names).map(|n| format!("input.{n}"));
    report.name(
        span,
        format!("the input has no property `{key}`"),
        meant.as_deref(),
        "declare it in `input.properties`",
    );
}

/// The ids that there are, where they are few.
pub(super) fn there_are<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 12;
    let mut ids: Vec<&str> = ids.into_iter().filter(|id| !id.is_empty()).collect();
    ids.sort_unstable();
    match ids.len() {
        0 => "there are no other steps".to_owned(),
        1..=MOST => format!("there are: {}", ids.join(", ")),
        n => format!("there are {n}: {}, …", ids[..MOST].join(", ")),
    }
}

/// Complains about a part that no failure has.
fn error_part(what: &str, key: &str, span: Span, report: &mut Report<'_>) {
    if what == "error" && ["step", "key"].contains(&key) {
        let help = "the key of the step that failed is `error.details.step`";
        return report.help(span, format!("`error` has no `{key}`"), help);
    }
    attribute(what, key, &ERROR, span, report);
}

fn attribute(what: &str, key: &str, names: &[&str], span: Span, report: &mut Report<'_>) {
    let meant = nearest(key, names.iter().copied()).map(|n| format!("{what}.{n}"));
    report.name(span, format!("`{what}` has no `{key}`"), meant.as_deref(), &format!("it has: {}", names.join(", ")));
}

/// Where a path stands in an expression's text.
fn locate(report: &Report<'_>, span: Span, path: &Path) -> Span {
    let source = report.source(span);
    let text = path.text(usize::MAX);
    let word = if source.contains(&text) { text } else { path.root.to_string() };
    span.within(source, &word)
}

/// Compiles a bare expression (`if`, `label`, `output`). One `${{ }}` round the whole of it does no harm.
pub(super) fn expression(entry: &Entry, names: &Names<'_>, report: &mut Report<'_>) -> Option<Expression> {
    let node = &entry.value;
    let text = match &node.value {
        NodeValue::String(text) => text.clone(),
        NodeValue::Bool(_) | NodeValue::Number(_) => node.json().to_string(),
        NodeValue::Null | NodeValue::Seq(_) | NodeValue::Map(_) => {
            super::fields::wrong(entry, "an expression", report);
            return None;
        }
    };
    let bare = match split(&text).as_deref() {
        Ok([Piece::Expression { source, .. }]) => (*source).to_owned(),
        Ok([Piece::Text(_)] | []) => text,
        _ => {
            let help = "write the whole expression without `${{ }}`";
            report.help(node.span, format!("`{}` takes one bare expression", entry.key), help);
            return None;
        }
    };
    compile(&bare, node.span, names, report)
}

/// Compiles one bare expression that stands in a span, and checks its names.
pub(super) fn compile(source: &str, span: Span, names: &Names<'_>, report: &mut Report<'_>) -> Option<Expression> {
    let at = span.within(report.source(span), source.trim());
    match Expression::compile(source) {
        Ok(expression) => {
            names.check(&expression, at, report);
            Some(expression)
        }
        Err(e) => {
            complain(&e, at, report);
            None
        }
    }
}

fn complain(e: &ExpressionError, span: Span, report: &mut Report<'_>) {
    let source = report.source(span);
    let at = match e.offset {
        Some(offset) if offset < source.len() && source.is_char_boundary(offset) => span.skip_in(source, offset, 1),
        _ => span,
    };
    report.name(at, e.message.clone(), e.suggestion.as_deref(), operators(source, &e.message));
}

/// What is written here instead of an operator of another language.
fn operators(source: &str, message: &str) -> &'static str {
    if !message.starts_with("syntax error") {
        return "";
    }
    let other = [
        ("===", "write == to compare"),
        ("&&", "write `and`"),
        ("||", "write `or`"),
        ("=>", "write >= to compare"),
        ("!", "write `not`"),
        ("=", "write == to compare"),
        ("?", "write `a if condition else b`"),
    ];
    // Without the operators that there are.
    let rest = source.replace("===", "\u{1}").replace("==", "").replace("!=", "").replace(">=", "").replace("<=", "");
    let rest = rest.replace('\u{1}', "===");
    other.iter().find(|(word, _)| rest.contains(word)).map_or("", |(_, help)| help)
}

/// How strings of a template are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A value that is one `${{ }}` keeps its type.
    Typed,
    /// All scalars become text (arguments, environment, headers).
    Text,
    /// The text of a URL, of which each value is one piece.
    Url,
}

/// Compiles a value whose strings may hold expressions, and checks their names.
pub(super) fn template(node: &Node, mode: Mode, names: &Names<'_>, report: &mut Report<'_>) -> Template {
    match &node.value {
        NodeValue::String(text) => string(text, node.span, mode, names, report),
        NodeValue::Seq(items) => Template::array(items.iter().map(|n| template(n, mode, names, report)).collect()),
        NodeValue::Map(entries) => {
            for entry in entries.iter().filter(|e| e.key.contains("${{")) {
                report.error(entry.key_span, "a key cannot hold an expression, only a value can");
            }
            let compiled = entries.iter().map(|e| (e.key.clone(), template(&e.value, mode, names, report)));
            Template::object(compiled.collect())
        }
        NodeValue::Number(_) | NodeValue::Bool(_) if mode == Mode::Text => {
            Template::constant(node.json().to_string().into())
        }
        NodeValue::Null if mode == Mode::Text => Template::constant("".into()),
        NodeValue::Null | NodeValue::Bool(_) | NodeValue::Number(_) => Template::constant(node.json()),
    }
}

/// Compiles one string.
pub(super) fn string(text: &str, span: Span, mode: Mode, names: &Names<'_>, report: &mut Report<'_>) -> Template {
    let compiled = match mode {
        Mode::Typed => Template::string(text),
        Mode::Text => Template::text(text),
        Mode::Url => Template::url(text),
    };
    match compiled {
        Ok(template) => {
            template.each(&mut |e| {
                let at = span.within(report.source(span), e.source());
                names.check(e, at, report);
            });
            template
        }
        Err(e) => {
            let source = report.source(span);
            let at = match e.offset {
                Some(_) if e.message.contains("${{") => span.within(source, "${{"),
                _ => span.within(source, &e.expression),
            };
            complain(&e, at, report);
            Template::constant(serde_json::Value::Null)
        }
    }
}

//! Steps that are made of steps (`map`, `switch`, `repeat`), and what is done at the end (`undo`, `on_failure`, `finally`).

use crate::expression::Expression;
use crate::rules::policy::{OnInterrupt, StepPolicy};
use std::ops::Range;

use super::check::{Before, Mode, Names, expression, template};
use super::diagnostics::Report;
use super::fields::{a_step, at, limit, list, mapping, text, unknown_keys, whole, wrong};
use super::kinds::KINDS;
use super::node::{Entry, Node, NodeValue};
use super::parse::{Inherited, ids};
use super::policy;
use super::scope::{doubled, known};
use super::spec::{Block, Branch, Case, Kind, MapStep, RepeatStep, SwitchStep, Tolerate};
use super::steps::{Around, COMMON, Shared, block, steps};

/// What such steps have not: it belongs to the steps inside them.
const NOT_THEIRS: [&str; 5] = ["retry", "timeout", "total_timeout", "on_interrupt", "schema"];

/// The keys of a `repeat`.
pub(super) const REPEAT: [&str; 4] = ["steps", "until", "max", "every"];

/// More iterations than this are a loop that nobody ends.
const MOST_ITERATIONS: u64 = 10_000;

/// What is known of a step when its kind is read.
pub(super) struct Frame<'a> {
    pub(super) node: &'a Node,
    pub(super) shared: &'a Shared<'a>,
    pub(super) condition: Option<Expression>,
    pub(super) inherited: &'a Inherited<'a>,
}

/// What depends on the kind.
pub(super) struct Read {
    pub(super) kind: Kind,
    pub(super) output: Option<Expression>,
    pub(super) label: Option<Expression>,
    pub(super) policy: StepPolicy,
}

impl Frame<'_> {
    fn names(&self) -> &Names<'_> {
        &self.shared.names
    }

    fn expression(&self, key: &str, names: &Names<'_>, report: &mut Report<'_>) -> Option<Expression> {
        self.node.get(key).and_then(|e| expression(e, names, report))
    }

    /// Complains about keys that do not belong to it.
    fn keys(&self, kind: &str, report: &mut Report<'_>) -> StepPolicy {
        let own: Vec<&str> = KINDS.iter().filter(|k| k.word == kind).flat_map(|k| k.keys).copied().collect();
        step_keys(self.node, kind, &own, report);
        for entry in NOT_THEIRS.iter().filter_map(|key| self.node.get(key)) {
            let help = format!("put it on the steps inside the {}", if kind == "map" { "map" } else { kind });
            report.help(entry.key_span, format!("a `{kind}` has no `{}`", entry.key), help);
        }
        let policy = policy::step(self.node, &self.inherited.retry, false, report);
        StepPolicy { on_interrupt: OnInterrupt::Retry, ..policy }
    }

    /// Its steps, with a scope of their own.
    fn body(&self, nodes: &[Node], item: &str, what: &str, report: &mut Report<'_>) -> Block {
        block(nodes, Around { outer: Some(self.names()), item: Some(item), what }, self.inherited, report)
    }
}

/// Of a task: the names of its raw result are known in its `output`.
pub(super) fn read(
    node: &Node,
    kind: Kind,
    raw: &[&str],
    policy: StepPolicy,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Read {
    let output = node.get("output").and_then(|e| expression(e, &Names { step: true, raw, ..*names }, report));
    let label = node.get("label").and_then(|e| expression(e, names, report));
    Read { kind, output, label, policy }
}

/// Complains about the keys of a step that its kind has not. Those of other kinds have been complained about already.
pub(super) fn step_keys(node: &Node, kind: &str, own: &[&str], report: &mut Report<'_>) {
    let not = not_of(kind);
    let known: Vec<&str> = COMMON.iter().filter(|key| !not.contains(key)).chain(own).copied().collect();
    let quiet: Vec<&str> = KINDS.iter().map(|k| k.word).chain(not.iter().copied()).collect();
    unknown_keys(node, &known, &quiet, &a_step(kind), report);
}

/// The keys of every step that a kind has not.
pub(super) fn not_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "map" | "switch" | "repeat" => &NOT_THEIRS,
        "sleep" => &["timeout"],
        "workflow" => &["retry"],
        _ => &[],
    }
}

/// The names of a block as seen when all its steps have ended.
fn inner<'a>(
    (nodes, body): (&'a [Node], &'a [(&'a str, bool)]),
    all: &'a Before,
    item: &'a str,
    outer: &'a Names<'a>,
) -> Names<'a> {
    let (own, within, list) = (None, None, (0, 0));
    Names { steps: body, nodes, before: all, own, within, list, item: Some(item), outer: Some(outer), ..*outer }
}

fn nodes<'n>(entry: Option<&'n Entry>, kind: &str, report: &mut Report<'_>) -> &'n [Node] {
    let Some(e) = entry else { return &[] };
    let Some(nodes) = list(e, report) else { return &[] };
    if nodes.is_empty() {
        report.error(at(e), format!("a `{kind}` needs at least one step"));
    }
    nodes
}

pub(super) fn map(frame: &Frame<'_>, entry: &Entry, report: &mut Report<'_>) -> Read {
    let (node, names) = (frame.node, frame.names());
    let policy = frame.keys("map", report);
    if !matches!(&entry.value.value, NodeValue::Seq(_)) && !entry.value.as_str().is_some_and(|t| t.contains("${{")) {
        report.help(at(entry), "`map` takes a list, or an expression that gives one", "write it as ${{ … }}");
    }
    let items = template(&entry.value, Mode::Typed, names, report);
    let name = item_name(node, names, report);
    if node.get("steps").is_none() {
        let help = "add `steps:` with what is to be done for each item";
        report.help(entry.key_span, "this `map` has no `steps`", help);
    }
    let nodes = nodes(node.get("steps"), "map", report);
    let body = frame.body(nodes, name, "map", report);
    let known = known(nodes);
    let list: Vec<(&str, bool)> = known.iter().map(|k| (k.id, k.is_map)).collect();
    let all = Before::Prefix(list.len());
    let inside = inner((nodes, &list), &all, name, names);
    let output = frame.expression("output", &inside, report);
    // Before the item's steps have run, its label knows the item alone.
    let none = Before::Prefix(0);
    let label = frame.expression("label", &Names { before: &none, ..inside }, report);
    let parallel = node.get("max_parallel").and_then(|e| whole(e, 1, 1000, report)).unwrap_or(1);
    let tolerate = node.get("tolerate").and_then(|e| tolerate(e, report)).unwrap_or(Tolerate::Count(0));
    let max_parallel = usize::try_from(parallel).unwrap_or(1);
    let map = MapStep { items, name: name.into(), max_parallel, tolerate, body };
    Read { kind: Kind::Map(Box::new(map)), output, label, policy }
}

pub(super) fn repeat(frame: &Frame<'_>, entry: &Entry, report: &mut Report<'_>) -> Read {
    let names = frame.names();
    let policy = frame.keys("repeat", report);
    if mapping(entry, report).is_some() {
        unknown_keys(&entry.value, &REPEAT, &[], "`repeat`", report);
    }
    let get = |key| entry.value.get(key);
    let is_mapping = matches!(entry.value.value, NodeValue::Map(_));
    for (key, help) in [
        ("steps", "add `steps:` with what is to be done again"),
        ("until", "add `until:` with the condition that ends it"),
        ("max", "add a bound, such as `max: 100`"),
    ] {
        if is_mapping && get(key).is_none() {
            report.help(entry.key_span, format!("this `repeat` has no `{key}`"), help);
        }
    }
    let nodes = nodes(get("steps"), "repeat", report);
    let body = frame.body(nodes, "index", "`repeat`", report);
    let known = known(nodes);
    let list: Vec<(&str, bool)> = known.iter().map(|k| (k.id, k.is_map)).collect();
    let all = Before::Prefix(list.len());
    let inside = inner((nodes, &list), &all, "index", names);
    let until = get("until").and_then(|e| expression(e, &inside, report));
    let output = frame.expression("output", &inside, report);
    let label = frame.expression("label", names, report);
    let max = get("max").and_then(|e| whole(e, 1, MOST_ITERATIONS, report)).unwrap_or(1);
    let every = get("every").and_then(|e| limit(e, report));
    let Some(until) = until.or_else(|| Expression::compile("true").ok()) else { return nothing(policy) };
    let repeat = RepeatStep { body, until, max: usize::try_from(max).unwrap_or(1), every };
    Read { kind: Kind::Repeat(Box::new(repeat)), output, label, policy }
}

fn nothing(policy: StepPolicy) -> Read {
    let kind = Kind::Switch(Box::new(SwitchStep { value: None, branches: Vec::new() }));
    Read { kind, output: None, label: None, policy }
}

/// `inside` are the places of the branches' ids.
pub(super) fn switch(frame: &Frame<'_>, entry: &Entry, inside: Range<usize>, report: &mut Report<'_>) -> Read {
    let (node, names) = (frame.node, frame.names());
    let policy = frame.keys("switch", report);
    let mut cases = Cases { frame, next: inside.start, branches: Vec::new() };
    let mut value = None;
    if let NodeValue::Seq(conditions) = &entry.value.value {
        if let Some(e) = node.get("cases") {
            let help = "write the conditions here, or `switch: <expression>` and the values in `cases`";
            report.help(e.key_span, "a `switch` with conditions has no `cases`", help);
        }
        conditions.iter().for_each(|case| cases.when(case, report));
    } else {
        value = expression(entry, names, report);
        match node.get("cases") {
            None => {
                let help = "add `cases:` with the steps for each value, or write a list of conditions: - when: …";
                report.help(entry.key_span, "this `switch` has no `cases`", help);
            }
            Some(e) => {
                for case in mapping(e, report).unwrap_or_default() {
                    cases.branch(Case::Is(case.key.as_str().into()), case, report);
                }
            }
        }
    }
    if let Some(e) = node.get("default") {
        cases.branch(Case::Default, e, report);
    }
    let branches = cases.branches;
    let is_empty = |node: &Node| match &node.value {
        NodeValue::Seq(items) => items.is_empty(),
        NodeValue::Map(entries) => entries.is_empty(),
        _ => false,
    };
    if branches.is_empty() && (is_empty(&entry.value) || node.get("cases").is_some_and(|e| is_empty(&e.value))) {
        report.error(entry.key_span, "this `switch` has no branch");
    }
    // The branches have ended, too.
    let mut ended = names.before.bits(names.steps.len());
    inside.for_each(|place| ended[place / 64] |= 1 << (place % 64));
    let ended = Before::Set(ended);
    let output = frame.expression("output", &Names { before: &ended, ..*names }, report);
    let label = frame.expression("label", names, report);
    Read { kind: Kind::Switch(Box::new(SwitchStep { value, branches })), output, label, policy }
}

/// The branches of a `switch`, one after the other.
struct Cases<'a, 'b> {
    frame: &'a Frame<'b>,
    next: usize,
    branches: Vec<Branch>,
}

impl Cases<'_, '_> {
    /// `{when: …, steps: […]}`.
    fn when(&mut self, case: &Node, report: &mut Report<'_>) {
        if !matches!(case.value, NodeValue::Map(_)) {
            let message = format!("a case is a mapping, not {}", case.kind());
            return report.help(case.span, message, "write it as {when: …, steps: […]}");
        }
        unknown_keys(case, &["when", "steps"], &[], "a case", report);
        let condition = match case.get("when") {
            Some(e) => expression(e, self.frame.names(), report),
            None => {
                report.help(case.span, "this case has no `when`", "what is done otherwise stands in `default`");
                None
            }
        };
        match case.get("steps") {
            Some(e) => self.branch(condition.map_or(Case::Default, Case::When), e, report),
            None => report.help(case.span, "this case has no `steps`", "`steps: []` does nothing"),
        }
    }

    /// The ids of its steps stand in the scope round the `switch`.
    fn branch(&mut self, case: Case, entry: &Entry, report: &mut Report<'_>) {
        let Some(nodes) = list(entry, report) else { return };
        let shared = self.frame.shared;
        let names = Names { own: None, within: shared.names.own, ..shared.names };
        let shared = Shared { names, ids: shared.ids.clone(), start: self.next, handler: None };
        self.next += known(nodes).len();
        let body = steps(nodes, &shared, self.frame.inherited, report);
        self.branches.push(Branch { case, body });
    }
}

/// `undo:` of a step: one step without an id, which sees the result of what it takes back, and how the run ends.
pub(super) fn undo(
    entry: &Entry,
    shared: &Shared<'_>,
    inherited: &Inherited<'_>,
    report: &mut Report<'_>,
) -> Option<Block> {
    mapping(entry, report)?;
    if shared.names.ending {
        report.error(entry.key_span, "what is done at the end of a run is not undone");
        return None;
    }
    let node = &entry.value;
    for e in ["id", "needs", "on_error"].iter().filter_map(|key| node.get(key)) {
        let help = match e.key.as_str() {
            "id" => "its key is that of its step, with `.undo`",
            "needs" => "the undo steps run one after the other, the newest first",
            _ => "the other undo steps run, whatever becomes of this one",
        };
        report.help(e.key_span, format!("an `undo` has no `{}`", e.key), help);
    }
    let mut ended = shared.names.before.bits(shared.names.steps.len());
    ended[shared.start / 64] |= 1 << (shared.start % 64);
    let ended = Before::Set(ended);
    let outer = Names { before: &ended, own: None, list: (0, 0), ending: true, ..shared.names };
    let nodes = std::slice::from_ref(node);
    let known = known(nodes);
    doubled(&known, Some(&outer), "`undo`", report);
    let list: Vec<(&str, bool)> = known.iter().map(|k| (k.id, k.is_map)).collect();
    let names = Names { ending: true, outer: Some(&outer), ..Names::new(inherited.input, &list) };
    Some(steps(nodes, &Shared { names, ids: ids(&list), start: 0, handler: Some("undo") }, inherited, report))
}

/// `on_failure:` and `finally:`, which share a scope inside that of the workflow's steps.
pub(super) fn handlers(
    root: &Node,
    main: &Names<'_>,
    inherited: &Inherited<'_>,
    report: &mut Report<'_>,
) -> (Option<Block>, Option<Block>) {
    let mut given = |key| root.get(key).map(|e| nodes(Some(e), key, report));
    let (failure, finally) = (given("on_failure"), given("finally"));
    let mut all = known(failure.unwrap_or_default());
    let first = all.len();
    all.extend(known(finally.unwrap_or_default()));
    doubled(&all, Some(main), "list", report);
    let list: Vec<(&str, bool)> = all.iter().map(|k| (k.id, k.is_map)).collect();
    let names = Names { ending: true, outer: Some(main), ..Names::new(inherited.input, &list) };
    let ids = ids(&list);
    let mut read = |nodes: Option<&[Node]>, start, word| {
        let before = Before::Prefix(start);
        let names = Names { before: &before, ..names };
        let shared = Shared { names, ids: ids.clone(), start, handler: Some(word) };
        nodes.map(|nodes| steps(nodes, &shared, inherited, report))
    };
    (read(failure, 0, "on_failure"), read(finally, first, "finally"))
}

/// The name after `as`.
fn item_name<'n>(node: &'n Node, names: &Names<'_>, report: &mut Report<'_>) -> &'n str {
    let Some(entry) = node.get("as") else { return "item" };
    let Some(name) = text(entry, report) else { return "item" };
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    const KNOWN: [&str; 9] = ["input", "steps", "run", "step", "env", "secrets", "event", "error", "index"];
    const WORDS: [&str; 10] = ["true", "false", "none", "not", "and", "or", "in", "is", "if", "else"];
    let mut outer = Some(names);
    let mut doubled = false;
    while let Some(n) = outer {
        doubled |= n.item == Some(name);
        outer = n.outer;
    }
    if !good || WORDS.contains(&name) {
        report.help(at(entry), format!("`{name}` cannot be a name"), "lower-case letters, digits and `_`");
    } else if KNOWN.contains(&name) || doubled {
        report.help(at(entry), format!("`{name}` means something else already"), "choose another name after `as`");
    }
    name
}

fn tolerate(entry: &Entry, report: &mut Report<'_>) -> Option<Tolerate> {
    match &entry.value.value {
        NodeValue::Number(_) => {
            whole(entry, 0, 1_000_000, report).and_then(|n| usize::try_from(n).ok()).map(Tolerate::Count)
        }
        NodeValue::String(text) => {
            let percent = text.strip_suffix('%').and_then(|n| n.parse::<u8>().ok()).filter(|n| *n <= 100);
            if percent.is_none() {
                report.help(
                    entry.value.span,
                    format!("`tolerate` cannot be `{text}`"),
                    "write a number of items, or 0% to 100%",
                );
            }
            percent.map(Tolerate::Percent)
        }
        _ => {
            wrong(entry, "a number of items or a percentage", report);
            None
        }
    }
}

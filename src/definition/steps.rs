//! Lists of steps: their order, their ids, and each step itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use crate::expression::{StepIds, Template, nearest};
use crate::rules::policy::StepPolicy;

use super::check::{Names, expression, taken, there_are};
use super::diagnostics::Report;
use super::fields::{at, list, text};
use super::kinds::{KINDS, KindWord, OwnKind, own_params, params};
use super::models::has_own_schema;
use super::node::{Entry, Node, NodeValue};
use super::parse::{Inherited, ids, schema};
use super::plan::Graph;
use super::policy;
use super::scope::{Places, doubled, known};
use super::shapes;
use super::spec::{Block, Kind, Params, Step};
use super::synonyms::{instead_of, surely_instead_of};

/// The keys of every step.
pub(super) const COMMON: [&str; 12] = [
    "id",
    "needs",
    "if",
    "label",
    "output",
    "retry",
    "timeout",
    "total_timeout",
    "on_error",
    "on_interrupt",
    "schema",
    "undo",
];

/// What is known of a step before its fields are read.
pub(super) struct Header<'n> {
    pub(super) node: &'n Node,
    id: Arc<str>,
    kind: Word<'n>,
}

/// The kind key of a step.
enum Word<'n> {
    Now(&'static KindWord, &'n Entry),
    Own(OwnKind, &'n Entry),
    None,
}

/// Where a list of steps stands that has a scope of its own.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The names round it.
    pub(super) outer: Option<&'a Names<'a>>,
    /// The name of the map's item; `index` in a `repeat`.
    pub(super) item: Option<&'a str>,
    /// What it is, for messages.
    pub(super) what: &'a str,
}

/// The scope that the steps of a list share with others.
pub(super) struct Shared<'a> {
    /// The names; of the steps, those that have ended before the list begins.
    pub(super) names: Names<'a>,
    /// The same, for the run.
    pub(super) ids: Arc<StepIds>,
    /// The place of the list's first step.
    pub(super) start: usize,
    /// `on_failure`, `finally` or `undo`: an id may be left out, it is `finally[0]` then.
    pub(super) handler: Option<&'static str>,
}

/// Reads a list of steps with a scope of its own.
pub(super) fn block(nodes: &[Node], around: Around<'_>, inherited: &Inherited<'_>, report: &mut Report<'_>) -> Block {
    let known = known(nodes);
    doubled(&known, around.outer, around.what, report);
    let list: Vec<(&str, bool)> = known.iter().map(|k| (k.id, k.is_map)).collect();
    let ending = around.outer.is_some_and(|n| n.ending);
    let names = Names { item: around.item, outer: around.outer, ending, nodes, ..Names::new(inherited.input, &list) };
    steps(nodes, &Shared { names, ids: ids(&list), start: 0, handler: None }, inherited, report)
}

/// Reads a list of steps: a scope's own, or those of a branch in it.
pub(super) fn steps(nodes: &[Node], shared: &Shared<'_>, inherited: &Inherited<'_>, report: &mut Report<'_>) -> Block {
    let headers: Vec<Header<'_>> = nodes
        .iter()
        .enumerate()
        .filter_map(|(i, node)| header(node, shared.handler.map(|word| format!("{word}[{i}]")), inherited.own, report))
        .collect();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, header) in headers.iter().enumerate().filter(|(_, h)| !h.id.is_empty()) {
        places.entry(&header.id).or_insert(place);
    }
    let needs: Vec<Vec<usize>> =
        headers.iter().enumerate().map(|(place, h)| needs(h, place, &places, shared, report)).collect();
    let graph = Graph::new(&needs);
    let cycle = graph.cycle();
    if let Some(cycle) = &cycle {
        let mut names: Vec<&str> = cycle.iter().map(|i| &*headers[*i].id).collect();
        names.extend(names.first().copied());
        let first = headers[cycle[0]].node;
        let span = first.get("needs").map_or(first.span, |e| e.key_span);
        report.error(span, format!("these steps wait for each other: {}", names.join(" needs ")));
    }
    let places = Places::new(shared.start, headers.iter().map(|h| h.node));
    let before = places.before(&needs, &graph, cycle.is_some(), &shared.names);
    let steps: Vec<Step> = headers
        .iter()
        .enumerate()
        .map(|(i, header)| {
            let own = places.start + i;
            let list = (places.start, places.start + headers.len());
            let names = Names { before: &before[i], own: Some(own), list, ..shared.names };
            let shared = Shared { names, ids: shared.ids.clone(), start: own, handler: shared.handler };
            step(header, &shared, places.inside[i].clone(), inherited, report)
        })
        .collect();
    let has_undo = steps.iter().any(Step::has_undo);
    Block { steps, graph, ids: shared.ids.clone(), has_undo }
}

fn header<'n>(node: &'n Node, instead: Option<String>, own: &[OwnKind], report: &mut Report<'_>) -> Option<Header<'n>> {
    let NodeValue::Map(entries) = &node.value else {
        report.error(node.span, format!("a step is a mapping, not {}", node.kind()));
        return None;
    };
    let mut found = Vec::new();
    for entry in entries {
        if let Some(word) = KINDS.iter().find(|k| k.word == entry.key) {
            found.push((entry, Word::Now(word, entry)));
        } else if let Some(word) = own.iter().find(|k| k.word == entry.key) {
            found.push((entry, Word::Own(*word, entry)));
        }
    }
    if let [(first, _), (second, _), ..] = found.as_slice() {
        let message = format!("a step does one thing: `{}` and `{}` exclude each other", first.key, second.key);
        let help = match (first.key.as_str(), second.key.as_str()) {
            ("workflow", "wait") | ("wait", "workflow") => "a child that is not waited for is `detached: true`",
            _ => "make two steps of it",
        };
        report.help(second.key_span, message, help);
    }
    let kind = if found.is_empty() { no_kind(node, entries, own, report) } else { found.swap_remove(0).1 };
    let id = match instead.filter(|_| node.get("id").is_none()) {
        Some(instead) => instead.into(),
        None => id(node, report).into(),
    };
    Some(Header { node, id, kind })
}

/// A step without a kind; where a key looks like a misspelt one, that is the complaint.
fn no_kind<'n>(node: &Node, entries: &[Entry], mine: &[OwnKind], report: &mut Report<'_>) -> Word<'n> {
    let words: Vec<&str> = KINDS.iter().map(|k| k.word).chain(mine.iter().map(|k| k.word)).collect();
    let own: Vec<&str> = KINDS.iter().flat_map(|k| k.keys).copied().collect();
    // Nobody has misspelt the hundredth key of a step.
    let entries = &entries[..entries.len().min(100)];
    let unknown = |e: &&Entry| !COMMON.contains(&e.key.as_str()) && !own.contains(&e.key.as_str());
    // First: `uses` is nearer to `set` than to what was meant.
    let instead = |e: &Entry| surely_instead_of(&e.key).or_else(|| instead_of(&e.key)).filter(|_| e.key != "name");
    if let Some((e, help)) = entries.iter().filter(unknown).find_map(|e| Some((e, instead(e)?))) {
        report.help(e.key_span, format!("there is no kind of step `{}`", e.key), help);
        return Word::None;
    }
    let typo = entries.iter().filter(unknown).find_map(|e| Some((e, nearest(&e.key, words.iter().copied())?)));
    match typo {
        Some((e, word)) => {
            report.help(e.key_span, format!("there is no kind of step `{}`", e.key), format!("did you mean `{word}`?"));
        }
        None => report.help(
            node.span,
            "this step does nothing: it has no kind",
            format!("give it one of: {}", words.join(", ")),
        ),
    }
    Word::None
}

fn id<'n>(node: &'n Node, report: &mut Report<'_>) -> &'n str {
    let Some(entry) = node.get("id") else {
        report.help(node.span, "this step has no `id`", "add `id: some_name`");
        return "";
    };
    let Some(id) = text(entry, report) else { return "" };
    let good = id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !good || id.len() > 63 {
        let fixed = id.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let fixed = fixed.trim_start_matches(|c: char| !c.is_ascii_lowercase());
        let help = match fixed.is_empty() || id.len() > 63 {
            true => "up to 63 lower-case letters, digits and `_`, beginning with a letter".to_owned(),
            false => format!("lower-case letters, digits and `_`: `{fixed}`"),
        };
        report.help(at(entry), format!("`{id}` cannot be the id of a step"), help);
    }
    id
}

/// The places of the steps that a step needs: by default the one before it.
fn needs(
    header: &Header<'_>,
    place: usize,
    places: &HashMap<&str, usize>,
    shared: &Shared<'_>,
    report: &mut Report<'_>,
) -> Vec<usize> {
    // An `undo` has none, which is said elsewhere.
    let Some(entry) = header.node.get("needs").filter(|_| shared.handler != Some("undo")) else {
        return place.checked_sub(1).into_iter().collect();
    };
    let single = std::slice::from_ref(&entry.value);
    let items = match &entry.value.value {
        // One name without its brackets is unambiguous.
        NodeValue::String(_) => single,
        _ => match list(entry, report) {
            Some(items) => items,
            None => return Vec::new(),
        },
    };
    let mut out = Vec::new();
    for item in items {
        let name = item.as_str().unwrap_or_default();
        match places.get(name) {
            Some(need) if *need == place => report.error(item.span, format!("step `{name}` needs itself")),
            Some(need) if out.contains(need) => report.error(item.span, format!("`{name}` stands here twice")),
            Some(need) => out.push(*need),
            None => {
                let message = format!("there is no step `{}` here", report.source(item.span).trim());
                let meant = nearest(name, places.keys().copied());
                let known = match shared.handler {
                    _ if !taken(Some(&shared.names), name) => there_are(places.keys().copied()),
                    Some(word) => format!("leave it out: `{name}` has ended when `{word}` begins"),
                    None => format!("`needs` names steps of the same list, and `{name}` stands in another"),
                };
                report.name(item.span, message, meant, &known);
            }
        }
    }
    out.sort_unstable();
    out
}

/// Reads a step; `inside` are the places of the ids in its branches.
fn step(
    header: &Header<'_>,
    shared: &Shared<'_>,
    inside: Range<usize>,
    inherited: &Inherited<'_>,
    report: &mut Report<'_>,
) -> Step {
    let (node, names) = (header.node, &shared.names);
    let condition = node.get("if").and_then(|e| expression(e, names, report));
    let undo = node.get("undo").and_then(|e| shapes::undo(e, shared, inherited, report)).map(Box::new);
    let frame = shapes::Frame { node, shared, condition, inherited };
    let shape = match header.kind {
        Word::Now(word, entry) => match word.word {
            "map" => Some(shapes::map(&frame, entry, report)),
            "switch" => Some(shapes::switch(&frame, entry, inside, report)),
            "repeat" => Some(shapes::repeat(&frame, entry, report)),
            _ => None,
        },
        Word::Own(..) | Word::None => None,
    };
    let shapes::Read { kind, output, label, mut policy } = match shape {
        Some(shape) => shape,
        None => task(header, names, inherited, report),
    };
    policy.undo = undo.is_some();
    Step {
        id: header.id.clone(),
        place: shared.start,
        line: node.span.line,
        kind,
        condition: frame.condition,
        label,
        output: output.map(Arc::new),
        schema: node.get("schema").filter(|_| !has_own_schema(node)).and_then(|e| schema(e, report)).map(Arc::new),
        policy,
        undo,
    }
}

/// One unit of work.
fn task(header: &Header<'_>, names: &Names<'_>, inherited: &Inherited<'_>, report: &mut Report<'_>) -> shapes::Read {
    let node = header.node;
    if let Word::Own(word, entry) = header.kind {
        shapes::step_keys(node, word.word, &[word.word], report);
        let policy = policy::step(node, &inherited.retry, false, report);
        let kind = Kind::Task { kind: word.word, params: own_params(entry, names, report) };
        return shapes::read(node, kind, word.raw, policy, names, report);
    }
    let Word::Now(word, entry) = header.kind else {
        // What cannot run is refused; the rest of the file is still read.
        let kind = Kind::Task { kind: "set", params: Params::Object(Template::constant(Value::Null)) };
        let label = node.get("label").and_then(|e| expression(e, names, report));
        return shapes::Read { kind, output: None, label, policy: StepPolicy::default() };
    };
    shapes::step_keys(node, word.word, word.keys, report);
    let policy = policy::step(node, &inherited.retry, word.waits, report);
    if word.word == "sleep"
        && let Some(e) = node.get("timeout")
    {
        report.error(e.key_span, "a `sleep` has no `timeout`: it ends by itself");
    }
    let kind = Kind::Task { kind: word.word, params: params(word, entry, node, names, report) };
    shapes::read(node, kind, word.raw, policy, names, report)
}

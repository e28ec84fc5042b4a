//! Lists of steps: their order, their ids, and each step itself.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::expression::{Template, nearest};
use crate::rules::policy::{OnInterrupt, StepPolicy};

use super::check::{Before, Mode, Names, expression, taken, template, there_are};
use super::diagnostics::Report;
use super::fields::{at, list, text, whole, wrong};
use super::kinds::{KINDS, KindWord, LATER_KINDS, OwnKind, own_params, params};
use super::node::{Entry, Node, NodeValue};
use super::parse::{Inherited, ids, keys, later, schema};
use super::plan::Graph;
use super::policy;
use super::spec::{Block, Kind, MapStep, Params, Step, Tolerate};
use super::synonyms::instead_of;

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

/// Those that a `map` has not: they belong to the steps inside it.
const NOT_OF_A_MAP: [&str; 5] = ["retry", "timeout", "total_timeout", "on_interrupt", "schema"];

/// The keys of every step that a kind has not.
pub(super) fn not_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "map" => &NOT_OF_A_MAP,
        "sleep" => &["timeout"],
        _ => &[],
    }
}

/// What is known of a step before its fields are read.
struct Header<'n> {
    node: &'n Node,
    id: &'n str,
    kind: Word<'n>,
}

/// The kind key of a step.
enum Word<'n> {
    Now(&'static KindWord, &'n Entry),
    Own(OwnKind, &'n Entry),
    Later,
    None,
}

/// Reads a list of steps, `outer` being the names round it and `item` the name of the map's item.
pub(super) fn block(
    nodes: &[Node],
    outer: Option<&Names<'_>>,
    item: Option<&str>,
    inherited: &Inherited<'_>,
    report: &mut Report<'_>,
) -> Block {
    let headers: Vec<Header<'_>> = nodes.iter().filter_map(|node| header(node, inherited.own, report)).collect();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, header) in headers.iter().enumerate().filter(|(_, h)| !h.id.is_empty()) {
        let first = *places.entry(header.id).or_insert(place);
        if first != place {
            let span = header.node.get("id").map_or(header.node.span, at);
            let line = headers[first].node.span.line;
            report.help(
                span,
                format!("the id `{}` is already in use", header.id),
                format!("its first use is on line {line}"),
            );
        } else if taken(outer, header.id) {
            let span = header.node.get("id").map_or(header.node.span, at);
            report.error(span, format!("the id `{}` is already in use by a step outside of this map", header.id));
        }
    }
    let needs: Vec<Vec<usize>> =
        headers.iter().enumerate().map(|(place, h)| needs(h, place, &places, report)).collect();
    let graph = Graph::new(&needs);
    let cycle = graph.cycle();
    if let Some(cycle) = &cycle {
        let mut names: Vec<&str> = cycle.iter().map(|i| headers[*i].id).collect();
        names.extend(names.first().copied());
        let first = headers[cycle[0]].node;
        let span = first.get("needs").map_or(first.span, |e| e.key_span);
        report.error(span, format!("these steps wait for each other: {}", names.join(" needs ")));
    }
    let list: Vec<(&str, bool)> = headers.iter().map(|h| (h.id, h.is_map())).collect();
    let before = ancestors(&needs, &graph, cycle.is_some());
    let steps = headers.iter().enumerate().map(|(place, header)| {
        let names = Names {
            input: inherited.input,
            steps: &list,
            before: &before[place],
            own: Some(place),
            item,
            step: false,
            raw: &[],
            outer,
        };
        step(header, &names, inherited, report)
    });
    Block { steps: steps.collect(), graph, ids: ids(&list) }
}

impl Header<'_> {
    fn is_map(&self) -> bool {
        matches!(self.kind, Word::Now(word, _) if word.word == "map")
    }
}

/// The steps that have ended before each one.
fn ancestors(needs: &[Vec<usize>], graph: &Graph, cyclic: bool) -> Vec<Before> {
    let count = needs.len();
    if graph.is_linear() {
        return (0..count).map(Before::Prefix).collect();
    }
    if cyclic {
        return (0..count).map(|_| Before::Prefix(count)).collect();
    }
    let words = count.div_ceil(64);
    let mut sets: Vec<Vec<u64>> = vec![vec![0; words]; count];
    let mut plan = super::plan::Plan::new(graph);
    let mut ready = plan.start();
    while let Some(step) = ready.pop() {
        let mut own = std::mem::take(&mut sets[step]);
        for &need in &needs[step] {
            own.iter_mut().zip(&sets[need]).for_each(|(word, other)| *word |= other);
            own[need / 64] |= 1 << (need % 64);
        }
        sets[step] = own;
        plan.done(step, &mut ready);
    }
    sets.into_iter().map(Before::Set).collect()
}

fn header<'n>(node: &'n Node, own: &[OwnKind], report: &mut Report<'_>) -> Option<Header<'n>> {
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
        } else if LATER_KINDS.contains(&entry.key.as_str()) {
            later(entry, report);
            found.push((entry, Word::Later));
        }
    }
    if let [(first, _), (second, _), ..] = found.as_slice() {
        let message = format!("a step does one thing: `{}` and `{}` exclude each other", first.key, second.key);
        report.help(second.key_span, message, "make two steps of it");
    }
    let kind = if found.is_empty() { no_kind(node, entries, own, report) } else { found.swap_remove(0).1 };
    Some(Header { node, id: id(node, report), kind })
}

/// A step without a kind; where a key looks like a misspelt one, that is the complaint.
fn no_kind<'n>(node: &Node, entries: &[Entry], mine: &[OwnKind], report: &mut Report<'_>) -> Word<'n> {
    let words: Vec<&str> = KINDS.iter().map(|k| k.word).chain(mine.iter().map(|k| k.word)).collect();
    let own: Vec<&str> = KINDS.iter().flat_map(|k| k.keys).copied().collect();
    let unknown = |e: &&Entry| !COMMON.contains(&e.key.as_str()) && !own.contains(&e.key.as_str());
    let typo = entries.iter().filter(unknown).find_map(|e| Some((e, nearest(&e.key, words.iter().copied())?)));
    // First: `uses` is nearer to `set` than to what was meant.
    let foreign = |e: &&Entry| e.key != "name" && instead_of(&e.key).is_some();
    if let Some(e) = entries.iter().filter(unknown).find(foreign) {
        report.help(
            e.key_span,
            format!("there is no kind of step `{}`", e.key),
            instead_of(&e.key).unwrap_or_default(),
        );
        return Word::None;
    }
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
fn needs(header: &Header<'_>, place: usize, places: &HashMap<&str, usize>, report: &mut Report<'_>) -> Vec<usize> {
    let Some(entry) = header.node.get("needs") else {
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
                let known = there_are(places.keys().copied());
                report.name(item.span, message, nearest(name, places.keys().copied()), &known);
            }
        }
    }
    out.sort_unstable();
    out
}

fn step(header: &Header<'_>, names: &Names<'_>, inherited: &Inherited<'_>, report: &mut Report<'_>) -> Step {
    let node = header.node;
    if let Some(entry) = node.get("undo") {
        later(entry, report);
    }
    let condition = node.get("if").and_then(|e| expression(e, names, report));
    let mut policy = StepPolicy::default();
    let mut raw: &[&str] = &[];
    let kind = match header.kind {
        Word::Now(word, entry) if word.word == "map" => return map(header, entry, condition, names, inherited, report),
        Word::Now(word, entry) => {
            let what = format!("a `{}` step", word.word);
            // A second kind has been complained about already.
            let words: Vec<&str> = KINDS.iter().map(|k| k.word).chain(LATER_KINDS).collect();
            keys(node, &[&COMMON, word.keys], &words, &what, report);
            policy = policy::step(node, &inherited.retry, word.waits, report);
            if word.word == "sleep"
                && let Some(e) = node.get("timeout")
            {
                report.error(e.key_span, "a `sleep` has no `timeout`: it ends by itself");
            }
            raw = word.raw;
            Kind::Task { kind: word.word, params: params(word, entry, node, names, report) }
        }
        Word::Own(word, entry) => {
            let words: Vec<&str> = KINDS.iter().map(|k| k.word).chain(LATER_KINDS).collect();
            keys(node, &[&COMMON, &[word.word]], &words, &format!("a `{}` step", word.word), report);
            policy = policy::step(node, &inherited.retry, false, report);
            raw = word.raw;
            Kind::Task { kind: word.word, params: own_params(entry, names, report) }
        }
        // What cannot run is refused; the rest of the file is still read.
        Word::Later | Word::None => Kind::Task { kind: "set", params: Params::Object(Template::constant(Value::Null)) },
    };
    let unknown = !matches!(header.kind, Word::Now(..) | Word::Own(..));
    let output = node.get("output").filter(|_| !unknown);
    let output = output.and_then(|e| expression(e, &Names { step: true, raw, ..*names }, report));
    Step {
        id: header.id.into(),
        line: node.span.line,
        kind,
        condition,
        label: node.get("label").and_then(|e| expression(e, names, report)),
        output: output.map(Arc::new),
        schema: node.get("schema").and_then(|e| schema(e, report)).map(Arc::new),
        policy,
    }
}

fn map(
    header: &Header<'_>,
    entry: &Entry,
    condition: Option<crate::expression::Expression>,
    names: &Names<'_>,
    inherited: &Inherited<'_>,
    report: &mut Report<'_>,
) -> Step {
    let node = header.node;
    map_keys(node, report);
    if !matches!(&entry.value.value, NodeValue::Seq(_)) && !entry.value.as_str().is_some_and(|t| t.contains("${{")) {
        report.help(at(entry), "`map` takes a list, or an expression that gives one", "write it as ${{ … }}");
    }
    let items = template(&entry.value, Mode::Typed, names, report);
    let name = item_name(node, names, report);
    let nodes = match node.get("steps") {
        Some(e) => {
            let nodes = list(e, report).unwrap_or_default();
            if nodes.is_empty() {
                report.error(at(e), "a `map` needs at least one step");
            }
            nodes
        }
        None => {
            report.help(
                entry.key_span,
                "this `map` has no `steps`",
                "add `steps:` with what is to be done for each item",
            );
            &[]
        }
    };
    let body = block(nodes, Some(names), Some(name), inherited, report);
    let list: Vec<(&str, bool)> = body.steps.iter().map(|s| (&*s.id, s.is_map())).collect();
    let all = Before::Prefix(list.len());
    let inner = Names { steps: &list, before: &all, own: None, item: Some(name), outer: Some(names), ..*names };
    let output = node.get("output").and_then(|e| expression(e, &inner, report)).map(Arc::new);
    // Before the item's steps have run, its label knows the item alone.
    let none = Before::Prefix(0);
    let label = node.get("label").and_then(|e| expression(e, &Names { before: &none, ..inner }, report));
    let parallel = node.get("max_parallel").and_then(|e| whole(e, 1, 1000, report)).unwrap_or(1);
    let policy = StepPolicy { on_interrupt: OnInterrupt::Retry, ..policy::step(node, &inherited.retry, false, report) };
    let tolerate = node.get("tolerate").and_then(|e| tolerate(e, report)).unwrap_or(Tolerate::Count(0));
    let max_parallel = usize::try_from(parallel).unwrap_or(1);
    let map = MapStep { items, name: name.into(), max_parallel, tolerate, body };
    Step {
        id: header.id.into(),
        line: node.span.line,
        kind: Kind::Map(Box::new(map)),
        condition,
        label,
        output,
        schema: None,
        policy,
    }
}

fn map_keys(node: &Node, report: &mut Report<'_>) {
    let own: Vec<&str> = KINDS.iter().filter(|k| k.word == "map").flat_map(|k| k.keys).copied().collect();
    let words: Vec<&str> = KINDS.iter().map(|k| k.word).chain(LATER_KINDS).collect();
    keys(node, &[&COMMON, &own], &words, "a `map` step", report);
    for entry in NOT_OF_A_MAP.iter().filter_map(|key| node.get(key)) {
        report.help(entry.key_span, format!("a `map` has no `{}`", entry.key), "put it on the steps inside the map");
    }
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

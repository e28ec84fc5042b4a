//! From the positioned tree to the definition, collecting all that is wrong on the way.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::expression::StepIds;
use crate::rules::policy::RetryPolicy;

use super::check::{Before, Names, expression};
use super::diagnostics::Report;
use super::fields::{at, limit, list, text, unknown_keys, whole};
use super::kinds::OwnKind;
use super::node::{Entry, Node, NodeValue};
use super::schema::Schema;
use super::spec::Definition;
use super::{flow, policy, scope, shapes, steps};

/// The keys of a workflow.
pub(super) const KEYS: [&str; 16] = [
    "name",
    "input",
    "schedule",
    "unique",
    "concurrency",
    "rate",
    "queue",
    "priority",
    "timeout",
    "retry",
    "resume",
    "budget",
    "steps",
    "on_failure",
    "finally",
    "output",
];

/// What the steps inherit from their workflow.
pub(super) struct Inherited<'a> {
    pub(super) retry: RetryPolicy,
    pub(super) input: Option<&'a Schema>,
    /// The kinds that only this binary has.
    pub(super) own: &'a [OwnKind],
}

/// Reads a workflow.
pub(super) fn workflow(root: &Node, source: &str, own: &[OwnKind], report: &mut Report<'_>) -> Option<Definition> {
    if !matches!(root.value, NodeValue::Map(_)) {
        let help = "a workflow begins with `name:` and has `steps:`";
        report.help(root.span, format!("a workflow is a mapping, not {}", root.kind()), help);
        return None;
    }
    unknown_keys(root, &KEYS, &[], "a workflow", report);
    let name = name(root, report);
    let input = root.get("input").and_then(|e| schema(e, report));
    let get = |key| root.get(key);
    let base = RetryPolicy::default();
    let retry = get("retry").map_or_else(|| base.clone(), |e| policy::retry(e, &base, report));
    let resume = get("resume").map(|e| policy::resume(e, report)).unwrap_or_default();
    let timeout = get("timeout").and_then(|e| limit(e, report));
    let budget = get("budget").and_then(|e| super::budget::budget(e, report));
    let priority = get("priority").and_then(|e| whole(e, 0, 9, report)).and_then(|n| u8::try_from(n).ok());
    let queue = get("queue").and_then(|e| word(e, report));
    let flow = flow::flow(root, input.as_ref(), report);
    let schedule = get("schedule").and_then(|e| flow::schedule(e, report));
    let inherited = Inherited { retry, input: input.as_ref(), own };
    let steps = match get("steps") {
        Some(e) => list(e, report).map(|nodes| {
            if nodes.is_empty() {
                report.error(at(e), "there are no steps");
            }
            let around = steps::Around { outer: None, item: None, what: "list" };
            steps::block(nodes, around, &inherited, report)
        }),
        None => {
            report.help(root.span, "the workflow has no `steps`", "add `steps:` with a list of steps");
            None
        }
    };
    let nodes = get("steps").map(|e| items(&e.value)).unwrap_or_default();
    let known = scope::known(nodes);
    let ids: Vec<(&str, bool)> = known.iter().map(|k| (k.id, k.is_map)).collect();
    let all = Before::Prefix(ids.len());
    let names = Names { before: &all, nodes, ..Names::new(inherited.input, &ids) };
    let output = get("output").and_then(|e| expression(e, &names, report));
    let (on_failure, finally) = shapes::handlers(root, &names, &inherited, report);
    Some(Definition {
        name: name?.into(),
        hash: hash(source),
        source: source.into(),
        queue,
        priority,
        flow,
        schedule,
        timeout,
        resume,
        budget,
        steps: steps?,
        on_failure,
        finally,
        output,
        input,
        document: None,
    })
}

fn items(node: &Node) -> &[Node] {
    match &node.value {
        NodeValue::Seq(items) => items,
        _ => &[],
    }
}

pub(super) fn hash(source: &str) -> String {
    Sha256::digest(source.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn name<'n>(root: &'n Node, report: &mut Report<'_>) -> Option<&'n str> {
    let Some(entry) = root.get("name") else {
        report.help(root.span, "the workflow has no `name`", "add `name: my_workflow` as its first line");
        return None;
    };
    let name = text(entry, report)?;
    if !is_name(name) {
        report.help(
            at(entry),
            format!("`{name}` cannot be a workflow's name"),
            "up to 63 letters, digits, `_`, `-` and `.`, beginning with a letter",
        );
    }
    Some(name)
}

pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn word(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let name = text(entry, report)?;
    if !is_name(name) {
        let help = "up to 63 letters, digits, `_`, `-` and `.`, beginning with a letter";
        report.help(at(entry), format!("`{name}` cannot be the name of a queue"), help);
    }
    Some(name.to_owned())
}

/// Compiles a JSON Schema that stands under a key.
pub(super) fn schema(entry: &Entry, report: &mut Report<'_>) -> Option<Schema> {
    if !matches!(entry.value.value, NodeValue::Map(_) | NodeValue::Bool(_)) {
        super::fields::wrong(entry, "a JSON Schema", report);
        return None;
    }
    match Schema::compile(entry.value.json()) {
        Ok(schema) => Some(schema),
        Err(mistakes) => {
            for (message, path) in mistakes {
                let span = pointer(&entry.value, &path).span;
                let types = "the types are: null, boolean, integer, number, string, array, object";
                match path.ends_with("/type") {
                    true => report.help(span, format!("`{}` is no valid JSON Schema: no such type", entry.key), types),
                    false => report.error(span, format!("`{}` is no valid JSON Schema: {message}", entry.key)),
                }
            }
            None
        }
    }
}

/// The node that a JSON pointer leads to, or as far as it leads.
fn pointer<'n>(node: &'n Node, path: &str) -> &'n Node {
    let mut at = node;
    for part in path.split('/').skip(1) {
        let next = match &at.value {
            NodeValue::Seq(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => at.get(&part.replace("~1", "/").replace("~0", "~")).map(|e| &e.value),
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

/// The ids of a block, for expressions.
pub(super) fn ids(steps: &[(&str, bool)]) -> Arc<StepIds> {
    Arc::new(StepIds::new(steps.iter().copied()))
}

//! From the JSON of a document to its steps, with all that is wrong with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::rules::policy::{Backoff, ResumePolicy, RetryPolicy};

use super::super::diagnostics::Report;
use super::super::fields::{at, list, mapping, text, unknown_keys, whole, word, wrong};
use super::super::node::{Entry, Node, NodeValue};
use super::super::parse::{hash, is_name};
use super::super::spec::{Block, Definition};
use super::{Compat, Condition, Document, Filling, ToolStep};

const KEYS: [&str; 7] = ["name", "description", "steps", "config", "compat", "typed_placeholders", "unresolved"];
const STEP: [&str; 7] = ["name", "tool", "params", "assign", "if", "condition", "retry"];
const CONFIG: [&str; 3] = ["continueOnError", "timeoutMs", "maxRetries"];
const RETRY: [&str; 5] = ["maxAttempts", "backoff", "backoffMultiplier", "initialDelayMs", "maxDelayMs"];

/// A day: more is a mistake of unit.
const LONGEST_MS: u64 = 86_400_000;

/// Is it such a document? It has steps with a `tool`, or it is JSON with a key that only such documents have.
pub(in super::super) fn is_document(root: &Node, source: &str) -> bool {
    let steps = match root.get("steps").map(|e| &e.value.value) {
        Some(NodeValue::Seq(items)) => items.as_slice(),
        _ => return false,
    };
    let json = source.trim_start().starts_with('{');
    let own = ["config", "compat", "description"].iter().any(|key| root.get(key).is_some());
    steps.iter().any(|step| step.get("tool").is_some()) || json && (own || steps.is_empty())
}

/// Reads a document; one without a name has that of its file.
pub(in super::super) fn document(
    root: &Node,
    source_name: &str,
    source: &str,
    report: &mut Report<'_>,
) -> Option<Definition> {
    unknown_keys(root, &KEYS, &["$schema"], "an AFU-9 document", report);
    let filling = filling(root, report);
    let config = root.get("config").filter(|e| mapping(e, report).is_some()).map(|e| &e.value);
    let mut settings = Settings::default();
    if let Some(config) = config {
        unknown_keys(config, &CONFIG, &[], "`config`", report);
        settings.continue_on_error = flag(config, "continueOnError", report);
        settings.timeout =
            config.get("timeoutMs").and_then(|e| whole(e, 1, LONGEST_MS, report)).map(Duration::from_millis);
        settings.retries = config.get("maxRetries").and_then(|e| whole(e, 0, 1000, report));
    }
    let nodes = root.get("steps").and_then(|e| list(e, report)).unwrap_or_default();
    let mut seen = HashMap::new();
    let steps: Vec<ToolStep> =
        nodes.iter().filter_map(|node| step(node, filling, settings.retries, &mut seen, report)).collect();
    let timeout = settings.timeout.filter(|_| filling.compat == Compat::Documented);
    let document = Document { steps, filling, continue_on_error: settings.continue_on_error, timeout };
    Some(Definition {
        flow: None,
        schedule: None,
        name: name(root, source_name, report)?,
        hash: hash(source),
        source: source.into(),
        input: None,
        queue: None,
        priority: None,
        timeout: None,
        resume: ResumePolicy::never(),
        budget: None,
        steps: Block::default(),
        on_failure: None,
        finally: None,
        output: None,
        document: Some(Arc::new(document)),
    })
}

#[derive(Default)]
struct Settings {
    continue_on_error: bool,
    timeout: Option<Duration>,
    retries: Option<u64>,
}

fn filling(root: &Node, report: &mut Report<'_>) -> Filling {
    let modes = [("documented", Compat::Documented), ("afu9-engine", Compat::Engine)];
    let compat = root.get("compat").and_then(|e| word(e, &modes, report)).unwrap_or_default();
    let typed = flag(root, "typed_placeholders", report);
    let unresolved = [("fail", false), ("keep", true)];
    let keep = root.get("unresolved").and_then(|e| word(e, &unresolved, report)).unwrap_or_default();
    Filling { compat, typed, keep }
}

fn flag(node: &Node, key: &str, report: &mut Report<'_>) -> bool {
    match node.get(key).map(|e| (e, &e.value.value)) {
        None => false,
        Some((_, NodeValue::Bool(set))) => *set,
        Some((entry, _)) => {
            wrong(entry, "true or false", report);
            false
        }
    }
}

fn name(root: &Node, source_name: &str, report: &mut Report<'_>) -> Option<Arc<str>> {
    let Some(entry) = root.get("name") else {
        let file = source_name.rsplit('/').next().unwrap_or(source_name);
        let stem = file.split('.').next().unwrap_or(file);
        return Some(if is_name(stem) { stem } else { "unnamed" }.into());
    };
    let name = text(entry, report)?;
    if !is_name(name) {
        let help = "up to 63 letters, digits, `_`, `-` and `.`, beginning with a letter";
        report.help(at(entry), format!("`{name}` cannot be a workflow's name"), help);
    }
    Some(name.into())
}

fn step(
    node: &Node,
    filling: Filling,
    retries: Option<u64>,
    seen: &mut HashMap<String, usize>,
    report: &mut Report<'_>,
) -> Option<ToolStep> {
    if !matches!(node.value, NodeValue::Map(_)) {
        report.error(node.span, format!("a step is an object, not {}", node.kind()));
        return None;
    }
    unknown_keys(node, &STEP, &[], "a `tool` step", report);
    let needed = |key: &str, help: &str, report: &mut Report<'_>| {
        let found = node.get(key);
        if found.is_none() {
            report.help(node.span, format!("this step has no `{key}`"), help);
        }
        found
    };
    let name = needed("name", "add \"name\": \"some_name\"", report).and_then(|e| text(e, report).map(|n| (n, e)));
    if let Some((name, entry)) = name
        && !is_word(name, '_')
    {
        report.help(
            at(entry),
            format!("`{name}` cannot be the name of a step"),
            "lower-case letters, digits and `_`, beginning with a letter",
        );
    }
    let tool = needed("tool", "add \"tool\": \"server.tool\"", report).and_then(|e| text(e, report).map(|t| (t, e)));
    if let Some((tool, entry)) = tool
        && filling.compat == Compat::Documented
        && !is_tool(tool)
    {
        report.help(at(entry), format!("`{tool}` names no tool"), "write server.tool, such as github.getIssue");
    }
    let params = needed("params", "add \"params\": {}", report).filter(|e| mapping(e, report).is_some());
    let condition = node.get("condition").or_else(|| node.get("if")).and_then(|e| condition(e, filling, report));
    let retry = retry(node.get("retry"), filling, retries, report);
    let assign = node.get("assign").and_then(|e| text(e, report));
    let (name, tool) = (name?.0, tool?.0);
    let times = seen.entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(1);
    let key = if *times == 1 { name.to_owned() } else { format!("{name}[{times}]") };
    Some(ToolStep {
        key: key.into(),
        name: name.into(),
        line: node.span.line,
        tool: tool.to_owned(),
        params: params?.value.json(),
        assign: assign.map(str::to_owned),
        condition,
        retry,
    })
}

fn is_word(text: &str, also: char) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == also)
}

/// `server.tool`; real servers have dashes in their names.
fn is_tool(text: &str) -> bool {
    text.split_once('.').is_some_and(|(server, tool)| {
        is_word(server, '-')
            && tool.starts_with(|c: char| c.is_ascii_alphabetic())
            && tool.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

fn condition(entry: &Entry, filling: Filling, report: &mut Report<'_>) -> Option<Condition> {
    let text = text(entry, report)?;
    match Condition::new(text, filling.compat) {
        Ok(condition) => Some(condition),
        Err(e) => {
            let source = report.source(entry.value.span);
            // The place in the text, where that stands in the file as it is.
            let span = match source.find(text) {
                Some(start) if e.at <= text.len() => entry.value.span.skip_in(source, start + e.at, 1),
                _ => entry.value.span,
            };
            let help =
                "a condition has paths, literals, ( ), !, && and ||, and the comparisons === !== == != < <= > >=";
            report.help(span, format!("this condition cannot be read: {}", e.message), help);
            None
        }
    }
}

/// A step's own retries; else `maxRetries` more calls, without a pause. The engine knew the latter alone.
fn retry(entry: Option<&Entry>, filling: Filling, retries: Option<u64>, report: &mut Report<'_>) -> RetryPolicy {
    let all = RetryPolicy {
        max_attempts: u32::try_from(retries.unwrap_or(0) + 1).unwrap_or(u32::MAX),
        backoff: Backoff::Constant,
        initial: Duration::ZERO,
        max: Duration::ZERO,
        jitter: 0.0,
        ..RetryPolicy::default()
    };
    let Some(entry) = entry.filter(|e| mapping(e, report).is_some()) else { return all };
    let node = &entry.value;
    unknown_keys(node, &RETRY, &[], "`retry`", report);
    let mut number =
        |key: &str, from, to, default| node.get(key).and_then(|e| whole(e, from, to, report)).unwrap_or(default);
    let max_attempts = u32::try_from(number("maxAttempts", 1, 10, 3)).unwrap_or(u32::MAX);
    let initial = Duration::from_millis(number("initialDelayMs", 0, LONGEST_MS, 1000));
    let max = Duration::from_millis(number("maxDelayMs", 0, LONGEST_MS, 60_000));
    let words = [("fixed", Backoff::Constant), ("linear", Backoff::Linear), ("exponential", Backoff::Exponential)];
    let backoff = node.get("backoff").and_then(|e| word(e, &words, report)).unwrap_or(Backoff::Exponential);
    let factor = node.get("backoffMultiplier").and_then(|e| multiplier(e, report)).unwrap_or(2.0);
    match filling.compat {
        Compat::Documented => RetryPolicy { max_attempts, backoff, factor, initial, max, ..all },
        Compat::Engine => all,
    }
}

fn multiplier(entry: &Entry, report: &mut Report<'_>) -> Option<f64> {
    let number = match &entry.value.value {
        NodeValue::Number(n) => n.as_f64().filter(|f| (1.0..=1000.0).contains(f)),
        _ => None,
    };
    if number.is_none() {
        report.error(at(entry), format!("`{}` must be a number from 1 to 1000", entry.key));
    }
    number
}

//! The parameters of `mcp`, `llm` and `agent`.

use serde_json::{Value, json};

use crate::expression::{Template, has_expression};

use super::check::{Mode, template};
use super::diagnostics::Report;
use super::fields::{at, list, mapping, text, unknown_keys, whole, wrong};
use super::kinds::Object;
use super::node::{Entry, Node, NodeValue, Span};

/// Turns of an agent where the file says nothing, and the most that it may say.
const TURNS: (u64, u64) = (10, 200);
/// Tools of one agent: providers take 128.
const TOOLS: usize = 128;

/// `mcp: server.tool` and `args`.
pub(super) fn mcp(out: &mut Object<'_>, entry: &Entry, report: &mut Report<'_>) {
    if let Some(name) = text(entry, report)
        && let Some((server, tool)) = tool(name, entry.value.span, "mcp", report)
    {
        out.put("server", Template::constant(server.into()));
        out.put("tool", Template::constant(tool.into()));
    }
    if let Some(args) = out.node.get("args")
        && mapping_or_expression(args, report)
    {
        out.put("args", template(&args.value, Mode::Typed, out.names, report));
    }
}

/// A mapping, or one expression that gives one.
fn mapping_or_expression(entry: &Entry, report: &mut Report<'_>) -> bool {
    match entry.value.as_str() {
        Some(text) if has_expression(text) => true,
        _ => mapping(entry, report).is_some(),
    }
}

/// `server.tool`; the tool's name may hold dots itself.
fn tool<'t>(name: &'t str, span: Span, key: &str, report: &mut Report<'_>) -> Option<(&'t str, &'t str)> {
    if has_expression(name) {
        let help = "write the server and the tool; choose between several with `if` on several steps";
        report.help(
            span,
            format!("`{key}` takes no expression: which tools a workflow calls stands in its file"),
            help,
        );
        return None;
    }
    let split = name.split_once('.').filter(|(server, tool)| is_server(server) && is_tool(tool));
    if split.is_none() {
        let help = "a server of the configuration, a dot, and one of its tools: store.list_objects";
        report.help(span, format!("`{name}` is no `server.tool`"), help);
    }
    split
}

/// As a server of the configuration may be called.
fn is_server(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

fn is_tool(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.chars().all(|c| !c.is_whitespace() && !c.is_control())
}

/// `llm: profile`, and what it is asked.
pub(super) fn llm(out: &mut Object<'_>, entry: &Entry, report: &mut Report<'_>) {
    if let Some(name) = text(entry, report) {
        if has_expression(name) {
            report.error(at(entry), format!("`{}` takes no expression: name a model of the configuration", entry.key));
        } else if !is_server(name) {
            let help = "a name under [models] of the configuration: lower-case letters, digits, `_` and `-`";
            report.help(at(entry), format!("`{name}` cannot be the name of a model"), help);
        }
        out.put("model", Template::constant(name.into()));
    }
    match out.node.get("prompt") {
        Some(prompt) => out.required(prompt, "prompt", report),
        None => report.help(
            entry.key_span,
            format!("`{}` has no `prompt`", entry.key),
            "add `prompt:` with what the model is asked; `${{ }}` may stand in it",
        ),
    }
    out.text("system", report);
    number(out, "temperature", 0.0, 2.0, report);
    if let Some(e) = out.node.get("max_tokens")
        && let Some(n) = whole(e, 1, 10_000_000, report)
    {
        out.put("max_tokens", Template::constant(n.into()));
    }
    // The answer is held against it before `output` looks at it.
    if let Some(schema) = out.node.get("schema").and_then(|e| super::parse::schema(e, report)) {
        out.put("schema", Template::constant(schema.source().clone()));
    }
}

/// `agent: profile`, its tools and its bound.
pub(super) fn agent(out: &mut Object<'_>, entry: &Entry, report: &mut Report<'_>) {
    llm(out, entry, report);
    if let Some(e) = out.node.get("tools") {
        let tools = tools(e, report);
        out.put("tools", Template::constant(tools));
    }
    let turns = out.node.get("max_turns").and_then(|e| whole(e, 1, TURNS.1, report)).unwrap_or(TURNS.0);
    out.put("max_turns", Template::constant(turns.into()));
}

fn tools(entry: &Entry, report: &mut Report<'_>) -> Value {
    let Some(items) = list(entry, report) else { return Value::Null };
    if items.is_empty() {
        report.help(at(entry), "`tools` names no tool", "leave it out, or use `llm`");
    }
    if items.len() > TOOLS {
        report.error(entry.key_span, format!("an agent has {TOOLS} tools at most, not {}", items.len()));
    }
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        let found = match (&item.value, item.as_str()) {
            (NodeValue::Map(_), _) => workflow(item, report),
            (_, Some(name)) => tool(name, item.span, "tools", report).map(|(server, tool)| json!([server, tool])),
            _ => {
                let message = "a tool is text such as store.list_objects, or a mapping with `workflow`, not";
                report.error(item.span, format!("{message} {}", item.kind()));
                None
            }
        };
        let Some(found) = found else { continue };
        if out.iter().any(|other| name_of(other) == name_of(&found)) {
            report.error(item.span, format!("`{}` stands here twice", name_of(&found)));
        }
        out.push(found);
    }
    out.into()
}

fn name_of(tool: &Value) -> String {
    match tool {
        Value::Array(pair) => pair.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("."),
        other => other["workflow"].as_str().unwrap_or_default().to_owned(),
    }
}

/// `{workflow, description?, input?}`: another workflow, as a tool.
fn workflow(item: &Node, report: &mut Report<'_>) -> Option<Value> {
    const KEYS: [&str; 3] = ["workflow", "description", "input"];
    unknown_keys(item, &KEYS, &[], "a tool", report);
    let mut plain = |key: &str| {
        let entry = item.get(key)?;
        let said = text(entry, report)?;
        if has_expression(said) {
            report.error(at(entry), format!("`{key}` of a tool takes no expression"));
        }
        Some(said.to_owned())
    };
    let (name, description) = (plain("workflow"), plain("description"));
    let input = item.get("input").and_then(|e| super::parse::schema(e, report)).map(|schema| schema.source().clone());
    let Some(name) = name else {
        if item.get("workflow").is_none() {
            report.help(
                item.span,
                "a tool that is a mapping has no `workflow`",
                "add `workflow:` with the name of one",
            );
        }
        return None;
    };
    let input = input.unwrap_or_else(|| json!({"type": "object"}));
    Some(json!({"workflow": name, "description": description.unwrap_or_default(), "input": input}))
}

fn number(out: &mut Object<'_>, key: &str, from: f64, to: f64, report: &mut Report<'_>) {
    let Some(entry) = out.node.get(key) else { return };
    match &entry.value.value {
        NodeValue::Number(n) if n.as_f64().is_some_and(|n| (from..=to).contains(&n)) => {
            out.put(key, Template::constant(Value::Number(n.clone())));
        }
        NodeValue::Number(n) => {
            report.error(at(entry), format!("`{key}` must be a number from {from} to {to}, not {n}"))
        }
        _ => wrong(entry, &format!("a number from {from} to {to}"), report),
    }
}

/// Is the step's `schema` the kind's own business?
pub(super) fn has_own_schema(node: &Node) -> bool {
    ["llm", "agent"].iter().any(|key| node.get(key).is_some())
}

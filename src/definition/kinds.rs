//! The parameters of each kind of step: from the file's keys to the object that the kind's code is given.

use serde_json::{Value, json};

use crate::expression::{Template, has_expression};

use super::argv;
use super::check::{Mode, Names, string, template};
use super::diagnostics::Report;
use super::duration::parse_duration;
use super::fields::{at, limit, list, mapping, text, wrong};
use super::limits::limits;
use super::models;
use super::node::{Entry, Node, NodeValue, Span};
use super::spec::Params;

/// A kind of step, as the file names it.
pub(super) struct KindWord {
    /// The key.
    pub(super) word: &'static str,
    /// The keys that belong to it, beside those of every step.
    pub(super) keys: &'static [&'static str],
    /// The names of its raw result, for `output`.
    pub(super) raw: &'static [&'static str],
    /// Is its `timeout` that of the wait, not of an attempt?
    pub(super) waits: bool,
}

/// A kind that only one binary has: its key takes a mapping, the parameters that its code is given.
#[derive(Clone, Copy, Debug)]
pub struct OwnKind {
    /// The key.
    pub word: &'static str,
    /// The names of its raw result, for `output`.
    pub raw: &'static [&'static str],
}

const fn kind(
    word: &'static str,
    keys: &'static [&'static str],
    raw: &'static [&'static str],
    waits: bool,
) -> KindWord {
    KindWord { word, keys, raw, waits }
}

/// The kinds of this version.
pub(super) const KINDS: [KindWord; 15] = [
    kind("run", &["env", "stdin", "cwd", "shell", "limits"], &["exit_code", "stdout", "stderr", "json"], false),
    kind("exec", &["env", "stdin", "cwd", "limits"], &["exit_code", "stdout", "stderr", "json"], false),
    kind("http", &["query", "headers", "json", "body", "form"], &["status", "headers", "body"], false),
    kind("sql", &["params", "connection"], &["rows", "row_count"], false),
    kind("mcp", &["args"], &["structured", "content"], false),
    kind("llm", &["prompt", "system", "temperature", "max_tokens"], &["text", "json", "usage"], false),
    kind(
        "agent",
        &["prompt", "system", "temperature", "max_tokens", "tools", "max_turns"],
        &["text", "json", "usage"],
        false,
    ),
    kind("sleep", &[], &[], true),
    kind("wait", &["match"], &["event"], true),
    kind("approve", &[], &["event"], true),
    kind("set", &[], &[], false),
    kind("map", &["as", "max_parallel", "tolerate", "steps"], &[], false),
    kind("switch", &["cases", "default"], &[], false),
    kind("repeat", &[], &[], false),
    kind("workflow", &["input", "detached"], &["output"], true),
];

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// The parameters of a task. `entry` is the kind's own key.
pub(super) fn params(
    kind: &KindWord,
    entry: &Entry,
    node: &Node,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Params {
    let names = &Names { step: true, ..*names };
    let mut out = Object { entries: Vec::new(), node, names };
    match kind.word {
        "run" => {
            out.script(entry, "script", "`env:` or `stdin:`", report);
            out.program(report);
            out.text("shell", report);
        }
        "exec" => {
            exec(&mut out, entry, report);
            out.program(report);
        }
        "http" => http(&mut out, entry, report),
        "sql" => {
            out.script(entry, "sql", "`params:`", report);
            if let Some(e) = node.get("params")
                && list(e, report).is_some()
            {
                out.put("params", template(&e.value, Mode::Typed, names, report));
            }
            out.constant("connection", report);
        }
        "mcp" => models::mcp(&mut out, entry, report),
        "llm" => models::llm(&mut out, entry, report),
        "agent" => models::agent(&mut out, entry, report),
        "sleep" => return sleep(entry, names, report),
        "wait" => {
            out.required(entry, "event", report);
            if entry.value.as_str().is_some_and(|name| parse_duration(name).is_ok()) {
                let help =
                    "`sleep` is a pause; `wait` takes the name of an event, and `timeout:` beside it how long it waits";
                report.help(at(entry), "`wait` waits for an event, and this is a time", help);
            }
            let matches = node.get("match").filter(|e| mapping(e, report).is_some());
            let matches = matches.map(|e| template(&e.value, Mode::Typed, names, report));
            out.put("match", matches.unwrap_or_else(|| Template::constant(json!({}))));
            out.timeout(report);
        }
        "approve" => {
            out.required(entry, "prompt", report);
            out.timeout(report);
        }
        "workflow" => child(&mut out, entry, report),
        _ => out.put("value", template(&entry.value, Mode::Typed, names, report)),
    }
    Params::Object(Template::object(out.entries))
}

/// The parameters of a kind that only one binary has: all that stands under its key.
pub(super) fn own_params(entry: &Entry, names: &Names<'_>, report: &mut Report<'_>) -> Params {
    let names = &Names { step: true, ..*names };
    if mapping(entry, report).is_none() {
        return Params::Object(Template::constant(json!({})));
    }
    Params::Object(template(&entry.value, Mode::Typed, names, report))
}

/// The parameters of a task, as they are put together.
pub(super) struct Object<'a> {
    entries: Vec<(String, Template)>,
    pub(super) node: &'a Node,
    pub(super) names: &'a Names<'a>,
}

impl Object<'_> {
    pub(super) fn put(&mut self, key: &str, value: Template) {
        self.entries.push((key.to_owned(), value));
    }

    /// Text that must not hold expressions: what is pasted into a script or a statement is an injection.
    fn script(&mut self, entry: &Entry, key: &str, instead: &str, report: &mut Report<'_>) {
        let Some(script) = text(entry, report) else { return };
        let span = entry.value.span;
        if has_expression(script) {
            let at = expression_span(span, report);
            let help = format!("hand the value in by {instead}");
            report.help(at, format!("`{}` takes no `${{{{ }}}}`: data must not become code", entry.key), help);
        } else if script.trim().is_empty() {
            report.error(at(entry), format!("`{}` is empty", entry.key));
        } else if script.contains('\0') {
            report.error(span, format!("`{}` holds a NUL character", entry.key));
        }
        self.put(key, Template::constant(script.into()));
    }

    /// Text with expressions that must be there.
    pub(super) fn required(&mut self, entry: &Entry, key: &str, report: &mut Report<'_>) {
        let Some(value) = text(entry, report) else { return };
        if value.trim().is_empty() {
            report.error(at(entry), format!("`{}` is empty", entry.key));
        }
        self.put(key, string(value, entry.value.span, Mode::Text, self.names, report));
    }

    /// Optional text with expressions.
    pub(super) fn text(&mut self, key: &str, report: &mut Report<'_>) {
        if let Some(e) = self.node.get(key)
            && let Some(value) = text(e, report)
        {
            self.put(key, string(value, e.value.span, Mode::Text, self.names, report));
        }
    }

    /// Optional text without expressions.
    fn constant(&mut self, key: &str, report: &mut Report<'_>) {
        if let Some(e) = self.node.get(key)
            && let Some(value) = text(e, report)
        {
            if has_expression(value) {
                report.error(e.value.span, format!("`{key}` takes no expression"));
            }
            self.put(key, Template::constant(value.into()));
        }
    }

    /// `env`, `stdin`, `cwd` and `limits`.
    fn program(&mut self, report: &mut Report<'_>) {
        self.texts("env", report);
        if let Some(e) = self.node.get("stdin") {
            self.put("stdin", template(&e.value, Mode::Typed, self.names, report));
        }
        self.text("cwd", report);
        if let Some(e) = self.node.get("limits") {
            let limits = limits(e, report);
            self.put("limits", Template::constant(limits));
        }
    }

    /// An optional mapping from names to text.
    fn texts(&mut self, key: &str, report: &mut Report<'_>) {
        let Some(e) = self.node.get(key) else { return };
        let Some(entries) = mapping(e, report) else { return };
        for inner in entries.iter().filter(|i| !is_scalar(&i.value)) {
            wrong(inner, "text", report);
        }
        self.put(key, template(&e.value, Mode::Text, self.names, report));
    }

    fn timeout(&mut self, report: &mut Report<'_>) {
        if let Some(span) = self.node.get("timeout").and_then(|e| limit(e, report)) {
            self.put("timeout_ms", Template::constant(milliseconds(span)));
        }
    }
}

fn is_scalar(node: &Node) -> bool {
    !matches!(node.value, NodeValue::Seq(_) | NodeValue::Map(_))
}

fn milliseconds(span: std::time::Duration) -> Value {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).into()
}

/// The place of the first `${{ … }}` of a text.
fn expression_span(span: Span, report: &Report<'_>) -> Span {
    let source = report.source(span);
    match source.find("${{") {
        Some(at) => span.skip_in(source, at, source[at..].find("}}").map_or(3, |n| n + 2)),
        None => span,
    }
}

fn exec(out: &mut Object<'_>, entry: &Entry, report: &mut Report<'_>) {
    let items = match &entry.value.value {
        NodeValue::Seq(items) => items,
        NodeValue::String(_) => {
            report.help(
                entry.value.span,
                "`exec` takes a list of arguments",
                "write [program, argument, …], or use `run` for a shell script",
            );
            return;
        }
        _ => return wrong(entry, "a list of arguments", report),
    };
    if items.is_empty() {
        report.error(entry.value.span, "`exec` names no program");
    }
    for item in items.iter().filter(|i| !is_scalar(i)) {
        report.error(item.span, format!("an argument must be text, not {}", item.kind()));
    }
    let words: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or_default()).collect();
    for place in argv::code(&words) {
        let help = "hand the value in by `env:`, `stdin:` or a further argument";
        report.help(items[place].span, "what an interpreter runs takes no `${{ }}`: data must not become code", help);
    }
    if let Some(program) = items.first()
        && let Some(name) = program.as_str()
        && names_data(&string(name, program.span, Mode::Text, out.names, report))
    {
        let help = "write the program, or take it from the configuration: ${{ env.NAME }}";
        report.help(program.span, "which program runs stands in the file: data must not become code", help);
    }
    let data: Vec<Value> = argv::data(&words).into_iter().map(Value::from).collect();
    out.put("argv", template(&entry.value, Mode::Text, out.names, report));
    if !data.is_empty() {
        out.put("data", Template::constant(data.into()));
    }
}

/// Does it hold anything but what stands in the file or the daemon's configuration?
fn names_data(template: &Template) -> bool {
    let mut data = false;
    template.each(&mut |expression| data |= expression.references().iter().any(|path| &*path.root != "env"));
    data
}

/// `http: [METHOD] URL`, and at most one body.
fn http(out: &mut Object<'_>, entry: &Entry, report: &mut Report<'_>) {
    let Some(value) = text(entry, report) else { return };
    let (method, url) = match value.trim().split_once(char::is_whitespace) {
        Some((method, url)) if !method.contains("${{") && !method.contains("://") => (method, url.trim()),
        _ => ("GET", value.trim()),
    };
    let span = entry.value.span;
    if !METHODS.contains(&method) {
        let upper = method.to_ascii_uppercase();
        let meant = METHODS.into_iter().find(|m| *m == upper);
        let place = span.within(report.source(span), method);
        report.name(
            place,
            format!("`{method}` is no HTTP method"),
            meant,
            &format!("write one of: {}", METHODS.join(", ")),
        );
    } else if !(url.starts_with("http://") || url.starts_with("https://") || url.starts_with("${{")) {
        let place = span.within(report.source(span), url);
        report.help(place, format!("`{url}` is no URL"), "write a method and a whole URL: GET https://…");
    }
    out.put("method", Template::constant(method.into()));
    out.put("url", string(url, span, Mode::Url, out.names, report));
    out.texts("query", report);
    out.texts("headers", report);
    let bodies: Vec<&Entry> = ["json", "body", "form"].iter().filter_map(|k| out.node.get(k)).collect();
    if let [first, second, ..] = bodies.as_slice() {
        let message = format!("a request has one body: `{}` and `{}` exclude each other", first.key, second.key);
        report.error(second.key_span, message);
    }
    if let Some(e) = out.node.get("json") {
        out.put("json", template(&e.value, Mode::Typed, out.names, report));
    }
    out.text("body", report);
    out.texts("form", report);
}

/// `workflow: name`: a child run.
fn child(out: &mut Object<'_>, entry: &Entry, report: &mut Report<'_>) {
    out.required(entry, "workflow", report);
    let input = out.node.get("input").map(|e| {
        let input = template(&e.value, Mode::Typed, out.names, report);
        let mut secret = false;
        input.each(&mut |expression| secret |= expression.uses_secrets());
        if secret {
            let help = "the child can name it by itself: `secrets.<name>`";
            report.help(e.value.span, "an input is stored, and a secret must not be", help);
        }
        input
    });
    out.put("input", input.unwrap_or_else(|| Template::constant(json!({}))));
    let detached = out.node.get("detached").and_then(|e| flag(e, report)).unwrap_or(false);
    out.put("detached", Template::constant(detached.into()));
    if let Some(e) = out.node.get("timeout").filter(|_| detached) {
        report.error(e.key_span, "a detached child is not waited for: it has no `timeout` here");
    }
    if let Some(e) = out.node.get("retry") {
        let help = "its own steps have their retries; `stepd retry` takes up the child, or this run, again";
        report.help(e.key_span, "a `workflow` step has no `retry`", help);
    }
    out.timeout(report);
}

/// True or false.
fn flag(entry: &Entry, report: &mut Report<'_>) -> Option<bool> {
    match entry.value.value {
        NodeValue::Bool(yes) => Some(yes),
        _ => {
            wrong(entry, "true or false", report);
            None
        }
    }
}

/// `sleep: 5m`, or an expression that gives such a text.
fn sleep(entry: &Entry, names: &Names<'_>, report: &mut Report<'_>) -> Params {
    let nothing = Params::Object(Template::constant(json!({"ms": 0})));
    if let Some(value) = entry.value.as_str()
        && has_expression(value)
    {
        return Params::Sleep(string(value, entry.value.span, Mode::Typed, names, report));
    }
    if entry.value.as_str().is_some_and(|v| parse_duration(v).is_err_and(|_| v.starts_with("until"))) {
        report.help(entry.value.span, "`sleep until` is no part of the language", "sleep for a duration such as 5m");
        return nothing;
    }
    match super::fields::duration(entry, report) {
        Some(span) => Params::Object(Template::constant(json!({"ms": milliseconds(span)}))),
        None => nothing,
    }
}

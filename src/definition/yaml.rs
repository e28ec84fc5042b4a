//! From text to the positioned tree, over the parser's events: serde would stop at the first error, and would not
//! know where a value stands.

use std::collections::{HashMap, HashSet};

use serde_json::Number;
use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span as YamlSpan};

use super::diagnostics::Report;
use super::node::{Entry, Node, NodeValue, Span};

/// Nodes of one document, aliases expanded: far above any real file, far below what an alias bomb wants.
const NODES: usize = 1_000_000;

/// Nesting of one document; serde_json reads no deeper than 128.
const DEPTH: usize = 100;

/// Parses one document. `None`: there is nothing to go on with, and the report says why.
pub(super) fn parse(text: &str, report: &mut Report<'_>) -> Option<Node> {
    let mut builder = Builder { stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None, text, failed: false };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(pair) => pair,
            Err(e) => {
                scan_error(text, &e, report);
                return None;
            }
        };
        if let Event::DocumentStart(..) = event {
            documents += 1;
            if documents == 2 {
                report.help(
                    place(span),
                    "a second document begins here",
                    "one workflow per file: move it to a file of its own",
                );
                return None;
            }
        }
        builder.event(event, place(span), report)?;
    }
    if builder.root.is_none() && report.is_empty() {
        report.help(
            Span { line: 1, column: 1, ..Span::default() },
            "the file is empty",
            "a workflow begins with `name:` and has `steps:`",
        );
    }
    builder.root.filter(|_| !builder.failed)
}

fn place(span: YamlSpan) -> Span {
    let byte = |m: Marker| m.byte_offset().unwrap_or(0);
    Span { line: span.start.line().max(1), column: span.start.col() + 1, start: byte(span.start), end: byte(span.end) }
}

enum Open {
    Seq { items: Vec<Node>, span: Span, anchor: usize },
    Map { entries: Vec<Entry>, known: HashSet<String>, key: Option<(String, Span)>, span: Span, anchor: usize },
}

struct Builder<'t> {
    stack: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
    text: &'t str,
    failed: bool,
}

impl Builder<'_> {
    /// `None` ends the reading; the report says why.
    fn event(&mut self, event: Event<'_>, span: Span, report: &mut Report<'_>) -> Option<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some_and(|t| !t.is_yaml_core_schema()) {
                    self.failed = true;
                    report.help(span, "YAML tags mean nothing in a workflow", "remove the `!tag`");
                }
                let value = match style {
                    ScalarStyle::Plain => self.plain(&text, span, report),
                    _ => NodeValue::String(text.into_owned()),
                };
                self.add(Node { value, span }, anchor, report)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Open::Seq { items: Vec::new(), span, anchor }, report),
            Event::MappingStart(_, anchor, _) => {
                self.open(Open::Map { entries: Vec::new(), known: HashSet::new(), key: None, span, anchor }, report)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (node, anchor) = match self.stack.pop()? {
                    Open::Seq { items, span: start, anchor } => {
                        (Node { value: NodeValue::Seq(items), span: Span { end: span.end, ..start } }, anchor)
                    }
                    Open::Map { entries, span: start, anchor, .. } => {
                        (Node { value: NodeValue::Map(entries), span: Span { end: span.end, ..start } }, anchor)
                    }
                };
                self.add(node, anchor, report)
            }
            Event::Alias(id) => {
                let Some((node, weight)) = self.anchors.get(&id) else {
                    report.error(span, "this alias stands inside the anchor that it names");
                    return None;
                };
                // Counted before it is copied: a bomb must not go off first.
                self.nodes += weight;
                let value = if self.nodes > NODES { NodeValue::Null } else { node.value.clone() };
                self.add(Node { value, span }, 0, report)
            }
            _ => Some(()),
        }
    }

    fn open(&mut self, open: Open, report: &mut Report<'_>) -> Option<()> {
        let (Open::Seq { span, .. } | Open::Map { span, .. }) = &open;
        if self.stack.len() >= DEPTH {
            report.error(*span, format!("nested deeper than {DEPTH}"));
            return None;
        }
        self.stack.push(open);
        Some(())
    }

    fn add(&mut self, node: Node, anchor: usize, report: &mut Report<'_>) -> Option<()> {
        self.nodes += 1;
        if self.nodes > NODES {
            report.error(
                node.span,
                format!("the file has more than {NODES} values, aliases counted as often as they stand"),
            );
            return None;
        }
        if anchor != 0 {
            let weight = weight(&node);
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::Seq { items, .. }) => items.push(node),
            Some(Open::Map { entries, known, key, .. }) => match key.take() {
                Some((key, key_span)) => {
                    if key == "<<" {
                        self.failed = true;
                        report.help(
                            key_span,
                            "`<<` is read as a key like any other, not as a merge",
                            "write the keys out",
                        );
                    } else if !known.insert(key.clone()) {
                        self.failed = true;
                        report.error(key_span, format!("`{key}` stands here twice"));
                    } else {
                        entries.push(Entry { key, key_span, value: node });
                    }
                }
                None => match key_text(&node) {
                    Some(text) => *key = Some((text, node.span)),
                    None => return self.bad_key(&node, report),
                },
            },
        }
        Some(())
    }

    fn bad_key(&self, node: &Node, report: &mut Report<'_>) -> Option<()> {
        match braces(self.text, node.span.start) {
            Some(at) => report.help(at, "this looks like an expression, but YAML reads its braces as a mapping", QUOTE),
            None => {
                let message = format!("a key must be text, not {}", node.kind());
                report.help(node.span, message, "quote it, if it is meant as text");
            }
        }
        None
    }

    /// YAML 1.2's core schema: `yes` and `on` are text.
    fn plain(&mut self, text: &str, span: Span, report: &mut Report<'_>) -> NodeValue {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
            "true" | "True" | "TRUE" => return NodeValue::Bool(true),
            "false" | "False" | "FALSE" => return NodeValue::Bool(false),
            _ => {}
        }
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
            return NodeValue::String(text.to_owned());
        }
        match number(text) {
            Ok(Some(n)) => NodeValue::Number(n),
            Ok(None) => NodeValue::String(text.to_owned()),
            Err(message) => {
                self.failed = true;
                report.help(span, message, "quote it, if it is meant as text");
                NodeValue::String(text.to_owned())
            }
        }
    }
}

const QUOTE: &str = "quote it: \"${{ … }}\"";

fn weight(node: &Node) -> usize {
    1 + match &node.value {
        NodeValue::Seq(items) => items.iter().map(weight).sum(),
        NodeValue::Map(entries) => entries.iter().map(|e| 1 + weight(&e.value)).sum(),
        NodeValue::Null | NodeValue::Bool(_) | NodeValue::Number(_) | NodeValue::String(_) => 0,
    }
}

fn key_text(node: &Node) -> Option<String> {
    match &node.value {
        NodeValue::String(s) => Some(s.clone()),
        NodeValue::Number(n) => Some(n.to_string()),
        NodeValue::Bool(b) => Some(b.to_string()),
        NodeValue::Null | NodeValue::Seq(_) | NodeValue::Map(_) => None,
    }
}

/// The number that a plain scalar is; an error where it is one that JSON cannot hold exactly.
fn number(text: &str) -> Result<Option<Number>, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |prefix: &str, radix| digits.strip_prefix(prefix).map(|d| u64::from_str_radix(d, radix));
    if let Some(Ok(n)) = radix("0x", 16).or_else(|| radix("0o", 8)).filter(|_| digits.len() == text.len()) {
        return Ok(Some(n.into()));
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // A telephone number or a code such as 007 would lose its zeros without a word.
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(format!("`{text}` begins with a zero, and would be read as a number without it"));
        }
        let plain = text.strip_prefix('+').unwrap_or(text);
        let exact = plain.parse::<i64>().map(Number::from).or_else(|_| plain.parse::<u64>().map(Number::from));
        return exact.map(Some).map_err(|_| format!("`{text}` is an integer of more than 64 bits"));
    }
    if matches!(digits.to_ascii_lowercase().as_str(), ".inf" | ".nan") {
        return Err(format!("`{text}` is no number in JSON"));
    }
    let float = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match text.parse::<f64>() {
        Ok(f) if float => {
            Number::from_f64(f).map(Some).ok_or_else(|| format!("`{text}` is larger than a float can be"))
        }
        _ => Ok(None),
    }
}

fn scan_error(text: &str, e: &ScanError, report: &mut Report<'_>) {
    let mark = e.marker();
    let mut offset = mark.byte_offset().unwrap_or(text.len()).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let line = text[..offset].rfind('\n').map_or(0, |n| n + 1);
    let before = text[line..offset].chars().count();
    if let Some(span) = braces(text, offset) {
        report.help(span, "an unquoted `${{ }}` inside `{…}` or `[…]`: YAML reads its braces as a mapping", QUOTE);
        return;
    }
    if let Some(at) = loose(&text[line..]) {
        let column = text[line..line + at].chars().count() + 1;
        let end = text[line + at..].lines().next().map_or(3, |l| l.find("}}").map_or(l.len(), |n| n + 2));
        let start = line + at;
        let span = Span { line: mark.line().max(1), column, start, end: start + end };
        report.help(span, "an unquoted `${{ }}`: YAML reads its braces, quotes and colons as its own", QUOTE);
        return;
    }
    let span = Span { line: mark.line().max(1), column: before + 1, start: offset, end: offset };
    let line = text.lines().nth(span.line - 1).unwrap_or_default();
    let tab = line.trim_start_matches(' ').starts_with('\t');
    let info = e.info();
    let why = info.lines().next().unwrap_or_default();
    let message = match why.contains("recursion limit") {
        true => format!("nested deeper than {DEPTH}"),
        false => format!("this is not YAML: {why}"),
    };
    if tab {
        report.help(span, message, "indent with blanks, not with tabs");
    } else if why.contains("expected ':'") {
        report.help(span, message, "a key is followed by a colon and a blank: `key: value`");
    } else {
        report.error(span, message);
    }
}

/// The last unquoted `${{` (or `{{`) inside a flow mapping or list, on the line of `offset` or the two before it.
fn braces(text: &str, offset: usize) -> Option<Span> {
    let end = text[offset.min(text.len())..].find('\n').map_or(text.len(), |n| offset + n);
    let line = text[..offset.min(text.len())].matches('\n').count();
    let starts: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
    (line.saturating_sub(2)..=line).rev().find_map(|l| {
        let start = *starts.get(l)?;
        let stop = starts.get(l + 1).map_or(text.len(), |s| s - 1).min(end);
        let at = unquoted(text.get(start..stop)?)?;
        let column = text[start..start + at].chars().count() + 1;
        let length = text[start + at..stop].find("}}").map_or(3, |n| n + 2);
        Some(Span { line: l + 1, column, start: start + at, end: start + at + length })
    })
}

/// Where a line has a `${{` that is in no quotes.
fn loose(text: &str) -> Option<usize> {
    let line = text.lines().next()?;
    let mut quote = None;
    for (i, c) in line.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '$') if line[i..].starts_with("${{") => return Some(i),
            _ => {}
        }
    }
    None
}

/// Where the first `{{` stands that is in no quotes and begins a value inside `{…}` or `[…]`.
fn unquoted(line: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0);
    for (i, c) in line.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') if line[..i].ends_with(' ') => return None,
            (None, '{' | '[') if line[i..].starts_with("{{") && !line[..i].ends_with('{') => {
                let dollar = line[..i].ends_with('$');
                if depth > 0 || !dollar {
                    return Some(i - usize::from(dollar));
                }
                depth += 1;
            }
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

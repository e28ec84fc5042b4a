//! `retry`, `resume`, and the other policies of steps and workflows.

use crate::rules::policy::{Backoff, OnError, OnInterrupt, ResumePolicy, RetryPolicy, StepPolicy};

use super::diagnostics::Report;
use super::fields::{at, duration, limit, list, mapping, unknown_keys, whole, word};
use super::node::{Entry, Node, NodeValue};

/// The keys of `retry`.
pub(super) const RETRY: [&str; 7] = ["max_attempts", "backoff", "initial", "max", "jitter", "only", "not"];

/// The keys of `resume`.
pub(super) const RESUME: [&str; 3] = ["max_attempts", "initial", "max"];

/// More attempts than this are a loop, and each failed one is an event in the audit.
const MOST_ATTEMPTS: u64 = 10_000;

/// `retry:`, over the values that it leaves out.
pub(super) fn retry(entry: &Entry, base: &RetryPolicy, report: &mut Report<'_>) -> RetryPolicy {
    let mut policy = base.clone();
    if mapping(entry, report).is_none() {
        return policy;
    }
    let node = &entry.value;
    unknown_keys(node, &RETRY, &[], "`retry`", report);
    if let Some(n) = node.get("max_attempts").and_then(|e| whole(e, 1, MOST_ATTEMPTS, report)) {
        policy.max_attempts = u32::try_from(n).unwrap_or(u32::MAX);
    }
    let words = [("constant", Backoff::Constant), ("linear", Backoff::Linear), ("exponential", Backoff::Exponential)];
    if let Some(backoff) = node.get("backoff").and_then(|e| word(e, &words, report)) {
        policy.backoff = backoff;
    }
    if let Some(span) = node.get("initial").and_then(|e| duration(e, report)) {
        policy.initial = span;
        // A step that says only `initial: 10m` means it: the inherited limit must not cut it.
        policy.max = policy.max.max(span);
    }
    if let Some(e) = node.get("max")
        && let Some(span) = duration(e, report)
    {
        if span < policy.initial && node.get("initial").is_some() {
            report.error(e.value.span, "`max` is shorter than `initial`");
        }
        policy.max = span;
    }
    if let Some(jitter) = node.get("jitter").and_then(|e| share(e, report)) {
        policy.jitter = jitter;
    }
    if let Some(codes) = node.get("only").and_then(|e| codes(e, report)) {
        policy.only = codes;
    }
    if let Some(codes) = node.get("not").and_then(|e| codes(e, report)) {
        policy.not = codes;
    }
    policy
}

fn share(entry: &Entry, report: &mut Report<'_>) -> Option<f64> {
    let number = match &entry.value.value {
        NodeValue::Number(n) => n.as_f64().filter(|f| (0.0..=1.0).contains(f)),
        _ => None,
    };
    if number.is_none() {
        report.error(at(entry), format!("`{}` must be a number from 0 to 1", entry.key));
    }
    number
}

fn codes(entry: &Entry, report: &mut Report<'_>) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let items = list(entry, report)?;
    for item in items {
        match item.as_str() {
            Some(code) if code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !code.is_empty() => {
                out.push(code.to_owned());
            }
            _ => report.help(
                item.span,
                "this is no failure code",
                "failure codes are words such as timeout, exit_75, http_503 or http_5xx",
            ),
        }
    }
    if items.is_empty() && entry.key == "only" {
        report.help(at(entry), "`only` names no code", "leave it out to retry every transient failure");
    }
    Some(out)
}

/// `resume:`.
pub(super) fn resume(entry: &Entry, report: &mut Report<'_>) -> ResumePolicy {
    let mut policy = ResumePolicy::default();
    match &entry.value.value {
        NodeValue::String(text) if text == "never" => return ResumePolicy::never(),
        NodeValue::Map(_) => {}
        _ => {
            let message = format!("`resume` must be `never` or a mapping, not {}", entry.value.kind());
            report.help(at(entry), message, "write {max_attempts: 10, initial: 10s, max: 10m}, or leave it out");
            return policy;
        }
    }
    let node = &entry.value;
    unknown_keys(node, &RESUME, &[], "`resume`", report);
    if let Some(n) = node.get("max_attempts").and_then(|e| whole(e, 0, MOST_ATTEMPTS, report)) {
        policy.max_attempts = u32::try_from(n).unwrap_or(u32::MAX);
    }
    if let Some(span) = node.get("initial").and_then(|e| duration(e, report)) {
        policy.initial = span;
        policy.max = policy.max.max(span);
    }
    if let Some(e) = node.get("max")
        && let Some(span) = duration(e, report)
    {
        if span < policy.initial && node.get("initial").is_some() {
            report.error(e.value.span, "`max` is shorter than `initial`");
        }
        policy.max = span;
    }
    policy
}

/// The policies of a step. `waits`: its `timeout` is the wait's, and belongs to its parameters.
pub(super) fn step(node: &Node, workflow: &RetryPolicy, waits: bool, report: &mut Report<'_>) -> StepPolicy {
    let on_error = [("fail", OnError::Fail), ("continue", OnError::Continue)];
    let on_interrupt = [("retry", OnInterrupt::Retry), ("fail", OnInterrupt::Fail), ("ask", OnInterrupt::Ask)];
    let policy = StepPolicy {
        retry: node.get("retry").map_or_else(|| workflow.clone(), |e| retry(e, workflow, report)),
        timeout: node.get("timeout").filter(|_| !waits).and_then(|e| limit(e, report)),
        total_timeout: node.get("total_timeout").and_then(|e| limit(e, report)),
        on_error: node.get("on_error").and_then(|e| word(e, &on_error, report)).unwrap_or_default(),
        on_interrupt: node.get("on_interrupt").and_then(|e| word(e, &on_interrupt, report)).unwrap_or_default(),
        undo: false,
    };
    if let (Some(timeout), Some(total), Some(e)) = (policy.timeout, policy.total_timeout, node.get("total_timeout"))
        && total < timeout
    {
        report.error(e.value.span, "`total_timeout` is shorter than `timeout`");
    }
    policy
}

//! `budget:` of a workflow.

use crate::rules::budget::{Budget, WhenSpent};

use super::diagnostics::Report;
use super::fields::{at, mapping, unknown_keys, whole, word};
use super::node::{Entry, NodeValue};

/// Its keys.
pub(super) const KEYS: [&str; 4] = ["tokens", "cost", "calls", "action"];

/// Far above anything that is paid for.
const MOST: u64 = 1_000_000_000_000;

pub(super) fn budget(entry: &Entry, report: &mut Report<'_>) -> Option<Budget> {
    let node = &entry.value;
    mapping(entry, report)?;
    unknown_keys(node, &KEYS, &[], "`budget`", report);
    let actions = [("approve", WhenSpent::Approve), ("fail", WhenSpent::Fail)];
    let budget = Budget {
        tokens: node.get("tokens").and_then(|e| whole(e, 1, MOST, report)),
        cost: node.get("cost").and_then(|e| cost(e, report)),
        calls: node.get("calls").and_then(|e| whole(e, 1, MOST, report)),
        action: node.get("action").and_then(|e| word(e, &actions, report)).unwrap_or_default(),
    };
    if ["tokens", "cost", "calls"].iter().all(|key| node.get(key).is_none()) {
        let help = "name at least one of: tokens, cost, calls";
        report.help(at(entry), "this `budget` limits nothing", help);
    }
    Some(budget)
}

fn cost(entry: &Entry, report: &mut Report<'_>) -> Option<f64> {
    let number = match &entry.value.value {
        NodeValue::Number(n) => n.as_f64().filter(|n| *n > 0.0 && n.is_finite()),
        _ => None,
    };
    if number.is_none() {
        let help = "in the currency of the prices in the configuration: 2.50";
        report.help(at(entry), "`cost` must be a number above 0", help);
    }
    number
}

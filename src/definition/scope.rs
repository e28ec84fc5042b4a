//! The ids of one scope: those of a list of steps, and of the branches of the `switch`es in it, however deep. Seen before any step is
//! read, for an expression may name them all.

use super::check::{Before, Names, taken};
use super::diagnostics::Report;
use super::fields::at;
use super::node::{Node, NodeValue};
use super::plan::{Graph, Plan};

/// An id of a scope.
pub(super) struct Known<'n> {
    /// Empty where the step has none.
    pub(super) id: &'n str,
    pub(super) is_map: bool,
    node: &'n Node,
}

/// The ids of a list in the order of their places: its own, then those in the branches of each of its steps.
pub(super) fn known(nodes: &[Node]) -> Vec<Known<'_>> {
    let steps = nodes.iter().filter(|node| is_step(node));
    let mut out: Vec<Known<'_>> = steps.clone().map(of).collect();
    for branch in steps.flat_map(branches) {
        out.extend(known(branch));
    }
    out
}

fn is_step(node: &Node) -> bool {
    matches!(node.value, NodeValue::Map(_))
}

fn of(node: &Node) -> Known<'_> {
    let id = node.get("id").and_then(|e| e.value.as_str()).unwrap_or_default();
    Known { id, is_map: node.get("map").is_some(), node }
}

/// How many ids stand in the branches of a step.
pub(super) fn inside(node: &Node) -> usize {
    branches(node).into_iter().map(|branch| known(branch).len()).sum()
}

/// The lists of steps of a `switch`, the `default` last.
fn branches(node: &Node) -> Vec<&[Node]> {
    let Some(switch) = node.get("switch") else { return Vec::new() };
    let mut out = Vec::new();
    if let NodeValue::Seq(cases) = &switch.value.value {
        out.extend(cases.iter().filter_map(|case| items(&case.get("steps")?.value)));
    }
    if let Some(NodeValue::Map(cases)) = node.get("cases").map(|e| &e.value.value) {
        out.extend(cases.iter().filter_map(|case| items(&case.value)));
    }
    out.extend(node.get("default").and_then(|e| items(&e.value)));
    out
}

fn items(node: &Node) -> Option<&[Node]> {
    match &node.value {
        NodeValue::Seq(items) => Some(items),
        _ => None,
    }
}

/// The `map` or `repeat` of a scope inside of which a step stands, however deep.
pub(super) fn holder<'n>(nodes: &'n [Node], id: &str) -> Option<&'n str> {
    known(nodes).into_iter().find_map(|one| {
        let of = one.node.get("map").map_or_else(|| one.node.get("repeat").map(|e| &e.value), |_| Some(one.node))?;
        let steps = items(&of.get("steps")?.value)?;
        let inside = known(steps).iter().any(|k| k.id == id) || holder(steps, id).is_some();
        inside.then_some(one.id)
    })
}

/// Complains about ids that are used twice.
pub(super) fn doubled(known: &[Known<'_>], outer: Option<&Names<'_>>, round: &str, report: &mut Report<'_>) {
    let mut places = std::collections::HashMap::new();
    for (place, one) in known.iter().enumerate().filter(|(_, k)| !k.id.is_empty()) {
        let first = *places.entry(one.id).or_insert(place);
        let span = one.node.get("id").map_or(one.node.span, at);
        if first != place {
            let help = format!("its first use is on line {}", known[first].node.span.line);
            report.help(span, format!("the id `{}` is already in use", one.id), help);
        } else if taken(outer, one.id) {
            report.error(span, format!("the id `{}` is already in use by a step outside of this {round}", one.id));
        }
    }
}

/// Where the ids of a list stand in its scope.
pub(super) struct Places {
    /// Of its first step; the others follow.
    pub(super) start: usize,
    /// Of what stands in the branches of each step.
    pub(super) inside: Vec<std::ops::Range<usize>>,
}

impl Places {
    pub(super) fn new<'n>(start: usize, steps: impl ExactSizeIterator<Item = &'n Node>) -> Self {
        let mut next = start + steps.len();
        let inside = steps.map(|node| {
            let from = next;
            next += inside(node);
            from..next
        });
        Self { start, inside: inside.collect() }
    }

    /// The steps of the scope that have ended before each one of the list: those before the list, and the step's own ancestors, with
    /// what stands in their branches.
    pub(super) fn before(&self, needs: &[Vec<usize>], graph: &Graph, cyclic: bool, names: &Names<'_>) -> Vec<Before> {
        let own = ancestors(needs, graph, cyclic);
        if self.start == 0 && self.inside.iter().all(std::ops::Range::is_empty) {
            return own;
        }
        let mut base = names.before.bits(names.steps.len());
        let add = |bits: &mut Vec<u64>, step: usize| {
            for place in std::iter::once(self.start + step).chain(self.inside[step].clone()) {
                bits[place / 64] |= 1 << (place % 64);
            }
        };
        let each = own.into_iter().enumerate().map(|(step, before)| {
            if graph.is_linear() {
                let bits = base.clone();
                add(&mut base, step);
                return Before::Set(bits);
            }
            let mut bits = base.clone();
            (0..needs.len()).filter(|other| before.has(*other)).for_each(|other| add(&mut bits, other));
            Before::Set(bits)
        });
        each.collect()
    }
}

/// The steps of a list that have ended before each one.
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
    let mut plan = Plan::new(graph);
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

//! Which steps may start: a graph per list of steps, and the progress of one run through it.

/// The order of a list of steps, fixed at load.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// How many steps each one needs.
    needs: Vec<u32>,
    /// The steps that need each one.
    dependents: Vec<Vec<usize>>,
    linear: bool,
}

impl Graph {
    /// From each step's needs, as places in the list; a step names each of its needs once.
    #[must_use]
    pub fn new(needs: &[Vec<usize>]) -> Self {
        let mut dependents = vec![Vec::new(); needs.len()];
        for (step, needed) in needs.iter().enumerate() {
            for &n in needed {
                if let Some(list) = dependents.get_mut(n) {
                    list.push(step);
                }
            }
        }
        let linear = needs.iter().enumerate().all(|(i, n)| match i {
            0 => n.is_empty(),
            _ => *n == [i - 1],
        });
        let needs = needs.iter().map(|n| u32::try_from(n.len()).unwrap_or(u32::MAX)).collect();
        Self { needs, dependents, linear }
    }

    /// Is each step after its predecessor, and nothing else?
    #[must_use]
    pub fn is_linear(&self) -> bool {
        self.linear
    }

    /// The number of steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.needs.len()
    }

    /// Is there no step?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    /// The steps that need a step.
    #[must_use]
    pub fn dependents(&self, step: usize) -> &[usize] {
        self.dependents.get(step).map_or(&[], Vec::as_slice)
    }

    /// A cycle, each step followed by one that it needs, the first in the list first; `None` when every step can be reached.
    #[must_use]
    pub fn cycle(&self) -> Option<Vec<usize>> {
        let mut plan = Plan::new(self);
        let mut ready = plan.start();
        while let Some(step) = ready.pop() {
            plan.done(step, &mut ready);
        }
        // Each step that is left has a need that is left: walking back must come round.
        let left: Vec<bool> = plan.missing.iter().map(|m| *m > 0).collect();
        let mut needs_of = vec![usize::MAX; self.len()];
        for (step, dependents) in self.dependents.iter().enumerate().filter(|(s, _)| left[*s]) {
            dependents.iter().for_each(|d| needs_of[*d] = step);
        }
        let mut at = left.iter().position(|l| *l)?;
        let mut seen = vec![false; self.len()];
        while !seen[at] {
            seen[at] = true;
            at = needs_of[at];
        }
        let mut cycle = vec![at];
        let mut next = needs_of[at];
        while next != at {
            cycle.push(next);
            next = needs_of[next];
        }
        let first = cycle.iter().enumerate().min_by_key(|(_, step)| **step).map_or(0, |(i, _)| i);
        cycle.rotate_left(first);
        Some(cycle)
    }
}

/// The progress of one run through a [`Graph`]. Linear in the steps and needs, over the whole run.
#[derive(Clone, Debug)]
pub struct Plan<'g> {
    graph: &'g Graph,
    /// How many needs of each step have not ended.
    missing: Vec<u32>,
}

impl<'g> Plan<'g> {
    /// Nothing has ended.
    #[must_use]
    pub fn new(graph: &'g Graph) -> Self {
        Self { graph, missing: graph.needs.clone() }
    }

    /// The steps that may start at once, in list order.
    #[must_use]
    pub fn start(&self) -> Vec<usize> {
        (0..self.graph.len()).filter(|i| self.graph.needs[*i] == 0).collect()
    }

    /// Step `done` has ended (completed, skipped, or failed under `on_error: continue`): appends the steps that may
    /// now start, in list order. To be called once per step.
    pub fn done(&mut self, done: usize, ready: &mut Vec<usize>) {
        for &step in &self.graph.dependents[done] {
            self.missing[step] -= 1;
            if self.missing[step] == 0 {
                ready.push(step);
            }
        }
    }
}

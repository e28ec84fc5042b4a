//! The journal without a database: for trying a workflow out, and for tests. Nothing is kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Failure, RunId, StepKey, StepRecord, StepState, WorkerId};
use crate::steps::BoxFuture;

use super::inbox::Answer;
use super::journal::{Entry, Journal, Note, Transition};

/// Everything that one process has recorded.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    runs: Mutex<HashMap<RunId, MemoryRun>>,
}

/// What is recorded of one run.
#[derive(Clone, Debug, Default)]
pub struct MemoryRun {
    /// The steps' last records.
    pub steps: HashMap<StepKey, StepRecord>,
    /// The audit trail, in order.
    pub notes: Vec<Note>,
    /// The transitions, in order.
    pub transitions: Vec<Transition>,
    /// How many entries were committed.
    pub commits: usize,
}

impl MemoryJournal {
    /// A copy of what is recorded of a run.
    #[must_use]
    pub fn run(&self, run: RunId) -> MemoryRun {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(&run).cloned().unwrap_or_default()
    }

    /// As if these steps had not been reached.
    #[cfg(test)]
    pub(super) fn forget(&self, run: RunId, keys: &[&str]) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.entry(run).or_default().steps.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

impl Journal for MemoryJournal {
    fn submit(&self, entry: Entry) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let run = runs.entry(entry.run).or_default();
        run.commits += 1;
        for row in entry.steps {
            run.steps.insert(row.record.key.clone(), row.record);
        }
        run.notes.extend(entry.notes);
        if let Some(transition) = entry.transition {
            if let Transition::Complete { last: Some(row), .. } = &transition {
                run.steps.insert(row.record.key.clone(), row.record.clone());
            }
            run.transitions.push(transition);
        }
        drop(runs);
        if let Some(ticket) = entry.ticket {
            ticket.answer(Ok(()));
        }
    }

    fn load(&self, run: RunId) -> BoxFuture<'static, Result<Vec<StepRecord>, Failure>> {
        // Waits are in memory alone: one that a failure broke off begins anew.
        let known = |r: &StepRecord| r.state != StepState::Waiting;
        let records = self.run(run).steps.into_values().filter(known).collect();
        Box::pin(std::future::ready(Ok(records)))
    }

    fn settle(&self, _run: RunId, _keys: Vec<StepKey>) {}

    fn expire(
        &self,
        _run: RunId,
        _lease: (WorkerId, i32),
        _key: StepKey,
        _failure: Failure,
    ) -> BoxFuture<'static, Option<Answer>> {
        Box::pin(std::future::ready(None))
    }

    fn suspends(&self) -> bool {
        false
    }
}

//! What a run's steps use up of models: counted per attempt, summed per run, held against the run's budget.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::model::{Failure, StepKey, Usage, code};
use crate::rules::budget::Budget;
use crate::telemetry::metrics::Metrics;

/// One run's.
#[derive(Debug, Default)]
pub struct Meter {
    /// The run's workflow, and where the process counts what its models use.
    told: Option<(Arc<str>, Arc<Metrics>)>,
    budget: OnceLock<Budget>,
    /// Has anything been used? Most runs never call a model, and their steps never lock.
    used: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: Usage,
    granted: u32,
    of_attempts: HashMap<StepKey, Usage>,
}

impl Meter {
    /// Of a run of this workflow.
    #[must_use]
    pub fn of(workflow: Arc<str>, metrics: Arc<Metrics>) -> Self {
        Self { told: Some((workflow, metrics)), ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the run's budget; once.
    pub fn limit(&self, budget: Budget) {
        let _ = self.budget.set(budget);
    }

    /// The budget, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.get()
    }

    /// Counts what earlier claims have recorded.
    pub fn recall(&self, usage: Usage) {
        self.state().total.add(usage);
    }

    /// The whole budget is granted once more.
    pub fn grant(&self) {
        self.state().granted += 1;
    }

    /// What of the budget is used up, in words; `None` while another call may start.
    #[must_use]
    pub fn spent(&self) -> Option<String> {
        let budget = self.budget.get()?;
        let state = self.state();
        budget.spent(&state.total, state.granted)
    }

    /// Counts a call of a model before it starts.
    ///
    /// # Errors
    /// `budget_exceeded`: it must not start.
    pub fn begin_call(&self, key: &StepKey, model: &str) -> Result<(), Failure> {
        let mut state = self.state();
        if let Some(spent) = self.budget.get().and_then(|budget| budget.spent(&state.total, state.granted)) {
            return Err(over(&spent));
        }
        state.add(key, Usage { calls: 1, ..Usage::default() });
        drop(state);
        self.used.store(true, Ordering::Release);
        if let Some((workflow, metrics)) = &self.told {
            metrics.models.called(workflow, model);
        }
        Ok(())
    }

    /// Counts what a call of a model has used.
    pub fn add(&self, key: &StepKey, model: &str, usage: Usage) {
        self.state().add(key, usage);
        self.used.store(true, Ordering::Release);
        if let Some((workflow, metrics)) = &self.told {
            metrics.models.used(workflow, model, &usage);
        }
    }

    /// Counts how long a call of a model took, however it went.
    pub fn took(&self, model: &str, span: Duration) {
        if let Some((_, metrics)) = &self.told {
            metrics.models.took(model, span);
        }
    }

    /// What an attempt has used; the next one begins at nothing.
    pub fn take(&self, key: &StepKey) -> Option<Usage> {
        if !self.used.load(Ordering::Acquire) {
            return None;
        }
        self.state().of_attempts.remove(key)
    }
}

impl State {
    fn add(&mut self, key: &StepKey, usage: Usage) {
        self.total.add(usage);
        self.of_attempts.entry(key.clone()).or_default().add(usage);
    }
}

/// The failure of a budget that is used up.
#[must_use]
pub fn over(spent: &str) -> Failure {
    Failure::permanent(code::BUDGET_EXCEEDED, format!("the run's budget is used up: {spent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_starts_past_the_limit_and_a_grant_lets_others_start() {
        let (meter, key) = (Meter::default(), StepKey::new("a"));
        meter.limit(Budget { calls: Some(2), ..Budget::default() });
        meter.recall(Usage { calls: 1, tokens_in: 7, ..Usage::default() });
        meter.begin_call(&key, "m").unwrap();
        meter.add(&key, "m", Usage { tokens_in: 5, ..Usage::default() });
        assert_eq!(meter.begin_call(&key, "m").unwrap_err().code, "budget_exceeded");
        assert_eq!(meter.take(&key), Some(Usage { calls: 1, tokens_in: 5, ..Usage::default() }));
        assert_eq!(meter.take(&key), None);
        assert_eq!(meter.spent().as_deref(), Some("2 of 2 calls"));
        meter.grant();
        meter.begin_call(&key, "m").unwrap();
    }

    #[test]
    fn without_a_budget_nothing_is_refused() {
        let (meter, key) = (Meter::default(), StepKey::new("a"));
        assert_eq!(meter.take(&key), None);
        (0..100).for_each(|_| meter.begin_call(&key, "m").unwrap());
        assert_eq!(meter.spent(), None);
    }
}

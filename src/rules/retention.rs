//! How long the history of ended runs is kept.

use std::time::Duration;

use crate::model::RunState;

/// The states that history is made of.
pub const ENDED: [RunState; 3] = [RunState::Completed, RunState::Failed, RunState::Cancelled];

/// How long runs of one state are kept: of one workflow, or of all that have no rule of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None`: of every workflow without a rule for this state.
    pub workflow: Option<String>,
    /// `completed`, `failed` or `cancelled`.
    pub state: RunState,
    /// From the run's end; `None`: for ever.
    pub age: Option<Duration>,
}

/// One answer for every workflow and state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention(Vec<Rule>);

impl Retention {
    /// Of rules; where there is none, runs are kept for ever.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// The shortest span; `None`: everything is kept for ever.
    #[must_use]
    pub fn shortest(&self) -> Option<Duration> {
        self.0.iter().filter_map(|r| r.age).min()
    }
}

//! Which runs are traced.

use std::collections::BTreeMap;

use crate::model::{RunId, RunState};

/// A share of all runs, and of single workflows.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// From 0 to 1.
    pub ratio: f64,
    /// In its place, for the workflows named.
    pub workflows: BTreeMap<String, f64>,
    /// Runs that have failed are traced in any case.
    pub errors: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { ratio: 1.0, workflows: BTreeMap::new(), errors: true }
    }
}

/// The random bits of a trace id, by W3C: the last 56.
const BITS: u32 = 56;

impl Sampling {
    /// Is the run in the share? Every worker says the same of the same run, at any time.
    #[must_use]
    pub fn takes(&self, run: RunId, workflow: &str) -> bool {
        let ratio = self.workflows.get(workflow).copied().unwrap_or(self.ratio);
        let random = run.0.as_u128() & ((1 << BITS) - 1);
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact to the 54th bit")]
        let (random, all) = (random as f64, (1_u64 << BITS) as f64);
        random >= all * (1.0 - ratio)
    }

    /// May the run be exported, once it is known how it ends?
    #[must_use]
    pub fn may_take(&self, run: RunId, workflow: &str) -> bool {
        self.errors || self.takes(run, workflow)
    }

    /// Is the run exported, as it stands?
    #[must_use]
    pub fn exports(&self, run: RunId, workflow: &str, state: RunState) -> bool {
        (self.errors && state == RunState::Failed) || self.takes(run, workflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn runs() -> impl Iterator<Item = RunId> {
        (0..4_000_u128).map(|n| RunId(Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))))
    }

    #[test]
    fn a_share_is_a_share_and_a_larger_one_holds_the_smaller() {
        let at = |ratio| Sampling { ratio, errors: false, ..Sampling::default() };
        let of = |ratio| runs().filter(|run| at(ratio).takes(*run, "w")).collect::<Vec<_>>();
        assert_eq!((of(0.0).len(), of(1.0).len()), (0, 4_000));
        let (tenth, half) = (of(0.1), of(0.5));
        assert!((300..500).contains(&tenth.len()) && (1_800..2_200).contains(&half.len()), "{}", tenth.len());
        assert!(tenth.iter().all(|run| half.contains(run)));
    }

    #[test]
    fn a_failed_run_is_exported_in_any_case_if_asked_and_a_workflow_may_have_a_share_of_its_own() {
        let workflows = BTreeMap::from([("loud".to_owned(), 0.0)]);
        let sampling = Sampling { ratio: 1.0, workflows, errors: true };
        let run = RunId(Uuid::from_u128(7));
        assert!(!sampling.exports(run, "loud", RunState::Completed) && sampling.may_take(run, "loud"));
        assert!(sampling.exports(run, "loud", RunState::Failed) && sampling.exports(run, "other", RunState::Completed));
        let silent = Sampling { errors: false, ..sampling };
        assert!(!silent.exports(run, "loud", RunState::Failed) && !silent.may_take(run, "loud"));
    }
}

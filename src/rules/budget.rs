//! What a run may use up of models, and whether it has.

use crate::model::Usage;

/// What happens when a budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenSpent {
    /// The run waits for a person, who may grant as much again.
    #[default]
    Approve,
    /// The run fails.
    Fail,
}

/// `budget:` of a workflow.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Budget {
    /// Tokens, of prompts and answers together.
    pub tokens: Option<u64>,
    /// Money, in the currency of the configured prices.
    pub cost: Option<f64>,
    /// Requests to models.
    pub calls: Option<u64>,
    /// What happens when one of them is used up.
    pub action: WhenSpent,
}

impl Budget {
    /// What is used up, in words; `None` while another call may start. `granted`: how often the whole budget has been granted again.
    #[must_use]
    pub fn spent(&self, used: &Usage, granted: u32) -> Option<String> {
        let times = u64::from(granted) + 1;
        let whole = |limit: Option<u64>, used: u64, what: &str| {
            let limit = limit?.saturating_mul(times);
            (used >= limit).then(|| format!("{used} of {limit} {what}"))
        };
        let cost = || {
            #[expect(clippy::cast_precision_loss, reason = "a handful of grants")]
            let limit = self.cost? * times as f64;
            // As it is recorded: to a billionth.
            (used.cost + 5e-10 >= limit).then(|| format!("a cost of {:.4} of {limit:.4}", used.cost))
        };
        whole(self.tokens, used.tokens(), "tokens").or_else(|| whole(self.calls, used.calls, "calls")).or_else(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_when_any_part_of_it_is_and_each_grant_adds_the_whole() {
        let budget = Budget { tokens: Some(100), cost: Some(0.3), calls: Some(5), action: WhenSpent::Approve };
        let used = |calls, tokens_in, cost| Usage { calls, tokens_in, tokens_out: 1, cost, ..Usage::default() };
        assert_eq!(budget.spent(&used(4, 98, 0.2), 0), None);
        assert_eq!(budget.spent(&used(4, 99, 0.2), 0).unwrap(), "100 of 100 tokens");
        assert_eq!(budget.spent(&used(5, 9, 0.2), 0).unwrap(), "5 of 5 calls");
        assert_eq!(budget.spent(&used(1, 9, 0.1 + 0.1 + 0.1), 0).unwrap(), "a cost of 0.3000 of 0.3000");
        assert_eq!(budget.spent(&used(5, 150, 0.5), 1), None);
        assert!(Budget::default().spent(&used(u64::MAX, u64::MAX, 1e300), 0).is_none());
    }
}

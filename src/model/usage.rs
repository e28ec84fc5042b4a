//! What calls of models have used up.

use serde::{Deserialize, Serialize, Serializer};

/// Calls, tokens and money; of an attempt, a step or a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Requests to a model, those included that failed.
    pub calls: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Tokens of answers.
    pub tokens_out: u64,
    /// Those of the prompts' tokens that the provider had in its cache.
    #[serde(skip_serializing_if = "is_none")]
    pub tokens_cached: u64,
    /// In the currency of the configured prices.
    #[serde(serialize_with = "rounded")]
    pub cost: f64,
}

/// Few providers have a cache.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_none(tokens: &u64) -> bool {
    *tokens == 0
}

/// To a billionth: sums of prices leave digits behind that nobody has paid.
fn rounded<S: Serializer>(cost: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((cost * 1e9).round() / 1e9)
}

impl Usage {
    /// Adds what else was used.
    pub fn add(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.tokens_in = self.tokens_in.saturating_add(more.tokens_in);
        self.tokens_out = self.tokens_out.saturating_add(more.tokens_out);
        self.tokens_cached = self.tokens_cached.saturating_add(more.tokens_cached);
        self.cost += more.cost;
    }

    /// All tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens_in.saturating_add(self.tokens_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_has_no_digits_that_nobody_paid() {
        let mut usage = Usage::default();
        for _ in 0..3 {
            usage.add(Usage { calls: 1, tokens_in: 10, tokens_out: 2, cost: 0.1, ..Usage::default() });
        }
        let text = serde_json::to_string(&usage).unwrap();
        assert_eq!(text, r#"{"calls":3,"tokens_in":30,"tokens_out":6,"cost":0.3}"#);
        assert_eq!((serde_json::from_str::<Usage>(&text).unwrap().calls, usage.tokens()), (3, 36));
    }
}

//! What the decision of a step at work says: what its kind has kept, the question that it has asked, and that its own retries are spent.

use serde_json::{Value, json};

use crate::model::Payload;
use crate::steps::Question;

/// How the decisions begin that say it. The last one is that of a pause between two attempts.
const BEGINS: [&str; 3] = [r#"{"spent_at_resume""#, r#"{"kept""#, r#"{"wait":"retry""#];

/// Of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    /// Its own attempts are spent, and it has the one that each resume gives it: how often its run had been resumed by then. Until that
    /// has happened once more its failure stands, whoever takes the run up; and a crash in that one attempt gives no others.
    pub spent_at: Option<i64>,
    /// What its kind is given with the next attempt.
    pub kept: Option<Value>,
    /// What people have been asked, and the key of the step that waits for the answer.
    pub asks: Option<(String, Question)>,
    /// The answer has been handed to an attempt.
    pub answered: bool,
}

impl Kept {
    /// Reads a decision.
    pub(super) fn of(decision: Option<&Payload>) -> Self {
        let says = |d: &&Payload| BEGINS.iter().any(|begin| d.as_str().starts_with(begin));
        let Some(Ok(mut said)) = decision.filter(says).map(Payload::value) else { return Self::default() };
        let mut take = |name: &str| said.get_mut(name).map(Value::take).filter(|v| !v.is_null());
        Self {
            spent_at: take("spent_at_resume").and_then(|n| n.as_i64()),
            kept: take("kept"),
            asks: take("asks").and_then(|asks| serde_json::from_value(asks).ok()),
            answered: take("answered").is_some(),
        }
    }

    /// Adds what there is to say to a decision.
    pub(super) fn add_to(&self, decision: &mut Value) {
        if let Some(resumes) = self.spent_at {
            decision["spent_at_resume"] = resumes.into();
        }
        if self.kept.is_some() || self.asks.is_some() {
            decision["kept"] = self.kept.clone().unwrap_or_default();
        }
        if let Some(asks) = &self.asks {
            decision["asks"] = serde_json::to_value(asks).unwrap_or_default();
        }
        if self.answered {
            decision["answered"] = true.into();
        }
    }

    /// As a decision, if there is anything to say.
    pub(super) fn decision(&self) -> Option<Payload> {
        let mut decision = json!({});
        self.add_to(&mut decision);
        decision.as_object().is_some_and(|said| !said.is_empty()).then(|| Payload::from_value(&decision))
    }

    /// Is that all that a decision says?
    pub(super) fn is_all_of(decision: &Payload) -> bool {
        BEGINS[..2].iter().any(|begin| decision.as_str().starts_with(begin))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_from_every_form_of_a_decision() {
        let question = Question { prompt: "?".into(), schema: json!({}), timeout: Duration::from_millis(1500) };
        for kept in [
            Kept::default(),
            Kept { spent_at: Some(2), ..Kept::default() },
            Kept { kept: Some(json!({"task": "t"})), ..Kept::default() },
            Kept {
                spent_at: Some(0),
                kept: Some(json!(1)),
                asks: Some(("a.input[1]".into(), question.clone())),
                answered: true,
            },
            Kept { asks: Some(("a.input[2]".into(), question)), ..Kept::default() },
        ] {
            let decision = kept.decision();
            assert_eq!(Kept::of(decision.as_ref()), kept, "{decision:?}");
            assert_eq!(decision.as_ref().is_some_and(Kept::is_all_of), kept != Kept::default());
            let mut pause = json!({"wait": "retry", "attempt": 2, "of": 3});
            kept.add_to(&mut pause);
            let pause = Payload::from_value(&pause);
            assert_eq!(Kept::of(Some(&pause)), kept);
            assert!(!Kept::is_all_of(&pause));
        }
        let items = Payload::from_value(&json!([{"kept": 1}]));
        assert_eq!(Kept::of(Some(&items)), Kept::default());
    }
}

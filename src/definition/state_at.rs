//! What a run knew when a step of it began, and when it had ended: worked out from what is recorded, nothing of it is stored.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::afu9::{Begun, Document, replay};

/// A step that has begun.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its key.
    pub key: String,
    /// Its state, in a word.
    pub state: String,
    /// What it gave, where it has completed.
    pub output: Option<Value>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What was known at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StateAt {
    /// What it was called with; only of a document's steps this can be told.
    pub given: Option<Value>,
    /// Before it: of a document its context, else the input and the outputs of the steps that had ended.
    pub before: Value,
    /// Behind it, once it has ended.
    pub after: Option<Value>,
}

/// The state at a step of a run with this input, whose steps stand like these; `None`: it has not begun.
#[must_use]
pub fn state_at(document: Option<&Document>, input: &Value, steps: &[Past], key: &str) -> Option<StateAt> {
    let step = steps.iter().find(|s| s.key == key)?;
    let of = document.and_then(|d| Some((d, d.steps.iter().position(|s| &*s.key == key)?)));
    Some(match of {
        Some((document, n)) => of_document(document, n, input, steps, step),
        None => of_native(input, steps, step),
    })
}

fn of_document(document: &Document, n: usize, input: &Value, steps: &[Past], step: &Past) -> StateAt {
    let upto = |n: usize| {
        let known: HashMap<&str, &Past> = steps.iter().map(|s| (s.key.as_str(), s)).collect();
        let first = document.steps.iter().take(n);
        let begun = first.filter_map(|s| Some((s.key.to_string(), begun(known.get(&*s.key)?)))).collect();
        replay(document, input.clone(), begun)
    };
    let behind = upto(n + 1);
    StateAt {
        given: behind.params.into_iter().nth(n).flatten(),
        before: upto(n).context.into_json(),
        after: step.ended_at.map(|_| behind.context.into_json()),
    }
}

fn begun(step: &Past) -> Begun {
    match (step.state.as_str(), &step.output) {
        ("skipped", _) => Begun::Skipped,
        ("completed", Some(value)) => Begun::Gave(value.clone()),
        _ => Begun::Open,
    }
}

/// Steps stand beside each other: what had ended when this one began, it could see.
fn of_native(input: &Value, steps: &[Past], step: &Past) -> StateAt {
    let seen = |s: &&Past| s.key != step.key && s.ended_at.is_some_and(|end| end <= step.started_at);
    let before: Map<String, Value> = steps.iter().filter(seen).filter_map(gave).collect();
    let after = step.ended_at.map(|_| {
        let own = before.clone().into_iter().chain(gave(step)).collect::<Map<_, _>>();
        json!({"input": input, "steps": own})
    });
    StateAt { given: None, before: json!({"input": input, "steps": before}), after }
}

fn gave(step: &Past) -> Option<(String, Value)> {
    (step.state == "completed").then(|| (step.key.clone(), step.output.clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn past(key: &str, state: &str, output: Option<Value>, (from, to): (i64, Option<i64>)) -> Past {
        let at = |s| DateTime::from_timestamp(s, 0).unwrap();
        Past { key: key.into(), state: state.into(), output, started_at: at(from), ended_at: to.map(at) }
    }

    #[test]
    fn what_had_ended_before_a_step_began_was_known_to_it_and_nothing_of_later_or_beside_it() {
        let steps = [
            past("one", "completed", Some(json!(1)), (0, Some(1))),
            past("left", "skipped", None, (1, Some(1))),
            past("beside", "completed", Some(json!("b")), (1, Some(9))),
            past("two", "completed", Some(json!(2)), (2, Some(3))),
            past("three", "running", None, (4, None)),
        ];
        let at = |key: &str| state_at(None, &json!({"n": 7}), &steps, key);
        let two = at("two").unwrap();
        assert_eq!(two.before, json!({"input": {"n": 7}, "steps": {"one": 1}}));
        assert_eq!(two.after, Some(json!({"input": {"n": 7}, "steps": {"one": 1, "two": 2}})));
        let three = at("three").unwrap();
        assert_eq!((&three.before["steps"], &three.after), (&json!({"one": 1, "two": 2}), &None));
        assert_eq!(at("four"), None, "it has not begun");
    }

    #[test]
    fn a_documents_step_has_its_context_before_and_behind_it_and_what_it_was_given() {
        let text = json!({"name": "d", "steps": [
            {"name": "a", "tool": "t.a", "params": {"n": "${input.n}"}, "assign": "v"},
            {"name": "b", "tool": "t.b", "params": {"v": "${v.x}"}, "assign": "v"},
            {"name": "c", "tool": "t.c", "params": {"v": "${v.x}"}, "assign": "w"},
        ]})
        .to_string();
        let definition = crate::definition::load("d", &text).unwrap();
        let steps = [
            past("a", "completed", Some(json!({"x": 1})), (0, Some(1))),
            past("b", "completed", Some(json!({"x": 2})), (1, Some(2))),
            past("c", "running", None, (2, None)),
        ];
        let at = |key: &str| state_at(definition.document.as_deref(), &json!({"n": 7}), &steps, key).unwrap();
        assert_eq!(
            at("b"),
            StateAt {
                given: Some(json!({"v": "1"})),
                before: json!({"input": {"n": 7}, "variables": {"v": {"x": 1}}}),
                after: Some(json!({"input": {"n": 7}, "variables": {"v": {"x": 2}}})),
            }
        );
        assert_eq!((at("c").given, at("c").after), (Some(json!({"v": "2"})), None));
        assert_eq!(at("a").before["variables"], json!({}));
    }
}

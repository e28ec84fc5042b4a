//! What a run of a document knew at each of its steps, worked out from what is recorded of them: nothing of it is stored.

use std::collections::HashMap;

use serde_json::Value;

use super::{Context, Document};

/// A run, as far as it has come.
#[derive(Debug)]
pub struct Replay {
    /// What each step of the document was given, in the document's order: a step that was left out its parameters as they stand
    /// there, one that has not begun nothing.
    pub params: Vec<Option<Value>>,
    /// The context behind the last step that has ended.
    pub context: Context,
}

/// How a step stands that has begun.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// It works, or has failed.
    Open,
    /// Its condition did not hold.
    Skipped,
    /// It has given this.
    Gave(Value),
}

/// Goes through a document once more, with the run's input and what its steps have come to, by their keys.
#[must_use]
pub fn replay(document: &Document, input: Value, mut begun: HashMap<String, Begun>) -> Replay {
    let mut context = Context::of(input);
    let mut params = Vec::with_capacity(document.steps.len());
    for step in &document.steps {
        let stands = begun.remove(&*step.key);
        params.push(match &stands {
            None => None,
            Some(Begun::Skipped) => Some(step.params.clone()),
            // What cannot be filled in has failed the step.
            Some(_) => context.fill(&step.params, document.filling).ok(),
        });
        if let (Some(Begun::Gave(value)), Some(variable)) = (stands, &step.assign) {
            context.assign(variable, value);
        }
    }
    Replay { params, context }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_was_given_what_the_steps_before_it_had_assigned() {
        let text = json!({"name": "d", "steps": [
            {"name": "a", "tool": "t.a", "params": {"n": "${input.n}"}, "assign": "v"},
            {"name": "b", "tool": "t.b", "params": {"v": "${v.x}"}, "if": "${no}", "assign": "v"},
            {"name": "c", "tool": "t.c", "params": {"v": "${v.x}"}, "assign": "w"},
            {"name": "d", "tool": "t.d", "params": {"w": "${w}"}},
        ]})
        .to_string();
        let definition = crate::definition::load("d", &text).unwrap();
        let begun = [("a", Begun::Gave(json!({"x": 1}))), ("b", Begun::Skipped), ("c", Begun::Open)];
        let begun = begun.into_iter().map(|(key, stands)| (key.to_owned(), stands)).collect();
        let told = replay(definition.document.as_ref().unwrap(), json!({"n": 7}), begun);
        let given = [Some(json!({"n": "7"})), Some(json!({"v": "${v.x}"})), Some(json!({"v": "1"})), None];
        assert_eq!(told.params, given);
        assert_eq!(told.context.variables(), &json!({"v": {"x": 1}}));
        assert_eq!(told.context.into_json(), json!({"input": {"n": 7}, "variables": {"v": {"x": 1}}}));
    }
}

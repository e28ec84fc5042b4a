//! One expression outside of any file, with names of the asker's own: what `stepd eval` tries out.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::expression::{
    Host, LazyJson, LazyRun, Scope, StepIds, StepNames, StepView, Steps, View, has_expression, nearest,
};
use crate::model::{Failure, Payload, RunId, StepKey, StepState};

use super::check::{Before, Mode, Names, compile, string};
use super::diagnostics::{Diagnostics, Report};
use super::node::Span;

/// What messages call the text.
const SOURCE: &str = "expression";

/// The states in which a step can be seen.
const STATES: [StepState; 3] = [StepState::Completed, StepState::Failed, StepState::Skipped];

/// What may be said of a step.
const KEYS: [&str; 3] = ["output", "state", "error"];

/// The names that an expression is tried with.
pub struct Trial {
    ids: Vec<(String, bool)>,
    raw: Map<String, Value>,
    view: View,
}

impl Trial {
    /// With an `input`, the results of steps (`{"order": {"output": …}}`, and `state` and `error` where they matter), and further
    /// names that are known in some places only (`item`, `event`, `error`, the raw results of a step).
    ///
    /// # Errors
    /// What is wrong with the steps.
    pub fn new(
        input: Payload,
        steps: &Map<String, Value>,
        raw: Map<String, Value>,
        host: Arc<Host>,
    ) -> Result<Self, String> {
        let views = steps.iter().map(|(id, step)| seen(id, step)).collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<(String, bool)> =
            steps.iter().map(|(id, step)| (id.clone(), step.get("output").is_some_and(Value::is_array))).collect();
        let slots = Steps::new(Arc::new(StepIds::new(ids.iter().map(|(id, map)| (id.as_str(), *map)))), None);
        for (place, view) in views.into_iter().enumerate() {
            slots.fill(place, view);
        }
        let run = RunId(uuid::Uuid::nil());
        let told = json!({
            "id": run.to_string(), "workflow": "trial", "scheduled_for": "2026-01-01T00:00:00Z", "session_id": null,
        });
        let scope = Scope {
            input: Arc::new(LazyJson::new(input)),
            run: Arc::new(LazyRun::new(Box::new(move || Arc::new(told)))),
            host,
            steps: Arc::new(slots),
            item: None,
            outer: None,
        };
        let step = Some(StepNames { run, key: StepKey::from("step"), attempt: 1, undoes: None });
        let view = View { scope: Arc::new(scope), step, raw: Some(Arc::new(Value::Object(raw.clone()))) };
        Ok(Self { ids, raw, view })
    }

    /// The value of a bare expression, or of text with `${{ }}` in it.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn eval(&self, text: &str) -> Result<Value, Diagnostics> {
        let mut report = Report::new(text);
        let span = Span { line: 1, column: 1, start: 0, end: text.len() };
        let steps: Vec<(&str, bool)> = self.ids.iter().map(|(id, map)| (id.as_str(), *map)).collect();
        let raw: Vec<&str> = self.raw.keys().map(String::as_str).collect();
        let before = Before::Prefix(steps.len());
        let names = Names { before: &before, step: true, raw: &raw, ..Names::new(None, &steps) };
        let value = match has_expression(text) {
            true => Some(string(text, span, Mode::Typed, &names, &mut report)).map(|t| t.eval(&self.view)),
            false => {
                compile(text, span, &names, &mut report).map(|e| e.eval(&self.view).map(std::borrow::Cow::into_owned))
            }
        };
        match value {
            Some(Ok(value)) if report.is_empty() => return Ok(value),
            Some(Err(failure)) if report.is_empty() => report.error(at(text, span, &failure), failure.message),
            _ => {}
        }
        Err(report.finish(SOURCE))
    }
}

/// Where a failure points: to the name that it begins with, else to the whole.
fn at(text: &str, span: Span, failure: &Failure) -> Span {
    let named = failure.message.strip_prefix('`').and_then(|rest| rest.split('`').next()).unwrap_or_default();
    span.within(text, if text.contains(named) { named } else { text.trim() })
}

fn seen(id: &str, step: &Value) -> Result<StepView, String> {
    let form = || format!("steps: write `{id}` as {{\"{id}\": {{\"output\": …}}}}");
    let step = step.as_object().ok_or_else(form)?;
    if let Some(odd) = step.keys().find(|k| !KEYS.contains(&k.as_str())) {
        let meant = nearest(odd, KEYS).map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
        return Err(format!("steps: `{id}` cannot have `{odd}`, only {}{meant}", KEYS.join(", ")));
    }
    let error = step.get("error").filter(|e| !e.is_null()).map(|e| failure(id, e)).transpose()?;
    let state = match step.get("state") {
        None if error.is_some() => StepState::Failed,
        None => StepState::Completed,
        Some(word) => STATES.into_iter().find(|s| word == s.as_str()).ok_or_else(|| {
            format!("steps: the state of `{id}` cannot be {word}; it is one of completed, failed, skipped")
        })?,
    };
    let output = LazyJson::new(Payload::from_value(step.get("output").unwrap_or(&Value::Null)));
    Ok(StepView { state, output, error: error.map(Box::new) })
}

/// A failure, of which the code is enough.
fn failure(id: &str, error: &Value) -> Result<Failure, String> {
    let mut full = json!({"class": "permanent", "code": "failed", "message": ""});
    if let (Value::Object(full), Value::Object(given)) = (&mut full, error) {
        full.extend(given.clone());
        return serde_json::from_value(Value::Object(full.clone()))
            .map_err(|e| format!("steps: the error of `{id}` is no failure: {e}"));
    }
    Err(format!("steps: the error of `{id}` is an object: {{\"code\": \"timeout\", \"message\": \"…\"}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn trial(steps: Value, raw: Value) -> Trial {
        let input = Payload::from_value(&json!({"n": 3, "list": [1, 2], "name": "Ada"}));
        Trial::new(input, &object(steps), object(raw), Arc::default()).unwrap()
    }

    #[test]
    fn a_bare_expression_and_a_template_see_the_names_of_the_language() {
        let steps = json!({"order": {"output": {"qty": 2}}, "docs": {"output": [1, {"$error": {"code": "x"}}]},
            "pay": {"error": {"code": "http_503"}}});
        let trial = trial(steps, json!({"item": {"key": "a"}, "status": 200}));
        for (text, expected) in [
            ("input.n + 1", json!(4)),
            ("steps.order.output.qty * input.n", json!(6)),
            ("steps.docs.failed", json!(1)),
            ("steps.pay.state ~ ' ' ~ steps.pay.error.code", json!("failed http_503")),
            ("item.key", json!("a")),
            ("status < 300", json!(true)),
            ("${{ input.list }}", json!([1, 2])),
            ("${{ input.name }} has ${{ input.n }}", json!("Ada has 3")),
            ("run.workflow ~ step.attempt", json!("trial1")),
        ] {
            assert_eq!(trial.eval(text).unwrap_or_else(|e| panic!("{e}")), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at_as_in_a_file() {
        let trial = trial(json!({"order": {"output": {"sku": 1}}}), json!({}));
        for (text, column, message, help) in [
            ("input.n +", 9, "unexpected end of input", ""),
            ("1 + inptu.n", 5, "`inptu` is not known here", "did you mean `input`?"),
            ("input.nme", 1, "`input.nme` does not exist", ""),
            ("steps.oder.output", 1, "there is no step `oder`", "did you mean `steps.order`?"),
            ("a ${{ input.n | lenght }}", 17, "filter", "did you mean `length`?"),
        ] {
            let told = trial.eval(text).expect_err(text);
            let first = &told.list[0];
            assert_eq!(first.column, column, "{told}");
            assert!(first.message.contains(message), "{told}");
            assert!(first.suggestion.as_deref().unwrap_or_default().contains(help), "{told}");
            assert!(told.to_string().contains('^'), "{told}");
        }
    }

    #[test]
    fn steps_in_another_form_are_explained() {
        let wrong = |steps: Value| {
            Trial::new(Payload::null(), &object(steps), Map::new(), Arc::default()).map(|_| ()).unwrap_err()
        };
        assert!(wrong(json!({"a": 1})).contains(r#"{"a": {"output": …}}"#));
        assert!(wrong(json!({"a": {"ouput": 1}})).contains("did you mean `output`?"));
        assert!(wrong(json!({"a": {"state": "done"}})).contains("completed, failed, skipped"));
        assert!(wrong(json!({"a": {"error": "x"}})).contains("is an object"));
    }
}

//! Would a run that has begun with another definition break under this one? What is recorded of its steps is held against it.

use serde_json::Value;

use crate::expression::nearest;
use crate::model::{Failure, StepState, code};

use super::spec::{Block, Definition, Kind, Step};

/// What is recorded of one step.
#[derive(Clone, Debug)]
pub struct Recorded<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its state.
    pub state: StepState,
}

/// Why a run cannot go on with a definition, one sentence for each step.
#[must_use]
pub fn misfits(definition: &Definition, records: &[Recorded<'_>]) -> Vec<String> {
    records.iter().filter_map(|record| misfit(definition, record)).collect()
}

/// Why a run that no worker has had yet cannot begin with a definition.
#[must_use]
pub fn misfit_of_input(definition: &Definition, input: &Value) -> Option<Failure> {
    definition.input.as_ref()?.validate(input, code::INVALID_INPUT).err()
}

fn misfit(definition: &Definition, record: &Recorded<'_>) -> Option<String> {
    let key = record.key;
    let step = match find(&definition.steps, key) {
        Found::Step(step) => step,
        Found::Missing(known) => {
            let meant = nearest(key.rsplit('.').next().unwrap_or(key), known.iter().copied());
            let meant = meant.map(|name| format!("; is it `{name}` now?")).unwrap_or_default();
            return Some(match record.state {
                StepState::Running | StepState::Waiting => {
                    format!("step `{key}` ({}) is under way, and is not there any more{meant}", record.kind)
                }
                _ => format!("step `{key}` ({}) was done, and is not there any more{meant}", record.kind),
            });
        }
        Found::NoMap(outer) => {
            return Some(format!("step `{key}` belongs to an item of `{outer}`, which is no `map` any more"));
        }
    };
    if step.kind_name() != record.kind {
        return Some(format!("step `{key}` was recorded as `{}` and is now `{}`", record.kind, step.kind_name()));
    }
    let skipped = record.state == StepState::Skipped && step.condition.is_none();
    skipped.then(|| format!("step `{key}` was skipped by an `if` that is gone; it would stay skipped"))
}

enum Found<'d> {
    Step(&'d Step),
    /// There is no such step; these are there.
    Missing(Vec<&'d str>),
    /// The step round it has no items.
    NoMap(String),
}

/// The step of a key: `charge`, `docs[12].text`.
fn find<'d>(block: &'d Block, key: &str) -> Found<'d> {
    let head_end = key.find(['[', '.']).unwrap_or(key.len());
    let (head, rest) = key.split_at(head_end);
    let Some(step) = block.steps.iter().find(|s| &*s.id == head) else {
        return Found::Missing(block.steps.iter().map(|s| &*s.id).collect());
    };
    let inner = rest.strip_prefix('[').and_then(|r| r.split_once("].")).map(|(_, inner)| inner);
    match (&step.kind, inner) {
        (_, None) if rest.is_empty() => Found::Step(step),
        (Kind::Map(map), Some(inner)) => find(&map.body, inner),
        (Kind::Map(_) | Kind::Task { .. }, _) => Found::NoMap(head.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::load;
    use super::*;

    const NEW: &str = r#"
name: a
input: {required: [order], properties: {order: {type: integer}, docs: {}}}
steps:
  - {id: quote, set: 1}
  - {id: charge, http: "POST https://pay.example/charges"}
  - {id: docs, map: "${{ input.docs }}", steps: [{id: text, run: "true"}, {id: save, set: 1}]}
  - {id: optional, set: 1, if: "input.order > 1"}
"#;

    fn told(records: &[(&str, &str, StepState)]) -> Vec<String> {
        let definition = load("a.yaml", NEW).unwrap_or_else(|e| panic!("{e}"));
        let records: Vec<Recorded<'_>> =
            records.iter().map(|(key, kind, state)| Recorded { key, kind, state: *state }).collect();
        misfits(&definition, &records)
    }

    #[test]
    fn what_fits_says_nothing() {
        use StepState::{Completed, Running, Skipped};
        let records = [
            ("quote", "set", Completed),
            ("charge", "http", Running),
            ("docs", "map", Running),
            ("docs[12].text", "run", Completed),
            ("optional", "set", Skipped),
        ];
        assert!(told(&records).is_empty());
        assert!(told(&[]).is_empty());
    }

    #[test]
    fn each_misfit_is_named_with_its_reason() {
        use StepState::{Completed, Skipped, Waiting};
        for (record, why) in [
            (("charge", "sql", Completed), "was recorded as `sql` and is now `http`"),
            (("qoute", "set", Completed), "was done, and is not there any more; is it `quote` now?"),
            (("release", "approve", Waiting), "is under way, and is not there any more"),
            (("docs[3].txt", "run", Completed), "is it `text` now?"),
            (("docs[3].save", "sql", Completed), "is now `set`"),
            (("charge[0].x", "set", Completed), "`charge`, which is no `map` any more"),
            (("quote", "set", Skipped), "skipped by an `if` that is gone"),
        ] {
            let told = told(&[record]);
            assert_eq!(told.len(), 1, "{record:?}");
            assert!(told[0].contains(why) && told[0].contains(record.0), "{}", told[0]);
        }
    }

    #[test]
    fn a_run_that_has_not_begun_needs_an_input_that_fits() {
        let definition = load("a.yaml", NEW).unwrap_or_else(|e| panic!("{e}"));
        assert!(misfit_of_input(&definition, &json!({"order": 1})).is_none());
        assert!(misfit_of_input(&definition, &json!({"order": "x"})).unwrap().message.contains("/order"));
    }
}

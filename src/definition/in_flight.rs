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
    // How the run ends, which no definition can change any more.
    if record.kind == "end" {
        return None;
    }
    // What the engine asks of people by itself belongs to the run, or to a step that stands for it.
    if record.kind == "approve"
        && (key.starts_with("budget[") || key.contains(".input[") || key.contains(".interrupted["))
    {
        return None;
    }
    let step = match find_anywhere(definition, key) {
        Found::Step(step) => step,
        Found::Own => return None,
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
            return Some(format!("step `{key}` belongs to an item of `{outer}`, which has none any more"));
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
    /// One that the step makes by itself: the pause before an iteration, an agent's turn.
    Own,
    /// There is no such step; these are there.
    Missing(Vec<&'d str>),
    /// The step round it has no items.
    NoMap(String),
}

/// The step of a key, among the workflow's, what takes them back, and what is done at the end.
fn find_anywhere<'d>(definition: &'d Definition, key: &str) -> Found<'d> {
    if let Some((undone, rest)) = key.split_once(".undo")
        && let Found::Step(step) = find(&definition.steps, undone)
        && let Some(undo) = step.undo.as_deref().and_then(|block| block.steps.first())
    {
        return within(undo, rest, "undo");
    }
    for block in definition.on_failure.iter().chain(&definition.finally) {
        if let Some(step) = block.steps.iter().find(|s| key.starts_with(&*s.id)) {
            return within(step, &key[step.id.len()..], &step.id);
        }
    }
    find(&definition.steps, key)
}

/// The step of an id, in a list or in the branches of its switches.
fn of_id<'d>(block: &'d Block, id: &str) -> Option<&'d Step> {
    block.steps.iter().find_map(|step| match &step.kind {
        _ if &*step.id == id => Some(step),
        Kind::Switch(switch) => switch.branches.iter().find_map(|branch| of_id(&branch.body, id)),
        Kind::Task { .. } | Kind::Map(_) | Kind::Repeat(_) => None,
    })
}

/// The step of a key: `charge`, `docs[12].text`.
fn find<'d>(block: &'d Block, key: &str) -> Found<'d> {
    let head_end = key.find(['[', '.']).unwrap_or(key.len());
    let (head, rest) = key.split_at(head_end);
    let Some(step) = of_id(block, head) else {
        return Found::Missing(block.steps.iter().map(|s| &*s.id).collect());
    };
    within(step, rest, head)
}

/// The step itself, or one inside it.
fn within<'d>(step: &'d Step, rest: &str, head: &str) -> Found<'d> {
    let inner = rest.strip_prefix('[').and_then(|r| r.split_once("].")).map(|(_, inner)| inner);
    match (&step.kind, inner) {
        (_, None) if rest.is_empty() => Found::Step(step),
        (Kind::Map(map), Some(inner)) => find(&map.body, inner),
        (Kind::Repeat(repeat), Some(inner)) => find(&repeat.body, inner),
        (Kind::Repeat(_), None) => Found::Own,
        (Kind::Task { .. }, _) if step.kind_name() == "agent" => Found::Own,
        (Kind::Map(_) | Kind::Switch(_) | Kind::Task { .. }, _) => Found::NoMap(head.to_owned()),
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
  - {id: optional, set: 1, if: "input.order > 1", undo: {run: "true"}}
  - {id: pick, switch: input.order, cases: {1: [{id: one, set: 1}]}}
  - {id: answer, agent: large, prompt: x, tools: [a.b]}
  - {id: poll, repeat: {steps: [{id: look, set: 1}], until: "true", max: 3, every: 1s}}
finally: [{map: [1], steps: [{id: bye, set: 1}]}]
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
            ("one", "set", Completed),
            ("poll[1]", "sleep", Completed),
            ("poll[1].look", "set", Running),
            ("answer.tools", "mcp", Completed),
            ("answer.turn[1]", "llm", Completed),
            ("answer.tool[1.0]", "mcp", Running),
            ("answer.tool[1.0].input[1]", "approve", Completed),
            ("charge.interrupted[2]", "approve", Completed),
            ("budget[1]", "approve", Completed),
            ("(end)", "end", Completed),
            ("optional.undo", "run", Completed),
            ("finally[0]", "map", Running),
            ("finally[0][0].bye", "set", Completed),
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
            (("charge[0].x", "set", Completed), "`charge`, which has none any more"),
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

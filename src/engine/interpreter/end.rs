//! What a workflow file does at the end of a run: `undo`, newest first, then `on_failure`, then `finally`.
//!
//! Nothing of the run is done again for it: the scopes are filled from its records.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::Value;

use crate::definition::{Block, Kind, Step};
use crate::expression::{Item, LazyJson, Scope, StepView, Steps};
use crate::model::{Payload, RunState, StepKey, StepRecord, StepState};

use super::super::ending::End;
use super::super::halt::Halt;
use super::port::StepRunner;
use super::repeat::{iterations, number};
use super::switch::{skipped, taken};
use super::{Frame, Interpreter, names_of_run};

/// A step that is to be undone.
pub(super) struct Undo<'d> {
    /// The order of its start.
    seq: i32,
    key: StepKey,
    body: &'d Block,
    scope: Arc<Scope>,
    label: Option<Arc<str>>,
}

impl Interpreter {
    pub(super) async fn handle<R: StepRunner>(&self, runner: &R, input: Payload, end: &End) -> Result<(), Halt> {
        let definition = &*self.definition;
        let error = end.failure().map_or(Value::Null, |f| serde_json::to_value(f).unwrap_or_default());
        let run = names_of_run(runner.info().clone(), Some((end.state().as_str(), error)));
        let frame = Frame { handles: true, ..Frame::new(runner, self.scope(LazyJson::new(input), run)) };
        let mut undone = Some(Vec::new());
        for step in &definition.steps.steps {
            frame.recall(step, &mut undone);
        }
        if end.state() != RunState::Completed {
            let mut undone = undone.unwrap_or_default();
            undone.sort_by_key(|u: &Undo<'_>| Reverse(u.seq));
            for undo in undone {
                frame.undo(undo).await?;
            }
        }
        let Some(handlers) = definition.on_failure.as_ref().or(definition.finally.as_ref()) else { return Ok(()) };
        let frame = frame.with(&frame.scope, handlers);
        for step in
            definition.on_failure.iter().flat_map(|block| &block.steps).filter(|_| end.state() != RunState::Failed)
        {
            frame.scope.steps.fill(step.place, skipped());
            frame.pass_over(step);
        }
        if let Some(block) = definition.on_failure.as_ref().filter(|_| end.state() == RunState::Failed) {
            frame.block(block).await?;
        }
        match &definition.finally {
            Some(block) => frame.block(block).await,
            None => Ok(()),
        }
    }
}

impl<'a, R: StepRunner> Frame<'a, R> {
    /// A frame for a list of steps inside a scope.
    fn with(&self, outer: &Arc<Scope>, body: &Block) -> Self {
        let scope = Scope {
            input: outer.input.clone(),
            run: outer.run.clone(),
            host: outer.host.clone(),
            steps: Arc::new(Steps::new(body.ids.clone(), Some(outer.steps.clone()))),
            item: None,
            outer: Some(outer.clone()),
        };
        Frame { handles: true, ..Frame::new(self.runner, Arc::new(scope)) }
    }

    async fn undo(&self, undo: Undo<'_>) -> Result<(), Halt> {
        let frame = self.with(&undo.scope, undo.body);
        let frame = Frame { label: undo.label, undoes: Some(undo.key.clone()), ..frame };
        for step in &undo.body.steps {
            frame.begin(step, format!("{}.undo", undo.key).into()).await?;
        }
        Ok(())
    }

    /// Fills in what the records say of a step and of those inside it, and notes what is to be undone. What never started is skipped.
    pub(super) fn recall<'d>(&self, step: &'d Step, undone: &mut Option<Vec<Undo<'d>>>) {
        let key = self.key(step);
        let record = self.runner.recorded(&key);
        self.scope.steps.fill(step.place, record.map_or_else(skipped, view));
        let Some(record) = record.filter(|r| r.state != StepState::Skipped) else { return self.pass_over(step) };
        if let (Some(body), Some(undone)) = (step.undo.as_deref(), undone.as_mut()) {
            let (scope, label) = (self.scope.clone(), self.label.clone());
            undone.push(Undo { seq: record.seq, key: key.clone(), body, scope, label });
        }
        let Some(decision) = &record.decision else { return self.pass_over(step) };
        match &step.kind {
            Kind::Task { .. } => {}
            Kind::Switch(switch) => {
                let steps = taken(switch, decision).into_iter().flat_map(|branch| &branch.body.steps);
                steps.for_each(|step| self.recall(step, undone));
                self.pass_over(step);
            }
            Kind::Map(map) if undone.is_some() && map.body.has_undo => {
                let items = decision.value().map(Arc::new).unwrap_or_default();
                for index in 0..items.as_array().map_or(0, Vec::len) {
                    let item = Item { name: map.name.clone(), items: items.clone(), index };
                    self.recall_inside(step, &key, &map.body, item, undone);
                }
            }
            Kind::Repeat(repeat) if undone.is_some() && repeat.body.has_undo => {
                for index in 0..=iterations(decision) {
                    self.recall_inside(step, &key, &repeat.body, number(index), undone);
                }
            }
            Kind::Map(_) | Kind::Repeat(_) => {}
        }
    }

    fn recall_inside<'d>(
        &self,
        step: &'d Step,
        key: &StepKey,
        body: &'d Block,
        item: Item,
        undone: &mut Option<Vec<Undo<'d>>>,
    ) {
        let prefix = format!("{key}[{}]", item.index);
        let scope = self.scope_inside(body, item);
        let label = if step.is_map() { super::label(step, &scope) } else { None };
        let frame = self.inside(scope, prefix);
        let frame = Frame { label: label.or_else(|| self.label.clone()), ..frame };
        body.steps.iter().for_each(|step| frame.recall(step, undone));
    }
}

/// What expressions see of a recorded step. What had not ended when the run did has been cancelled.
fn view(record: &StepRecord) -> StepView {
    let state = match record.state {
        StepState::Running | StepState::Waiting => StepState::Cancelled,
        ended => ended,
    };
    let output = record.output.clone().unwrap_or_else(Payload::null);
    StepView { state, output: LazyJson::new(output), error: record.error.clone().map(Box::new) }
}

//! Runs a workflow file: a [`Workflow`] like any other, which asks the planner what may start and the context to do it.
//!
//! All of a run is one task. A step whose predecessor alone it needs is awaited on the spot; only where several are
//! ready together are their futures gathered. After a step has failed nothing new starts, those in flight end by
//! themselves, and the first failure is the run's.
//!
//! The items of a `map` are lists of steps of their own. Where the map tolerates no failure, a step that fails in an item
//! fails the run like any other, and a resume goes on from there. Where a failure may be passed over (`tolerate`, or
//! `on_error: continue` of the map), a failed step in an item is caught here and fails the item. It is no checkpoint: should
//! the map fail after all, or its worker die before the map has ended, a resume tries just the failed items again.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::definition::{Block, Definition, Kind, Params, Plan, Step};
use crate::expression::{Host, Item, LazyJson, LazyRun, Scope, StepNames, StepView, Steps, View, limits};
use crate::model::{Failure, Payload, StepKey, code};
use crate::rules::budget::Budget;
use crate::rules::policy::{OnError, ResumePolicy, StepPolicy};
use crate::steps::{BoxFuture, Shape, StepOutput};

use super::ctx::{Call, Ctx, RunInfo, StepDone};
use super::ending::End;
use super::halt::{Halt, StepFailure};
use super::workflow::Workflow;

mod afu9;
mod agent;
mod end;
mod map;
mod port;
mod repeat;
mod switch;

use agent::AGENT;
use port::StepRunner;

/// A loaded definition as a workflow.
#[derive(Clone, Debug)]
pub struct Interpreter {
    definition: Arc<Definition>,
    host: Arc<Host>,
}

impl Interpreter {
    /// Of a definition, with what the daemon's configuration gives to all.
    #[must_use]
    pub fn new(definition: Arc<Definition>, host: Arc<Host>) -> Self {
        Self { definition, host }
    }

    /// The definition.
    #[must_use]
    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    async fn execute<R: StepRunner>(&self, runner: &R, input: Payload) -> Result<Payload, Halt> {
        let definition = &*self.definition;
        if let Some(document) = &definition.document {
            return Box::pin(afu9::run(runner, document, &input)).await;
        }
        let input = LazyJson::new(input);
        if let Some(schema) = &definition.input {
            schema.validate(input.value()?, code::INVALID_INPUT)?;
        }
        let run = names_of_run(runner.info().clone(), None);
        let frame = Frame::new(runner, self.scope(input, run));
        frame.block(&definition.steps).await?;
        let output = match &definition.output {
            Some(expression) => Payload::from_value(&*expression.eval(&View::of(&frame.scope))?),
            None => outputs(&definition.steps, &frame.scope.steps)?,
        };
        Ok(capped(output, "the workflow's output")?)
    }

    /// The outermost scope of a run.
    fn scope(&self, input: LazyJson, run: LazyRun) -> Arc<Scope> {
        Arc::new(Scope {
            input: Arc::new(input),
            run: Arc::new(run),
            host: self.host.clone(),
            steps: Arc::new(Steps::new(self.definition.steps.ids.clone(), None)),
            item: None,
            outer: None,
        })
    }
}

/// `run`; with how it ends, when that is known.
fn names_of_run(info: RunInfo, end: Option<(&'static str, Value)>) -> LazyRun {
    LazyRun::new(Box::new(move || {
        let mut names = json!({
            "id": info.id.to_string(),
            "workflow": &*info.workflow,
            "scheduled_for": info.scheduled_for.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            "session_id": info.session_id.as_deref(),
        });
        if let Some((state, error)) = end {
            names["state"] = state.into();
            names["error"] = error;
        }
        Arc::new(names)
    }))
}

impl Workflow for Interpreter {
    fn run<'a>(&'a self, ctx: &'a Ctx, input: Payload) -> BoxFuture<'a, Result<Payload, Halt>> {
        Box::pin(self.execute(ctx, input))
    }

    fn resume_policy(&self) -> &ResumePolicy {
        &self.definition.resume
    }

    fn timeout(&self) -> Option<std::time::Duration> {
        self.definition.timeout
    }

    fn has_handlers(&self) -> bool {
        self.definition.has_handlers()
    }

    fn at_end<'a>(&'a self, ctx: &'a Ctx, input: Payload, end: &'a End) -> BoxFuture<'a, Result<(), Halt>> {
        Box::pin(self.handle(ctx, input, end))
    }

    fn budget(&self) -> Option<&Budget> {
        self.definition.budget.as_ref()
    }
}

/// The outputs of all steps by id: text put together from texts, nothing is parsed.
fn outputs(block: &Block, steps: &Steps) -> Result<Payload, Failure> {
    let mut text = String::from("{");
    for (place, step) in block.steps.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        // An id is a plain word: it needs no escape.
        text.push('"');
        text.push_str(&step.id);
        text.push_str("\":");
        text.push_str(steps.at(step.place).map_or("null", |view| view.output.text().as_str()));
    }
    text.push('}');
    assembled(text)
}

/// Text that was put together from JSON texts.
fn assembled(text: String) -> Result<Payload, Failure> {
    let too_large = text.len() > limits::RESULT_BYTES;
    match too_large {
        true => capped(Payload::from_database(text), "the joined output of all steps"),
        false => Ok(Payload::from_database(text)),
    }
}

fn capped(payload: Payload, what: &str) -> Result<Payload, Failure> {
    let limit = limits::RESULT_BYTES;
    match payload.len() > limit {
        true => Err(Failure::permanent(
            code::TOO_LARGE,
            format!(
                "{what} has {} bytes, the limit is {limit}: store it elsewhere and hand on a reference",
                payload.len()
            ),
        )),
        false => Ok(payload),
    }
}

/// The shape of a step that says nothing about its output.
static PLAIN: LazyLock<Shape> =
    LazyLock::new(|| Arc::new(|output: StepOutput| capped(Payload::from_value(&output.default), "the step's output")));

/// One list of steps at work: the run's, or that of one item.
struct Frame<'a, R> {
    runner: &'a R,
    scope: Arc<Scope>,
    /// `docs[12]`, in an item.
    prefix: Option<String>,
    /// What people call that item.
    label: Option<Arc<str>>,
    /// May a failure in here be passed over further out?
    catches: bool,
    /// At the end of a run: a failed step is recorded, and the others go on.
    handles: bool,
    /// In an `undo`: the step that is taken back.
    undoes: Option<StepKey>,
}

impl<'a, R> Frame<'a, R> {
    fn new(runner: &'a R, scope: Arc<Scope>) -> Self {
        Self { runner, scope, prefix: None, label: None, catches: false, handles: false, undoes: None }
    }

    /// One inside this one: of an item or an iteration.
    fn inside(&self, scope: Arc<Scope>, prefix: String) -> Self {
        let (prefix, label, undoes) = (Some(prefix), self.label.clone(), self.undoes.clone());
        Self { scope, prefix, label, undoes, ..*self }
    }

    /// The scope of an item or an iteration.
    fn scope_inside(&self, body: &Block, item: Item) -> Arc<Scope> {
        let outer = &self.scope;
        Arc::new(Scope {
            input: outer.input.clone(),
            run: outer.run.clone(),
            host: outer.host.clone(),
            steps: Arc::new(Steps::new(body.ids.clone(), Some(outer.steps.clone()))),
            item: Some(item),
            outer: Some(outer.clone()),
        })
    }
}

impl<R: StepRunner> Frame<'_, R> {
    fn key(&self, step: &Step) -> StepKey {
        match &self.prefix {
            None => StepKey::new(step.id.clone()),
            Some(prefix) => StepKey::from(format!("{prefix}.{}", step.id)),
        }
    }

    /// Runs a list of steps to its end.
    async fn block(&self, block: &Block) -> Result<(), Halt> {
        if block.graph.is_linear() {
            for step in &block.steps {
                self.step(step).await?;
            }
            return Ok(());
        }
        Box::pin(self.branches(block)).await
    }

    /// Runs a list whose steps do not simply follow each other.
    async fn branches(&self, block: &Block) -> Result<(), Halt> {
        let mut plan = Plan::new(&block.graph);
        let mut ready = plan.start();
        let mut running = FuturesUnordered::new();
        let mut halt: Option<Halt> = None;
        loop {
            let (place, ended) = match (halt.is_none(), ready.as_slice()) {
                // The common case between branches: nothing else to watch.
                (true, [only]) if running.is_empty() => {
                    let place = *only;
                    ready.clear();
                    (place, self.step(&block.steps[place]).await)
                }
                (go_on, _) => {
                    for place in ready.drain(..).filter(|_| go_on) {
                        running.push(async move { (place, self.step(&block.steps[place]).await) });
                    }
                    match running.next().await {
                        Some(pair) => pair,
                        None => break,
                    }
                }
            };
            match ended {
                Ok(()) => plan.done(place, &mut ready),
                Err(new) => halt = Some(first(halt, new)),
            }
        }
        halt.map_or(Ok(()), Err)
    }

    /// Runs one step; where this list catches failures, its failure ends the list, not the run.
    async fn step(&self, step: &Step) -> Result<(), Halt> {
        let key = self.key(step);
        let done = self.begin(step, key.clone()).await?;
        let failed = match &done.error {
            Some(failure) if self.catches && step.policy.on_error == OnError::Fail => Some(failure.clone()),
            _ => None,
        };
        let view = StepView { state: done.state, output: LazyJson::new(done.output), error: done.error.map(Box::new) };
        self.scope.steps.fill(step.place, view);
        failed.map_or(Ok(()), |failure| Err(Halt::Failed(StepFailure { key: Some(key), failure })))
    }

    /// The policy that the context is given for a step.
    fn policy<'s>(&self, step: &'s Step) -> Cow<'s, StepPolicy> {
        let on_error = match step.policy.on_error {
            OnError::Fail if self.catches => OnError::Catch,
            OnError::Fail if self.handles => OnError::Continue,
            _ => return Cow::Borrowed(&step.policy),
        };
        Cow::Owned(StepPolicy { on_error, ..step.policy.clone() })
    }

    /// May the failure of a step inside this one be passed over, by it or by what stands round it?
    fn passes_over(&self, step: &Step) -> bool {
        self.policy(step).on_error != OnError::Fail
    }

    /// What a list of steps inside a step has come to, where one was run: what the step's `output` says, or its last step's output.
    fn result(&self, step: &Step, body: Option<&Block>) -> Result<Payload, Failure> {
        if let Some(expression) = &step.output {
            return Ok(Payload::from_value(&*expression.eval(&View::of(&self.scope))?));
        }
        let last = body.and_then(|body| body.steps.last()).and_then(|last| self.scope.steps.at(last.place));
        Ok(last.map_or_else(Payload::null, |view| view.output.text().clone()))
    }

    async fn begin(&self, step: &Step, key: StepKey) -> Result<StepDone, Halt> {
        // A map's label is that of its items.
        let own = if step.is_map() { None } else { label(step, &self.scope) };
        if let Some(label) = own.or_else(|| self.label.clone()) {
            self.runner.label(&key, label);
        }
        if let Some(condition) = &step.condition {
            match condition.eval_bool(&View::of(&self.scope)) {
                Ok(true) => {}
                Ok(false) => {
                    self.pass_over(step);
                    return Box::pin(self.runner.skip(key, step.kind_name())).await;
                }
                Err(failure) => return Box::pin(self.fail(step, key, failure)).await,
            }
        }
        match &step.kind {
            Kind::Task { kind: AGENT, params } => self.agent(step, key, params).await,
            Kind::Task { kind, params } => self.task(step, key, kind, params).await,
            Kind::Map(map) => self.map(step, key, map).await,
            Kind::Switch(switch) => self.switch(step, key, switch).await,
            Kind::Repeat(repeat) => self.repeat(step, key, repeat).await,
        }
    }

    /// Lets the context fail a step that could not even begin: policy and record are its business.
    async fn fail(&self, step: &Step, key: StepKey, failure: Failure) -> Result<StepDone, Halt> {
        self.pass_over(step);
        if step.is_compound() || step.kind_name() == AGENT {
            return match self.runner.open(&key, step.kind_name(), || Ok(Payload::null())).await? {
                Ok(_) => self.runner.close(&key, Err(failure), &self.policy(step)).await,
                Err(done) => Ok(done),
            };
        }
        let params = move |_| Err(failure.clone());
        let policy = self.policy(step);
        let call = Call { key, kind: step.kind_name(), params: &params, policy: &policy, shape: PLAIN.clone() };
        self.runner.call(call).await
    }

    async fn task(&self, step: &Step, key: StepKey, kind: &str, params: &Params) -> Result<StepDone, Halt> {
        let run = self.runner.info().id;
        let names = StepNames { run, key: key.clone(), attempt: 1, undoes: self.undoes.clone() };
        let mut latest = None;
        let shape = match (&step.output, &step.schema) {
            (None, None) => PLAIN.clone(),
            _ => shape(step, self.scope.clone(), names.clone(), latest.insert(Arc::default())),
        };
        let evaluate = |attempt: u32| {
            if let Some(latest) = &latest {
                latest.store(attempt, Ordering::Relaxed);
            }
            let step = Some(StepNames { attempt, ..names.clone() });
            params.eval(&View { scope: self.scope.clone(), step, raw: None })
        };
        let policy = self.policy(step);
        self.runner.call(Call { key, kind, params: &evaluate, policy: &policy, shape }).await
    }
}

/// Characters of a label.
const LABEL: usize = 200;

/// What people call a step, or an item of a map. Only a name: where it cannot be had, the key must do.
fn label(step: &Step, scope: &Arc<Scope>) -> Option<Arc<str>> {
    let view = View::of(scope);
    let value = step.label.as_ref()?.eval(&view).ok()?;
    let text = match &*value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // No text of Postgres holds a NUL.
    Some(text.chars().filter(|c| *c != '\0').take(LABEL).collect::<String>().into())
}

/// The halt that counts: the first failure. The stops that follow it are its consequence, and one that comes before it
/// the runner knows of by itself.
fn first(before: Option<Halt>, new: Halt) -> Halt {
    match (before, new) {
        (Some(Halt::Failed(failure)), _) | (Some(Halt::Stopped) | None, Halt::Failed(failure)) => Halt::Failed(failure),
        (Some(Halt::Stopped) | None, Halt::Stopped) => Halt::Stopped,
    }
}

/// Applies `output` and `schema` of a step; `attempt` is the one whose result it will be.
fn shape(step: &Step, scope: Arc<Scope>, names: StepNames, attempt: &Arc<AtomicU32>) -> Shape {
    let (output, schema, attempt) = (step.output.clone(), step.schema.clone(), attempt.clone());
    Arc::new(move |result: StepOutput| {
        let value = match &output {
            None => result.default,
            Some(expression) => {
                let raw = Some(Arc::new(result.raw));
                let step = StepNames { attempt: attempt.load(Ordering::Relaxed).max(1), ..names.clone() };
                let view = View { scope: scope.clone(), step: Some(step), raw };
                expression.eval(&view)?.into_owned()
            }
        };
        if let Some(schema) = &schema {
            schema.validate(&value, code::SCHEMA_MISMATCH)?;
        }
        capped(Payload::from_value(&value), "the step's output")
    })
}

#[cfg(test)]
mod afu9_tests;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;

//! What an attempt does: code of a kind from the registry, a closure, or a question.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{Failure, Payload, StepRecord, Wait};
use crate::steps::{BoxFuture, CHILD, Reply, Shape, Step, StepCx, StopSignal};

use super::super::ctx::{Attempted, Ctx, Work, plain_shape, shaped};
use super::super::inbox::Answer;

/// What an attempt does: a kind from the registry, or a closure.
pub(in crate::engine) trait Body: Sync {
    fn attempt<'a>(
        &'a self,
        ctx: &'a Ctx,
        record: &'a StepRecord,
        attempt: u32,
        said: (StopSignal, Option<Reply>),
    ) -> BoxFuture<'a, Result<Attempted, Failure>>;

    /// Applied to the payload of an answered wait.
    fn shape(&self) -> &Shape;

    fn stop_grace(&self) -> Option<Duration>;

    /// Does it call models?
    fn spends(&self) -> bool {
        false
    }
}

/// A kind of step from the registry.
pub(in crate::engine) struct KindBody<'a> {
    pub step: &'a Arc<dyn Step>,
    pub params: &'a (dyn Fn(u32) -> Result<Value, Failure> + Send + Sync),
    pub shape: Shape,
}

impl Body for KindBody<'_> {
    fn attempt<'a>(
        &'a self,
        ctx: &'a Ctx,
        record: &'a StepRecord,
        attempt: u32,
        said: (StopSignal, Option<Reply>),
    ) -> BoxFuture<'a, Result<Attempted, Failure>> {
        Box::pin(async move {
            let params = (self.params)(attempt)?;
            let cx: StepCx = ctx.step_cx(record, attempt, self.shape.clone(), said);
            shaped(self.step.run(&cx, params).await?, &self.shape)
        })
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn stop_grace(&self) -> Option<Duration> {
        self.step.stop_grace()
    }

    fn spends(&self) -> bool {
        self.step.spends()
    }
}

/// A step that is Rust code.
pub(in crate::engine) struct CodeBody<'a, 'w> {
    work: &'a Work<'w>,
    shape: Shape,
}

impl<'a, 'w> CodeBody<'a, 'w> {
    pub(in crate::engine) fn new(work: &'a Work<'w>) -> Self {
        Self { work, shape: plain_shape() }
    }
}

impl Body for CodeBody<'_, '_> {
    fn attempt<'a>(
        &'a self,
        ctx: &'a Ctx,
        record: &'a StepRecord,
        attempt: u32,
        said: (StopSignal, Option<Reply>),
    ) -> BoxFuture<'a, Result<Attempted, Failure>> {
        Box::pin(async move {
            // Called inside the future: a panic of the call itself is caught like one of its future.
            let work = (self.work)(ctx.step_cx(record, attempt, self.shape.clone(), said));
            work.await.map(Attempted::Done)
        })
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn stop_grace(&self) -> Option<Duration> {
        None
    }
}

/// The question after an interruption.
pub(in crate::engine) struct AskBody {
    pub(in crate::engine) prompt: String,
    pub(in crate::engine) schema: Option<Value>,
    pub(in crate::engine) timeout: Option<Duration>,
    pub(in crate::engine) shape: Shape,
}

impl Body for AskBody {
    fn attempt<'a>(
        &'a self,
        _: &'a Ctx,
        _: &'a StepRecord,
        _: u32,
        _: (StopSignal, Option<Reply>),
    ) -> BoxFuture<'a, Result<Attempted, Failure>> {
        let Self { prompt, schema, timeout, .. } = self;
        let wait = Wait::Approval { prompt: prompt.clone(), schema: schema.clone(), timeout: *timeout };
        Box::pin(async { Ok(Attempted::Suspend(wait)) })
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn stop_grace(&self) -> Option<Duration> {
        None
    }
}

/// Shapes the answer of a wait.
pub(super) fn shape_answer(record: &StepRecord, body: &dyn Body, answer: &Payload) -> Answer {
    let value = answer.value()?;
    let raw = match record.kind.as_str() {
        CHILD => json!({"output": value}),
        _ => json!({"event": value}),
    };
    (body.shape())(crate::steps::StepOutput { raw, default: value })
}

//! The first extension point: a workflow is a function of its context.

use std::sync::Arc;

use crate::model::Payload;
use crate::rules::budget::Budget;
use crate::rules::policy::ResumePolicy;
use crate::steps::BoxFuture;

use super::ctx::Ctx;
use super::ending::End;
use super::halt::Halt;

/// A workflow: run from the top at every start and resume; steps that have a checkpoint answer from it.
///
/// Between steps the code must be a function of its input and the steps' outputs (no clock, no randomness, no I/O).
/// While steps wait, the future may be dropped at any await and the workflow run again later.
pub trait Workflow: Send + Sync {
    /// Runs to the end, or until the context says halt.
    fn run<'a>(&'a self, ctx: &'a Ctx, input: Payload) -> BoxFuture<'a, Result<Payload, Halt>>;

    /// What the sweep does after a failure.
    fn resume_policy(&self) -> &ResumePolicy;

    /// The longest a run may take, from its first claim.
    fn timeout(&self) -> Option<std::time::Duration> {
        None
    }

    /// Is there anything to be done at the end of a run? Then [`Workflow::at_end`] is called when it is known how the run ends.
    fn has_handlers(&self) -> bool {
        false
    }

    /// Does what is to be done at the end. How the run ends is recorded, and stays, whatever comes of this; like the workflow itself
    /// it may be broken off and called again.
    fn at_end<'a>(&'a self, ctx: &'a Ctx, input: Payload, end: &'a End) -> BoxFuture<'a, Result<(), Halt>> {
        let _ = (ctx, input, end);
        Box::pin(std::future::ready(Ok(())))
    }

    /// What a run may use up of models.
    fn budget(&self) -> Option<&Budget> {
        None
    }
}

impl<W: Workflow + ?Sized> Workflow for Arc<W> {
    fn run<'a>(&'a self, ctx: &'a Ctx, input: Payload) -> BoxFuture<'a, Result<Payload, Halt>> {
        (**self).run(ctx, input)
    }

    fn resume_policy(&self) -> &ResumePolicy {
        (**self).resume_policy()
    }

    fn timeout(&self) -> Option<std::time::Duration> {
        (**self).timeout()
    }
    fn has_handlers(&self) -> bool {
        (**self).has_handlers()
    }

    fn at_end<'a>(&'a self, ctx: &'a Ctx, input: Payload, end: &'a End) -> BoxFuture<'a, Result<(), Halt>> {
        (**self).at_end(ctx, input, end)
    }

    fn budget(&self) -> Option<&Budget> {
        (**self).budget()
    }
}

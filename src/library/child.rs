//! Another workflow, in a run of its own.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::{Halt, StepDone};
use crate::model::{Failure, RunId, StepKey, code};
use crate::rules::policy::{OnError, StepPolicy};
use crate::steps::{BoxFuture, CHILD};

use super::ctx::{Ctx, millis};
use super::step::call;

/// A child run that begins when it is awaited. While nothing else of its run works, the run holds neither slot nor memory.
#[must_use = "a child run begins when it is awaited"]
pub struct ChildCall<'s, T> {
    ctx: &'s Ctx<'s>,
    key: StepKey,
    params: Result<Value, Failure>,
    policy: StepPolicy,
    gives: PhantomData<fn() -> T>,
}

/// What is recorded of a child that nobody waits for.
#[derive(Deserialize)]
struct Started {
    run: RunId,
}

impl<'s, T: DeserializeOwned + Send + 's> ChildCall<'s, T> {
    pub(super) fn new(ctx: &'s Ctx<'s>, key: StepKey, workflow: &str, input: impl Serialize) -> Self {
        let params = serde_json::to_value(input).map(|input| json!({"workflow": workflow, "input": input}));
        let params = params.map_err(|e| {
            Failure::permanent(code::INVALID_JSON, format!("the child's input cannot be written as JSON: {e}"))
        });
        Self { ctx, key, params, policy: StepPolicy::default(), gives: PhantomData }
    }

    fn param(mut self, name: &str, value: Value) -> Self {
        if let Ok(params) = &mut self.params {
            params[name] = value;
        }
        self
    }

    /// The longest that it waits for the child; for ever by default. Past it, it has failed with the code `timeout`, and the child is
    /// cancelled.
    pub fn timeout(self, limit: Duration) -> Self {
        self.param("timeout_ms", millis(limit).into())
    }

    /// Waits; a child that fails, or is cancelled, does not fail the run: its failure is recorded, and given to the code, at every start
    /// again.
    pub fn caught(mut self) -> BoxFuture<'s, Result<Result<T, Failure>, Halt>> {
        self.policy.on_error = OnError::Continue;
        Box::pin(async move {
            let (ctx, key, done) = self.resolve().await?;
            ctx.typed(key, done)
        })
    }

    /// Starts the child and does not wait for it: it goes its own way, also after this run has ended. Gives its id.
    pub fn detached(self) -> BoxFuture<'s, Result<RunId, Halt>> {
        let detached = self.param("detached", true.into());
        Box::pin(async move {
            let (ctx, key, done) = detached.resolve().await?;
            Ok(ctx.typed::<Started>(key, done)??.run)
        })
    }

    async fn resolve(self) -> Result<(&'s Ctx<'s>, StepKey, StepDone), Halt> {
        let Self { ctx, key, params, policy, .. } = self;
        let done = call(ctx.run, &key, CHILD, &params, &policy).await?;
        Ok((ctx, key, done))
    }
}

impl<'s, T: DeserializeOwned + Send + 's> IntoFuture for ChildCall<'s, T> {
    type Output = Result<T, Halt>;
    type IntoFuture = BoxFuture<'s, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (ctx, key, done) = self.resolve().await?;
            Ok(ctx.typed(key, done)??)
        })
    }
}

//! A step to be: what it does, and how its failures are met.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::{self, Call, Halt, StepDone, Work};
use crate::model::{Failure, Payload, StepKey};
use crate::rules::policy::{OnError, OnInterrupt, RetryPolicy, StepPolicy};
use crate::steps::{BoxFuture, StepCx};

use super::ctx::Ctx;

/// A step that begins when it is awaited.
#[must_use = "a step begins when it is awaited"]
pub struct StepCall<'s, T> {
    ctx: &'s Ctx<'s>,
    key: StepKey,
    policy: StepPolicy,
    body: Body<'s>,
    gives: PhantomData<fn() -> T>,
}

enum Body<'s> {
    Code(Box<Work<'s>>),
    Kind(&'s str, Result<Value, Failure>),
}

impl<'s, T: DeserializeOwned + Send + 's> StepCall<'s, T> {
    pub(super) fn of_code<F, Fut>(ctx: &'s Ctx<'s>, key: StepKey, work: F) -> Self
    where
        T: Serialize,
        F: Fn(StepCx) -> Fut + Send + Sync + 's,
        Fut: Future<Output = Result<T, Failure>> + Send + 's,
    {
        let work: Box<Work<'s>> = Box::new(move |cx| {
            let attempt = work(cx);
            Box::pin(async move { Payload::from_serialize(&attempt.await?) })
        });
        Self { ctx, key, policy: StepPolicy::default(), body: Body::Code(work), gives: PhantomData }
    }

    pub(super) fn of_kind(ctx: &'s Ctx<'s>, key: StepKey, kind: &'s str, params: Result<Value, Failure>) -> Self {
        Self { ctx, key, policy: StepPolicy::default(), body: Body::Kind(kind, params), gives: PhantomData }
    }

    /// Attempts in all, the first included; 3 by default. `1`: no retry.
    pub fn attempts(mut self, n: u32) -> Self {
        self.policy.retry.max_attempts = n.max(1);
        self
    }

    /// Attempts, the pauses between them, and which failures are worth one.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy.retry = policy;
        self
    }

    /// The longest that one attempt may take; none by default. Past it the attempt's future is dropped, and the attempt has
    /// failed with the code `timeout`.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.policy.timeout = Some(limit);
        self
    }

    /// The longest that all attempts and the pauses between them may take; none by default.
    pub fn total_timeout(mut self, limit: Duration) -> Self {
        self.policy.total_timeout = Some(limit);
        self
    }

    /// What a resume does with the step when it had begun and its worker died: run it again (the default), fail, or ask a person.
    pub fn on_interrupt(mut self, then: OnInterrupt) -> Self {
        self.policy.on_interrupt = then;
        self
    }

    /// Awaits the step; its final failure does not fail the run, but is recorded, and given to the code: at every start again.
    pub fn caught(mut self) -> BoxFuture<'s, Result<Result<T, Failure>, Halt>> {
        self.policy.on_error = OnError::Continue;
        Box::pin(Box::new(self).resolve())
    }

    /// Boxed: a future would hold a copy of the call for each function that it is handed through, in ten thousand runs at once.
    async fn resolve(self: Box<Self>) -> Result<Result<T, Failure>, Halt> {
        let done = match &self.body {
            Body::Code(work) => self.ctx.run.code(self.key.clone(), &self.policy, &**work).await?,
            Body::Kind(kind, params) => Box::pin(call(self.ctx.run, &self.key, kind, params, &self.policy)).await?,
        };
        self.ctx.typed(self.key, done)
    }
}

pub(super) async fn call(
    run: &engine::Ctx,
    key: &StepKey,
    kind: &str,
    params: &Result<Value, Failure>,
    policy: &StepPolicy,
) -> Result<StepDone, Halt> {
    let params = |_| params.clone();
    run.call(Call { key: key.clone(), kind, params: &params, policy, shape: engine::plain_shape() }).await
}

impl<'s, T: DeserializeOwned + Send + 's> IntoFuture for StepCall<'s, T> {
    type Output = Result<T, Halt>;
    type IntoFuture = BoxFuture<'s, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let call = Box::new(self);
        Box::pin(async move { Ok(call.resolve().await??) })
    }
}

//! A wait to be: a sleep, an event, an approval.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Halt;
use crate::model::{Failure, StepKey, code};
use crate::rules::policy::{OnError, StepPolicy};
use crate::steps::BoxFuture;

use super::ctx::{Ctx, millis};
use super::step::call;

/// A wait that begins when it is awaited. While nothing else of its run works, the run holds neither slot nor memory.
#[must_use = "a wait begins when it is awaited"]
pub struct WaitCall<'s, T> {
    ctx: &'s Ctx<'s>,
    key: StepKey,
    kind: &'static str,
    params: Result<Value, Failure>,
    policy: StepPolicy,
    gives: PhantomData<fn() -> T>,
}

/// A person's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Approval {
    /// The database role of the person.
    pub by: String,
    /// What the person wrote beside it.
    pub note: Option<String>,
}

impl<'s, T: DeserializeOwned + Send + 's> WaitCall<'s, T> {
    pub(super) fn new(ctx: &'s Ctx<'s>, key: StepKey, kind: &'static str, params: Value) -> Self {
        Self { ctx, key, kind, params: Ok(params), policy: StepPolicy::default(), gives: PhantomData }
    }

    fn param(mut self, name: &str, value: Value) -> Self {
        if let Ok(Value::Object(params)) = &mut self.params {
            params.insert(name.to_owned(), value);
        }
        self
    }

    /// What the event's payload must contain: a JSON object, compared by containment. For [`Ctx::wait`].
    pub fn matching(mut self, part: impl Serialize) -> Self {
        match serde_json::to_value(part) {
            Ok(part) => self.param("match", part),
            Err(e) => {
                let why = format!("what an event must contain cannot be written as JSON: {e}");
                self.params = Err(Failure::permanent(code::INVALID_JSON, why));
                self
            }
        }
    }

    /// The longest that it waits for an event or an approval; for ever by default. Past it, it has failed with the code `timeout`.
    pub fn timeout(self, limit: Duration) -> Self {
        self.param("timeout_ms", millis(limit).into())
    }

    /// Waits; a timeout or a no does not fail the run, but is recorded, and given to the code: at every start again.
    pub fn caught(mut self) -> BoxFuture<'s, Result<Result<T, Failure>, Halt>> {
        self.policy.on_error = OnError::Continue;
        Box::pin(self.resolve())
    }

    async fn resolve(self) -> Result<Result<T, Failure>, Halt> {
        let Self { ctx, key, kind, params, policy, .. } = self;
        let done = call(ctx.run, &key, kind, &params, &policy).await?;
        ctx.typed(key, done)
    }
}

impl<'s, T: DeserializeOwned + Send + 's> IntoFuture for WaitCall<'s, T> {
    type Output = Result<T, Halt>;
    type IntoFuture = BoxFuture<'s, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.resolve().await??) })
    }
}

//! What the interpreter asks of a context.

use std::future::Future;
use std::sync::Arc;

use crate::model::{Failure, Payload, StepKey, StepRecord};
use crate::rules::policy::StepPolicy;

use super::super::ctx::{Call, Ctx, RunInfo, StepDone};
use super::super::halt::Halt;

/// What the interpreter needs of a [`Ctx`]; a fake stands in for it in tests.
pub(super) trait StepRunner: Sync {
    fn info(&self) -> &RunInfo;
    fn label(&self, key: &StepKey, label: Arc<str>);
    fn call(&self, call: Call<'_>) -> impl Future<Output = Result<StepDone, Halt>> + Send;
    fn skip(&self, key: StepKey, kind: &str) -> impl Future<Output = Result<StepDone, Halt>> + Send;
    fn open(
        &self,
        key: &StepKey,
        kind: &str,
        decide: impl FnOnce() -> Result<Payload, Failure> + Send,
    ) -> impl Future<Output = Result<Result<Payload, StepDone>, Halt>> + Send;
    fn close(
        &self,
        key: &StepKey,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> impl Future<Output = Result<StepDone, Halt>> + Send;
    fn decide_again(&self, key: &StepKey, decision: Payload) -> Result<(), Halt>;
    fn recorded(&self, key: &StepKey) -> Option<&StepRecord>;
}

impl StepRunner for Ctx {
    fn info(&self) -> &RunInfo {
        self.info()
    }
    fn label(&self, key: &StepKey, label: Arc<str>) {
        self.label(key, label);
    }
    fn call(&self, call: Call<'_>) -> impl Future<Output = Result<StepDone, Halt>> + Send {
        self.call(call)
    }
    fn skip(&self, key: StepKey, kind: &str) -> impl Future<Output = Result<StepDone, Halt>> + Send {
        self.skip(key, kind)
    }
    fn open(
        &self,
        key: &StepKey,
        kind: &str,
        decide: impl FnOnce() -> Result<Payload, Failure> + Send,
    ) -> impl Future<Output = Result<Result<Payload, StepDone>, Halt>> + Send {
        self.open(key, kind, decide)
    }
    fn close(
        &self,
        key: &StepKey,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> impl Future<Output = Result<StepDone, Halt>> + Send {
        self.close(key, result, policy)
    }
    fn decide_again(&self, key: &StepKey, decision: Payload) -> Result<(), Halt> {
        self.decide_again(key, decision)
    }
    fn recorded(&self, key: &StepKey) -> Option<&StepRecord> {
        self.loaded(key)
    }
}

//! The same again, until it is enough.

use std::future::{Future, IntoFuture};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::engine::{self, Halt};
use crate::model::{Failure, Payload, StepKey, StepRecord, code};
use crate::rules::policy::StepPolicy;
use crate::steps::BoxFuture;

use super::ctx::{Ctx, decoded};

/// Rounds, where the code says nothing: a loop that never comes to its end must come to one.
const ROUNDS: usize = 100;

/// A loop that begins when it is awaited.
#[must_use = "a loop begins when it is awaited"]
pub struct RepeatCall<'s, F> {
    run: &'s engine::Ctx,
    key: StepKey,
    round: F,
    most: usize,
}

impl<'s, F> RepeatCall<'s, F> {
    pub(super) fn new(run: &'s engine::Ctx, key: StepKey, round: F) -> Self {
        Self { run, key, round, most: ROUNDS }
    }

    /// The most rounds; 100 by default. When they have all been gone through without a result, the run has failed with the code
    /// `repeat_exhausted`. A retry of the run allows as many more.
    pub fn at_most(mut self, rounds: usize) -> Self {
        self.most = rounds.max(1);
        self
    }

    async fn resolve<O, Fut>(self) -> Result<O, Halt>
    where
        O: Serialize + DeserializeOwned,
        F: Fn(Ctx<'s>, usize) -> Fut,
        Fut: Future<Output = Result<Option<O>, Halt>>,
    {
        let Self { run, key, round, most } = self;
        // The row says that the loop has begun, and in the end what came of it; and how many rounds it has been granted by retries.
        let decided = match run.open(&key, "repeat", || Ok(Payload::null())).await? {
            Ok(decided) => decided,
            Err(done) => return decoded(run, &key, &done.output),
        };
        let mut granted = granted(&decided);
        if run.loaded(&key).is_some_and(is_tried_again) {
            granted += most;
            run.decide_again(&key, Payload::from_value(&json!({ GRANTED: granted })))?;
        }
        let policy = StepPolicy::default();
        let most = most + granted;
        for n in 0..most {
            let ctx = Ctx::under(run, &StepKey::from(format!("{key}[{n}]")));
            if let Some(result) = round(ctx, n).await? {
                let output = Payload::from_serialize(&result).and_then(|output| run.sized(output));
                run.close(&key, output, &policy).await?;
                return Ok(result);
            }
        }
        let why = format!(
            "step `{key}` has no result after {most} rounds; let it go on longer with at_most, or give up earlier"
        );
        let failure = Failure::permanent(code::REPEAT_EXHAUSTED, why);
        let done = run.close(&key, Err(failure), &policy).await?;
        decoded(run, &key, &done.output)
    }
}

const GRANTED: &str = "granted";

fn granted(decision: &Payload) -> usize {
    let told = || decision.value().ok()?.get(GRANTED)?.as_u64();
    told().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// Had it gone through all its rounds, and has an operator then had the run tried again?
fn is_tried_again(record: &StepRecord) -> bool {
    record.attempts == 0 && record.error.as_ref().is_some_and(|e| e.code == code::REPEAT_EXHAUSTED)
}

impl<'s, O, F, Fut> IntoFuture for RepeatCall<'s, F>
where
    O: Serialize + DeserializeOwned + Send + 's,
    F: Fn(Ctx<'s>, usize) -> Fut + Send + Sync + 's,
    Fut: Future<Output = Result<Option<O>, Halt>> + Send + 's,
{
    type Output = Result<O, Halt>;
    type IntoFuture = BoxFuture<'s, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.resolve())
    }
}

//! The same for each item of a list.

use std::future::{Future, IntoFuture};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{self, Halt};
use crate::expression::limits::MAP_ITEMS;
use crate::model::{Failure, Payload, StepKey, code};
use crate::rules::policy::StepPolicy;
use crate::steps::BoxFuture;

use super::ctx::{Ctx, decoded};

/// A map that begins when it is awaited.
#[must_use = "a map begins when it is awaited"]
pub struct MapCall<'s, I, F> {
    run: &'s engine::Ctx,
    key: StepKey,
    items: Vec<I>,
    each: F,
    max_parallel: usize,
}

impl<'s, I, F> MapCall<'s, I, F> {
    pub(super) fn new(run: &'s engine::Ctx, key: StepKey, items: Vec<I>, each: F) -> Self {
        Self { run, key, items, each, max_parallel: 1 }
    }

    /// Items at a time; 1 by default.
    pub fn max_parallel(mut self, n: usize) -> Self {
        self.max_parallel = n.max(1);
        self
    }

    async fn resolve<O, Fut>(self) -> Result<Vec<O>, Halt>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
        F: Fn(Ctx<'s>, I) -> Fut,
        Fut: Future<Output = Result<O, Halt>>,
    {
        let Self { run, key, items, each, max_parallel } = self;
        let decision = decision(&items);
        let decided = match run.open(&key, "map", || decision).await? {
            Ok(decided) => decided,
            Err(done) => return decoded(run, &key, &done.output),
        };
        let items: Vec<I> = decoded(run, &key, &decided)?;
        let mut results: Vec<Option<O>> = items.iter().map(|_| None).collect();
        let mut waiting = items.into_iter().enumerate();
        let (mut running, mut halt) = (FuturesUnordered::new(), None);
        loop {
            while halt.is_none()
                && running.len() < max_parallel
                && let Some((index, item)) = waiting.next()
            {
                let ctx = Ctx::under(run, &StepKey::from(format!("{key}[{index}]")));
                let item = each(ctx, item);
                running.push(async move { (index, item.await) });
            }
            match running.next().await {
                Some((index, Ok(result))) => results[index] = Some(result),
                // The first failure is the run's; the stops that follow it are its consequence.
                Some((_, Err(new))) if matches!(halt, None | Some(Halt::Stopped)) => halt = Some(new),
                Some((_, Err(_))) => {}
                None => break,
            }
        }
        if let Some(halt) = halt {
            return Err(halt);
        }
        let results: Vec<O> = results.into_iter().flatten().collect();
        let output = Payload::from_serialize(&results).and_then(|output| run.sized(output));
        run.close(&key, output, &StepPolicy::default()).await?;
        Ok(results)
    }
}

/// The items, as they are recorded.
fn decision<I: Serialize>(items: &[I]) -> Result<Payload, Failure> {
    if items.len() > MAP_ITEMS {
        let why = format!("{} items, a map takes {MAP_ITEMS} at most: split the work", items.len());
        return Err(Failure::permanent(code::TOO_LARGE, why));
    }
    Payload::from_serialize(items)
}

impl<'s, I, O, F, Fut> IntoFuture for MapCall<'s, I, F>
where
    I: Serialize + DeserializeOwned + Send + 's,
    O: Serialize + DeserializeOwned + Send + 's,
    F: Fn(Ctx<'s>, I) -> Fut + Send + Sync + 's,
    Fut: Future<Output = Result<O, Halt>> + Send + 's,
{
    type Output = Result<Vec<O>, Halt>;
    type IntoFuture = BoxFuture<'s, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.resolve())
    }
}

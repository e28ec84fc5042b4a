//! `map`: the same steps for each item, a few items at a time, and what their failures come to.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::definition::{MapStep, Step};
use crate::expression::{Item, Scope, View, limits};
use crate::model::{Class, Failure, Payload, StepKey, code};
use crate::steps::BoxFuture;

use super::super::ctx::StepDone;
use super::super::halt::{Halt, StepFailure};
use super::port::StepRunner;
use super::{Frame, assembled, label};

impl<R: StepRunner> Frame<'_, R> {
    /// Runs a map: decides its items once, runs each item's steps, and puts the results together. Boxed: a map
    /// holds steps, which may be maps.
    pub(super) fn map<'b>(
        &'b self,
        step: &'b Step,
        key: StepKey,
        map: &'b MapStep,
    ) -> BoxFuture<'b, Result<StepDone, Halt>> {
        Box::pin(async move {
            let mut wrong = None;
            // A list that cannot be had is recorded as null, no decision: how it ends is for the policy to say.
            let decide = || {
                Ok(items(map, &self.scope).unwrap_or_else(|failure| {
                    wrong = Some(failure);
                    Payload::null()
                }))
            };
            let mut decided = match self.runner.open(&key, "map", decide).await? {
                Ok(decided) => decided,
                Err(done) => return Ok(done),
            };
            if decided.is_null() && wrong.is_none() {
                // A resume, after the list could not be had: perhaps with a mended definition.
                match items(map, &self.scope) {
                    Ok(list) => decided = list,
                    Err(failure) => wrong = Some(failure),
                }
            }
            let result = match wrong {
                Some(failure) => Err(failure),
                None => self.items(step, &key, map, &Arc::new(decided.value()?)).await?,
            };
            self.runner.close(&key, result, &self.policy(step)).await
        })
    }

    async fn items(
        &self,
        step: &Step,
        key: &StepKey,
        map: &MapStep,
        items: &Arc<Value>,
    ) -> Result<Result<Payload, Failure>, Halt> {
        let count = items.as_array().map_or(0, Vec::len);
        let catches = self.passes_over(step) || map.tolerate.of(count) > 0;
        let mut tally = Tally::new(count, map.tolerate.of(count));
        let mut running = FuturesUnordered::new();
        let mut next = 0;
        loop {
            while next < count && running.len() < map.max_parallel && tally.goes_on() {
                let index = next;
                running.push(async move { (index, self.item(step, key, map, items, index, catches).await) });
                next += 1;
            }
            match running.next().await {
                Some((index, Ok(payload))) => tally.succeed(index, payload),
                Some((index, Err(Halt::Failed(failure)))) => tally.fail(index, failure),
                Some((_, Err(Halt::Stopped))) => tally.stopped = true,
                None => break,
            }
        }
        match catches {
            true => tally.result(key),
            false => tally.strict(),
        }
    }

    /// Runs the steps of one item; gives the item's result.
    async fn item(
        &self,
        step: &Step,
        key: &StepKey,
        map: &MapStep,
        items: &Arc<Value>,
        index: usize,
        catches: bool,
    ) -> Result<Payload, Halt> {
        let item = Item { name: map.name.clone(), items: items.clone(), index };
        let scope = self.scope_inside(&map.body, item);
        let label = label(step, &scope).or_else(|| self.label.clone());
        let frame = Frame { label, catches, ..self.inside(scope, format!("{key}[{index}]")) };
        frame.block(&map.body).await?;
        Ok(frame.result(step, Some(&map.body))?)
    }
}

/// The items of a map, as they are recorded.
fn items(map: &MapStep, scope: &Arc<Scope>) -> Result<Payload, Failure> {
    let value = map.items.eval(&View::of(scope))?;
    let Value::Array(list) = &value else {
        return Err(Failure::permanent(
            code::INVALID_PARAMS,
            "`map` needs a list of items, and the expression gives none",
        ));
    };
    if list.len() > limits::MAP_ITEMS {
        let message = format!("{} items, a `map` takes {} at most: split the work", list.len(), limits::MAP_ITEMS);
        return Err(Failure::permanent(code::TOO_LARGE, message));
    }
    Ok(Payload::from_value(&value))
}

/// How the items of a map went so far.
struct Tally {
    results: Vec<Option<Payload>>,
    failures: Vec<(usize, StepFailure)>,
    tolerated: usize,
    bytes: usize,
    stopped: bool,
}

impl Tally {
    fn new(count: usize, tolerated: usize) -> Self {
        Self { results: vec![None; count], failures: Vec::new(), tolerated, bytes: 0, stopped: false }
    }

    fn goes_on(&self) -> bool {
        !self.stopped && self.failures.len() <= self.tolerated && self.bytes <= limits::RESULT_BYTES
    }

    fn succeed(&mut self, index: usize, payload: Payload) {
        self.bytes += payload.len();
        self.results[index] = Some(payload);
    }

    fn fail(&mut self, index: usize, failure: StepFailure) {
        let Failure { class, code, message, .. } = &failure.failure;
        let entry = json!({"$error": {"class": class, "code": code, "message": message}});
        self.succeed(index, Payload::from_value(&entry));
        self.failures.push((index, failure));
    }

    /// The result where no failure is passed over: an item's failure has failed the run already.
    fn strict(mut self) -> Result<Result<Payload, Failure>, Halt> {
        if self.failures.is_empty() {
            return self.joined();
        }
        Err(Halt::Failed(self.failures.swap_remove(0).1))
    }

    /// The result where failures are counted.
    fn result(self, key: &StepKey) -> Result<Result<Payload, Failure>, Halt> {
        match self.failures.len() > self.tolerated && !self.stopped {
            true => Ok(Err(self.failed(key))),
            false => self.joined(),
        }
    }

    /// The results in item order.
    fn joined(self) -> Result<Result<Payload, Failure>, Halt> {
        if self.stopped {
            return Err(Halt::Stopped);
        }
        let mut text = String::with_capacity(self.bytes + self.results.len() + 2);
        text.push('[');
        for (index, result) in self.results.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(result.as_ref().map_or("null", Payload::as_str));
        }
        text.push(']');
        Ok(assembled(text))
    }

    /// Permanent: the failures are checkpoints, and a resume would find them again.
    fn failed(&self, key: &StepKey) -> Failure {
        let (failed, count) = (self.failures.len(), self.results.len());
        let listed: Vec<Value> = self
            .failures
            .iter()
            .take(10)
            .map(|(index, f)| {
                json!({
                    "index": index,
                    "step": f.key.as_ref().map(StepKey::as_str),
                    "code": f.failure.code,
                    "message": f.failure.message,
                })
            })
            .collect();
        let cause =
            self.failures.first().map(|(index, f)| format!("{key}[{index}]: {}", f.failure)).unwrap_or_default();
        let message = format!("{failed} of {count} items failed, {} tolerated; the first: {cause}", self.tolerated);
        // As long as one of the failures may pass, so may the map's.
        let passes = self.failures.iter().any(|(_, f)| f.failure.class == Class::Transient);
        let failed_map = if passes { Failure::transient } else { Failure::permanent };
        failed_map(code::MAP_FAILED, message).with_details(json!({"failed": failed, "count": count, "first": listed}))
    }
}

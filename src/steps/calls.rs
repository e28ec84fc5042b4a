//! What the attempts of a traced run ask of others: kept until the attempt is over, and then noted beside its record.
//!
//! A run that is not traced has none of it, and its steps pay a look at an empty `Option`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::time::Instant;

use crate::model::{Call, Failure, RunId, StepKey};
use crate::telemetry::redact;
use crate::telemetry::traces::ids::{Place, traceparent};

use super::step::StepCx;

/// Of one run, under one claim.
#[derive(Debug)]
pub struct Calls {
    run: RunId,
    epoch: i32,
    /// Is the run certain to be exported? Whoever is called is told.
    sampled: bool,
    /// The bytes that are kept of an input or an output; 0: none.
    content: usize,
    made: AtomicU32,
    over: Mutex<HashMap<StepKey, Vec<Over>>>,
}

/// A call that is over; its times are not the server's yet.
#[derive(Debug)]
struct Over {
    call: Call,
    began: Instant,
    ended: Instant,
}

impl Calls {
    /// Of a run that is traced.
    #[must_use]
    pub fn new(run: RunId, epoch: i32, sampled: bool, content: usize) -> Self {
        Self { run, epoch, sampled, content, made: AtomicU32::new(0), over: Mutex::default() }
    }

    /// The trace context of a place in this run.
    #[must_use]
    pub fn context(&self, place: Place<'_>) -> Arc<str> {
        traceparent(self.run.0, place.id(self.run.0), self.sampled).into()
    }

    /// What a step has called since it was last asked, dated by the server's clock.
    pub fn take(&self, key: &StepKey, now: impl FnOnce() -> DateTime<Utc>) -> Option<Vec<Call>> {
        // Most steps call nobody, and pay this look.
        if self.made.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner).remove(key)?;
        let (instant, now) = (Instant::now(), now());
        let at = |then: Instant| now - TimeDelta::from_std(instant.saturating_duration_since(then)).unwrap_or_default();
        let dated = |Over { call, began, ended }| Call { started_at: at(began), ended_at: at(ended), ..call };
        Some(over.into_iter().map(dated).collect())
    }
}

/// A call that is under way. Dropped without an end it was broken off.
#[derive(Debug)]
pub struct Calling(Option<Under>);

#[derive(Debug)]
struct Under {
    calls: Arc<Calls>,
    key: StepKey,
    call: Call,
    began: Instant,
}

impl StepCx {
    /// The trace context (W3C `traceparent`) to hand on to whom this attempt calls: its own where the run is traced, else what the run was
    /// given. Made when it is asked for: most attempts call nobody.
    #[must_use]
    pub fn traceparent(&self) -> Option<Arc<str>> {
        let Some(calls) = &self.calls else { return self.given_context.clone() };
        let Self { key, attempt, epoch, .. } = self;
        Some(calls.context(Place::Attempt { key: key.as_str(), attempt: *attempt, epoch: *epoch }))
    }

    /// Begins a call. `client`: it leaves for another process that may have spans of its own.
    #[must_use]
    pub fn call(&self, client: bool) -> Calling {
        Calling(self.calls.as_ref().map(|calls| {
            let n = calls.made.fetch_add(1, Ordering::Relaxed) + 1;
            let error = Some(("interrupted".to_owned(), "the attempt ended before its call did".to_owned()));
            let call = Call { n, client, error, ..Call::default() };
            Under { calls: calls.clone(), key: self.key.clone(), call, began: Instant::now() }
        }))
    }
}

impl Calling {
    /// The trace context to hand on: the call's, else what the run was given.
    #[must_use]
    pub fn context(&self, cx: &StepCx) -> Option<Arc<str>> {
        let Some(under) = &self.0 else { return cx.traceparent() };
        Some(under.calls.context(Place::Call { epoch: under.calls.epoch, n: under.call.n }))
    }

    /// The span's name.
    pub fn named(&mut self, name: impl FnOnce() -> String) {
        if let Some(under) = &mut self.0 {
            under.call.name = redact::hide(&name()).into_owned();
        }
    }

    /// An attribute of the semantic conventions.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(under) = &mut self.0 {
            let mut value = value.into();
            redact::hide_in(&mut value);
            under.call.attributes.insert(name.to_owned(), value);
        }
    }

    /// What is asked, where contents are kept.
    pub fn input(&mut self, text: impl FnOnce() -> String) {
        if let Some(under) = self.0.as_mut().filter(|under| under.calls.content > 0) {
            under.call.input = Some(kept(text(), under.calls.content));
        }
    }

    /// What is answered, where contents are kept.
    pub fn output(&mut self, text: impl FnOnce() -> String) {
        if let Some(under) = self.0.as_mut().filter(|under| under.calls.content > 0) {
            under.call.output = Some(kept(text(), under.calls.content));
        }
    }

    /// It is over.
    pub fn end<T>(mut self, result: &Result<T, Failure>) {
        if let Some(under) = &mut self.0 {
            let told = |f: &Failure| (f.code.clone().into_owned(), redact::hide(&f.message).into_owned());
            under.call.error = result.as_ref().err().map(told);
        }
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        let Some(Under { calls, key, call, began }) = self.0.take() else { return };
        let over = Over { call, began, ended: Instant::now() };
        calls.over.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(over);
    }
}

/// Hidden before it is cut: half of a secret would not be known any more.
fn kept(text: String, limit: usize) -> String {
    let mut text = match redact::hide(&text) {
        std::borrow::Cow::Owned(hidden) => hidden,
        std::borrow::Cow::Borrowed(_) => text,
    };
    if text.len() > limit {
        let (all, mut end) = (text.len(), limit);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(&format!("… (cut: {all} bytes)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn a_call_is_noted_with_its_end_and_one_that_was_dropped_as_broken_off() {
        let (mut cx, _stop) = testing::context();
        assert_eq!(cx.call(true).context(&cx), cx.given_context, "what the run was given, where nothing is traced");
        let calls = Arc::new(Calls::new(cx.run, 3, true, 10));
        cx.calls = Some(calls.clone());
        assert!(cx.traceparent().unwrap().starts_with(&format!("00-{}-", cx.run.0.simple())), "its own, where it is");
        let mut call = cx.call(true);
        call.named(|| "GET".into());
        call.set("http.request.method", "GET");
        call.input(|| "a long body, longer than ten bytes".into());
        assert!(call.context(&cx).unwrap().starts_with(&format!("00-{}-", cx.run.0.simple())));
        call.end(&Err::<(), _>(Failure::transient("http_503", "busy")));
        drop(cx.call(false));
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let done = calls.take(&cx.key, || now).unwrap();
        assert_eq!((done[0].n, done[1].n, done.len()), (1, 2, 2));
        assert_eq!(done[0].error, Some(("http_503".into(), "busy".into())));
        assert_eq!(done[0].input.as_deref(), Some("a long bod… (cut: 34 bytes)"));
        assert!(done[0].started_at <= done[0].ended_at && done[1].ended_at <= now);
        assert_eq!(done[1].error.as_ref().unwrap().0, "interrupted");
        assert_eq!(calls.take(&cx.key, || now), None);
    }
}

//! The kinds that do no I/O: `set`, and the three that only say what the run waits for.

use serde_json::{Map, Value};

use crate::model::{Failure, Wait};

use super::params::Params;
use super::step::{BoxFuture, Flow, Step, StepCx, StepOutput};

/// `set`: pure data. Parameters `{value}`; the value is the output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Set;

impl Step for Set {
    fn kind(&self) -> &'static str {
        "set"
    }

    fn run<'a>(&'a self, _cx: &'a StepCx, mut params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        let value = params.get_mut("value").map_or(Value::Null, Value::take);
        Box::pin(std::future::ready(Ok(Flow::Done(StepOutput::plain(value)))))
    }
}

/// `sleep`: a durable pause. Parameters `{ms}`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleep;

impl Step for Sleep {
    fn kind(&self) -> &'static str {
        "sleep"
    }

    fn run<'a>(&'a self, _cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        suspend(Params::new("sleep", params).and_then(|mut p| {
            let span = p.millis("ms")?.ok_or_else(|| p.wrong("ms", "is missing"))?;
            Ok(Wait::Sleep { span })
        }))
    }
}

/// `wait`: for an event or a signal. Parameters `{event, match?, timeout_ms?}`; `match` is an object
/// that the event's payload must contain.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitFor;

impl Step for WaitFor {
    fn kind(&self) -> &'static str {
        "wait"
    }

    fn run<'a>(&'a self, _cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        suspend(Params::new("wait", params).and_then(|mut p| {
            let name = p.required("event")?;
            if name.is_empty() {
                return Err(p.wrong("event", "must not be empty"));
            }
            let matches: Map<String, Value> = p.object("match")?;
            Ok(Wait::Event { name, matches: Value::Object(matches), timeout: p.millis("timeout_ms")? })
        }))
    }
}

/// `approve`: a person's yes or no. Parameters `{prompt, timeout_ms?}`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Approve;

impl Step for Approve {
    fn kind(&self) -> &'static str {
        "approve"
    }

    fn run<'a>(&'a self, _cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        suspend(Params::new("approve", params).and_then(|mut p| {
            let prompt = super::params::text(p.take("prompt").ok_or_else(|| p.wrong("prompt", "is missing"))?);
            Ok(Wait::Approval { prompt, schema: None, timeout: p.millis("timeout_ms")? })
        }))
    }
}

fn suspend<'a>(wait: Result<Wait, Failure>) -> BoxFuture<'a, Result<Flow, Failure>> {
    Box::pin(std::future::ready(wait.map(Flow::Suspend)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::steps::testing;

    async fn wait_of(step: impl Step, params: Value) -> Result<Wait, Failure> {
        match step.run(&testing::context().0, params).await? {
            Flow::Suspend(wait) => Ok(wait),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn set_gives_its_value_back() {
        let (cx, _stop) = testing::context();
        for value in [json!(null), json!({"a": [1, "\u{0}"]}), json!(3)] {
            let Flow::Done(out) = Set.run(&cx, json!({"value": value.clone()})).await.unwrap() else { panic!() };
            assert_eq!(out.default, value);
        }
    }

    #[tokio::test]
    async fn waits_carry_what_they_were_given() {
        let span = Duration::from_millis(1500);
        assert_eq!(wait_of(Sleep, json!({"ms": 1500})).await, Ok(Wait::Sleep { span }));
        let event = wait_of(WaitFor, json!({"event": "paid", "match": {"id": 7}, "timeout_ms": 1500})).await;
        assert_eq!(event, Ok(Wait::Event { name: "paid".into(), matches: json!({"id": 7}), timeout: Some(span) }));
        let bare = wait_of(WaitFor, json!({"event": "paid", "match": null})).await;
        assert_eq!(bare, Ok(Wait::Event { name: "paid".into(), matches: json!({}), timeout: None }));
        let approval = wait_of(Approve, json!({"prompt": "Ship?"})).await;
        assert_eq!(approval, Ok(Wait::Approval { prompt: "Ship?".into(), schema: None, timeout: None }));
    }

    #[tokio::test]
    async fn wrong_parameters_are_named() {
        for (failure, word) in [
            (wait_of(Sleep, json!({})).await, "`ms`"),
            (wait_of(Sleep, json!({"ms": -1})).await, "`ms`"),
            (wait_of(WaitFor, json!({"event": ""})).await, "`event`"),
            (wait_of(WaitFor, json!({"event": "x", "match": [1]})).await, "`match`"),
            (wait_of(Approve, json!({})).await, "`prompt`"),
        ] {
            let failure = failure.unwrap_err();
            assert_eq!(failure.code, "invalid_params");
            assert!(failure.message.contains(word), "{failure}");
        }
    }
}

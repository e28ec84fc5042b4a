//! The context of a run, as the author of a workflow in Rust sees it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::engine::{self, Halt, StepDone};
use crate::model::{Failure, Payload, RunId, StepKey, code};
use crate::steps::{LogLevel, StepCx, log_here};

use super::child::ChildCall;
use super::map::MapCall;
use super::repeat::RepeatCall;
use super::step::StepCall;
use super::wait::{Approval, WaitCall};

/// What the code of a workflow asks its run for: steps, waits, maps.
///
/// The code runs from its top at every start of the run. Whatever it asks for has a **key**, a name that is used once in a run;
/// what has ended under its key answers from its checkpoint and is not done again. So between steps the code must be a function of
/// its input and of the steps' results: clocks, randomness and I/O belong into steps.
///
/// Every wait and every step gives [`Halt`] as its error, to be passed on with `?`. Steps may run side by side (`tokio::join!`,
/// [`Ctx::map`]); a context cannot be carried out of its run into a task.
#[derive(Clone)]
pub struct Ctx<'r> {
    pub(super) run: &'r engine::Ctx,
    /// What stands before each key: `docs[3].`
    prefix: Option<Arc<str>>,
}

impl<'r> Ctx<'r> {
    pub(super) fn new(run: &'r engine::Ctx) -> Self {
        Self { run, prefix: None }
    }

    /// The run's id, which is the job's.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.run.info().id
    }

    /// The job's `run_at`, or when it was enqueued: the same at every start of the run.
    #[must_use]
    pub fn scheduled_for(&self) -> DateTime<Utc> {
        self.run.info().scheduled_for
    }

    /// What the run belongs to together with other runs, as its enqueuer said ([`Enqueue::session`](crate::Enqueue::session)).
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.run.info().session_id.as_deref()
    }

    /// Writes a line into the log of the step at work (`stepd logs`, `stepd.logs`), from within its code. Never waits. Between steps there
    /// is no log to write to: that code runs again at each start of the run.
    ///
    /// ```
    /// # use stepd::{Ctx, Halt};
    /// # async fn pages(n: u64) -> std::io::Result<u64> { Ok(n) }
    /// async fn print(ctx: &Ctx<'_>, order: u64) -> Result<u64, Halt> {
    ///     ctx.step("print", || async move {
    ///         ctx.log(format!("printing the order {order}"));
    ///         Ok(pages(order).await?)
    ///     })
    ///     .await
    /// }
    /// # fn main() {}
    /// ```
    pub fn log(&self, text: impl std::fmt::Display) {
        log_here(LogLevel::Info, text);
    }

    /// A step: `work` is called for each attempt, and what it returns is recorded as JSON before anything else of the run goes on.
    ///
    /// Errors are [`Failure`]s; `?` makes one of [`anyhow::Error`], of `Box<dyn Error>`, of [`std::io::Error`], and of each type
    /// of yours for which you write `impl From<YourError> for Failure`. A transient failure is tried again: three attempts in all,
    /// unless [`StepCall::attempts`] says otherwise; after that the run is resumed later (see [`Workflow::resume`]).
    ///
    /// ```
    /// # use stepd::{Ctx, Failure, Halt, OnInterrupt};
    /// # use std::time::Duration;
    /// # async fn pay(order: u64) -> std::io::Result<String> { Ok(String::new()) }
    /// async fn fulfil(ctx: &Ctx<'_>, order: u64) -> Result<String, Halt> {
    ///     let plain = ctx.step("quote", || async move { Ok(order * 2) }).await?;
    ///     let careful = ctx
    ///         .step("charge", || async move { Ok(pay(plain).await?) })
    ///         .attempts(8)
    ///         .timeout(Duration::from_secs(10))
    ///         .on_interrupt(OnInterrupt::Ask)
    ///         .await?;
    ///     Ok(careful)
    /// }
    /// ```
    ///
    /// [`Workflow::resume`]: super::Workflow::resume
    pub fn step<'s, T, F, Fut>(&'s self, key: impl AsRef<str>, work: F) -> StepCall<'s, T>
    where
        T: Serialize + DeserializeOwned + Send + 's,
        F: Fn() -> Fut + Send + Sync + 's,
        Fut: Future<Output = Result<T, Failure>> + Send + 's,
    {
        self.step_with(key, move |_| work())
    }

    /// As [`Ctx::step`], for code that wants to know its attempt: the idempotency key that is the same on every attempt, the
    /// attempt's number, the signal that says stop.
    ///
    /// ```
    /// # use stepd::{Ctx, Halt};
    /// # async fn pay(idempotency_key: &str) -> std::io::Result<()> { Ok(()) }
    /// # async fn fulfil(ctx: &Ctx<'_>, order: u64) -> Result<(), Halt> {
    /// ctx.step_with("charge", |step| async move { Ok(pay(&step.idempotency_key()).await?) }).await
    /// # }
    /// ```
    pub fn step_with<'s, T, F, Fut>(&'s self, key: impl AsRef<str>, work: F) -> StepCall<'s, T>
    where
        T: Serialize + DeserializeOwned + Send + 's,
        F: Fn(StepCx) -> Fut + Send + Sync + 's,
        Fut: Future<Output = Result<T, Failure>> + Send + 's,
    {
        StepCall::of_code(self, self.key(key.as_ref()), work)
    }

    /// A step of a kind that is no closure: a standard one (`http`, `sql`, `exec`, …) or your own
    /// ([`Builder::kind`](super::Builder::kind)), with the parameters that it documents.
    pub fn call<'s, T>(&'s self, key: impl AsRef<str>, kind: &'s str, params: impl Serialize) -> StepCall<'s, T>
    where
        T: DeserializeOwned + Send + 's,
    {
        let params = serde_json::to_value(params).map_err(|e| {
            Failure::permanent(code::INVALID_JSON, format!("the parameters cannot be written as JSON: {e}"))
        });
        StepCall::of_kind(self, self.key(key.as_ref()), kind, params)
    }

    /// A durable pause. It holds nothing: no slot, no memory; it goes on through restarts and deploys.
    pub fn sleep<'s>(&'s self, key: impl AsRef<str>, span: Duration) -> WaitCall<'s, ()> {
        WaitCall::new(self, self.key(key.as_ref()), "sleep", json!({"ms": millis(span)}))
    }

    /// Waits for an event by its name (`SELECT stepd.emit('shipment.packed', '{"order": 7}')`), or for a signal of that name to
    /// this run ([`Client::signal`](super::Client::signal)); gives its payload. See [`WaitCall::matching`] and [`WaitCall::timeout`].
    pub fn wait<'s, T>(&'s self, key: impl AsRef<str>, event: &str) -> WaitCall<'s, T>
    where
        T: DeserializeOwned + Send + 's,
    {
        WaitCall::new(self, self.key(key.as_ref()), "wait", json!({"event": event}))
    }

    /// Waits for a person's yes (`stepd approve`, [`Client::approve`](super::Client::approve)). A no is a permanent failure with the
    /// code `rejected`; to go on after it, use [`WaitCall::caught`].
    pub fn approve<'s>(&'s self, key: impl AsRef<str>, prompt: impl Into<String>) -> WaitCall<'s, Approval> {
        WaitCall::new(self, self.key(key.as_ref()), "approve", json!({"prompt": prompt.into()}))
    }

    /// Does the same for each item; gives the results in the items' order.
    ///
    /// The items are recorded once: a resume works on the same list. Each is given a context of its own, in which the key `text`
    /// means `docs[3].text`, and what has ended in it is not done again.
    ///
    /// ```
    /// # use stepd::{Ctx, Halt};
    /// # async fn extract(doc: &str) -> std::io::Result<String> { Ok(String::new()) }
    /// # async fn index(ctx: &Ctx<'_>, docs: Vec<String>) -> Result<Vec<String>, Halt> {
    /// ctx.map("docs", docs, |ctx, doc| async move {
    ///     ctx.step("text", || async { Ok(extract(&doc).await?) }).await
    /// })
    /// .max_parallel(8)
    /// .await
    /// # }
    /// ```
    pub fn map<'s, I, O, F, Fut>(
        &'s self,
        key: impl AsRef<str>,
        items: impl IntoIterator<Item = I>,
        each: F,
    ) -> MapCall<'s, I, F>
    where
        F: Fn(Ctx<'s>, I) -> Fut,
        Fut: Future<Output = Result<O, Halt>>,
    {
        MapCall::new(self.run, self.key(key.as_ref()), items.into_iter().collect(), each)
    }

    /// The same again, until a round gives a result; each round has a context of its own, in which the key `ask` means `poll[3].ask`.
    /// What has ended is not done again; when the loop has ended, no round is gone through again.
    ///
    /// ```
    /// # use stepd::{Ctx, Halt};
    /// # use std::time::Duration;
    /// # async fn ask(job: &str) -> std::io::Result<Option<String>> { Ok(None) }
    /// # async fn render(ctx: &Ctx<'_>, job: String) -> Result<String, Halt> {
    /// ctx.repeat("poll", |ctx, _round| {
    ///     let job = job.clone();
    ///     async move {
    ///         let url = ctx.step("ask", || async { Ok(ask(&job).await?) }).await?;
    ///         if url.is_none() {
    ///             ctx.sleep("pause", Duration::from_secs(30)).await?;
    ///         }
    ///         Ok(url)
    ///     }
    /// })
    /// .at_most(1_000)
    /// .await
    /// # }
    /// ```
    pub fn repeat<'s, O, F, Fut>(&'s self, key: impl AsRef<str>, round: F) -> RepeatCall<'s, F>
    where
        F: Fn(Ctx<'s>, usize) -> Fut,
        Fut: Future<Output = Result<Option<O>, Halt>>,
    {
        RepeatCall::new(self.run, self.key(key.as_ref()), round)
    }

    /// Another workflow, in Rust or in a file, in a run of its own: waits for its end, and gives its output.
    ///
    /// The child is inserted once, whatever dies on the way. A child that fails, or is cancelled, is a permanent failure with the code
    /// `child_failed`; to go on after it, use [`ChildCall::caught`]. When this run ends without it, it is cancelled;
    /// [`ChildCall::detached`] starts one that is not waited for. Fan out with [`Ctx::map`].
    ///
    /// ```
    /// # use stepd::{Ctx, Halt};
    /// async fn invoice(ctx: &Ctx<'_>, order: u64) -> Result<String, Halt> {
    ///     ctx.step("number", || async move { Ok(format!("R-{order}")) }).await
    /// }
    /// async fn month(ctx: &Ctx<'_>, orders: Vec<u64>) -> Result<Vec<String>, Halt> {
    ///     // `invoice` is registered like any workflow: Stepd::builder().workflow("invoice", invoice)
    ///     ctx.map("all", orders, |ctx, order| async move { ctx.child("invoice", "invoice", order).await })
    ///         .max_parallel(50)
    ///         .await
    /// }
    /// ```
    pub fn child<'s, T>(&'s self, key: impl AsRef<str>, workflow: &str, input: impl Serialize) -> ChildCall<'s, T>
    where
        T: DeserializeOwned + Send + 's,
    {
        ChildCall::new(self, self.key(key.as_ref()), workflow, input)
    }

    /// A context in which the key `charge` means `name.charge`: for a part of a workflow that is used more than once in a run.
    #[must_use]
    pub fn part(&self, name: impl AsRef<str>) -> Self {
        Self::under(self.run, &self.key(name.as_ref()))
    }

    pub(super) fn under(run: &'r engine::Ctx, key: &StepKey) -> Self {
        Self { run, prefix: Some(format!("{key}.").into()) }
    }

    fn key(&self, key: &str) -> StepKey {
        match &self.prefix {
            None => StepKey::from(key),
            Some(prefix) => StepKey::from(format!("{prefix}{key}")),
        }
    }

    /// What a step came to, as the code's own type.
    pub(super) fn typed<T: DeserializeOwned>(&self, key: StepKey, done: StepDone) -> Result<Result<T, Failure>, Halt> {
        match done.error {
            Some(failure) => Ok(Err(failure)),
            None => decoded(self.run, &key, &done.output).map(Ok),
        }
    }
}

/// A recorded output as the code's own type. Fatal where it does not fit: there is nothing to go on with.
pub(super) fn decoded<T: DeserializeOwned>(run: &engine::Ctx, key: &StepKey, output: &Payload) -> Result<T, Halt> {
    serde_json::from_str(output.as_str()).map_err(|e| {
        let why = format!("what is recorded of step `{key}` is not what this code expects: {e}");
        run.failed(Some(key.clone()), Failure::permanent(code::INVALID_JSON, why))
    })
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

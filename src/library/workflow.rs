//! A workflow in Rust: an async function of its context and its input, and what the engine must know beside it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{self, Halt};
use crate::model::{Failure, Payload, code};
use crate::rules::policy::ResumePolicy;
use crate::services::catalog::Loaded;
use crate::steps::BoxFuture;

use super::ctx::Ctx;
use super::error::Error;
use super::flow::{Concurrency, FlowSettings, Rate, Schedule, Unique};

/// `async fn(&Ctx<'_>, Input) -> Result<Output, Halt>`: implemented for every such function.
pub trait WorkflowFn<'r, I, O>: Send + Sync {
    /// Runs the workflow.
    fn run(&self, ctx: &'r Ctx<'r>, input: I) -> BoxFuture<'r, Result<O, Halt>>;
}

impl<'r, I, O, F, Fut> WorkflowFn<'r, I, O> for F
where
    F: Fn(&'r Ctx<'r>, I) -> Fut + Send + Sync,
    Fut: Future<Output = Result<O, Halt>> + Send + 'r,
{
    fn run(&self, ctx: &'r Ctx<'r>, input: I) -> BoxFuture<'r, Result<O, Halt>> {
        Box::pin(self(ctx, input))
    }
}

/// `async fn(&self, &Ctx<'_>, Input) -> Result<Output, Halt>`: implemented for every such method.
pub trait WorkflowMethod<'r, S, I, O>: Send + Sync {
    /// Runs the workflow.
    fn run(&self, state: &'r S, ctx: &'r Ctx<'r>, input: I) -> BoxFuture<'r, Result<O, Halt>>;
}

impl<'r, S: 'r, I, O, F, Fut> WorkflowMethod<'r, S, I, O> for F
where
    F: Fn(&'r S, &'r Ctx<'r>, I) -> Fut + Send + Sync,
    Fut: Future<Output = Result<O, Halt>> + Send + 'r,
{
    fn run(&self, state: &'r S, ctx: &'r Ctx<'r>, input: I) -> BoxFuture<'r, Result<O, Halt>> {
        Box::pin(self(state, ctx, input))
    }
}

/// A workflow under the name that jobs give, with what stands in the head of a workflow file.
///
/// Input and output are the function's own types, as JSON. An input that is not what the function takes fails the run at once,
/// with the code `invalid_input`: it is never tried again.
#[must_use = "hand it to Builder::workflow"]
pub struct Workflow {
    pub(super) name: String,
    pub(super) queue: Option<String>,
    priority: u8,
    resume: ResumePolicy,
    timeout: Option<Duration>,
    flow: FlowSettings,
    run: Box<Erased>,
}

type Erased = dyn for<'a> Fn(&'a engine::Ctx, Payload) -> BoxFuture<'a, Result<Payload, Halt>> + Send + Sync;

impl Workflow {
    /// A workflow with the defaults: the binary's first queue, priority 5, no time limit, ten automatic resumes.
    pub fn new<I, O, F>(name: impl Into<String>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: for<'r> WorkflowFn<'r, I, O> + 'static,
    {
        Self::made(name.into(), move |ctx, input| function.run(ctx, input))
    }

    /// A workflow that is a method of something of yours: whatever its steps need (a pool, a client) is in `self`.
    ///
    /// ```
    /// # use stepd::{Ctx, Halt, Workflow};
    /// struct Shop {
    ///     greeting: String,
    /// }
    ///
    /// impl Shop {
    ///     async fn greet(&self, ctx: &Ctx<'_>, name: String) -> Result<String, Halt> {
    ///         ctx.step("greet", || async { Ok(format!("{} {name}", self.greeting)) }).await
    ///     }
    /// }
    ///
    /// let workflow = Workflow::with("greet", Shop { greeting: "hello".into() }, Shop::greet);
    /// ```
    pub fn with<S, I, O, F>(name: impl Into<String>, state: S, method: F) -> Self
    where
        S: Send + Sync + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: for<'r> WorkflowMethod<'r, S, I, O> + 'static,
    {
        let shared = Arc::new((state, method));
        Self::made(name.into(), move |ctx, input| {
            let shared = shared.clone();
            Box::pin(async move { shared.1.run(&shared.0, ctx, input).await })
        })
    }

    fn made<I, O, F>(name: String, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: for<'r> Fn(&'r Ctx<'r>, I) -> BoxFuture<'r, Result<O, Halt>> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        Self {
            name,
            queue: None,
            priority: 5,
            resume: ResumePolicy::default(),
            timeout: None,
            flow: FlowSettings::default(),
            run: Box::new(move |run, input| {
                let function = function.clone();
                Box::pin(async move {
                    let input = decoded(run, &input)?;
                    let output = function(&Ctx::new(run), input).await?;
                    Ok(Payload::from_serialize(&output)?)
                })
            }),
        }
    }

    /// The queue that its jobs go to by default; one that this binary serves.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.queue = Some(name.into());
        self
    }

    /// The priority of its jobs by default: 0 to 9, lower first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority.min(9);
        self
    }

    /// What happens after a run has failed for a reason that may pass: it is resumed later, from the step that failed.
    pub fn resume(mut self, policy: ResumePolicy) -> Self {
        self.resume = policy;
        self
    }

    /// The longest that a run may take, from its first claim.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// At most one run of a key.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stepd::{Ctx, Halt};
    /// use stepd::{Concurrency, Rate, Schedule, Unique, WhenFull, Workflow};
    ///
    /// # async fn sync(_: &Ctx<'_>, _: serde_json::Value) -> Result<(), Halt> { Ok(()) }
    /// let workflow = Workflow::new("sync", sync)
    ///     .unique(Unique::key("input.order_id").for_a(Duration::from_secs(86_400)))
    ///     .concurrency(Concurrency::limit(2).key("input.customer_id").when_full(WhenFull::Queue))
    ///     .rate(Rate::limit(100, Duration::from_secs(60)).key("input.endpoint"))
    ///     .schedule(Schedule::cron("15 2 * * *").timezone("Europe/Berlin"));
    /// ```
    pub fn unique(mut self, unique: Unique) -> Self {
        self.flow.unique = Some(unique);
        self
    }

    /// So many runs at once, over all processes.
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.flow.concurrency = Some(concurrency);
        self
    }

    /// So many starts in any span of a time.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.flow.rate = Some(rate);
        self
    }

    /// When runs start by themselves.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.flow.schedule = Some(schedule);
        self
    }

    /// On its way into the catalog. The hash is that of the name alone: the code may change under a run, and the next binary
    /// that has the workflow takes the run up.
    pub(super) fn loaded(self, queue: &str) -> Result<Loaded, Error> {
        let wrong = |why: String| Error::Configuration(format!("workflow `{}`: {why}", self.name));
        let (flow, schedule) = (self.flow.flow().map_err(wrong)?, self.flow.times().map_err(wrong)?);
        Ok(Loaded {
            hash: format!("rust {}", self.name),
            name: self.name.clone(),
            body: None,
            queue: self.queue.clone().unwrap_or_else(|| queue.to_owned()),
            priority: i16::from(self.priority),
            flow,
            schedule,
            source: std::env::current_exe().ok().map(|path| path.display().to_string()),
            workflow: Arc::new(self),
        })
    }
}

impl engine::Workflow for Workflow {
    fn run<'a>(&'a self, ctx: &'a engine::Ctx, input: Payload) -> BoxFuture<'a, Result<Payload, Halt>> {
        (self.run)(ctx, input)
    }

    fn resume_policy(&self) -> &ResumePolicy {
        &self.resume
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

/// The input as the type that the code takes.
fn decoded<I: DeserializeOwned>(run: &engine::Ctx, input: &Payload) -> Result<I, Failure> {
    serde_json::from_str(input.as_str()).map_err(|e| {
        let why = format!("the input of `{}` is not what its code takes: {e}", run.info().workflow);
        Failure::permanent(code::INVALID_INPUT, why)
    })
}

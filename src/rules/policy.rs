//! What an author may say about failure: plain data, read by [`super::retry`] and the engine.

use std::time::Duration;

/// How the pause between attempts grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Not at all.
    Constant,
    /// By `initial` each time.
    Linear,
    /// By a factor each time: it doubles.
    Exponential,
}

/// `retry:` of a workflow or a step.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1.
    pub max_attempts: u32,
    /// The growth of the pause.
    pub backoff: Backoff,
    /// By how much an exponential pause grows each time.
    pub factor: f64,
    /// The pause after the first failure.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
    /// The share of the pause that is drawn at random, 0 to 1: a pause of 10 s with 0.5 lies between 5 s and 10 s.
    pub jitter: f64,
    /// Retry these codes only; empty means every transient failure.
    pub only: Vec<String>,
    /// Never retry these codes.
    pub not: Vec<String>,
}

impl RetryPolicy {
    /// One attempt and no more.
    #[must_use]
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }
}

impl Default for RetryPolicy {
    /// Three attempts, one second doubling up to a minute, a tenth of jitter: what a step without
    /// `retry:` gets.
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::Exponential,
            factor: 2.0,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: 0.1,
            only: Vec::new(),
            not: Vec::new(),
        }
    }
}

/// `resume:` of a workflow: what the sweep does after a run has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePolicy {
    /// Automatic resumes after a transient failure; 0 means never.
    pub max_attempts: u32,
    /// The pause before the first resume; it doubles each time.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for ResumePolicy {
    fn default() -> Self {
        Self { max_attempts: 10, initial: Duration::from_secs(10), max: Duration::from_secs(600) }
    }
}

impl ResumePolicy {
    /// `resume: never`.
    #[must_use]
    pub fn never() -> Self {
        Self { max_attempts: 0, ..Self::default() }
    }
}

/// `on_error:` of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnError {
    /// The run fails.
    #[default]
    Fail,
    /// The failure is recorded as the step's result and the run goes on.
    Continue,
    /// The failure is told to the step that holds this one (a `map` that tolerates failures), which decides. It is no
    /// checkpoint: a resume tries the step again.
    Catch,
}

/// `on_interrupt:` of a step: what a resume does with a step that had started and has no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnInterrupt {
    /// Run it again, with the same idempotency key.
    #[default]
    Retry,
    /// Fail it with `interrupted`.
    Fail,
    /// Ask a person: approve runs it again, reject fails it.
    Ask,
}

/// Everything that governs the attempts of one step.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct StepPolicy {
    /// Attempts and pauses.
    pub retry: RetryPolicy,
    /// The longest one attempt may take.
    pub timeout: Option<Duration>,
    /// The longest all attempts and pauses together may take.
    pub total_timeout: Option<Duration>,
    /// What a final failure means for the run.
    pub on_error: OnError,
    /// What an interruption means for the step.
    pub on_interrupt: OnInterrupt,
    /// Can it be undone? Then it starts only after the start is durable: a death in it must not leave behind what nobody knows of.
    pub undo: bool,
}

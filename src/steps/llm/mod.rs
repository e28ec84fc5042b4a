//! `llm`: a question to a model, by a profile of the configuration, over the chat completions that most providers and local servers speak.
//!
//! | parameter | meaning |
//! |---|---|
//! | `model` | the profile |
//! | `prompt`, `system` | the messages; or `messages`, whole, in their place (an agent's conversation) |
//! | `schema` | the answer must be JSON that matches it |
//! | `temperature`, `max_tokens` | as the provider takes them; absent: the provider's defaults |
//! | `tools` | as the provider takes them; only an agent has any |
//!
//! The raw result is `{text, json, usage, message}`. The output is the JSON where there is a schema, else the text.
//!
//! An answer that does not match the schema goes back to the model with what is wrong with it, [`REPAIRS`] times; then the attempt fails with
//! `schema_mismatch`, which a retry may mend. Tokens and cost of every call, also of the failed ones, are counted by the
//! run's [`Meter`](super::Meter), which refuses the call that its budget no longer allows.

mod answer;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::definition::Schema;
use crate::model::{Failure, Usage, code};

use super::breaker::{Breaker, Circuit};
use super::calls::Calling;
use super::http::{self, Web};
use super::step::{BoxFuture, Flow, Step, StepCx, StepOutput};

use answer::Completion;
pub(crate) use answer::unfenced;
use request::Question;

/// How often an answer that breaks the schema goes back to the model within one attempt. A model that has failed three times will hardly
/// do it in the fourth; a retry asks afresh.
const REPAIRS: usize = 2;

/// Bytes of a response: far above any answer.
const LARGEST: usize = 16 << 20;

/// A model of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelProfile {
    /// Where `/chat/completions` is.
    pub base_url: reqwest::Url,
    /// The model's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Headers of every request.
    pub headers: BTreeMap<String, String>,
    /// What a million tokens of prompts cost.
    pub price_input: f64,
    /// What a million tokens of answers cost.
    pub price_output: f64,
    /// What a million tokens of prompts cost that the provider has in its cache.
    pub price_cached: f64,
    /// The longest that one call may take.
    pub timeout: Duration,
    /// How long the endpoint is left alone when it does not answer at all.
    pub rest: Duration,
    /// How the provider is told of a schema.
    pub structured: Structured,
}

impl ModelProfile {
    /// What a call has cost.
    fn price_of(&self, used: &Usage) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "tokens are far below 2^52")]
        let price = |tokens: u64, per_million: f64| tokens as f64 * per_million / 1e6;
        let fresh = used.tokens_in.saturating_sub(used.tokens_cached);
        price(fresh, self.price_input)
            + price(used.tokens_in - fresh, self.price_cached)
            + price(used.tokens_out, self.price_output)
    }
}

/// How a provider is told that the answer must be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Structured {
    /// It takes the schema itself.
    #[default]
    Schema,
    /// It takes the wish for JSON; the schema stands in the prompt.
    Json,
    /// It takes neither; the schema stands in the prompt.
    Prompt,
}

/// A model, and whether it answers.
type Known = (ModelProfile, Arc<Breaker>);

/// The models, shared by the kind and by whoever replaces them at a reload.
#[derive(Default)]
pub struct Models {
    all: Mutex<Arc<BTreeMap<String, Known>>>,
    web: Web,
}

impl Models {
    /// Makes these the models. Of one whose profile is as it was, what is known stays known.
    pub fn replace(&self, profiles: BTreeMap<String, ModelProfile>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(name, profile): (String, ModelProfile)| {
            let kept = all.get(&name).filter(|(known, _)| *known == profile).map(|(_, breaker)| breaker.clone());
            let fresh = || Arc::new(Breaker::new(format!("the model `{name}`"), profile.rest));
            let breaker = kept.unwrap_or_else(fresh);
            (name, (profile, breaker))
        };
        let models = profiles.into_iter().map(known).collect();
        *all = Arc::new(models);
    }

    /// The names of all models.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// How the breaker of each of them stands.
    #[must_use]
    pub fn breakers(&self) -> Vec<(String, Circuit)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter().map(|(name, (_, breaker))| (name.clone(), breaker.circuit())).collect()
    }

    fn profile(&self, name: &str) -> Result<Known, Failure> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.get(name).cloned().ok_or_else(|| {
            let known = match all.is_empty() {
                true => "none".to_owned(),
                false => all.keys().cloned().collect::<Vec<_>>().join(", "),
            };
            let message = format!(
                "this worker's configuration has no model `{name}` (it has {known}): add [models.{name}] with a base_url and a model"
            );
            Failure::permanent(code::DEFINITION, message)
        })
    }
}

/// The kind `llm`.
#[derive(Clone)]
pub struct Llm(Arc<Models>);

impl Llm {
    /// The kind, over these models.
    #[must_use]
    pub fn new(models: Arc<Models>) -> Self {
        Self(models)
    }

    async fn ask(&self, cx: &StepCx, params: Value) -> Result<Flow, Failure> {
        let mut question = Question::read(params)?;
        let (profile, breaker) = self.0.profile(&question.model)?;
        question.tell_schema(profile.structured);
        breaker.guard(cx, async { self.answer(cx, &profile, question).await.map(Flow::Done) }).await
    }

    /// The answer, after its repairs.
    async fn answer(&self, cx: &StepCx, profile: &ModelProfile, mut question: Question) -> Result<StepOutput, Failure> {
        let mut used = Usage::default();
        let mut repairs = 0;
        loop {
            let said = self.call(cx, profile, &question).await?;
            used.add(said.usage);
            let Some(schema) = &question.schema else { return Ok(said.output(Value::Null, &used)) };
            match parsed(schema, &said) {
                Ok(value) => return Ok(said.output(value, &used)),
                Err(failure) if repairs == REPAIRS || said.cut => return Err(failure),
                Err(failure) => question.repair(&said.message, &failure.message),
            }
            repairs += 1;
        }
    }

    /// One request, counted.
    async fn call(&self, cx: &StepCx, profile: &ModelProfile, question: &Question) -> Result<Completion, Failure> {
        let mut call = cx.call(true);
        let done = self.asked(cx, &mut call, profile, question).await;
        call.end(&done);
        done
    }

    async fn asked(
        &self,
        cx: &StepCx,
        call: &mut Calling,
        profile: &ModelProfile,
        question: &Question,
    ) -> Result<Completion, Failure> {
        let request = question.build(self.0.web.client().await?, profile, call.context(cx))?;
        question.describe(call, profile);
        cx.meter.begin_call(&cx.key, &question.model)?;
        let began = tokio::time::Instant::now();
        let place = format!("the model `{}` at {}", question.model, http::place(request.url()));
        let done = tokio::time::timeout(profile.timeout, async {
            let mut response = self.0.web.send(request, &place).await?;
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            let (bytes, whole) = http::body(&place, response, LARGEST).await?;
            if !status.is_success() {
                return Err(answer::refused(&place, status, &headers, &bytes));
            }
            if !whole {
                return Err(Failure::permanent(
                    code::TOO_LARGE,
                    format!("{place} answered with more than {LARGEST} bytes"),
                ));
            }
            answer::read(&place, &bytes)
        });
        let late = || Failure::transient(code::TIMEOUT, format!("{place} took longer than {:?}", profile.timeout));
        let done = done.await;
        cx.meter.took(&question.model, began.elapsed());
        let (mut said, withheld) = done.map_err(|_| late())??;
        said.usage.cost = profile.price_of(&said.usage);
        cx.meter.add(&cx.key, &question.model, said.usage);
        said.usage.calls = 1;
        said.describe(call);
        match withheld {
            Some(failure) => Err(failure),
            None => Ok(said),
        }
    }
}

/// The answer as the JSON that was asked for.
fn parsed(schema: &Schema, said: &Completion) -> Result<Value, Failure> {
    // Asking again may help: a model's answers differ.
    let mismatch = |message: String| Failure::transient(code::SCHEMA_MISMATCH, message);
    let details = |failure: Failure| failure.with_details(json!({"text": said.excerpt()}));
    let text = answer::unfenced(&said.text);
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let why = match said.cut {
            true => "the answer was cut off at `max_tokens`: allow more".to_owned(),
            false => format!("the answer is no JSON: {error}"),
        };
        details(mismatch(why))
    })?;
    schema
        .validate(&value, code::SCHEMA_MISMATCH)
        .map_err(|failure| details(mismatch(failure.message.replacen("the output", "the answer", 1))))?;
    Ok(value)
}

impl Step for Llm {
    fn kind(&self) -> &'static str {
        "llm"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(self.ask(cx, params))
    }

    fn spends(&self) -> bool {
        true
    }
}

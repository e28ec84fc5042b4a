//! `agent`: a model that may call tools, turn after turn, until it answers.
//!
//! Like a `map` it is a step made of steps, each with a checkpoint of its own: `KEY.tools` (what the servers say of the tools, asked
//! once), `KEY.turn[1]` (a call of the model), `KEY.tool[1.0]` (the first call of a tool that turn 1 asked for), and so on. The
//! conversation is put together from them, so that whoever takes the run up goes on with the next turn, and nothing is paid twice.
//!
//! A tool may be another workflow: its call is a child run (`KEY.tool[1.0]` is a `workflow` step), and this run waits for it, holding nothing.
//!
//! The agent's `retry` and `timeout` are those of each turn and each call; a child run has the `timeout` as a whole, and retries of its own. A turn that fails for good fails the agent. What a tool does
//! wrong goes back to the model as its answer, as does a call of a tool that is not there, or with arguments that are no JSON.
//! An answer that breaks the `schema` goes back, too; each of these takes a turn, and `max_turns` bounds them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Map, Value, json};

use crate::definition::{Params, Schema, Step};
use crate::expression::{StepNames, View};
use crate::model::{Failure, Payload, StepKey, StepState, Usage, code};
use crate::rules::policy::{OnError, RetryPolicy, StepPolicy};
use crate::steps::{BoxFuture, CHILD, Shape, StepOutput};

use super::super::ctx::{Call, StepDone, plain_shape};
use super::super::halt::{Halt, StepFailure};
use super::port::StepRunner;
use super::{Frame, shape};

/// The kind's word in files and records.
pub(super) const AGENT: &str = "agent";

/// Calls of tools at one time.
const PARALLEL: usize = 8;
/// Calls of tools that one turn may ask for; the model is told of the others that they were not made.
const CALLS: usize = 64;
/// Characters of a tool's answer that the model is given: an answer without end would fill its context for good.
const ANSWER: usize = 200_000;

/// What an agent is made of, evaluated.
struct Agent {
    model: Value,
    messages: Vec<Value>,
    tools: Vec<Tool>,
    schema: Option<Schema>,
    max_turns: u32,
    /// What goes to the model with each turn.
    more: Map<String, Value>,
}

/// What an agent may call.
#[derive(Clone)]
enum Tool {
    Mcp { server: String, tool: String },
    Workflow { name: String, description: Value, input: Value },
}

/// The tools, by the names that the model has for them.
type Names = HashMap<String, Tool>;

/// A call that a turn asks for.
struct Wanted {
    id: Value,
    name: String,
    arguments: Result<Value, String>,
}

impl<R: StepRunner> Frame<'_, R> {
    /// Runs an agent. Boxed: few steps are agents, and their futures are large.
    pub(super) fn agent<'b>(
        &'b self,
        step: &'b Step,
        key: StepKey,
        params: &'b Params,
    ) -> BoxFuture<'b, Result<StepDone, Halt>> {
        Box::pin(async move {
            if let Err(done) = self.runner.open(&key, AGENT, || Ok(Payload::from_value(&json!({})))).await? {
                return Ok(done);
            }
            let names = StepNames { run: self.runner.info().id, key: key.clone(), attempt: 1, undoes: None };
            let view = View { scope: self.scope.clone(), step: Some(names.clone()), raw: None };
            let result = match params.eval(&view).and_then(Agent::read) {
                Ok(agent) => self.converse(step, &key, agent).await?,
                Err(failure) => Err(failure),
            };
            let shaped =
                result.and_then(|output| shape(step, self.scope.clone(), names, &Arc::new(AtomicU32::new(1)))(output));
            self.runner.close(&key, shaped, &self.policy(step)).await
        })
    }

    /// Turn after turn: the answer, or why there is none.
    async fn converse(
        &self,
        step: &Step,
        key: &StepKey,
        mut agent: Agent,
    ) -> Result<Result<StepOutput, Failure>, Halt> {
        let names = match self.introduce(step, key, &mut agent).await? {
            Ok(names) => names,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut used = Usage::default();
        for turn in 1..=agent.max_turns {
            let done = match self.turn(step, key, &agent, turn).await? {
                Ok(done) => done,
                Err(failure) => return Ok(Err(failure)),
            };
            used.add(serde_json::from_value(done["usage"].clone()).unwrap_or_default());
            let message = &done["message"];
            let wanted = wanted(message);
            agent.messages.push(message.clone());
            if !wanted.is_empty() {
                let answers = self.call_tools(step, key, turn, &wanted, &names).await?;
                agent.messages.extend(answers);
                continue;
            }
            let text = done["text"].as_str().unwrap_or_default();
            match agent.answer(text) {
                Ok(value) => {
                    let default = if value.is_null() { Value::from(text) } else { value.clone() };
                    let usage = serde_json::to_value(used).unwrap_or_default();
                    return Ok(Ok(StepOutput { raw: json!({"text": text, "json": value, "usage": usage}), default }));
                }
                Err(why) if turn == agent.max_turns => {
                    return Ok(Err(Failure::permanent(
                        code::SCHEMA_MISMATCH,
                        format!("the agent's last answer: {why}"),
                    )));
                }
                Err(why) => {
                    let again =
                        format!("That cannot be used: {why}. Answer again, with nothing but the corrected JSON.");
                    agent.messages.push(json!({"role": "user", "content": again}));
                }
            }
        }
        let message =
            format!("the agent came to no answer within {} turns: raise `max_turns`, or ask for less", agent.max_turns);
        Ok(Err(Failure::permanent(code::MAX_TURNS, message)))
    }

    /// Asks the servers what the tools are, and gives what the model calls them.
    async fn introduce(&self, step: &Step, key: &StepKey, agent: &mut Agent) -> Result<Result<Names, Failure>, Halt> {
        let mut said = match self.ask_servers(step, key, agent).await? {
            Ok(said) => said.into_iter(),
            Err(failure) => return Ok(Err(failure)),
        };
        let mut names = Names::new();
        let mut tools = Vec::new();
        for tool in &agent.tools {
            let (description, schema) = match tool {
                Tool::Workflow { description, input, .. } => (description.clone(), input.clone()),
                Tool::Mcp { .. } => {
                    let mut said = said.next().unwrap_or_default();
                    (said["description"].take(), said["schema"].take())
                }
            };
            let name = called(tool);
            tools.push(json!({"type": "function", "function": {
                "name": name, "description": description, "parameters": schema,
            }}));
            names.insert(name, tool.clone());
        }
        if !tools.is_empty() {
            agent.more.insert("tools".to_owned(), tools.into());
        }
        Ok(Ok(names))
    }

    /// What the servers say of their tools, in the agent's order.
    async fn ask_servers(
        &self,
        step: &Step,
        key: &StepKey,
        agent: &Agent,
    ) -> Result<Result<Vec<Value>, Failure>, Halt> {
        let pair = |tool: &Tool| match tool {
            Tool::Mcp { server, tool } => Some(json!([server, tool])),
            Tool::Workflow { .. } => None,
        };
        let pairs: Vec<Value> = agent.tools.iter().filter_map(pair).collect();
        if pairs.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let params = move |_: u32| Ok(json!({"tools": pairs}));
        let key = StepKey::new(format!("{key}.tools"));
        let policy = self.part(step);
        let call = Call { key: key.clone(), kind: "mcp", params: &params, policy: &policy, shape: plain_shape() };
        Ok(match self.part_done(step, key, call).await? {
            Ok(said) => match said.value()? {
                Value::Array(said) => Ok(said),
                _ => Ok(Vec::new()),
            },
            Err(failure) => Err(failure),
        })
    }

    /// One call of the model: its message, text and usage.
    async fn turn(&self, step: &Step, key: &StepKey, agent: &Agent, turn: u32) -> Result<Result<Value, Failure>, Halt> {
        let params = |_: u32| {
            let mut params = agent.more.clone();
            params.insert("model".to_owned(), agent.model.clone());
            params.insert("messages".to_owned(), agent.messages.clone().into());
            Ok(Value::Object(params))
        };
        let whole: Shape = Arc::new(|output: StepOutput| {
            let StepOutput { raw, .. } = output;
            Ok(Payload::from_value(&json!({"text": raw["text"], "message": raw["message"], "usage": raw["usage"]})))
        });
        let key = StepKey::new(format!("{key}.turn[{turn}]"));
        let policy = self.part(step);
        let call = Call { key: key.clone(), kind: "llm", params: &params, policy: &policy, shape: whole };
        Ok(match self.part_done(step, key, call).await? {
            Ok(said) => Ok(said.value()?),
            Err(failure) => Err(failure),
        })
    }

    /// The calls of one turn, some at a time: the messages that answer them, in their order.
    async fn call_tools(
        &self,
        step: &Step,
        key: &StepKey,
        turn: u32,
        wanted: &[Wanted],
        names: &Names,
    ) -> Result<Vec<Value>, Halt> {
        let mut calls = Vec::new();
        for (n, call) in wanted.iter().enumerate() {
            calls.push(self.answer_call(step, key, (turn, n), call, names));
        }
        // Those that are under way end by themselves, whatever becomes of the others.
        let done: Vec<Result<Value, Halt>> = stream::iter(calls).buffered(PARALLEL).collect().await;
        let mut answers = Vec::new();
        let mut halt = None;
        for one in done {
            match one {
                Ok(answer) => answers.push(answer),
                Err(new) => halt = Some(super::first(halt, new)),
            }
        }
        halt.map_or(Ok(answers), Err)
    }

    /// The message that answers one call.
    async fn answer_call(
        &self,
        step: &Step,
        key: &StepKey,
        (turn, n): (u32, usize),
        call: &Wanted,
        names: &Names,
    ) -> Result<Value, Halt> {
        let answer = match (&call.arguments, names.get(&call.name)) {
            _ if n >= CALLS => format!("error: not called: a turn may call {CALLS} tools"),
            (_, None) => format!("error: there is no tool `{}`", call.name),
            (Err(why), _) => format!("error: {why}"),
            (Ok(arguments), Some(tool)) => {
                let key = StepKey::new(format!("{key}.tool[{turn}.{n}]"));
                self.call_tool(step, key, tool, arguments).await?
            }
        };
        Ok(json!({"role": "tool", "tool_call_id": call.id, "content": answer}))
    }

    async fn call_tool(&self, step: &Step, key: StepKey, tool: &Tool, arguments: &Value) -> Result<String, Halt> {
        // A failure is an answer, and stays one for whoever takes the run up.
        let mut policy = StepPolicy { on_error: OnError::Continue, ..step.policy.clone() };
        let (kind, params) = match tool {
            Tool::Mcp { server, tool } => ("mcp", json!({"server": server, "tool": tool, "args": arguments})),
            Tool::Workflow { name, .. } => {
                policy.retry = RetryPolicy::never();
                let timeout = policy.timeout.take().map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                (CHILD, json!({"workflow": name, "input": arguments, "timeout_ms": timeout}))
            }
        };
        let params = move |_: u32| Ok(params.clone());
        let call = Call { key, kind, params: &params, policy: &policy, shape: plain_shape() };
        let done = self.runner.call(call).await?;
        let text = match done.error {
            Some(failure) => format!("error: {}", failure.message),
            None => match done.output.value()? {
                Value::String(text) => text,
                other => other.to_string(),
            },
        };
        Ok(match text.char_indices().nth(ANSWER) {
            Some((end, _)) => format!("{}… (cut: {} characters)", &text[..end], text.chars().count()),
            None => text,
        })
    }

    /// The policy of a turn: a failure that somebody catches is told to the agent, any other fails the run at once, and a resume
    /// tries the turn again.
    fn part(&self, step: &Step) -> StepPolicy {
        let on_error = if self.catches(step) { OnError::Catch } else { OnError::Fail };
        StepPolicy { on_error, ..step.policy.clone() }
    }

    fn catches(&self, step: &Step) -> bool {
        self.catches || step.policy.on_error == OnError::Continue
    }

    async fn part_done(&self, step: &Step, key: StepKey, call: Call<'_>) -> Result<Result<Payload, Failure>, Halt> {
        let done = self.runner.call(call).await?;
        match done.error {
            None if done.state == StepState::Completed => Ok(Ok(done.output)),
            Some(failure) if self.catches(step) => Ok(Err(failure)),
            Some(failure) => Err(Halt::Failed(StepFailure { key: Some(key), failure })),
            None => Ok(Err(Failure::permanent(code::INTERNAL, format!("step `{key}` ended without a result")))),
        }
    }
}

impl Agent {
    fn read(mut params: Value) -> Result<Self, Failure> {
        let mut take = |name: &str| params.get_mut(name).map(Value::take).filter(|v| !v.is_null());
        let schema = take("schema").map(Schema::compile).transpose();
        let schema =
            schema.map_err(|_| Failure::permanent(code::INVALID_PARAMS, "`schema` is no valid JSON Schema"))?;
        let mut messages = Vec::new();
        if let Some(schema) = &schema {
            let source = schema.source();
            let text = format!(
                "When you have what you need, answer with nothing but JSON that matches this JSON Schema:\n{source}"
            );
            messages.push(json!({"role": "system", "content": text}));
        }
        messages.extend(take("system").map(|text| json!({"role": "system", "content": text})));
        messages.extend(take("prompt").map(|text| json!({"role": "user", "content": text})));
        let tools = take("tools").unwrap_or_default();
        let tools = tools.as_array().into_iter().flatten().map(Tool::read).collect();
        let max_turns = take("max_turns").and_then(|n| n.as_u64()).and_then(|n| u32::try_from(n).ok());
        let more = ["temperature", "max_tokens"].into_iter().filter_map(|name| Some((name.to_owned(), take(name)?)));
        let more = more.collect();
        let model = take("model").unwrap_or_default();
        Ok(Self { model, messages, tools, schema, max_turns: max_turns.unwrap_or(1), more })
    }

    /// The answer's JSON, null where none is asked for; else what is wrong with it.
    fn answer(&self, text: &str) -> Result<Value, String> {
        let Some(schema) = &self.schema else { return Ok(Value::Null) };
        let trimmed = crate::steps::unfenced(text);
        let value: Value = serde_json::from_str(trimmed).map_err(|error| format!("the answer is no JSON: {error}"))?;
        schema.validate(&value, code::SCHEMA_MISMATCH).map_err(|failure| failure.message)?;
        Ok(value)
    }
}

/// The calls that a message asks for.
fn wanted(message: &Value) -> Vec<Wanted> {
    let calls = message.get("tool_calls").and_then(Value::as_array);
    let one = |call: &Value| {
        let text = call.pointer("/function/arguments");
        let arguments = match text {
            None | Some(Value::Null) => Ok(json!({})),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(json!({})),
            Some(Value::String(text)) => {
                serde_json::from_str(text).map_err(|error| format!("the arguments are no JSON: {error}"))
            }
            Some(value) => Ok(value.clone()),
        };
        let arguments = arguments.and_then(|value: Value| match value.is_object() {
            true => Ok(value),
            false => Err("the arguments are no JSON object".to_owned()),
        });
        let name = call.pointer("/function/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Wanted { id: call.get("id").cloned().unwrap_or_default(), name, arguments }
    };
    calls.into_iter().flatten().map(one).collect()
}

impl Tool {
    fn read(said: &Value) -> Self {
        let word = |said: &Value| said.as_str().unwrap_or_default().to_owned();
        match said {
            Value::Array(pair) => Self::Mcp {
                server: pair.first().map(word).unwrap_or_default(),
                tool: pair.get(1).map(word).unwrap_or_default(),
            },
            other => Self::Workflow {
                name: word(&other["workflow"]),
                description: other["description"].clone(),
                input: other["input"].clone(),
            },
        }
    }
}

/// What a model calls a tool: providers take letters, digits, `_` and `-` alone, and 64 of them.
fn called(tool: &Tool) -> String {
    let name = match tool {
        Tool::Mcp { server, tool } => format!("{server}__{tool}"),
        Tool::Workflow { name, .. } => name.clone(),
    };
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_turn_asks_for_is_read_whatever_the_model_makes_of_it() {
        let message = json!({"tool_calls": [
            {"id": "a", "function": {"name": "s__t", "arguments": "{\"x\": 1}"}},
            {"id": "b", "function": {"name": "s__t", "arguments": ""}},
            {"id": "c", "function": {"name": "s__t", "arguments": "{"}},
            {"id": "d", "function": {"name": "s__t", "arguments": "[1]"}},
            {"function": {}},
        ]});
        let all = wanted(&message);
        assert_eq!(all[0].arguments, Ok(json!({"x": 1})));
        assert_eq!(all[1].arguments, Ok(json!({})));
        assert!(all[2].arguments.as_ref().unwrap_err().contains("no JSON"));
        assert!(all[3].arguments.as_ref().unwrap_err().contains("no JSON object"));
        assert_eq!((all[4].name.as_str(), all.len()), ("", 5));
        assert!(wanted(&json!({"content": "x"})).is_empty());
    }

    #[test]
    fn a_tools_name_is_one_that_providers_take() {
        let name = |said: Value| called(&Tool::read(&said));
        assert_eq!(name(json!(["git-hub", "get.issue"])), "git-hub__get_issue");
        assert_eq!(name(json!(["s", "t".repeat(100)])).len(), 64);
        assert_eq!(name(json!({"workflow": "refund.order"})), "refund_order");
    }
}

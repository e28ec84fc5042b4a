//! A call that takes more than one exchange: a server that asks for input, and one that answers with a task.
//!
//! What is known of such a call is the step's memo: it is durable before a person is asked, and before a task is polled, so that
//! whoever takes the step up goes on with it. An answer is kept with the request that it answers: a server that has forgotten what it had asked
//! (it is started anew, its `requestState` has grown old) is called afresh, and is told again where it asks the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::definition::Schema;
use crate::model::{Class, Failure, code};
use crate::steps::step::{After, Flow, Question, Reply, StepCx};

use super::message::{Answer, RpcError};
use super::result;
use super::server::{Server, ToolCall};
use super::{Servers, TASK_LOOK};

/// Rounds of questions in one call: a server that asks for ever must not hold a run for ever.
const ROUNDS: u32 = 10;

/// What is known of a call that goes on.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Memo {
    /// How often the server has asked.
    rounds: u32,
    /// The task that it has answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    /// What it asks, by its own keys.
    requests: Map<String, Value>,
    /// What it wants to see again.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
    /// What has been answered, by the same keys.
    answers: Map<String, Value>,
    /// What was wrong with the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

/// A call on its way.
pub(super) struct Talk<'a> {
    server: &'a Server,
    all: &'a Servers,
    call: ToolCall<'a>,
    memo: Memo,
}

impl<'a> Talk<'a> {
    /// A call, or what an earlier activation has left of it.
    pub(super) fn new(server: &'a Server, all: &'a Servers, call: ToolCall<'a>, cx: &StepCx) -> Self {
        let memo = cx.kept.clone().and_then(|kept| serde_json::from_value(kept).ok()).unwrap_or_default();
        let mut talk = Self { server, all, call, memo };
        if let Some(reply) = &cx.reply {
            talk.take(reply);
        }
        talk
    }

    /// Goes on until there is a result, or something to be waited for.
    pub(super) async fn go(mut self) -> Result<Flow, Failure> {
        loop {
            if let Some(flow) = self.question()? {
                return Ok(flow);
            }
            let done = match self.memo.task.clone() {
                Some(task) => self.poll(&task).await,
                None => self.call().await,
            };
            match done {
                Ok(Some(flow)) => return Ok(flow),
                Ok(None) => {}
                // What people have said, and the task that works on, outlive a connection.
                Err(failure) if failure.class == Class::Transient && self.has_something() => {
                    return Ok(self.later(After::Failure(failure)));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Tells the server that its task is not wanted any more.
    pub(super) async fn cancel(server: &Server, all: &Servers, kept: &Value) {
        let Some(task) = kept.get("task").and_then(Value::as_str) else { return };
        if let Err(failure) = server.ask(all, "tasks/cancel", id(task), Some(task), Map::new()).await {
            tracing::warn!("the task `{task}` could not be cancelled: {failure}");
        }
    }

    fn later(&self, after: After) -> Flow {
        Flow::GoOn { keep: serde_json::to_value(&self.memo).unwrap_or_default(), after }
    }

    fn has_something(&self) -> bool {
        self.memo.task.is_some() || !self.memo.answers.is_empty()
    }

    /// One call: `None` when there is more to do.
    async fn call(&mut self) -> Result<Option<Flow>, Failure> {
        let mut params = self.call.params();
        if !self.memo.requests.is_empty() {
            params.insert("inputResponses".into(), self.responses().into());
        }
        if let Some(state) = &self.memo.state {
            params.insert("requestState".into(), state.clone());
        }
        let name = Some(self.call.tool);
        let mut said = match self.server.ask(self.all, "tools/call", params, name, self.call.meta.clone()).await? {
            Answer::Result(said) => said,
            Answer::Error(error) if self.memo.state.is_some() && is_forgotten(&error) => {
                (self.memo.state, self.memo.requests) = (None, Map::new());
                return self.next_round().map(|()| None);
            }
            Answer::Error(error) => return Err(self.server.refused(self.all, self.call.tool, &error).await),
        };
        match said.get("resultType").and_then(Value::as_str) {
            Some("input_required") => {
                self.memo.state = said.get_mut("requestState").map(Value::take).filter(|s| !s.is_null());
                self.memo.requests = requests(&mut said);
                self.next_round().map(|()| None)
            }
            Some("task") => {
                let task = said.get("taskId").and_then(Value::as_str);
                let task = task.ok_or_else(|| self.strange("answered with a task that has no `taskId`"))?;
                self.memo = Memo { task: Some(task.to_owned()), ..Memo::default() };
                Ok(Some(self.later(After::Now)))
            }
            None | Some("complete") => {
                self.server.output(self.all, self.call.tool, said).await.map(|o| Some(Flow::Done(o)))
            }
            Some(other) => Err(self.strange(&format!("answered with `{other}`, which stepd does not know"))),
        }
    }

    /// Looks after a task until it has ended, or asks something that is not answered yet.
    async fn poll(&mut self, task: &str) -> Result<Option<Flow>, Failure> {
        let mut told: Vec<String> = Vec::new();
        for look in 1_u64.. {
            let open: Map<String, Value> = self.responses();
            let fresh: Map<String, Value> = open.into_iter().filter(|(key, _)| !told.contains(key)).collect();
            if !fresh.is_empty() {
                told.extend(fresh.keys().cloned());
                let mut params = id(task);
                params.insert("inputResponses".into(), fresh.into());
                self.task_says("tasks/update", task, params).await?;
            }
            let mut said = self.task_says("tasks/get", task, id(task)).await?;
            self.memo.requests = Map::new();
            match said.get("status").and_then(Value::as_str).unwrap_or_default() {
                "completed" => {
                    let result = said.get_mut("result").map(Value::take).unwrap_or_default();
                    let done = self.server.output(self.all, self.call.tool, result).await;
                    return self.ended(done.map(|output| Some(Flow::Done(output))));
                }
                "failed" => {
                    let error = super::message::rpc_error(&said["error"]);
                    let failure = self.server.refused(self.all, self.call.tool, &error).await;
                    return self.ended(Err(failure));
                }
                // By whoever had this step before: it is wanted again.
                "cancelled" if look == 1 => return self.ended(Ok(None)),
                "cancelled" => return self.ended(Err(self.strange("has had its task cancelled"))),
                "input_required" => {
                    self.memo.requests = requests(&mut said);
                    if self.open().is_some() {
                        self.next_round()?;
                        return Ok(None);
                    }
                }
                _ => {}
            }
            let pause = said.get("pollIntervalMs").and_then(Value::as_u64).map_or(TASK_LOOK, Duration::from_millis);
            tokio::time::sleep(pause.clamp(Duration::from_millis(50), Duration::from_secs(60))).await;
        }
        Ok(None)
    }

    /// The task has ended: another attempt begins another one.
    fn ended<T>(&mut self, done: T) -> T {
        self.memo = Memo::default();
        done
    }

    async fn task_says(
        &mut self,
        method: &'static str,
        task: &str,
        params: Map<String, Value>,
    ) -> Result<Value, Failure> {
        match self.server.ask(self.all, method, params, Some(task), Map::new()).await? {
            Answer::Result(said) => Ok(said),
            Answer::Error(error) if error.code == -32602 => {
                let why = format!("does not know its task `{task}` any more: {}", error.message);
                let failure = Failure { class: Class::Transient, ..self.strange(&why) };
                self.ended(Err(failure))
            }
            Answer::Error(error) => Err(result::refused(self.server.name(), method, &error, false)),
        }
    }

    fn next_round(&mut self) -> Result<(), Failure> {
        self.memo.rounds += 1;
        match self.memo.rounds > ROUNDS {
            true => Err(self.strange(&format!("has asked for input {ROUNDS} times, and asks again"))),
            false => Ok(()),
        }
    }

    fn strange(&self, what: &str) -> Failure {
        Failure::permanent(code::MCP, format!("the tool `{}.{}` {what}", self.server.name(), self.call.tool))
    }

    /// What is answered to what is asked.
    fn responses(&self) -> Map<String, Value> {
        let answered = |(key, request): (&String, &Value)| Some((key.clone(), self.stored(key, request)?.clone()));
        self.memo.requests.iter().filter_map(answered).collect()
    }

    fn stored(&self, key: &str, request: &Value) -> Option<&Value> {
        let known = self.memo.answers.get(key)?;
        (known.get("schema") == Some(&schema(request))).then(|| known.get("response")).flatten()
    }

    /// The first request without an answer, and its key.
    fn open(&self) -> Option<(&String, &Value)> {
        self.memo.requests.iter().find(|(key, request)| self.stored(key, request).is_none())
    }

    /// The next question to a person, if there is one.
    fn question(&mut self) -> Result<Option<Flow>, Failure> {
        let Some((_, request)) = self.open() else { return Ok(None) };
        let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
        let form = request.pointer("/params/mode").and_then(Value::as_str).unwrap_or("form") == "form";
        if method != "elicitation/create" || !form {
            return Err(self.strange(&format!("asks for `{method}`, which stepd has not offered")));
        }
        let said = request.pointer("/params/message").and_then(Value::as_str).unwrap_or_default();
        let again = self.memo.wrong.as_ref().map(|why| format!(" (The last answer cannot be used: {why})"));
        let prompt = format!("{}.{} asks: {said}{}", self.server.name(), self.call.tool, again.unwrap_or_default());
        let schema = schema(request);
        let question = Question { prompt, schema, timeout: self.server.options().input };
        Ok(Some(self.later(After::Reply(question))))
    }

    /// Takes a person's answer to the question that was asked last.
    fn take(&mut self, reply: &Reply) {
        let Some((key, request)) = self.open().map(|(key, request)| (key.clone(), request.clone())) else { return };
        let schema = schema(&request);
        self.memo.wrong = None;
        let response = match reply {
            Reply::Given(content) => {
                // A schema that cannot be compiled is the server's mistake, and the server's to judge by.
                let misfit =
                    Schema::compile(schema.clone()).ok().and_then(|s| s.validate(content, code::SCHEMA_MISMATCH).err());
                if let Some(failure) = misfit {
                    self.memo.wrong = Some(failure.message.replacen("the output does not match its schema: ", "", 1));
                    return;
                }
                json!({"action": "accept", "content": content})
            }
            Reply::Declined => json!({"action": "decline"}),
            Reply::Silence => {
                tracing::warn!("nobody has answered what `{}` asks in time: it is declined", self.server.name());
                json!({"action": "decline"})
            }
        };
        self.memo.answers.insert(key, json!({"schema": schema, "response": response}));
    }
}

fn id(task: &str) -> Map<String, Value> {
    Map::from_iter([("taskId".to_owned(), task.into())])
}

fn requests(said: &mut Value) -> Map<String, Value> {
    match said.get_mut("inputRequests").map(Value::take) {
        Some(Value::Object(requests)) => requests,
        _ => Map::new(),
    }
}

/// What the answer to a request must match.
fn schema(request: &Value) -> Value {
    request.pointer("/params/requestedSchema").cloned().unwrap_or_else(|| json!({"type": "object"}))
}

/// Has the server forgotten what it had asked?
fn is_forgotten(error: &RpcError) -> bool {
    error.data.get("reason").and_then(Value::as_str) == Some("invalid_request_state")
}

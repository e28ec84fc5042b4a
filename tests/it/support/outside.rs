//! Stand-ins for what steps talk to: a model's endpoint and a server of tools, over HTTP, with answers that the test writes.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

/// What has been asked, in order.
type Heard = Arc<Mutex<Vec<Value>>>;

struct Answers<F> {
    heard: Heard,
    answer: F,
}

impl<F: Fn(&Value, usize) -> ResponseTemplate + Send + Sync> Respond for Answers<F> {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let n = {
            let mut heard = self.heard.lock().unwrap();
            heard.push(body.clone());
            heard.len() - 1
        };
        (self.answer)(&body, n)
    }
}

async fn serving(answer: impl Fn(&Value, usize) -> ResponseTemplate + Send + Sync + 'static) -> (MockServer, Heard) {
    let (server, heard) = (MockServer::start().await, Heard::default());
    Mock::given(matchers::any()).respond_with(Answers { heard: heard.clone(), answer }).mount(&server).await;
    (server, heard)
}

/// An endpoint of chat completions.
pub struct ModelServer {
    server: MockServer,
    heard: Heard,
}

impl ModelServer {
    /// `answer` is given the request and how many came before it.
    pub async fn start(answer: impl Fn(&Value, usize) -> ResponseTemplate + Send + Sync + 'static) -> Self {
        let (server, heard) = serving(answer).await;
        Self { server, heard }
    }

    /// The requests so far.
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }

    /// Its section of the configuration.
    pub fn section(&self, name: &str) -> String {
        format!(
            "[models.{name}]\nbase_url = \"{}/v1\"\nmodel = \"stand-in\"\nprice_input = 1.0\nprice_output = 2.0\n",
            self.server.uri()
        )
    }
}

/// An answer: 100 tokens in, 10 out.
pub fn says(text: &str) -> ResponseTemplate {
    completion(json!({"role": "assistant", "content": text}))
}

/// An answer that asks for calls of tools: name and arguments.
pub fn calls(tools: &[(&str, Value)]) -> ResponseTemplate {
    let one = |(n, (name, arguments)): (usize, &(&str, Value))| json!({"id": format!("call_{n}"), "type": "function", "function": {"name": name, "arguments": arguments.to_string()}});
    let calls: Vec<Value> = tools.iter().enumerate().map(one).collect();
    completion(json!({"role": "assistant", "content": null, "tool_calls": calls}))
}

fn completion(message: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }))
}

/// The text of the last message of a request.
pub fn last(request: &Value) -> String {
    let messages = request["messages"].as_array().unwrap();
    messages.last().unwrap()["content"].as_str().unwrap_or_default().to_owned()
}

/// A server of tools.
pub struct ToolServer {
    server: MockServer,
    heard: Heard,
}

impl ToolServer {
    /// `answer` is given a tool's name and its arguments; `Err` is the tool's own error. `slow` are tools that take a second.
    pub async fn start(
        tools: &'static [&'static str],
        slow: &'static [&'static str],
        answer: impl Fn(&str, &Value) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        let (server, heard) = serving(move |message, _| {
            let name = message["params"]["name"].as_str().unwrap_or_default();
            let result = match message["method"].as_str().unwrap_or_default() {
                "server/discover" => json!({"supportedVersions": ["2026-07-28"]}),
                "tools/list" => {
                    let schema = json!({"type": "object", "properties": {"key": {"type": "string"}}});
                    let tools: Vec<Value> =
                        tools.iter().map(|t| json!({"name": t, "description": t, "inputSchema": schema})).collect();
                    json!({"tools": tools})
                }
                _ => match answer(name, &message["params"]["arguments"]) {
                    Ok(value) => json!({"structuredContent": value, "content": []}),
                    Err(why) => json!({"isError": true, "content": [{"type": "text", "text": why}]}),
                },
            };
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            let pause = std::time::Duration::from_secs(u64::from(slow.contains(&name)));
            ResponseTemplate::new(200).set_body_json(body).set_delay(pause)
        })
        .await;
        Self { server, heard }
    }

    /// The calls of tools so far: name, arguments, idempotency key.
    pub fn heard(&self) -> Vec<(String, Value, String)> {
        let heard = self.heard.lock().unwrap();
        let call = |m: &Value| {
            let params = &m["params"];
            let key = params["_meta"]["dev.stepd/idempotencyKey"].as_str().unwrap().to_owned();
            (params["name"].as_str().unwrap().to_owned(), params["arguments"].clone(), key)
        };
        heard.iter().filter(|m| m["method"] == "tools/call").map(call).collect()
    }

    /// Its section of the configuration.
    pub fn section(&self, name: &str) -> String {
        format!("[mcp.{name}]\nurl = \"{}\"\n", self.server.uri())
    }
}

/// A server whose answers the test writes message by message: `Ok` is the result, `Err` the error. It has introduced itself already.
pub struct RpcServer {
    server: MockServer,
    heard: Heard,
}

impl RpcServer {
    /// `answer` is given a message, and how many of its method came before it.
    pub async fn start(answer: impl Fn(&Value, usize) -> Result<Value, Value> + Send + Sync + 'static) -> Self {
        Self::failing(answer, |_| false).await
    }

    /// As [`RpcServer::start`]; messages for which `down` holds are answered by no server, but by what stands before it.
    pub async fn failing(
        answer: impl Fn(&Value, usize) -> Result<Value, Value> + Send + Sync + 'static,
        down: impl Fn(&Value) -> bool + Send + Sync + 'static,
    ) -> Self {
        let counts = Mutex::new(std::collections::HashMap::<String, usize>::new());
        let (server, heard) = serving(move |message, _| {
            if down(message) {
                return ResponseTemplate::new(503);
            }
            let method = message["method"].as_str().unwrap_or_default();
            let n = {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(method.to_owned()).or_default();
                *count += 1;
                *count - 1
            };
            let mut body = json!({"jsonrpc": "2.0", "id": message["id"]});
            match method {
                "server/discover" => body["result"] = json!({"supportedVersions": ["2026-07-28"]}),
                "tools/list" => body["result"] = json!({"tools": [{"name": "work"}]}),
                _ => match answer(message, n) {
                    Ok(result) => body["result"] = result,
                    Err(error) => body["error"] = error,
                },
            }
            ResponseTemplate::new(200).set_body_json(body)
        })
        .await;
        Self { server, heard }
    }

    /// The parameters of all messages of a method.
    pub fn heard(&self, method: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|m| m["method"] == method).map(|m| m["params"].clone()).collect()
    }

    /// Its section of the configuration.
    pub fn section(&self, name: &str) -> String {
        format!("[mcp.{name}]\nurl = \"{}\"\n", self.server.uri())
    }
}

/// Servers of AFU-9: its own dialect, which names a tool by `tool` and knows no handshake.
pub struct Afu9Servers {
    server: MockServer,
    heard: Heard,
}

impl Afu9Servers {
    /// `answer` is given a tool's name and its arguments.
    pub async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let (server, heard) = serving(move |message, _| {
            let tool = message["params"]["tool"].as_str().unwrap_or_default();
            let text = answer(tool, &message["params"]["arguments"]).to_string();
            let result = match message["method"].as_str() {
                Some("tools/list") => json!({"tools": []}),
                _ => json!({"content": [{"type": "text", "text": text}]}),
            };
            ResponseTemplate::new(200).set_body_json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
        })
        .await;
        Self { server, heard }
    }

    /// The parameters of the calls so far.
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().iter().filter(|m| m["method"] == "tools/call").map(|m| m["params"].clone()).collect()
    }

    /// The configuration of servers of these names.
    pub fn sections(&self, names: &[&str]) -> String {
        let one = |name: &&str| format!("[mcp.{name}]\nurl = \"{}/\"\ndialect = \"afu9\"\n", self.server.uri());
        names.iter().map(one).collect()
    }
}

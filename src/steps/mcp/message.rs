//! JSON-RPC as MCP speaks it: what is sent in each era, and what an answer is.

use serde_json::{Map, Value, json};

use crate::telemetry::step_log::LogLevel;

/// The revision without sessions; each request says it.
pub(super) const MODERN: &str = "2026-07-28";

/// The revisions that begin with `initialize`, newest first.
pub(super) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// The server does not speak the revision that was named; `data.supported` has those that it does.
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// Errors that only a modern server gives.
pub(super) const MODERN_ERRORS: std::ops::RangeInclusive<i64> = -32022..=-32020;

/// What the server speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// 2026-07-28 and later: no session, every request stands for itself.
    Modern,
    /// `initialize` has been answered with this revision.
    Legacy { version: String },
    /// AFU-9's own dialect: `params.tool` in place of `params.name`, and no beginning.
    Afu9,
}

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub id: u64,
    pub method: &'static str,
    pub params: Map<String, Value>,
    /// The tool or the task, for the header that says it.
    pub name: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    Result(Value),
    Error(RpcError),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RpcError {
    pub code: i64,
    pub message: String,
    pub data: Value,
}

/// What a server sends by itself.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The answer to a request.
    Answer(u64, Answer),
    /// A request goes on.
    Progress(u64),
    /// Its tools have changed.
    ToolsChanged,
    /// What it has to say.
    Log(LogLevel, String),
    /// It asks something of us.
    Request(Value, String),
    Other,
}

impl Era {
    /// The message as it goes out. `meta` is what the attempt adds.
    /// The revision of the protocol; AFU-9's dialect has none.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Modern => Some(MODERN),
            Self::Legacy { version } => Some(version),
            Self::Afu9 => None,
        }
    }

    pub(super) fn message(&self, request: &Request, meta: Map<String, Value>) -> Value {
        let mut params = request.params.clone();
        match self {
            Self::Afu9 => {
                if let Some(name) = params.remove("name") {
                    params.insert("tool".into(), name);
                }
                let id = format!("req-{}", request.id);
                return json!({"jsonrpc": "2.0", "id": id, "method": request.method, "params": params});
            }
            Self::Modern => {
                let mut meta = meta;
                meta.insert("io.modelcontextprotocol/protocolVersion".into(), MODERN.into());
                meta.insert("io.modelcontextprotocol/clientInfo".into(), client());
                meta.insert("io.modelcontextprotocol/clientCapabilities".into(), capabilities());
                meta.insert("progressToken".into(), request.id.into());
                if request.method == "tools/call" {
                    // Unasked, a server of this era says nothing while it works.
                    meta.insert("io.modelcontextprotocol/logLevel".into(), "info".into());
                }
                params.insert("_meta".into(), meta.into());
            }
            Self::Legacy { .. } => {
                let mut meta = meta;
                meta.insert("progressToken".into(), request.id.into());
                params.insert("_meta".into(), meta.into());
            }
        }
        json!({"jsonrpc": "2.0", "id": request.id, "method": request.method, "params": params})
    }
}

/// What this client can do: people are asked by forms, and tasks are looked after.
fn capabilities() -> Value {
    json!({"elicitation": {"form": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}}})
}

/// Who asks.
pub(super) fn client() -> Value {
    json!({"name": "stepd", "version": env!("CARGO_PKG_VERSION")})
}

/// The message that says that a request is no longer waited for.
pub(super) fn cancelled(id: u64) -> Value {
    let params = json!({"requestId": id, "reason": "the attempt has ended"});
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
}

/// What is answered to a request of the server: a ping, or that this client has nothing to offer.
pub(super) fn reply(id: &Value, method: &str) -> Value {
    match method {
        "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
        _ => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "stepd offers nothing of that kind"}})
        }
    }
}

/// Reads one message of a server.
pub(super) fn read(mut message: Value) -> Incoming {
    let number = |id: &Value| match id {
        Value::String(text) => text.strip_prefix("req-").unwrap_or(text).parse().ok(),
        other => other.as_u64(),
    };
    let id = message.get("id").cloned().unwrap_or(Value::Null);
    let method = message.get("method").and_then(Value::as_str).map(str::to_owned);
    match method.as_deref() {
        Some("notifications/progress") => {
            let token = message.pointer("/params/progressToken").and_then(number);
            return token.map_or(Incoming::Other, Incoming::Progress);
        }
        Some("notifications/tools/list_changed") => return Incoming::ToolsChanged,
        Some("notifications/message") => return said(&message["params"]),
        Some(method) if !id.is_null() => return Incoming::Request(id, method.to_owned()),
        Some(_) => return Incoming::Other,
        None => {}
    }
    let Some(id) = number(&id) else { return Incoming::Other };
    if let Some(error) = message.get("error").filter(|e| !e.is_null()) {
        return Incoming::Answer(id, Answer::Error(rpc_error(error)));
    }
    match message.get_mut("result") {
        Some(result) => Incoming::Answer(id, Answer::Result(result.take())),
        None => Incoming::Other,
    }
}

/// A line of a server's log.
fn said(params: &Value) -> Incoming {
    let level = match params["level"].as_str() {
        Some("debug") => LogLevel::Debug,
        Some("warning") => LogLevel::Warn,
        Some("error" | "critical" | "alert" | "emergency") => LogLevel::Error,
        _ => LogLevel::Info,
    };
    let text = params["data"].as_str().map_or_else(|| params["data"].to_string(), str::to_owned);
    let logger = params["logger"].as_str().map(|logger| format!("{logger}: ")).unwrap_or_default();
    Incoming::Log(level, logger + &text)
}

/// The error of an answer that carries no id that we know.
pub(super) fn rpc_error(error: &Value) -> RpcError {
    RpcError {
        code: error.get("code").and_then(Value::as_i64).unwrap_or(0),
        message: error.get("message").and_then(Value::as_str).unwrap_or("no message").to_owned(),
        data: error.get("data").cloned().unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let params = json!({"name": "add", "arguments": {"a": 1}}).as_object().cloned().unwrap();
        Request { id: 7, method: "tools/call", params, name: Some("add".into()) }
    }

    #[test]
    fn each_era_is_asked_in_its_own_words() {
        let meta = || json!({"traceparent": "00-1"}).as_object().cloned().unwrap();
        let modern = Era::Modern.message(&request(), meta());
        assert_eq!(modern["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
        assert_eq!(modern["params"]["_meta"]["traceparent"], "00-1");
        let legacy = Era::Legacy { version: LEGACY[0].into() }.message(&request(), meta());
        assert_eq!(legacy["params"]["_meta"], json!({"traceparent": "00-1", "progressToken": 7}));
        let afu9 = Era::Afu9.message(&request(), meta());
        assert_eq!(afu9["params"], json!({"tool": "add", "arguments": {"a": 1}}));
    }

    #[test]
    fn a_message_is_an_answer_a_progress_a_request_or_nothing_to_us() {
        assert!(matches!(read(json!({"id": 7, "result": {}})), Incoming::Answer(7, Answer::Result(_))));
        assert!(matches!(read(json!({"id": "req-7", "result": {}})), Incoming::Answer(7, Answer::Result(_))));
        let error = json!({"id": 7, "error": {"code": -32601, "message": "no"}});
        assert!(matches!(read(error), Incoming::Answer(7, Answer::Error(RpcError { code: -32601, .. }))));
        let progress = json!({"method": "notifications/progress", "params": {"progressToken": 7, "progress": 1}});
        assert!(matches!(read(progress), Incoming::Progress(7)));
        assert!(matches!(read(json!({"id": "a", "method": "roots/list"})), Incoming::Request(_, _)));
        for other in [json!([]), json!(null), json!({"id": 7}), json!({"method": "x"}), json!({"id": "x", "result": 1})]
        {
            assert!(matches!(read(other.clone()), Incoming::Other), "{other}");
        }
    }
}

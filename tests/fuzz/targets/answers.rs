//! What servers answer: to an `http` step, to a model's client, to a client of tools. Real steps, over real sockets, with a server that
//! answers what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepd::definition::{self, Definition};
use stepd::engine::{Interpreter, MemoryJournal, Transition, Workflow, run};
use stepd::model::{Payload, RunId};
use stepd::steps::{
    HttpOptions, ModelProfile, Models, Registry, ServerOptions, Servers, StepOptions, Structured, standard_registry,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use super::journal::{Row, claimed, ports};
use super::{FIELD, Form, Fuzzed, Target, joined};

const WORDS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 429 Too Many Requests\r\n",
    "HTTP/1.1 503 x\r\n",
    "HTTP/1.1 307 x\r\nlocation: /\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "content-type: application/json\r\n",
    "content-type: text/event-stream\r\n",
    "content-length: 5\r\n",
    "transfer-encoding: chunked\r\n",
    "content-encoding: gzip\r\n",
    "retry-after: 1\r\n",
    "retry-after: Wed, 21 Oct 2015 07:28:30 GMT\r\n",
    "date: Wed, 21 Oct 2015 07:28:00 GMT\r\n",
    "mcp-session-id: s\r\n",
    "\r\n\r\n",
    "data: ",
    "\n\n",
    "event: message\n",
    ": ping\n",
    "id: 1\n",
    "\"id\":@ID@",
    "\"result\":",
    "\"error\":{\"code\":-32022,\"data\":{\"supported\":[\"2025-06-18\"]}}",
    "\"resultType\":\"task\"",
    "\"resultType\":\"input_required\"",
    "\"taskId\":\"t\"",
    "\"status\":\"completed\"",
    "\"isError\":true",
    "\"structuredContent\":{}",
    "\"content\":[{\"type\":\"text\",\"text\":\"x\"}]",
    "\"choices\":[]",
    "\"message\":{}",
    "\"finish_reason\":\"length\"",
    "\"usage\":{}",
    "\"tool_calls\":[]",
    "\"refusal\":\"no\"",
    "\"prompt_tokens\":18446744073709551615",
    "```json",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
];

const FORMS: &[Form] = &[Form::Text, Form::Text, Form::Text, Form::Text];

pub const HTTP: Target = Target {
    name: "http_answer",
    what: "answers to an http step",
    weight: 2,
    forms: FORMS,
    words: WORDS,
    make: || Box::new(Answers::new("http")),
};

pub const MODEL: Target = Target {
    name: "model_answer",
    what: "answers of models",
    weight: 2,
    forms: FORMS,
    words: WORDS,
    make: || Box::new(Answers::new("llm")),
};

pub const MCP: Target = Target {
    name: "mcp_answer",
    what: "answers of MCP servers, as JSON and as events",
    weight: 3,
    forms: FORMS,
    words: WORDS,
    make: || Box::new(Answers::new("mcp")),
};

/// Nobody waits longer for such a server; what does its work without waiting is measured by itself.
const PATIENCE: Duration = Duration::from_millis(40);

struct Answers {
    kind: &'static str,
    runtime: Runtime,
    said: Arc<Mutex<VecDeque<Vec<u8>>>>,
    registry: Registry,
    models: Arc<Models>,
    servers: Arc<Servers>,
    url: String,
    n: u64,
}

impl Answers {
    fn new(kind: &'static str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let said = Arc::<Mutex<VecDeque<Vec<u8>>>>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, said.clone()));
        let (models, servers) = (Arc::<Models>::default(), Arc::<Servers>::default());
        let http = HttpOptions { allow: vec!["127.0.0.1".parse().unwrap()], max_body: 1 << 20 };
        let options = StepOptions { http, servers: servers.clone(), models: models.clone(), ..StepOptions::default() };
        let registry = runtime.block_on(async { standard_registry(options) });
        Self { kind, runtime, said, registry, models, servers, url, n: 0 }
    }

    /// A server and a model of which nothing is known from earlier inputs.
    fn forget(&mut self) {
        self.n += 1;
        let url: reqwest::Url = self.url.parse().unwrap();
        let (long, none) = (Duration::from_secs(5), BTreeMap::new());
        let server = ServerOptions {
            command: Vec::new(),
            env: none.clone(),
            url: Some(url.clone()),
            headers: none.clone(),
            afu9: self.n.is_multiple_of(5),
            idle: long,
            longest: long,
            input: Duration::from_secs(self.n),
            rest: Duration::ZERO,
            max_message: 1 << 20,
        };
        self.servers.replace(BTreeMap::from([("s".to_owned(), server)]));
        let structured =
            [Structured::Schema, Structured::Json, Structured::Prompt][usize::try_from(self.n % 3).unwrap()];
        let profile = ModelProfile {
            base_url: url,
            model: format!("m{}", self.n),
            api_key: None,
            headers: none,
            price_input: 1.0,
            price_output: 2.0,
            price_cached: 0.5,
            timeout: long,
            rest: Duration::ZERO,
            structured,
        };
        self.models.replace(BTreeMap::from([("m".to_owned(), profile)]));
    }

    /// A workflow of one step, which asks the server.
    fn workflow(&self) -> Definition {
        let step = match (self.kind, self.n.is_multiple_of(2)) {
            ("http", _) => format!("http: GET {}", self.url),
            ("llm", true) => "llm: m, prompt: x".to_owned(),
            ("llm", false) => {
                "llm: m, prompt: x, schema: {type: object, required: [a], properties: {a: {type: integer}}}".to_owned()
            }
            _ => "mcp: s.add, args: {a: 1}".to_owned(),
        };
        let text = format!("name: w\nresume: never\nretry: {{max_attempts: 1}}\nsteps: [{{id: a, {step}}}]\n");
        definition::load("w", &text).unwrap_or_else(|wrong| panic!("{wrong}"))
    }
}

/// Answers each request with what is next to be said; with nothing left, not at all.
async fn serve(listener: TcpListener, said: Arc<Mutex<VecDeque<Vec<u8>>>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(answer(stream, said.clone()));
    }
}

async fn answer(mut stream: TcpStream, said: Arc<Mutex<VecDeque<Vec<u8>>>>) {
    let (mut request, mut chunk) = (Vec::new(), [0; 4_096]);
    while !is_whole(&request) {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => request.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let Some(text) = said.lock().unwrap().pop_front() else { return };
    let text = with_id(&text, &request);
    let _ = stream.write_all(&text).await;
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    request.len() >= end + 4 + length.unwrap_or(0)
}

/// `@ID@` is the id of the request.
fn with_id(text: &[u8], request: &[u8]) -> Vec<u8> {
    let request = String::from_utf8_lossy(request);
    let id = request.split("\"id\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).unwrap_or("0").to_owned();
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(4).position(|w| w == b"@ID@") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(id.as_bytes());
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    out
}

impl Fuzzed for Answers {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let json = |body: &str| {
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let open = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
        let events = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{body}");
        let refused = |status: u16, body: &str| {
            format!("HTTP/1.1 {status} x\r\nretry-after: 2\r\ncontent-type: application/json\r\n\r\n{body}")
        };
        let chat = r#"{"id":"1","model":"m","choices":[{"message":{"role":"assistant","content":"{\"a\": 1}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":1}}}"#;
        let parts = r#"{"choices":[{"message":{"content":[{"type":"text","text":"```json\n{\"a\":2}\n```"}],"tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"length"}]}"#;
        let met = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"supportedVersions":["2026-07-28"]}}"#;
        let old = r#"{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32601,"message":"no"}}"#;
        let init = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}"#;
        let done = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"{\"x\":1}"}],"structuredContent":{"result":3}}}"#;
        let task = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"resultType":"task","taskId":"t","pollIntervalMs":50}}"#;
        let ended =
            r#"{"jsonrpc":"2.0","id":@ID@,"result":{"status":"completed","result":{"content":[],"isError":true}}}"#;
        let asks = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object"}}}},"requestState":"s"}}"#;
        let list = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"tools":[{"name":"add","inputSchema":{"type":"object"}}],"nextCursor":"2"}}"#;
        let unknown = r#"{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32602,"message":"Unknown tool: add"}}"#;
        let stream = |message: &str| {
            events(&format!(
                ": hello\nevent: message\nid: 1\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":@ID@}}}}\n\ndata: {{\"method\":\"notifications/message\",\"params\":{{\"level\":\"error\",\"data\":{{}}}}}}\n\ndata: {message}\n\n"
            ))
        };
        match self.kind {
            "http" => vec![
                json(r#"{"a": 1, "n": 1e400}"#).into_bytes(),
                open("plain").into_bytes(),
                refused(503, "{}").into_bytes(),
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
                b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                b"HTTP/1.0 302 x\r\nlocation: http://169.254.169.254/\r\n\r\n".to_vec(),
            ],
            "llm" => vec![
                json(chat).into_bytes(),
                joined(&[&json(parts), &json(chat)]),
                refused(429, r#"{"error":{"code":"insufficient_quota","message":"pay"}}"#).into_bytes(),
                refused(400, r#"{"error":{"type":"context_length_exceeded","message":"too long"}}"#).into_bytes(),
                joined(&[&json(&chat.replace("\\\"a\\\": 1", "")), &json(&chat.replace("stop", "content_filter"))]),
            ],
            _ => vec![
                joined(&[&json(met), &json(done)]),
                joined(&[&json(met), &stream(done)]),
                joined(&[&json(old), &json(init), &json(done), &json(done)]),
                joined(&[&json(met), &json(task), &json(ended)]),
                joined(&[&json(met), &json(asks)]),
                joined(&[&json(met), &json(unknown), &json(list), &json(list)]),
                joined(&[&refused(404, old), &stream(init), &stream(done)]),
                joined(&[&json(done)]),
            ],
        }
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        self.forget();
        *self.said.lock().unwrap() = input.split(|b| *b == FIELD).map(<[u8]>::to_vec).collect();
        let journal = Arc::<MemoryJournal>::default();
        let workflow: Arc<dyn Workflow> = Arc::new(Interpreter::new(Arc::new(self.workflow()), Arc::default()));
        let ports = Arc::new(ports(self.registry.clone(), journal.clone()));
        let claimed = Box::new(claimed(Payload::null(), &Row { epoch: 1, ..Row::default() }));
        let work = run(claimed, Ok(workflow), ports, Arc::default());
        let _ = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        match journal.run(RunId(uuid::Uuid::nil())).transitions.last() {
            Some(Transition::Fail { failure }) if failure.message.len() > 100_000 => {
                Err(format!("a message of {} bytes", failure.message.len()))
            }
            Some(Transition::Fail { failure }) if ["internal", "definition"].contains(&&*failure.code) => {
                Err(format!("{}: {}", failure.code, failure.message))
            }
            _ => Ok(()),
        }
    }
}

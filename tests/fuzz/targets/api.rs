//! The HTTP server: requests as bytes on a socket, with a real database behind it that has runs in many states.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stepd::app::config::{HttpHook, HttpToken};
use stepd::app::{Config, Daemon, gauges, site};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Form, Fuzzed, Target, fields, joined};
use crate::support::{Db, Files, SOON, Spec};

pub const REQUEST: Target = Target {
    name: "request",
    what: "requests to the HTTP API and the dashboard, as bytes on a socket",
    weight: 5,
    forms: &[Form::Lines, Form::Json],
    words: &[
        "GET /api/v1/runs?state=failed,resuming&limit=20 HTTP/1.1",
        "POST /api/v1/runs HTTP/1.1",
        "PUT /api/v1/queues/default/limit HTTP/1.1",
        "DELETE / HTTP/1.1",
        "GET /metrics HTTP/1.1",
        "GET / HTTP/1.1",
        "?cursor=",
        "?limit=",
        "&label=a=b",
        "&state=",
        "&since=",
        "&until=",
        "?under=docs",
        "&after=",
        "?by=label&label=",
        "?key=",
        "?a=",
        "&b=",
        "?outputs=true",
        "?days=",
        "Accept: text/event-stream",
        "Authorization: Bearer x",
        "Last-Event-ID: 1-0-0-",
        "Cookie: stepd_session=x",
        "If-None-Match: *",
        "Range: bytes=0-1",
        "Accept-Encoding: gzip",
        "Content-Type: application/json",
        "Content-Type: multipart/form-data",
        "Transfer-Encoding: chunked",
        "Origin: http://a",
        "Sec-Fetch-Site: cross-site",
        "Host: a",
        "Upgrade: websocket",
        "X-Forwarded-For: ::1",
        "Expect: 100-continue",
        "workflow",
        "input",
        "labels",
        "priority",
        "run_at",
        "unique_key",
        "reason",
        "answer",
        "payload",
        "max_running",
        "from",
        "ids",
        "filter",
        "state",
        "queue",
        "expected",
        "traceparent",
        "session_id",
        "name",
        "steps",
        "asks",
        "fails",
        "9999-12-31T23:59:59Z",
        "infinity",
        "%2e%2e%2f",
    ],
    make: || Box::new(Site::new(false)),
};

pub const HOOK: Target = Target {
    name: "webhook",
    what: "webhooks: bodies that are signed, and bodies and signatures that are not",
    weight: 2,
    forms: &[Form::Text, Form::Lines, Form::Json],
    words: &[
        "plain",
        "timed",
        "event",
        "sign",
        "late",
        "x-hub-signature-256: sha256=",
        "stripe-signature: t=1,v1=",
        "webhook-id: x",
        "x-github-delivery: x",
        "n",
        "id",
        "when",
        "key",
        "t=18446744073709551615,v1=00",
        "==",
        "content-encoding: gzip",
        "?a=b",
    ],
    make: || Box::new(Site::new(true)),
};

const ASKS: &str = "name: asks\ninput: {required: [n], properties: {n: {type: integer}}}\nsteps:\n  - {id: one, set: '${{ input.n }}'}\n  - {id: ok, approve: 'Go on with ${{ input.n }}?'}\n  - {id: two, set: 2}\n";
const FAILS: &str = "name: fails\nschedule: {cron: '0 3 * * *'}\nresume: never\nsteps: [{id: a, run: exit 3, retry: {max_attempts: 1}}]\n";
const MAPS: &str =
    "name: maps\nsteps: [{id: docs, map: '${{ range(30) | list }}', steps: [{id: text, set: '${{ item }}'}]}]\n";
const DOCUMENT: &str = r#"{"name": "doc", "steps": [{"name": "a", "tool": "t.x", "params": {}}]}"#;

/// What a hook's messages are signed with.
const SECRET: &str = "It's a Secret to Everybody";

struct Site {
    hooks: bool,
    address: SocketAddr,
    paths: Vec<(String, String)>,
    ids: Vec<String>,
    /// Each request is another client's.
    n: u32,
    _runtime: Runtime,
    _stop: watch::Sender<bool>,
}

/// Runs in every state that somebody can ask for.
async fn filled() -> (Db, Vec<String>) {
    let (db, files) = (Db::new().await, Files::new([ASKS, FAILS, MAPS]));
    std::fs::write(files.workflows().join("doc.json"), DOCUMENT).unwrap();
    let mut worker = Spec::new(&db, &files).ready().await;
    let mut ids = Vec::new();
    for (workflow, input, state) in [
        ("asks", r#"{"n": 1}"#, "waiting"),
        ("asks", "{}", "failed"),
        ("fails", "{}", "failed"),
        ("maps", "{}", "completed"),
        ("doc", "{}", "failed"),
    ] {
        let run = db.enqueue(workflow, input).await;
        db.reaches(&run, state, SOON).await;
        ids.push(run);
    }
    db.exec("INSERT INTO stepd.jobs (workflow, input, run_at, labels) VALUES ('asks', '{\"n\": 1}', now() + interval '1 day', '{\"of\": \"shop\"}')").await;
    worker.drain(SOON).await;
    (db, ids)
}

fn config(url: &str) -> Config {
    let mut config = Config { http_listen: "127.0.0.1:0".into(), http_documents: "on".into(), ..Config::default() };
    config.use_database(url);
    let sha256: String = Sha256::digest(b"ops").iter().map(|b| format!("{b:02x}")).collect();
    let token = HttpToken { sha256: Some(sha256), scope: Some("operate".into()) };
    config.http_tokens.insert("ops".into(), token);
    let hook = |f: fn(&mut HttpHook)| {
        let mut hook = HttpHook { secret: Some(SECRET.into()), ..HttpHook::default() };
        f(&mut hook);
        hook
    };
    config.http_hooks = BTreeMap::from([
        (
            "plain".to_owned(),
            hook(|h| {
                h.workflow = Some("asks".into());
                h.input = Some("${{ {'n': body.n} }}".into());
                h.unique_key = Some("${{ body.key | default('k') }}".into());
                h.when = Some("${{ body.when | default(true) }}".into());
            }),
        ),
        (
            "timed".to_owned(),
            hook(|h| {
                h.event = Some("told".into());
                h.signed = Some("time_and_body".into());
            }),
        ),
        (
            "event".to_owned(),
            hook(|h| {
                h.event = Some("told".into());
                h.delivery = Some("${{ headers['webhook-id'] | default(body.id) }}".into());
                h.input = Some("${{ [body, headers, query] }}".into());
            }),
        ),
    ]);
    config
}

impl Site {
    fn new(hooks: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (address, ids) = runtime.block_on(async {
            let (db, ids) = filled().await;
            let config = config(&db.url);
            let database = Daemon::database(&config).unwrap();
            let metrics = gauges::of_process(&database);
            let ready = Arc::new(|| Ok(true));
            let bound = site::bind(&config, &database, ready, Arc::default(), metrics, stopped).await.unwrap().unwrap();
            let address = bound.address();
            tokio::spawn(bound.serve());
            (address, ids)
        });
        let mut site = Self { hooks, address, paths: Vec::new(), ids, n: 0, _runtime: runtime, _stop: stop };
        site.paths = site.described();
        site
    }

    /// Every method and path of the API's own description.
    fn described(&mut self) -> Vec<(String, String)> {
        let answer =
            self.ask(b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", SOON);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let start = body.find('{').unwrap_or(0);
        let mut stream = serde_json::Deserializer::from_str(&body[start..]).into_iter::<Value>();
        let api = stream.next().and_then(Result::ok).expect("the API describes itself");
        let of = |(path, methods): (&String, &Value)| -> Vec<(String, String)> {
            methods.as_object().unwrap().keys().map(|m| (m.to_uppercase(), path.clone())).collect()
        };
        api["paths"].as_object().unwrap().iter().flat_map(of).collect()
    }

    /// Sends bytes; what comes back until the other side has closed, or the time is over.
    fn ask(&self, request: &[u8], patience: Duration) -> Vec<u8> {
        let began = Instant::now();
        let mut answer = Vec::new();
        let Ok(mut stream) = TcpStream::connect_timeout(&self.address, Duration::from_secs(10)) else { return answer };
        let _ = stream.set_read_timeout(Some(patience.min(Duration::from_millis(500))));
        if stream.write_all(request).is_err() {
            return answer;
        }
        let mut chunk = [0; 16_384];
        while began.elapsed() < patience && answer.len() < 1 << 20 {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        answer
    }

    fn request(&self, input: &[u8]) -> (Vec<u8>, Duration) {
        let [head, body] = fields(input);
        if let Some(raw) = head.strip_prefix('!') {
            let mut bytes = raw.replace('\n', "\r\n").into_bytes();
            bytes.extend_from_slice(body.as_bytes());
            return (bytes, Duration::from_millis(20));
        }
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        // What has no end, or waits for a run's, or for the rest of a body, is not waited for.
        let waits = ["stream", "/ws", "execute", "wait", "upgrade", "expect", "transfer-encoding"];
        let endless = waits.iter().any(|w| head.to_lowercase().contains(w));
        let patience = Duration::from_millis(if endless { 30 } else { 8_000 });
        let mut out = format!("{first}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        let (a, b, c) = (self.n >> 16 & 0xff, self.n >> 8 & 0xff, self.n & 0xff);
        out.push_str(&format!("X-Forwarded-For: 10.{a}.{b}.{c}\r\n"));
        if !head.contains("Authorization") {
            out.push_str("Authorization: Bearer ops\r\n");
        }
        for line in lines.filter(|l| !l.is_empty() && !l.to_lowercase().starts_with("content-length")) {
            out.push_str(line);
            out.push_str("\r\n");
        }
        out.push_str("\r\n");
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(body.as_bytes());
        (bytes, patience)
    }

    /// A webhook: signed as its hook wants it where the first field says so.
    fn webhook(&self, input: &[u8]) -> (Vec<u8>, Duration) {
        let [place, headers, body] = fields(input);
        let (signs, name) = place.split_once(' ').unwrap_or(("", &place));
        let mac = |parts: &[&[u8]]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            parts.iter().for_each(|p| mac.update(p));
            mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let now = chrono::Utc::now().timestamp().to_string();
        let signature = match (signs, name.starts_with("timed")) {
            ("sign", true) => {
                format!("\nstripe-signature: t={now},v1={}", mac(&[now.as_bytes(), b".", body.as_bytes()]))
            }
            ("sign", false) => format!("\nx-hub-signature-256: sha256={}", mac(&[body.as_bytes()])),
            _ => String::new(),
        };
        let head = format!("POST /hooks/{name} HTTP/1.1{signature}\n{headers}");
        self.request(&joined(&[&head, &body]))
    }
}

impl Fuzzed for Site {
    fn seeds(&self) -> Vec<Vec<u8>> {
        if self.hooks {
            return ["sign plain", "sign timed", "sign event", "plain", "timed", "event?a=b"]
                .iter()
                .flat_map(|place| {
                    ["webhook-id: 7", "x-github-delivery: 8\nx-hub-signature-256: sha256=00"].map(|h| (place, h))
                })
                .map(|(place, headers)| {
                    joined(&[place, headers, r#"{"n": 1, "key": "k", "id": "evt_1", "when": true}"#])
                })
                .collect();
        }
        let mut all = Vec::new();
        for (n, (method, path)) in self.paths.iter().enumerate() {
            let path = path.replace("{id}", &self.ids[n % self.ids.len()]).replace("{verb}", "pause");
            let path = path.replace("{name}", "default").replace("{workflow}", "fails").replace("{key}", "one");
            let path = match path.as_str() {
                "/api/v1/compare" => format!("{path}?a={}&b={}", self.ids[0], self.ids[1]),
                _ => path,
            };
            let body = match method.as_str() {
                "GET" => "",
                _ if path.ends_with("/runs") => {
                    r#"{"workflow": "asks", "input": {"n": 1}, "labels": {"a": "b"}, "priority": 5, "run_at": "2026-07-01T12:00:00Z"}"#
                }
                _ => {
                    r#"{"reason": "x", "name": "go", "payload": {"a": 1}, "step": "ok", "answer": {"a": true}, "max_running": 3, "from": "one", "ids": []}"#
                }
            };
            all.push(joined(&[
                &format!("{method} {path} HTTP/1.1\nContent-Type: application/json\nAccept: */*"),
                body,
            ]));
        }
        for path in [
            "/",
            "/metrics",
            "/health",
            "/runs",
            "/app.js",
            "/api/v1/runs?label=of=shop&limit=2",
            "/api/v1/runs?state=failed&since=1d",
        ] {
            all.push(joined(&[&format!("GET {path} HTTP/1.1\nAccept: text/html"), ""]));
        }
        all.push(joined(&["!GET /api/v1/runs HTTP/1.1\nHost: localhost\n\nGET / HTTP/1.1\nHost: localhost\n\n", ""]));
        all
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        self.n = self.n.wrapping_add(1);
        let (request, patience) = if self.hooks { self.webhook(input) } else { self.request(input) };
        let answer = self.ask(&request, patience);
        let status = String::from_utf8_lossy(&answer[..answer.len().min(16)]).into_owned();
        let status = status.split(' ').nth(1).unwrap_or_default();
        // Postgres may be away, and a webhook's sender is told so.
        match status.starts_with('5') && status != "503" {
            true => {
                let first = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
                let first = first.lines().next().unwrap_or_default().to_owned();
                Err(format!("an answer {status} to {first}"))
            }
            false => Ok(()),
        }
    }
}

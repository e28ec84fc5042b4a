//! A receiver of traces whose behaviour the test chooses.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::read::GzDecoder;
use prost::Message as _;
use serde_json::Value;
use stepd::telemetry::traces::otlp::{Request as Otlp, Span};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

/// A request, unpacked.
#[derive(Clone)]
pub struct Heard {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub packed: Vec<u8>,
    pub body: Vec<u8>,
    pub taken: bool,
}

/// How it answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    Takes,
    Answers(u16),
    Hangs,
}

struct Ear {
    heard: Arc<Mutex<Vec<Heard>>>,
    mood: Arc<Mutex<Mood>>,
}

impl Respond for Ear {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut body = Vec::new();
        GzDecoder::new(&request.body[..]).read_to_end(&mut body).unwrap();
        let headers = request.headers.iter();
        let headers = headers.map(|(name, v)| (name.to_string(), v.to_str().unwrap().to_owned())).collect();
        let mood = *self.mood.lock().unwrap();
        let heard = Heard {
            path: request.url.path().to_owned(),
            headers,
            packed: request.body.clone(),
            body,
            taken: mood == Mood::Takes,
        };
        self.heard.lock().unwrap().push(heard);
        match mood {
            Mood::Takes => ResponseTemplate::new(200),
            Mood::Answers(status) => ResponseTemplate::new(status).set_body_string("not now"),
            Mood::Hangs => ResponseTemplate::new(200).set_delay(Duration::from_secs(120)),
        }
    }
}

pub struct Collector {
    server: MockServer,
    heard: Arc<Mutex<Vec<Heard>>>,
    mood: Arc<Mutex<Mood>>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap()).await
    }

    /// On a port that others knew before it was there.
    pub async fn on(listener: TcpListener) -> Self {
        let server = MockServer::builder().listener(listener).start().await;
        let (heard, mood) = (Arc::<Mutex<Vec<Heard>>>::default(), Arc::new(Mutex::new(Mood::Takes)));
        let ear = Ear { heard: heard.clone(), mood: mood.clone() };
        Mock::given(matchers::method("POST")).respond_with(ear).mount(&server).await;
        Self { server, heard, mood }
    }

    pub fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// `http://127.0.0.1:4711`
    pub fn place(&self) -> String {
        self.server.uri()
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The spans that it has taken, read by stepd's own messages.
    pub fn spans(&self) -> Vec<Span> {
        let taken = self.heard().into_iter().filter(|h| h.taken);
        let requests = taken.map(|h| Otlp::decode(&h.body[..]).unwrap());
        let of_resources = requests.flat_map(|r| r.resource_spans);
        of_resources.flat_map(|r| r.scope_spans).flat_map(|s| s.spans).map(|s| Span::decode(s).unwrap()).collect()
    }

    /// The roots among them: the runs, by their ids.
    pub fn runs(&self) -> Vec<String> {
        let roots = self.spans().into_iter().filter(|s| s.parent_span_id.is_empty());
        roots.map(|s| uuid::Uuid::from_slice(&s.trace_id).unwrap().to_string()).collect()
    }

    /// The spans that it has taken, read by what OpenTelemetry publishes.
    pub fn read_by(&self, python: &Path, folder: &Path) -> Vec<Value> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/published/otlp.py");
        let mut command = Command::new(python);
        command.arg(script);
        for (n, heard) in self.heard().into_iter().filter(|h| h.taken).enumerate() {
            let file = folder.join(format!("{n}.otlp"));
            std::fs::write(&file, heard.body).unwrap();
            command.arg(file);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

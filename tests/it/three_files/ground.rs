//! Where the three workflows run: their tables, their services, their configuration.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use crate::support::{Db, Files, SOON, Spec, Worker, wait_until};

pub const FULFIL: &str = include_str!("../../../examples/fulfil_order.yaml");
pub const INDEX: &str = include_str!("../../../examples/index_documents.yaml");
pub const BACKUP: &str = include_str!("../../../examples/nightly_backup.yaml");

/// The child that `fulfil_order` starts when it has failed: it tells what it was told.
const NOTIFY: &str = r#"
name: notify_ops
steps:
  - id: tell
    sql: INSERT INTO app.notices VALUES ($1, $2)
    params: ["${{ input.run }}", "${{ input.error }}"]
"#;

/// The tables of the application; what is written to them is counted.
const TABLES: &str = "
CREATE SCHEMA app;
CREATE TABLE app.orders (id bigint PRIMARY KEY, sku text, qty int, total_cents int, status text, tracking text CHECK (tracking <> 'lost'));
CREATE TABLE app.facts (doc text PRIMARY KEY, facts jsonb);
CREATE TABLE app.notices (run text, error jsonb);
CREATE TABLE app.written (what text);
CREATE FUNCTION app.count_order() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO app.written VALUES ('order ' || new.id); RETURN NULL; END $$;
CREATE FUNCTION app.count_doc() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO app.written VALUES ('doc ' || new.doc); RETURN NULL; END $$;
CREATE TRIGGER counted AFTER UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.count_order();
CREATE TRIGGER counted AFTER INSERT OR UPDATE ON app.facts FOR EACH ROW EXECUTE FUNCTION app.count_doc();
";

/// A request that the services were sent.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `PUT /reservations/…`
    pub what: String,
    pub key: String,
    pub body: String,
}

/// What the services do with requests in which a text stands (method, path, key, body), instead of saying 200.
#[derive(Clone, Debug)]
struct Rule {
    text: String,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Keep it waiting, for longer than any test lasts.
    Never,
    /// This status, always.
    Status(u16),
    /// This status, once.
    Once(u16),
}

#[derive(Default)]
struct Heard {
    asked: Vec<Asked>,
    rules: Vec<Rule>,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Heard>>);

impl Respond for Memory {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let key = request.headers.get("idempotency-key").map(|k| k.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = String::from_utf8(request.body.clone()).unwrap();
        let what = format!("{} {}", request.method, request.url.path());
        let whole = format!("{what} {key} {body}");
        let mut heard = self.0.lock().unwrap();
        heard.asked.push(Asked { what, key, body });
        let fine = ResponseTemplate::new(200).set_body_json(serde_json::json!({"ok": true}));
        let Some(place) = heard.rules.iter().position(|rule| whole.contains(&rule.text)) else { return fine };
        match heard.rules[place].answer {
            Answer::Never => fine.set_delay(Duration::from_secs(300)),
            Answer::Status(status) => ResponseTemplate::new(status),
            Answer::Once(status) => {
                heard.rules.remove(place);
                ResponseTemplate::new(status)
            }
        }
    }
}

/// Stock, payment and health checks in one server.
pub struct Services {
    server: MockServer,
    memory: Memory,
}

impl Services {
    async fn start() -> Self {
        let (server, memory) = (MockServer::start().await, Memory::default());
        Mock::given(matchers::any()).respond_with(memory.clone()).mount(&server).await;
        Self { server, memory }
    }

    /// From now on, requests in which the text stands are answered like this.
    pub fn answer(&self, text: impl Into<String>, answer: Answer) {
        self.memory.0.lock().unwrap().rules.push(Rule { text: text.into(), answer });
    }

    /// All requests are answered at once, and well.
    pub fn recover(&self) {
        self.memory.0.lock().unwrap().rules.clear();
    }

    /// The requests in which a text stands.
    pub fn asked(&self, text: &str) -> Vec<Asked> {
        let heard = self.memory.0.lock().unwrap();
        let holds = |a: &&Asked| format!("{} {} {}", a.what, a.key, a.body).contains(text);
        heard.asked.iter().filter(holds).cloned().collect()
    }

    /// Waits until something has been asked.
    pub async fn hears(&self, text: &str) {
        wait_until(&format!("the services hear {text}"), SOON, async || !self.asked(text).is_empty()).await;
    }
}

/// A database with the tables, a folder with the workflows, the services.
pub struct Ground {
    pub db: Db,
    pub files: Files,
    pub services: Services,
}

impl Ground {
    pub async fn new() -> Self {
        let (db, files, services) = (Db::new().await, Files::new([NOTIFY]), Services::start().await);
        db.exec(TABLES).await;
        std::fs::create_dir(files.path("backup")).unwrap();
        std::fs::create_dir(files.path("bin")).unwrap();
        for (file, text) in [("fulfil.yaml", FULFIL), ("index.yaml", INDEX), ("backup.yaml", BACKUP)] {
            let mut text = text.replace("/backup", "@DIR@/backup");
            for host in ["https://stock.internal", "https://pay.internal", "https://hc.internal"] {
                text = text.replace(host, &services.server.uri());
            }
            files.write(file, &text);
        }
        let ground = Self { db, files, services };
        ground.configure("");
        ground
    }

    /// Sections of the configuration besides what all of the workflows need.
    pub fn configure(&self, sections: &str) {
        let text = format!("http_allow = ['127.0.0.1']\n[secrets]\nbackup_dsn = '{}'\n{sections}", self.db.url);
        std::fs::write(self.files.path("stepd.toml"), text).unwrap();
    }

    /// A daemon's spec. Programs in the folder `bin` come before the machine's.
    pub fn spec(&self) -> Spec {
        let path = format!("{}:{}", self.files.path("bin").display(), std::env::var("PATH").unwrap());
        let config = self.files.path("stepd.toml").display().to_string();
        Spec::new(&self.db, &self.files).env("PATH", path).arg("--config").arg(&config)
    }

    pub async fn worker(&self) -> Worker {
        self.spec().ready().await
    }

    /// Puts a script before a program of the machine.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.files.path("bin").join(name);
        let script = script.replace("@DIR@", &self.files.path("").display().to_string());
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// An order, each of its own customer, and the run that fulfils it.
    pub async fn order(&self, id: u32, cents: u32) -> String {
        self.db.exec(format!("INSERT INTO app.orders VALUES ({id}, 'sku-{id}', 2, {cents}, 'new')")).await;
        self.fulfil(id, id).await
    }

    pub async fn fulfil(&self, order: u32, customer: u32) -> String {
        self.db.enqueue("fulfil_order", &format!(r#"{{"order_id": {order}, "customer_id": {customer}}}"#)).await
    }

    /// A parcel is packed.
    pub async fn packed(&self, order: u32, tracking: &str) {
        let payload = format!(r#"{{"order_id": {order}, "tracking": "{tracking}"}}"#);
        self.db.exec(format!("SELECT stepd.emit('shipment.packed', '{payload}')")).await;
    }

    /// How often each thing has been written.
    pub async fn written(&self, what: &str) -> i64 {
        self.db.count(format!("SELECT count(*) FROM app.written WHERE what = '{what}'")).await
    }

    /// Keeps everybody from a table, until the transaction is dropped.
    pub async fn lock(&self, table: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let mut lock = self.db.pool.begin().await.unwrap();
        let statement = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *lock).await.unwrap();
        lock
    }

    /// The run's steps in their order: key, state, and the claim that did it.
    pub async fn steps(&self, run: &str) -> Vec<(String, String, i32)> {
        let sql = format!("SELECT key, state::text, epoch FROM stepd.steps WHERE run = '{run}' ORDER BY seq");
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.db.pool).await.unwrap()
    }

    /// The keys of the steps that were done when the run ended, in order.
    pub async fn undone(&self, run: &str) -> Vec<String> {
        let steps = self.steps(run).await;
        let end = steps.iter().position(|(key, ..)| key == "(end)").map_or(steps.len(), |place| place + 1);
        steps[end..].iter().filter(|(_, state, _)| state == "completed").map(|(key, ..)| key.clone()).collect()
    }

    /// What was done before the worker's death was done once, by the first claim; the rest by the second.
    pub async fn went_on_from(&self, run: &str, step: &str) {
        let steps = self.steps(run).await;
        let place = steps.iter().position(|(key, ..)| key == step).unwrap_or_else(|| panic!("{step} of {steps:?}"));
        for (n, (key, _, epoch)) in steps.iter().enumerate() {
            assert!(n >= place || *epoch == 1, "{key} was done before {step}, and again: {steps:?}");
            assert!(n < place || *epoch > 1 || key == "(end)", "{key} was left as it was: {steps:?}");
        }
    }

    /// The code of the run's failure.
    pub async fn error(&self, run: &str) -> String {
        self.db.one(format!("SELECT coalesce(error_code, 'none') FROM stepd.runs WHERE id = '{run}'")).await
    }
}

/// Is the program on this machine?
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder: std::path::PathBuf| Path::new(&folder).join(program).exists())
}

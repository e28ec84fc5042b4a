//! Where requests of steps may go: every form of a URL that leads to this machine or its network is refused before anybody is called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use wiremock::matchers::{any, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::cli::stepd_at;
use crate::support::hostile::strings;
use crate::support::names::Names;
use crate::support::{Db, Files, SOON, Spec};

const REACH: &str = r#"
name: reach
resume: never
steps:
  - id: each
    map: ${{ input.urls }}
    max_parallel: 24
    tolerate: 100%
    steps:
      - {id: get, http: "${{ item }}", timeout: 10s, retry: {max_attempts: 1}}
output: steps.each.output
"#;

/// What listens on every address of this machine, and counts who comes.
struct Witness {
    port: u16,
    seen: Arc<AtomicUsize>,
}

impl Witness {
    fn new() -> Self {
        let four = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = four.local_addr().unwrap().port();
        let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok();
        let seen = Arc::new(AtomicUsize::new(0));
        for listener in [Some(four), six].into_iter().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                for _ in listener.incoming() {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, seen }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

/// A server at the one address that the configuration allows.
async fn allowed() -> MockServer {
    let server = MockServer::builder().listener(TcpListener::bind("127.0.0.2:0").unwrap()).start().await;
    let whole = ResponseTemplate::new(200).set_body_json(json!("here")).insert_header("Connection", "close");
    Mock::given(path("/ok")).respond_with(whole).mount(&server).await;
    server
}

/// With a proxy in the environment, which must not be asked, either.
fn spec(db: &Db, files: &Files, witness: &Witness) -> Spec {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let spec = Spec::new(db, files).env("STEPD_HTTP_ALLOW", "127.0.0.2,stock.test,*.svc.test");
    names.iter().fold(spec, |spec, name| spec.env(name, witness.url()))
}

/// What came of each: its output, or the code of its failure.
async fn reached(db: &Db, urls: &[String]) -> Vec<String> {
    let run: uuid::Uuid =
        sqlx::query_scalar("INSERT INTO stepd.jobs (workflow, input) VALUES ('reach', $1::json) RETURNING id")
            .bind(json!({"urls": urls}).to_string())
            .fetch_one(&db.pool)
            .await
            .unwrap();
    db.reaches(&run.to_string(), "completed", SOON).await;
    let all: Vec<Value> = serde_json::from_str(&db.output(&run.to_string()).await).unwrap();
    all.iter().map(|one| one["$error"]["code"].as_str().or(one.as_str()).unwrap_or("?").to_owned()).collect()
}

#[tokio::test]
async fn no_form_of_a_url_leads_to_this_machine_or_its_network() {
    let (db, files, witness, server) = (Db::new().await, Files::new([REACH]), Witness::new(), allowed().await);
    let mut worker = spec(&db, &files, &witness).ready().await;
    let hostile: Vec<_> =
        strings("targets.txt", &[("@PORT@", &witness.port.to_string())]).into_iter().map(|(_, url)| url).collect();
    assert!(hostile.len() >= 140, "{}", hostile.len());
    let came = reached(&db, &hostile).await;
    let refused = |code: &str| matches!(code, "forbidden_target" | "invalid_params");
    let through: Vec<_> = hostile.iter().zip(&came).filter(|(_, code)| !refused(code)).collect();
    assert!(through.is_empty(), "{through:#?}");
    let forbidden = came.iter().filter(|code| *code == "forbidden_target").count();
    eprintln!("{} forms: {forbidden} forbidden, {} no URLs", came.len(), came.len() - forbidden);
    assert!(forbidden >= 90, "{forbidden}");
    // What is allowed is reached in whatever form it is written, and not by way of a proxy.
    let port = server.address().port();
    let good = ["127.0.0.2", "2130706434", "0x7f.2", "0177.0.0.2", "me:word@127.0.0.2", "127.0.0.2."];
    let good: Vec<String> = good.iter().map(|host| format!("http://{host}:{port}/ok")).collect();
    assert_eq!(reached(&db, &good).await, ["here"; 6]);
    assert_eq!(witness.seen(), 0, "somebody came to the witness");
    assert!(worker.is_running());
}

#[tokio::test]
async fn no_redirect_is_followed_whoever_sends_it() {
    let (db, witness, server) = (Db::new().await, Witness::new(), allowed().await);
    let asks = "name: asks\nresume: never\nsteps:\n  - {id: m, llm: moved, prompt: x, retry: {max_attempts: 1}, on_error: continue}\n  - {id: t, mcp: moved.work, args: {}, retry: {max_attempts: 1}, on_error: continue}\noutput: \"[steps.m.error.code, steps.t.error.code]\"\n";
    let files = Files::new([REACH, asks]);
    for status in [300, 301, 302, 303, 307, 308] {
        let away = ResponseTemplate::new(status).insert_header("Location", witness.url());
        let away = away.insert_header("Refresh", format!("0; url={}", witness.url()));
        let away = away.insert_header("Link", format!("<{}>; rel=preload", witness.url()));
        Mock::given(path(format!("/{status}"))).respond_with(away).mount(&server).await;
    }
    let away = ResponseTemplate::new(307).insert_header("Location", witness.url());
    Mock::given(any()).respond_with(away).with_priority(9).mount(&server).await;
    let config =
        format!("[mcp.moved]\nurl = \"{0}/mcp\"\n[models.moved]\nbase_url = \"{0}/v1\"\nmodel = \"m\"\n", server.uri());
    std::fs::write(files.path("stepd.toml"), config).unwrap();
    let _worker =
        spec(&db, &files, &witness).arg("--config").arg(&files.path("stepd.toml").display().to_string()).ready().await;
    let urls: Vec<String> = [300, 301, 302, 303, 307, 308].map(|status| format!("{}/{status}", server.uri())).into();
    assert_eq!(reached(&db, &urls).await, ["http_300", "http_301", "http_302", "http_303", "http_307", "http_308"]);
    let run = db.enqueue("asks", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#"["http_307","http_307"]"#);
    assert_eq!(witness.seen(), 0);
}

#[tokio::test]
async fn a_name_leads_nowhere_that_its_address_may_not_whatever_the_resolver_says_next() {
    let (here, good) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    let meta = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    let Some(names) = Names::start(move |name, before| match name {
        "private.test" | "127.0.0.1.test" | "localtest.test" => vec![here],
        "mixed.test" => vec![good, here],
        "backwards.test" => vec![here, good],
        "six.test" => vec![IpAddr::V6(Ipv6Addr::LOCALHOST)],
        "mapped.test" => vec!["::ffff:127.0.0.1".parse().unwrap()],
        "nat64.test" => vec!["64:ff9b::7f00:1".parse().unwrap()],
        "two.test" => vec![good, IpAddr::V6(Ipv6Addr::LOCALHOST)],
        "any.test" => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        "metadata.google.internal" => vec![meta],
        // Another address at every look.
        "flips.test" => vec![if before.is_multiple_of(2) { good } else { here }],
        "good.test" | "stock.test" | "a.svc.test" | "xn--bcher-kva.test" => vec![good],
        _ => vec![],
    }) else {
        return;
    };
    let (db, files, witness, server) = (Db::new().await, Files::new([REACH]), Witness::new(), allowed().await);
    let _worker = spec(&db, &files, &witness).binary(&names.binary()).ready().await;
    let bad = [
        "private.test",
        "PRIVATE.test",
        "private.test.",
        "127.0.0.1.test",
        "localtest.test",
        "mixed.test",
        "backwards.test",
        "six.test",
        "mapped.test",
        "nat64.test",
        "two.test",
        "any.test",
        "metadata.google.internal",
        "user@private.test",
    ];
    let bad: Vec<String> = bad.iter().map(|name| format!("http://{name}:{}/", witness.port)).collect();
    assert_eq!(reached(&db, &bad).await, ["forbidden_target"; 14]);
    let nobody = format!("http://nobody.test:{}/", witness.port);
    assert_eq!(reached(&db, &[nobody]).await, ["connection"]);
    let port = server.address().port();
    let good =
        ["good.test", "GOOD.test", "good.test.", "stock.test", "a.svc.test", "b\u{fc}cher.test", "B\u{dc}CHER.test"];
    let good: Vec<String> = good.iter().map(|name| format!("http://{name}:{port}/ok")).collect();
    assert_eq!(reached(&db, &good).await, ["here"; 7]);
    // One look-up a request: what was checked is what is connected to.
    let flips = vec![format!("http://flips.test:{port}/ok"); 20];
    let came = reached(&db, &flips).await;
    let count = |what: &str| came.iter().filter(|c| *c == what).count();
    assert_eq!((count("here"), count("forbidden_target"), names.asked("flips.test")), (10, 10, 20), "{came:?}");
    assert_eq!(witness.seen(), 0, "somebody came to the witness");
}

#[test]
fn no_input_chooses_a_server_a_model_or_a_connection() {
    let files = Files::new([
        "name: chosen\nsteps:\n  - {id: a, mcp: \"${{ input.server }}.work\"}\n  - {id: b, llm: \"${{ input.model }}\", prompt: x}\n  - {id: c, agent: \"${{ input.model }}\", prompt: x, tools: [\"${{ input.tool }}\"]}\n  - {id: d, sql: SELECT 1, connection: \"${{ input.where }}\"}\n",
    ]);
    let done = stepd_at(None, &["check", &files.workflows().join("w0.yaml").display().to_string()]).is(1);
    for line in 3..=6 {
        assert!(done.err.contains(&format!("w0.yaml:{line}:")), "line {line}: {}", done.err);
    }
}

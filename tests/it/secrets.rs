//! Secrets are planted wherever they may stand, used wherever they may be used, echoed by whoever is given them; and then everything that
//! stepd keeps or tells is searched for them, in each form that they may take.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers};

use crate::cli::{stepd, stepd_at};
use crate::support::{Db, Files, SOON, Spec, wait_until};

/// Where each stands; all of them are of this test alone.
const PLANTED: [(&str, &str); 12] = [
    ("variable", "env+Secret/one=1"),
    ("file", "-----BEGIN KEY-----\nQk9SRUQgcGVyc29u\nTGluZSB0d28geHk\n-----END KEY-----"),
    ("own database", "Pw-own+db/77"),
    ("connection", "Pw-conn~crm/88"),
    ("server's url", "Url-user!pass 31"),
    ("server's query", "Query+token/32"),
    ("server's header", "Hdr.Bearer-tok/33"),
    ("program's variable", "Prog-token/34 x"),
    ("model's key", "sk-model-key/35"),
    ("model's header", "Mdl-basic-pass36"),
    ("hook", "Hook-shared/37 y"),
    ("step's url", "Step-url-key~38"),
];

fn planted(what: &str) -> &'static str {
    PLANTED.iter().find(|(name, _)| *name == what).unwrap().1
}

const WORKFLOW: &str = r#"
name: leaky
resume: never
steps:
  - id: program
    run: |
      echo "plain $A"; echo "$B" >&2; echo "url https://u:$C@h/?k=$A" >&2
      for before in '' x xy; do printf '%s%s' "$before" "$A" | base64 -w0 >&2; echo >&2; printf '%s%s' "$before" "$A" | base64 -w0; echo; done
      printf '\033[1m%s\033[0m cut' "$A" >&2
    env: {A: "${{ secrets.variable }}", B: "${{ secrets.file }}", C: "${{ secrets.step_url }}"}
  - id: falls
    run: |
      echo "died of $A" >&2; echo "and $B"; sleep 1.2; echo "late $A"; exit 7
    env: {A: "${{ secrets.variable }}", B: "${{ secrets.file }}"}
    retry: {max_attempts: 2, backoff: constant, initial: 10ms}
    on_error: continue
  - id: asks
    http: GET http://me:${{ secrets.step_url }}@@SITE@/echo?key=${{ secrets.variable }}
    headers: {X-Key: "${{ secrets.variable }}"}
    on_error: continue
    retry: {max_attempts: 1}
  - id: refused
    http: POST http://@SITE@/refuse
    json: {key: "${{ secrets.variable }}"}
    on_error: continue
    retry: {max_attempts: 1}
  - id: far
    mcp: far.echo
    args: {key: "${{ secrets.variable }}"}
    on_error: continue
    retry: {max_attempts: 1}
  - id: near
    mcp: near.echo
    args: {key: "${{ secrets.variable }}"}
    on_error: continue
    retry: {max_attempts: 1}
  - id: model
    llm: m
    prompt: Say ${{ secrets.variable }}
    on_error: continue
    retry: {max_attempts: 1}
  - id: database
    sql: SELECT 1
    connection: crm
    on_error: continue
    retry: {max_attempts: 1}
  - id: data
    sql: SELECT $1::text AS echoed
    params: ["${{ secrets.variable }}"]
  - id: told
    set: {a: "${{ secrets.variable }}", b: "x ${{ secrets.file }}"}
  - id: each
    map: [1]
    steps: [{id: one, set: "${{ secrets.variable }}"}]
  - id: last
    run: echo "$A" >&2; exit 3
    env: {A: "${{ secrets.variable }}"}
    retry: {max_attempts: 1}
"#;

/// A server that says again whatever it is told, with its headers and its URL.
async fn echo() -> MockServer {
    let server = MockServer::start().await;
    let answer = |request: &Request| {
        let headers: BTreeMap<String, String> = request
            .headers
            .iter()
            .map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let said = json!({"headers": headers, "url": request.url.to_string(), "body": body});
        match (request.url.path(), body["method"].as_str()) {
            ("/refuse", _) => ResponseTemplate::new(422).set_body_json(said),
            ("/v1/chat/completions", _) => {
                let error = json!({"error": {"code": "bad_key", "message": format!("wrong key {said}")}});
                ResponseTemplate::new(401).set_body_json(error)
            }
            (_, Some("server/discover")) => ResponseTemplate::new(200).set_body_json(
                json!({"jsonrpc": "2.0", "id": body["id"], "result": {"supportedVersions": ["2026-07-28"]}}),
            ),
            (_, Some("tools/list")) => ResponseTemplate::new(200)
                .set_body_json(json!({"jsonrpc": "2.0", "id": body["id"], "result": {"tools": [{"name": "echo"}]}})),
            (_, Some(_)) => {
                let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": said}});
                let error = json!({"isError": true, "content": [{"type": "text", "text": said.to_string()}]});
                let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": error});
                let events = format!("data: {log}\n\ndata: {answer}\n\n");
                ResponseTemplate::new(200).set_body_raw(events, "text/event-stream")
            }
            _ => ResponseTemplate::new(200).set_body_json(said),
        }
    };
    Mock::given(matchers::any()).respond_with(answer).mount(&server).await;
    server
}

/// A program that says its token, on stderr, in its log and in its answer.
const PROGRAM: &str = r#"
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"method":"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"supportedVersions":["2026-07-28"]}}\n' "$id" ;;
    *'"method":"tools/call"'*)
      echo "told: $line, mine: $API_TOKEN" >&2
      printf '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"mine: %s"}}\n' "$API_TOKEN"
      printf '{"jsonrpc":"2.0","id":%s,"result":{"structuredContent":{"mine":"%s"}}}\n' "$id" "$API_TOKEN"; sleep 0.3; exit 1 ;;
  esac
done
"#;

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// With the digits behind each `%` in lower case.
fn lower(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| format!("{text}%{}{}", part[..2].to_lowercase(), &part[2..]))
}

/// What of the base64 of a text does not depend on what stands round it, after so many bytes.
fn base64(text: &str, before: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = [&vec![0; before], text.as_bytes()].concat();
    let whole: String = bytes
        .chunks_exact(3)
        .flat_map(|c| {
            let n = u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2]);
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[(n >> shift & 63) as usize]))
        })
        .collect();
    whole[if before == 0 { 0 } else { 4 }..].to_owned()
}

/// The secrets that a text holds, in whatever form.
fn found(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (what, secret) in PLANTED {
        let json = Value::from(secret).to_string();
        let mut forms = vec![("plain", secret.to_owned()), ("in JSON", json[1..json.len() - 1].to_owned())];
        forms.push(("in JSON in JSON", Value::from(&json[1..json.len() - 1]).to_string().trim_matches('"').to_owned()));
        forms.extend([("in a URL", encoded(secret)), ("in a URL", lower(&encoded(secret)))]);
        forms.extend((0..3).map(|before| ("base64", base64(secret, before))));
        forms.extend(secret.lines().filter(|l| !l.starts_with('-')).map(|line| ("a line", line.to_owned())));
        for (form, text_of) in forms {
            if let Some(at) = text.find(&text_of) {
                let (from, to) =
                    (text.floor_char_boundary(at.saturating_sub(80)), text.ceil_char_boundary(text.len().min(at + 80)));
                found.push(format!("{what}, {form}: …{}…", &text[from..to]));
            }
        }
    }
    found
}

/// Every row of every table and view, as text.
async fn rows(db: &Db) -> String {
    let tables: Vec<String> = db
        .all(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('stepd', 'stepd_engine')
              UNION ALL SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'stepd'",
        )
        .await;
    assert!(tables.len() > 20);
    let mut text = String::new();
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT '{table} ' || t::text FROM {table} t")))
                .fetch_all(&db.pool)
                .await
                .unwrap();
        text += &rows.join("\n");
    }
    text
}

/// What the API answers on every path, and the pages.
async fn told(site: &str, run: &str) -> String {
    let client = crate::http::client(Default::default());
    let ask = async |path: &str| {
        let answer = client.get(format!("{site}{path}")).send().await.unwrap();
        let status = answer.status();
        format!("{path} {status}\n{}\n", answer.text().await.unwrap())
    };
    let described: Value =
        client.get(format!("{site}/api/v1/openapi.json")).send().await.unwrap().json().await.unwrap();
    let mut text = String::new();
    let mut asked = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        if methods["get"].is_null() || path.ends_with("/stream") || path.ends_with("/ws") {
            continue;
        }
        let path = path.replace("{id}", run).replace("{name}", "leaky").replace("{workflow}", "leaky");
        let said = ask(&path).await;
        asked += usize::from(said.contains(" 200 OK"));
        text += &said;
    }
    assert!(asked >= 12, "{asked} paths have answered");
    for more in ["steps?outputs=true", "step?key=falls", "step?key=near", "logs", "history", "events", "definition"] {
        text += &ask(&format!("/api/v1/runs/{run}/{more}")).await;
    }
    for path in ["/metrics", "/", "/healthz", "/readyz"] {
        text += &ask(path).await;
    }
    text
}

#[tokio::test]
async fn no_secret_is_found_in_anything_that_is_kept_or_told() {
    let (db, files, server) = (Db::new().await, Files::new::<&str>([]), echo().await);
    let site = server.uri().replace("http://", "");
    files.write("leaky.yaml", &WORKFLOW.replace("@SITE@", &site));
    std::fs::write(files.path("key.pem"), planted("file")).unwrap();
    std::fs::write(files.path("server.sh"), PROGRAM).unwrap();
    let config = format!(
        "http_allow = [\"127.0.0.1\"]\n[connections]\ncrm = \"postgres://stepd:{}@127.0.0.1:1/none\"\n\
         [mcp.far]\nurl = \"http://u:{}@{site}/mcp?token={}\"\nheaders = {{ Authorization = \"Bearer {}\" }}\n\
         [mcp.near]\ncommand = \"sh\"\nargs = [\"{}\"]\n[mcp.near.env]\nAPI_TOKEN = \"{}\"\n\
         [models.m]\nbase_url = \"http://{site}/v1\"\nmodel = \"x\"\napi_key = \"{}\"\nheaders = {{ X-Proxy-Auth = \"{}\" }}\n\
         [http_hooks.h]\nsecret = \"{}\"\nevent = \"e\"\n\
         [secrets]\nfile = {{ file = \"{}\" }}\nstep_url = \"{}\"\n",
        encoded(planted("connection")),
        encoded(planted("server's url")),
        encoded(planted("server's query")),
        planted("server's header"),
        files.path("server.sh").display(),
        planted("program's variable"),
        planted("model's key"),
        planted("model's header"),
        planted("hook"),
        files.path("key.pem").display(),
        planted("step's url"),
    );
    std::fs::write(files.path("stepd.toml"), config).unwrap();
    let url = db.url.replacen("postgres@", &format!("postgres:{}@", encoded(planted("own database"))), 1);
    assert_ne!(url, db.url);
    let errors = files.path("errors.jsonl");
    let spec = Spec::new(&db, &files)
        .http()
        .env("DATABASE_URL", &url)
        .env("STEPD_CONFIG", files.path("stepd.toml").display())
        .env("STEPD_SECRETS__VARIABLE", planted("variable"))
        .env("STEPD_LOG_LEVEL", "debug,hyper_util=trace,reqwest=trace,sqlx=trace,stepd=trace")
        .arg("--error-log")
        .arg(&errors.display().to_string());
    let mut worker = spec.ready().await;
    let at = worker.site().await;
    let run = db.enqueue("leaky", "{}").await;
    db.reaches(&run, "failed", SOON * 2).await;
    let kept = "SELECT count(DISTINCT key) FROM stepd.logs WHERE key IN ('program', 'falls', 'near', 'far', 'last')";
    wait_until("all logs are there", SOON, async || db.count(kept).await == 5).await;
    // What there is to be found is there, but for the secrets.
    for (text, n) in [("plain ***", 1), ("died of ***", 2), ("late ***", 2), ("*** cut", 1)] {
        let sql = format!(
            "SELECT (SELECT count(*) FROM stepd.logs WHERE text = '{text}') + (SELECT count(*) FROM stepd.steps WHERE output::text LIKE '%{text}%')"
        );
        assert!(db.count(sql).await >= n, "{text}: {:?}", db.all::<String>("SELECT text FROM stepd.logs").await);
    }
    let mut places = BTreeMap::from([("the API", told(&at, &run).await)]);
    for (name, args) in [
        ("stepd show", vec!["show", "--all", run.as_str()]),
        ("stepd show -o json", vec!["show", run.as_str(), "-o", "json"]),
        ("stepd ls", vec!["ls", "-o", "json"]),
        ("stepd logs", vec!["logs", run.as_str()]),
        ("stepd why", vec!["why", run.as_str()]),
        ("stepd workflow show", vec!["workflow", "show", "leaky"]),
    ] {
        let done = stepd(&db, &args).await;
        places.insert(name, done.out + &done.err);
    }
    let file = files.path("stepd.toml").display().to_string();
    for (name, args) in [
        ("stepd config", vec!["config"]),
        ("stepd config -o json", vec!["config", "-o", "json"]),
        ("stepd kinds", vec!["kinds"]),
    ] {
        let args = [vec!["--config", &file], args].concat();
        let (url, args): (_, Vec<String>) = (url.clone(), args.iter().map(ToString::to_string).collect());
        let done = tokio::task::spawn_blocking(move || {
            stepd_at(Some(&url), &args.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
        .unwrap();
        assert_eq!(done.code, Some(0), "{}", done.err);
        places.insert(name, done.out + &done.err);
    }
    assert_eq!(worker.drain(SOON).await, Some(0));
    places.insert("the log", worker.log());
    places.insert("the rows", rows(&db).await);
    places.insert("the stream of failures", std::fs::read_to_string(&errors).unwrap());
    // As the journal is given it, where it has no socket.
    let mut again = spec.env("STEPD_LOG_FORMAT", "journald").start();
    let next = db.enqueue("leaky", "{}").await;
    db.reaches(&next, "failed", SOON * 2).await;
    assert_eq!(again.drain(SOON).await, Some(0));
    places.insert("the log for the journal", again.log());
    for (place, text) in &places {
        assert!(text.len() > 100, "there is nothing to search in {place}: {text}");
    }
    let leaks: Vec<String> = places
        .iter()
        .flat_map(|(place, text)| found(text).into_iter().map(move |leak| format!("{place}: {leak}")))
        .collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[tokio::test]
async fn a_line_of_the_log_is_a_json_object_whoever_has_written_it_and_a_runs_lines_tell_its_story() {
    let story = "name: story\nresume: never\nsteps:\n  - {id: talk, run: 'echo from a program >&2'}\n  - {id: fail, run: 'exit 9', retry: {max_attempts: 2, initial: 10ms}}\n";
    let (db, files) = (Db::new().await, Files::new([story]));
    let mut worker =
        Spec::new(&db, &files).env("STEPD_LOG_LEVEL", "debug,sqlx=trace,hyper_util=trace").http().ready().await;
    let run = db.enqueue("story", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let log = worker.log();
    let lines: Vec<Value> =
        log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let of_run: Vec<&Value> = lines.iter().filter(|l| l["run.id"] == run).collect();
    let says = |text: &str| of_run.iter().any(|l| l.to_string().contains(text));
    for text in ["from a program", "attempt failed", "\"code\":\"exit_9\"", "run left", "Failed"] {
        assert!(says(text), "no line of the run says {text}: {log}");
    }
    assert!(of_run.iter().filter(|l| l["message"] == "attempt failed").count() == 2, "{log}");
}

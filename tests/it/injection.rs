//! Data that tries to be more than data: every string of `tests/hostile/injections.txt` through every place where data meets a shell, a
//! program, a statement, an expression, a request, a tool, a log or a terminal. What comes out is what went in, and nothing was run.

use std::collections::BTreeSet;
use std::path::PathBuf;

use reqwest::StatusCode;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::http::{Ground as Site, client, spec as with_tokens};
use crate::support::hostile::strings;
use crate::support::outside::{ModelServer, ToolServer, says};
use crate::support::{Db, Files, SOON, Spec};

/// Between two strings in what a program prints.
const BETWEEN: &str = "\n@@@\n";

/// A file that must not come into being, and a table that must keep its row.
pub struct Ground {
    pub db: Db,
    pub files: Files,
    witness: PathBuf,
    pub all: Vec<String>,
}

impl Ground {
    pub async fn new() -> Self {
        let (db, files) = (Db::new().await, Files::new([] as [&str; 0]));
        db.exec("CREATE TABLE public.kept (what text); INSERT INTO public.kept VALUES ('x')").await;
        db.exec("CREATE TABLE public.told (n int, v text)").await;
        let witness = files.path("witness");
        let known = [("@WITNESS@", witness.display().to_string()), ("@TABLE@", "public.kept".to_owned())];
        let known: Vec<(&str, &str)> = known.iter().map(|(word, meant)| (*word, meant.as_str())).collect();
        let all: Vec<String> = strings("injections.txt", &known).into_iter().map(|(_, string)| string).collect();
        assert!(all.len() >= 350, "{}", all.len());
        Self { db, files, witness, all }
    }

    async fn ran(&self, workflow: &str, input: &Value) -> String {
        let run = self.enqueued(workflow, input).await;
        self.db.reaches(&run, "completed", SOON).await;
        run
    }

    pub async fn enqueued(&self, workflow: &str, input: &Value) -> String {
        sqlx::query_scalar("INSERT INTO stepd.jobs (workflow, input) VALUES ($1, $2::json) RETURNING id::text")
            .bind(workflow)
            .bind(input.to_string())
            .fetch_one(&self.db.pool)
            .await
            .unwrap()
    }

    async fn output(&self, run: &str) -> Value {
        serde_json::from_str(&self.db.output(run).await).unwrap()
    }

    /// Nothing was run.
    pub async fn is_unharmed(&self) {
        assert!(!self.witness.exists(), "something was run: {}", self.witness.display());
        let dir =
            std::fs::read_dir(self.files.path("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let unknown: Vec<_> = dir.filter(|name| !["workflows", "stepd.toml"].contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "what are these files? {unknown:?}");
        assert_eq!(self.db.all::<String>("SELECT what FROM public.kept").await, ["x"]);
    }
}

/// An expression for each of `n` strings, as an item of a list or a value of a mapping.
fn each(n: usize, one: impl Fn(usize) -> String) -> String {
    (0..n).map(one).collect::<Vec<_>>().join(", ")
}

/// All strings at once into two shells, a program's arguments and its input, a statement's parameters, data, a child.
fn programs(n: usize) -> String {
    let env = each(n, |i| format!("V{i}: \"${{{{ input.v[{i}] }}}}\""));
    let list = each(n, |i| format!("\"${{{{ input.v[{i}] }}}}\""));
    let rows = each(n, |i| format!("({i}, ${})", i + 1));
    let (last, text) = (n - 1, r"'%s\n@@@\n'");
    format!(
        "name: programs
resume: never
steps:
  - id: bash
    run: 'for n in $(seq 0 {last}); do v=\"V$n\"; printf ''%s\\n@@@\\n'' \"${{!v}}\"; done'
    env: {{{env}}}
  - id: sh
    shell: sh
    run: 'for n in $(seq 0 {last}); do eval \"v=\\$V$n\"; printf ''%s\\n@@@\\n'' \"$v\"; done'
    env: {{{env}}}
  - id: exec
    exec: [printf, --, {text}, {list}]
  - id: stdin
    exec: [cat]
    stdin: \"${{{{ input.v }}}}\"
  - id: rows
    sql: INSERT INTO public.told VALUES {rows}
    params: [{list}]
  - id: array
    sql: SELECT $1::text[] AS a, $2::jsonb AS j, format('%L', $3::text) AS l
    params: [\"${{{{ input.v }}}}\", \"${{{{ input.v }}}}\", \"${{{{ input.v[0] }}}}\"]
  - id: set
    set: \"${{{{ input.v }}}}\"
  - id: text
    set: [{list}]
  - id: again
    set: \"${{{{ steps.set.output }}}}\"
  - id: below
    workflow: child
    input: {{v: \"${{{{ input.v }}}}\"}}
"
    )
}

const CHILD: &str = "name: child\nresume: never\nsteps: [{id: a, set: \"${{ input.v }}\"}]\noutput: steps.a.output\n";

#[tokio::test]
async fn no_data_is_run_by_a_shell_a_program_a_statement_or_an_expression() {
    let g = Ground::new().await;
    g.files.write("programs.yaml", &programs(g.all.len()));
    g.files.write("child.yaml", CHILD);
    let worker = Spec::new(&g.db, &g.files).env("STEPD_SECRETS__WORD", "geheimnis").ready().await;
    let run = g.ran("programs", &json!({"v": g.all})).await;
    let output = g.output(&run).await;
    for step in ["bash", "sh", "exec"] {
        let text = output[step].as_str().unwrap();
        let came: Vec<&str> = text.strip_suffix(BETWEEN.trim_end()).unwrap_or(text).split(BETWEEN).collect();
        let came: Vec<&str> = came.into_iter().take(g.all.len()).collect();
        assert_eq!(came.len(), g.all.len(), "{step}");
        for (came, sent) in came.iter().zip(&g.all) {
            assert_eq!(came.trim_end_matches('\n'), sent.trim_end_matches('\n'), "{step}");
        }
    }
    for step in ["stdin", "set", "text", "again", "below"] {
        assert_eq!(output[step], json!(g.all), "{step}");
    }
    assert_eq!((&output["array"][0]["a"], &output["array"][0]["j"]), (&json!(g.all), &json!(g.all)));
    assert_eq!(g.db.all::<String>("SELECT v FROM public.told ORDER BY n").await, g.all);
    assert!(!worker.log().contains("geheimnis"));
    g.is_unharmed().await;
}

const REQUESTS: &str = r#"
name: requests
resume: never
steps:
  - id: places
    map: ${{ input.v }}
    max_parallel: 24
    tolerate: 100%
    steps:
      - id: it
        http: "POST @SITE@/p/${{ item }}/end?q=${{ item }}"
        query: {k: "${{ item }}", n: "${{ index }}"}
        form: {f: "${{ item }}"}
        retry: {max_attempts: 1}
  - id: heads
    map: ${{ input.v }}
    max_parallel: 24
    tolerate: 100%
    steps:
      - id: it
        http: "POST @SITE@/h/${{ index }}"
        headers: {X-V: "${{ item }}"}
        body: ${{ item }}
        retry: {max_attempts: 1}
  - {id: whole, http: POST @SITE@/j, json: {v: "${{ input.v }}"}}
  - {id: tool, mcp: own.work, args: {v: "${{ input.v }}"}}
  - {id: model, llm: own, prompt: "${{ input.v | tojson }}"}
output: "{'places': steps.places.output, 'heads': steps.heads.output, 'tool': steps.tool.output}"
"#;

/// The codes of the items that failed, by their place.
fn refused(items: &Value) -> Vec<Option<String>> {
    let code = |item: &Value| item["$error"]["code"].as_str().map(str::to_owned);
    items.as_array().unwrap().iter().map(code).collect()
}

fn decoded(text: &str) -> Vec<(String, String)> {
    serde_urlencoded::from_str(text).unwrap()
}

#[tokio::test]
async fn no_data_becomes_another_request_host_path_parameter_or_header() {
    let g = Ground::new().await;
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(204)).mount(&server).await;
    g.files.write("requests.yaml", &REQUESTS.replace("@SITE@", &server.uri()));
    let tools = ToolServer::start(&["work"], &[], |_, args| Ok(args["v"].clone())).await;
    let model = ModelServer::start(|_, _| says("fine")).await;
    std::fs::write(g.files.path("stepd.toml"), tools.section("own") + &model.section("own")).unwrap();
    let config = g.files.path("stepd.toml").display().to_string();
    let _worker =
        Spec::new(&g.db, &g.files).arg("--config").arg(&config).env("STEPD_HTTP_ALLOW", "127.0.0.1").ready().await;
    let output = g.output(&g.ran("requests", &json!({"v": g.all})).await).await;
    let requests = server.received_requests().await.unwrap();
    let below = |prefix: &str| requests.iter().filter(|r| r.url.path().starts_with(prefix)).collect::<Vec<_>>();
    places(&g, &refused(&output["places"]), &below("/p/"));
    heads(&g, &refused(&output["heads"]), &below("/h/"));
    let [whole] = below("/j")[..] else { panic!("one request") };
    assert_eq!(whole.body_json::<Value>().unwrap()["v"], json!(g.all));
    assert_eq!(requests.len(), below("/p/").len() + below("/h/").len() + 1, "a request that nobody has written");
    assert!(!requests.iter().any(|r| r.headers.contains_key("x-injected") || r.url.path().contains("/injected")));
    assert_eq!(output["tool"], json!(g.all));
    assert_eq!(tools.heard()[0].1["v"], json!(g.all));
    let asked: Vec<String> = serde_json::from_str(&crate::support::outside::last(&model.heard()[0])).unwrap();
    assert_eq!(asked, g.all);
    g.is_unharmed().await;
}

/// Each value stood at its four places in the URL and the form, whole, or was refused; and stood nowhere else.
fn places(g: &Ground, refused: &[Option<String>], requests: &[&Request]) {
    let mut came = BTreeSet::new();
    for request in requests {
        let pairs = request.url.query_pairs().into_owned().collect::<Vec<_>>();
        let [(q, first), (k, second), (n, place)] = &pairs[..] else { panic!("other parameters: {}", request.url) };
        assert_eq!((q.as_str(), k.as_str(), n.as_str()), ("q", "k", "n"));
        let sent = &g.all[place.parse::<usize>().unwrap()];
        assert_eq!((first, second), (sent, sent));
        let path: Vec<String> = request.url.path_segments().unwrap().map(percent_decoded).collect();
        assert_eq!(path, ["p", sent, "end"], "{}", request.url);
        assert_eq!(decoded(std::str::from_utf8(&request.body).unwrap()), [("f".to_owned(), sent.clone())]);
        assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
        came.insert(place.parse::<usize>().unwrap());
    }
    for (n, code) in refused.iter().enumerate() {
        let dots = matches!(g.all[n].as_str(), "." | "..");
        assert_eq!((code.as_deref(), came.contains(&n)), (dots.then_some("expression"), !dots), "{:?}", g.all[n]);
    }
}

fn percent_decoded(text: &str) -> String {
    decoded(&format!("x={}", text.replace('+', "%2B"))).remove(0).1
}

/// Each value stood in one header, as it is, or was refused for what cannot stand there.
fn heads(g: &Ground, refused: &[Option<String>], requests: &[&Request]) {
    let breaks = |text: &str| text.chars().any(|c| (c < ' ' && c != '\t') || c == '\u{7f}');
    let mut came = BTreeSet::new();
    for request in requests {
        let place: usize = request.url.path().rsplit('/').next().unwrap().parse().unwrap();
        let all: Vec<_> = request.headers.get_all("x-v").iter().collect();
        assert_eq!(all.len(), 1);
        let sent = &g.all[place];
        assert_eq!(String::from_utf8_lossy(all[0].as_bytes()), sent.trim_matches([' ', '\t']));
        assert_eq!(request.body, sent.as_bytes());
        came.insert(place);
    }
    for (n, code) in refused.iter().enumerate() {
        let broken = breaks(&g.all[n]);
        assert_eq!(
            (code.as_deref(), came.contains(&n)),
            (broken.then_some("invalid_params"), !broken),
            "{:?}",
            g.all[n]
        );
    }
}

#[tokio::test]
async fn no_name_in_a_request_is_more_than_a_name() {
    let g = Ground::new().await;
    g.files.write("child.yaml", CHILD);
    let mut worker = with_tokens(&g.db, &g.files).ready().await;
    let site = Site {
        site: worker.site().await,
        db: g.db.clone(),
        files: Files::new([] as [&str; 0]),
        worker,
        client: client(Default::default()),
    };
    for text in &g.all {
        let body =
            json!({"workflow": text, "queue": text, "unique_key": text, "labels": {text: text}, "input": {"v": text}});
        let asked = [
            site.post("ops", "/runs", body).await,
            site.post(
                "ops",
                "/runs",
                json!({"workflow": "child", "unique_key": text, "labels": {text: text}, "input": {"v": text}}),
            )
            .await,
            site.post("ops", "/events", json!({"name": text, "payload": text})).await,
            {
                let pairs = [("workflow", text), ("session_id", text), ("label", text)];
                let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/runs", site.site), pairs).unwrap();
                site.client.get(url).send().await.unwrap()
            },
            {
                let mut url = reqwest::Url::parse(&site.site).unwrap();
                url.path_segments_mut().unwrap().extend(["api", "v1", "workflows", text]);
                site.client.get(url).send().await.unwrap()
            },
        ];
        for answer in asked {
            assert!(answer.status() < StatusCode::INTERNAL_SERVER_ERROR, "{text:?}: {}", answer.status());
            assert!(!answer.headers().contains_key("x-injected"));
            let kind = answer.headers().get("content-type").map(|k| k.to_str().unwrap().to_owned()).unwrap_or_default();
            let (status, path) = (answer.status(), answer.url().path().to_owned());
            assert!(kind.contains("json") || status == 204 || path == "/", "{text:?}: {kind} at {path}");
        }
    }
    site.db.all_ended(SOON).await;
    let kept = "SELECT count(*) FROM stepd.runs WHERE workflow = 'child' AND state = 'completed' AND labels ->> unique_key = unique_key";
    assert!(site.db.count(kept).await >= 300, "they were taken, as they are");
    g.is_unharmed().await;
}

//! Documents of AFU-9, loaded as they are, over the database: their variables survive a change of process, HOLD waits for a person.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stepd::{BoxFuture, Error, Failure, Flow, Step, StepCx, StepOutput, Stepd};

use crate::cli::stepd_at;
use crate::support::hostile::strings;
use crate::support::outside::Afu9Servers;
use crate::support::{Db, Files, SOON};

/// Stands in for the servers: remembers what it was asked, and answers by the tool.
#[derive(Clone, Default)]
struct Tools(Arc<Mutex<Vec<String>>>);

impl Step for Tools {
    fn kind(&self) -> &'static str {
        "mcp"
    }

    fn run<'a>(&'a self, _: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        let (tool, args) = (params["tool"].as_str().unwrap().to_owned(), params["args"].clone());
        self.0.lock().unwrap().push(format!("{}.{tool} {args}", params["server"].as_str().unwrap()));
        Box::pin(async move {
            Ok(Flow::Done(StepOutput::plain(match tool.as_str() {
                "getIssue" => json!({"number": 7, "title": "It breaks", "body": "Badly.", "state": "open"}),
                "check" => args["answer"].clone(),
                _ => json!({"done": tool}),
            })))
        })
    }
}

async fn start(db: &Db, files: &Files, tools: &Tools) -> Stepd {
    Stepd::builder()
        .database(&db.url)
        .queue("own")
        .kind(tools.clone())
        .workflow_files(files.workflows())
        .start()
        .await
        .unwrap()
}

fn document(files: &Files, name: &str, text: &str) {
    std::fs::write(files.workflows().join(name), text).unwrap();
}

#[tokio::test]
async fn a_document_runs_unchanged_and_gives_its_variables() {
    let (db, files, tools) = (Db::new().await, Files::new::<&str>([]), Tools::default());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions/afu9/issue_to_pr.json");
    document(&files, "issue_to_pr.json", &std::fs::read_to_string(path).unwrap());
    let stepd = start(&db, &files, &tools).await;
    let input = json!({"issue_number": 7, "repo": {"owner": "ada", "name": "engine", "default_branch": "main"}});
    let run = stepd.enqueue("issue_to_pr", &input).await.unwrap();
    let variables: Value = stepd.result(run).await.unwrap();
    assert_eq!(
        (&variables["issue"]["number"], &variables["pull_request"]["done"]),
        (&json!(7), &json!("createPullRequest"))
    );
    let asked = tools.0.lock().unwrap().clone();
    assert_eq!(asked[0], r#"github.getIssue {"owner":"ada","repo":"engine","number":"7"}"#);
    assert!(
        asked[1].contains(r#""branch":"fix/7""#) && asked[2].contains("Automated fix for #7\\n\\nBadly."),
        "{asked:?}"
    );
    // What each step gave stands in its row: the variables at a step are those of the rows before it.
    let keys: Vec<String> =
        db.all(format!("SELECT key || ' ' || kind FROM stepd.steps WHERE run = '{run}' ORDER BY seq")).await;
    assert_eq!(keys, ["fetch_issue mcp", "create_branch mcp", "create_pull_request mcp"]);
    assert!(stepd.shutdown().await);
}

const HELD: &str = r#"{
  "name": "held",
  "steps": [
    {"name": "look", "tool": "t.check", "params": {"answer": {"state": "HOLD", "number": 7}}, "assign": "issue"},
    {"name": "go_on", "tool": "t.go", "params": {"number": "${issue.number}"}, "assign": "gone"},
    {"name": "judge", "tool": "t.check", "params": {"answer": {"verdict": {"simpleVerdict": "${input.verdict}"}}}, "assign": "judged"},
    {"name": "never", "tool": "t.never", "params": {}}
  ]
}"#;

#[tokio::test]
async fn hold_waits_for_a_person_over_a_change_of_process_and_red_ends_the_run() {
    let (db, files, tools) = (Db::new().await, Files::new::<&str>([]), Tools::default());
    document(&files, "held.json", HELD);
    let first = start(&db, &files, &tools).await;
    let run = first.enqueue("held", &json!({"verdict": "RED"})).await.unwrap();
    let id = run.to_string();
    db.reaches(&id, "waiting", SOON).await;
    let why: String = db.one(format!("SELECT stepd.why('{id}')")).await;
    assert!(why.contains("hold[1]") && why.contains("workflow paused pending human review"), "{why}");
    assert!(first.shutdown().await);
    assert_eq!(db.state(&id).await, "waiting", "nothing but a person lets it go on");
    let second = start(&db, &files, &tools).await;
    second.approve(run, None, Some("it is fine")).await.unwrap();
    let Err(Error::Failed { failure, .. }) = second.result::<Value>(run).await else { panic!("RED ends it") };
    assert_eq!(
        (failure.code.as_ref(), failure.message.as_str()),
        ("verdict", "RED verdict triggered - critical failure detected")
    );
    let asked = tools.0.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "each tool once, and nothing behind the verdict: {asked:?}");
    assert_eq!(asked[1], r#"t.go {"number":"7"}"#, "the variable of before the change of process");
    assert!(second.shutdown().await);
}

/// What every tool of the stand-ins knows.
fn anything(tool: &str) -> Value {
    let one = json!({
        "id": 9, "number": 7, "name": "main", "title": "It breaks", "body": "Badly.", "state": "open", "labels": ["bug"], "user": {"login": "ada"},
        "head_branch": "main", "html_url": "https://example.org/1", "previous": 3, "failed": 2, "summary": "A cause.", "files": ["a.rs"],
        "kind": "bug", "priority": "high", "milestone": 1, "available": ["x 2.0"], "unknown": false, "has_fix": true, "description": "d",
        "root_cause": "r", "fix_description": "f", "previous_revision": 3,
    });
    if tool == "getWorkflowJobs" { json!([one]) } else { one }
}

/// Runs one file of a workflow by `stepd run`, without a database: what it printed.
fn ran(config: &str, file: &Path, input: &Value) -> Value {
    let (file, input) = (file.display().to_string(), input.to_string());
    let args = ["--config", config, "run", &file, "--ephemeral", "--input", &input, "-o", "json"];
    let done = stepd_at(None, &args);
    assert_eq!(done.code, Some(0), "{file}: {}", done.err);
    serde_json::from_str(&done.out).unwrap()
}

#[tokio::test]
async fn nine_documents_run_unchanged_in_both_meanings_and_imported() {
    let servers = Afu9Servers::start(|tool, _| anything(tool)).await;
    let files = Files::new::<&str>([]);
    let config = files.path("stepd.toml").display().to_string();
    let names = ["github", "deploy", "observability", "agent"];
    std::fs::write(&config, servers.sections(&names)).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions/afu9");
    let documents: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(documents.len(), 9);
    let mut input = json!({
        "issue_number": 7, "pr_number": 3, "run_id": 4, "owner": "ada", "project": "engine", "base_branch": "main", "cluster": "live",
        "service": "web", "failure_time": "noon", "timestamp": "2026-11-21", "manager": "cargo", "strategy": "minor", "logs": "…",
    });
    let repo = json!({"owner": "ada", "name": "engine", "default_branch": "main"});
    let context = json!({"variables": {}, "input": input, "repo": repo});
    input["repo"] = repo;
    let made = files.workflows();
    let all = move || {
        for path in documents {
            assert_eq!(ran(&config, &path, &context)["state"], "completed");
            let name = path.file_name().unwrap().to_str().unwrap();
            let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            document["compat"] = "afu9-engine".into();
            let engine = made.join(format!("engine_{name}"));
            std::fs::write(&engine, document.to_string()).unwrap();
            assert_eq!(ran(&config, &engine, &context)["state"], "completed");
            let native = stepd_at(None, &["import", &path.display().to_string()]).is(0);
            let imported = made.join(format!("{name}.yaml"));
            std::fs::write(&imported, native.out).unwrap();
            assert_eq!(ran(&config, &imported, &input)["state"], "completed");
        }
    };
    tokio::task::spawn_blocking(all).await.unwrap();
    let heard: Vec<String> = servers.heard().iter().map(Value::to_string).collect();
    assert!(heard.len() > 9 * 3 * 2, "{} calls", heard.len());
    // No path is left over but those that the engine could not follow; a call is text in every meaning.
    let dates = heard.iter().filter(|h| h.contains("Begun") && h.contains("${new Date().toISOString()}")).count();
    assert_eq!(dates, 3, "one each for the two meanings and the import");
    let labels = |as_list: bool| {
        let fits = |h: &&String| h.contains("\"addLabels\"") && h.contains(r#""labels":["bug"]"#) == as_list;
        heard.iter().filter(fits).count()
    };
    assert_eq!((labels(true), labels(false)), (2, 1), "lists stay lists but in the engine's meaning");
}

/// Whatever `x` says, it is compared; the meaning of the document is what it says of conditions.
fn conditional(name: &str, compat: &str) -> String {
    let step =
        |name: &str, condition: &str| json!({"name": name, "tool": "t.go", "params": {}, "condition": condition});
    let steps = [
        step("holds", "${input.x}"),
        step("number", "${input.x} === 1"),
        step("larger", "${input.x} > 0"),
        step("bare", "${input.x} === 'yes'"),
        step("inside", "${input.x === 'yes'}"),
    ];
    json!({"name": name, "compat": compat, "steps": steps}).to_string()
}

#[tokio::test]
async fn a_condition_compares_what_an_attacker_has_written_and_runs_nothing_of_it() {
    let (db, files, tools) = (Db::new().await, Files::new::<&str>([]), Tools::default());
    let witness = files.path("witness");
    document(&files, "documented.json", &conditional("documented", "documented"));
    document(&files, "engine.json", &conditional("engine", "afu9-engine"));
    let stepd = start(&db, &files, &tools).await;
    let all = strings("injections.txt", &[("@WITNESS@", &witness.display().to_string())]);
    let attacks: Vec<String> =
        all.into_iter().filter(|(group, _)| group.starts_with("templates")).map(|(_, string)| string).collect();
    assert!(attacks.len() > 50 && attacks.iter().any(|a| a == "1);process.exit()"));
    let mut runs = Vec::new();
    for attack in &attacks {
        for name in ["documented", "engine"] {
            runs.push((name, attack, stepd.enqueue(name, &json!({"x": attack})).await.unwrap()));
        }
    }
    for (name, attack, run) in runs {
        let _: Value = stepd.result(run).await.unwrap();
        let done: Vec<String> = db
            .all(format!("SELECT key FROM stepd.steps WHERE run = '{run}' AND state = 'completed' ORDER BY seq"))
            .await;
        assert_eq!(done, ["holds"], "{name}: {attack}");
    }
    assert!(!witness.exists());
    assert!(stepd.shutdown().await);
}

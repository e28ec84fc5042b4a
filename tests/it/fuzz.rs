//! The description of the API driven by a fuzzer, against a daemon with data: no error of the server, and no answer that is not
//! described.

use std::process::Command;

use serde_json::{Value, json};

use crate::http::tokens;
use crate::mcp::python;
use crate::support::{Db, Files, SOON, Spec};

/// From PyPI; what it finds depends on its version.
const FUZZER: &str = "schemathesis==4.32.5";

const ASKS: &str = "name: asks\ninput: {required: [n], properties: {n: {type: integer}}}\nsteps:\n  - {id: one, set: '${{ input.n }}'}\n  - {id: ok, approve: 'Go on with ${{ input.n }}?'}\n  - {id: two, set: 2}\n";
const FAILS: &str = "name: fails\nschedule: {cron: '0 3 * * *'}\nresume: never\nsteps: [{id: a, run: exit 3, retry: {max_attempts: 1}}]\n";
const DOCUMENT: &str = r#"{"name": "doc", "steps": [{"name": "a", "tool": "t.x", "params": {}}]}"#;

/// Some runs in every state that a fuzzer can do something with; their ids.
async fn runs(db: &Db) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..4 {
        let run = db.enqueue("asks", &format!("{{\"n\": {n}}}")).await;
        db.reaches(&run, "waiting", SOON).await;
        ids.push(run);
    }
    db.exec(&format!("SELECT stepd.pause('{}', 'lunch'); SELECT stepd.approve('{}')", ids[0], ids[1])).await;
    let (failed, document) = (db.enqueue("fails", "{}").await, db.enqueue("doc", "{}").await);
    db.reaches(&failed, "failed", SOON).await;
    db.reaches(&document, "failed", SOON).await;
    db.reaches(&ids[1], "completed", SOON).await;
    db.exec("INSERT INTO stepd.jobs (workflow, input, run_at, labels) VALUES ('asks', '{\"n\": 1}', now() + interval '1 day', '{\"of\": \"shop\"}')").await;
    ids.extend([failed, document]);
    ids
}

#[tokio::test]
async fn the_described_api_gives_a_fuzzer_no_error_of_the_server_and_no_answer_that_is_not_described() {
    let Some(python) = tokio::task::spawn_blocking(|| python(FUZZER)).await.unwrap() else { return };
    let (db, files) = (Db::new().await, Files::new([ASKS, FAILS]));
    std::fs::write(files.workflows().join("doc.json"), DOCUMENT).unwrap();
    let server = "[mcp.t]\nurl = \"http://127.0.0.1:9/\"\ndialect = \"afu9\"\n";
    std::fs::write(files.path("stepd.toml"), ["http_documents = \"on\"\n", &tokens(), server].concat()).unwrap();
    let mut worker =
        Spec::new(&db, &files).http().env("STEPD_CONFIG", files.path("stepd.toml").display()).ready().await;
    let site = worker.site().await;
    // Beside what it invents, the names of what is there.
    let names: Value = json!({"asks": runs(&db).await});
    let ids = names["asks"].to_string();
    let config = format!(
        "[parameters]\n\"path.id\" = {ids}\n\"path.name\" = [\"asks\", \"fails\", \"default\"]\n\"path.workflow\" = [\"fails\"]\n"
    );
    std::fs::write(files.path("schemathesis.toml"), config).unwrap();
    let seed = std::process::id().to_string();
    eprintln!("fuzzed with --seed {seed}");
    let mut fuzz = Command::new("timeout");
    fuzz.arg("400").arg(python.with_file_name("schemathesis")).current_dir(files.path(""));
    fuzz.args(["run", &format!("{site}/api/v1/openapi.json"), "-H", "Authorization: Bearer ops", "--seed", &seed]);
    fuzz.args([
        "--phases",
        "examples,coverage,fuzzing",
        "-n",
        "10",
        "--no-shrink",
        "--no-color",
        "--request-timeout",
        "30",
    ]);
    // What is endless (streams), or waits for a run's end.
    fuzz.args(["--exclude-path-regex", "(stream|ws|workflow/execute)$", "--warnings", "off"]);
    fuzz.args([
        "-c",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]);
    let done = tokio::task::spawn_blocking(move || fuzz.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "--seed {seed}\n{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("passed") && !said.contains("0 generated"), "it has tried something: {said}");
    assert!(worker.is_running());
    assert_eq!(worker.logged("panicked"), 0, "{}", worker.log());
}

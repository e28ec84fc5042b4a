//! What an author of workflow files has at hand, without a database: eval, schema, import; documents of AFU-9.

use serde_json::{Value, json};

use crate::cli::stepd_at;
use crate::support::Files;

fn root(path: &str) -> String {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

#[test]
fn an_expression_is_tried_with_the_names_of_the_language() {
    for (args, expected) in [
        (&["input.n * 2", "--input", r#"{"n": 21}"#][..], json!(42)),
        (&["${{ input.list }}", "--input", r#"{"list": [1]}"#], json!([1])),
        (&["n is ${{ input.n }}", "--input", r#"{"n": 1}"#], json!("n is 1")),
        (&["steps.a.output.x", "--steps", r#"{"a": {"output": {"x": null}}}"#], json!(null)),
        (&["item.key ~ status", "--with", r#"{"item": {"key": "k"}, "status": 200}"#], json!("k200")),
        (&["-1"], json!(-1)),
    ] {
        let args: Vec<&str> = ["eval"].iter().chain(args).copied().collect();
        let done = stepd_at(None, &args).is(0);
        assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap(), expected, "{args:?}");
    }
}

#[test]
fn a_wrong_expression_is_told_with_its_place_and_a_wrong_command_line_as_usage() {
    let told = stepd_at(None, &["eval", "1 + inptu.n"]).is(1).says("did you mean `input`?");
    assert!(told.err.contains("1 | 1 + inptu.n") && told.err.contains("|     ^^^^^"), "{}", told.err);
    stepd_at(None, &["eval", "input.nme", "--input", r#"{"name": 1}"#]).is(1).says("`input.nme` does not exist");
    stepd_at(None, &["eval", "1", "--steps", "[]"]).is(2).says("--steps takes a JSON object");
    stepd_at(None, &["eval", "1", "--steps", r#"{"a": 1}"#]).is(2).says(r#"{"a": {"output": …}}"#);
    stepd_at(None, &["eval", "1", "--input", "{"]).is(2).says("--input: not JSON");
}

#[test]
fn a_secret_is_never_shown() {
    let files = Files::new::<&str>([]);
    let config = files.path("stepd.toml");
    std::fs::write(&config, "[secrets]\ntoken = \"s3cret\"\n[env]\nREGION = \"eu\"\n").unwrap();
    let config = config.display().to_string();
    let done = stepd_at(None, &["--config", &config, "eval", "secrets.token ~ env.REGION"]).is(0);
    assert_eq!(done.line(), "\"***eu\"");
}

#[test]
fn the_kinds_of_step_are_listed_with_what_the_configuration_names() {
    let files = Files::new::<&str>([]);
    let config = files.path("stepd.toml");
    let text = r#"
[connections]
warehouse = "postgres://db/warehouse"
[secrets]
token = "s3cret"
[mcp.store]
command = "store-server"
[mcp.store.env]
TOKEN = "s3cret"
[mcp.pdf]
url = "https://pdf.internal/mcp"
[models.large]
base_url = "https://models.internal/v1"
model = "some-model"
api_key = "s3cret"
"#;
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let done = stepd_at(None, &["--config", &config, "kinds", "-o", "json"]).is(0);
    let list: Vec<Value> = serde_json::from_str(&done.out).unwrap();
    for (what, name) in [
        ("kind", "http"),
        ("kind", "map"),
        ("server", "store"),
        ("server", "pdf"),
        ("model", "large"),
        ("connection", "warehouse"),
        ("secret", "token"),
    ] {
        assert!(list.iter().any(|row| row["what"] == what && row["name"] == name), "{name} is not in {}", done.out);
    }
    assert!(!done.out.contains("s3cret"));
    assert!(
        done.out.contains("some-model at https://models.internal/v1") && done.out.contains("https://pdf.internal/mcp")
    );
    assert!(stepd_at(None, &["kinds"]).is(0).out.contains("A shell script."));
}

#[test]
fn the_schema_is_one_json_document_for_editors() {
    let schema: Value = serde_json::from_str(&stepd_at(None, &["schema"]).is(0).out).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let good = json!({"name": "a", "steps": [{"id": "one", "run": "true", "retry": {"max_attempts": 2}}]});
    assert!(validator.is_valid(&good));
    for (pointer, wrong) in [
        ("/steps/0/retry/max_attempts", json!("2")),
        ("/steps/0/run", json!("echo ${{ input.x }}")),
        ("/steps/0/id", json!("One")),
        ("/steps", json!([])),
    ] {
        let mut file = good.clone();
        *file.pointer_mut(pointer).unwrap() = wrong;
        assert!(!validator.is_valid(&file), "{pointer}");
    }
    let mut typo = good.clone();
    typo["steps"][0]["rtry"] = json!({});
    assert!(!validator.is_valid(&typo));
}

#[test]
fn a_document_of_afu9_is_checked_and_imported_as_it_is() {
    let document = root("tests/definitions/afu9/issue_to_pr.json");
    let checked = stepd_at(None, &["check", &document]).is(0);
    assert!(checked.out.contains("issue_to_pr.json: issue_to_pr"), "{}", checked.out);
    let printed = stepd_at(None, &["import", &document]).is(0);
    assert!(
        printed.out.contains("mcp: \"github.getIssue\"") && printed.out.contains("${{ input.repo.owner }}"),
        "{}",
        printed.out
    );
    let files = Files::new::<&str>([]);
    let into = files.path("native").display().to_string();
    let other = root("tests/definitions/afu9/fix_deploy_failure.json");
    stepd_at(None, &["import", &document, &other]).is(2).says("--into FOLDER");
    stepd_at(None, &["import", &document, &other, "--into", &into]).is(0);
    assert_eq!(std::fs::read_to_string(files.path("native/issue_to_pr.yaml")).unwrap(), printed.out);
    // What somebody may have worked on is not overwritten.
    stepd_at(None, &["import", &document, "--into", &into]).is(1).says("move away what is there");
    stepd_at(None, &["import", &root("examples/bos.yaml")]).is(2).says("it is native already");
}

#[test]
fn a_workflow_of_two_agents_as_json_gives_their_outputs_by_step() {
    let done = stepd_at(None, &["run", &root("examples/two_agents.json"), "--ephemeral", "-o", "json"]).is(0);
    let told: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(told["output"]["summarize"]["words"], json!(9), "{told}");
    assert_eq!(told["output"]["extract_entities"]["entities"], json!(["Ada", "Lovelace", "London"]), "{told}");
}

#[test]
fn an_agent_that_is_not_there_fails_the_run_at_once_by_name() {
    let files = Files::new::<&str>([]);
    let path = files.path("bad_agent.json");
    std::fs::write(
        &path,
        r#"{"name": "bad_agent", "steps": [{"name": "a", "tool": "nobody.summarize", "params": {}}]}"#,
    )
    .unwrap();
    let done = stepd_at(None, &["run", &path.display().to_string(), "--ephemeral"]).is(5);
    assert!(done.err.contains("nobody") || done.err.contains("`mcp`"), "{}", done.err);
}

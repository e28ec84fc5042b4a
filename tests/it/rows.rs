//! More of what people who come from older systems expect: agents that are not there or are added, diamonds, snapshots, examples.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{stepd, stepd_at};
use crate::support::{Db, Files, SOON, Spec};

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

const NOBODY: [&str; 3] = [
    "name: tool\nsteps: [{id: a, mcp: nobody.summarize}]\n",
    "name: model\nsteps: [{id: a, llm: nobody, prompt: x}]\n",
    "name: agent\nsteps: [{id: a, agent: nobody, prompt: x}]\n",
];

#[tokio::test]
async fn a_server_a_model_or_an_agent_that_is_not_there_fails_its_run_by_name_at_the_first_attempt_and_for_good() {
    let (db, files) = (Db::new().await, Files::new(NOBODY));
    let _worker = Spec::new(&db, &files).ready().await;
    for workflow in ["tool", "model", "agent"] {
        let run = db.enqueue(workflow, "{}").await;
        db.reaches(&run, "failed", SOON).await;
        let told: String = db.one(format!("SELECT error_message FROM stepd.runs WHERE id = '{run}'")).await;
        assert!(told.contains("`nobody`") && told.contains("add ["), "{told}");
        let tries = format!("SELECT count(*) FROM stepd.history WHERE run = '{run}' AND event = 'attempt failed'");
        assert_eq!(db.count(tries).await, 1, "nothing is tried again");
        let resumes = format!("SELECT resumes::bigint FROM stepd.runs WHERE id = '{run}'");
        assert_eq!(db.count(resumes).await, 0, "nothing is taken up again");
    }
}

/// A server of one tool, in a few lines of shell.
const SERVER: &str = r#"
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  case "$line" in
    *'"method":"server/discover"'*) say '{"supportedVersions":["2026-07-28"]}' ;;
    *'"method":"tools/list"'*) say '{"tools":[{"name":"summarize","inputSchema":{"type":"object"}}]}' ;;
    *'"name":"summarize"'*) say '{"structuredContent":{"result":"in short"}}' ;;
  esac
done
"#;

#[tokio::test]
async fn a_new_agent_is_a_few_lines_of_configuration_and_a_reload_and_runs_use_it() {
    let (db, files) = (Db::new().await, Files::new([NOBODY[0]]));
    let (config, server) = (files.path("stepd.toml"), files.path("server.sh"));
    std::fs::write(&config, "").unwrap();
    std::fs::write(&server, SERVER).unwrap();
    let config_ = config.display().to_string();
    let mut worker = Spec::new(&db, &files).arg("--config").arg(&config_).ready().await;
    let run = db.enqueue("tool", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    let section = format!("[mcp.nobody]\ncommand = \"sh\"\nargs = [\"{}\"]\n", server.display());
    std::fs::write(&config, section).unwrap();
    worker.hup();
    worker.logs("reloaded").await;
    let kinds = stepd_at(None, &["--config", &config_, "kinds", "-o", "json"]).is(0);
    let kinds: Vec<Value> = serde_json::from_str(&kinds.out).unwrap();
    assert!(kinds.iter().any(|row| row["what"] == "server" && row["name"] == "nobody"), "the registry lists it");
    let run = db.enqueue("tool", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#"{"a":"in short"}"#);
}

/// Each arm ends only when both have begun; one is the longer.
const DIAMOND: &str = "
name: diamond
resume: never
input: {required: [broken], properties: {broken: {type: string}}}
retry: {max_attempts: 1}
steps:
  - {id: top, run: echo top >> @DIR@/log}
  - {id: left, needs: [top], run: 'echo left >> @DIR@/log; until grep -q right @DIR@/log; do sleep 0.02; done'}
  - id: right
    needs: [top]
    run: 'echo right >> @DIR@/log; until grep -q left @DIR@/log; do sleep 0.02; done; sleep 0.2; test $BROKEN != yes; test $BROKEN != passed'
    env: {BROKEN: '${{ input.broken }}'}
  - {id: bottom, needs: [left, right], run: echo bottom >> @DIR@/log}
";

#[tokio::test]
async fn a_diamond_takes_as_long_as_its_longer_arm_and_an_arm_that_fails_keeps_its_end_from_running() {
    let (db, files) = (Db::new().await, Files::new([DIAMOND]));
    let tolerant = DIAMOND
        .replace("name: diamond", "name: tolerant")
        .replace("    needs: [top]\n", "    needs: [top]\n    on_error: continue\n");
    files.write("tolerant.yaml", &tolerant);
    let _worker = Spec::new(&db, &files).ready().await;
    for (workflow, broken, state, bottoms) in
        [("diamond", "no", "completed", 1), ("diamond", "yes", "failed", 0), ("tolerant", "passed", "completed", 1)]
    {
        let _ = std::fs::remove_file(files.path("log"));
        let run = db.enqueue(workflow, &json!({"broken": broken}).to_string()).await;
        db.reaches(&run, state, SOON).await;
        let overlap = "max(started_at) FILTER (WHERE key IN ('left', 'right')) < min(ended_at) FILTER (WHERE key IN ('left', 'right'))
            AND max(ended_at) FILTER (WHERE key = 'top') <= min(started_at) FILTER (WHERE key IN ('left', 'right'))
            AND coalesce(max(ended_at) FILTER (WHERE key IN ('left', 'right')) <= min(started_at) FILTER (WHERE key = 'bottom'), true)";
        assert!(db.one::<bool>(format!("SELECT {overlap} FROM stepd.steps WHERE run = '{run}'")).await, "{workflow}");
        assert_eq!(files.counts("log").get("bottom").copied().unwrap_or(0), bottoms, "{workflow}, broken: {broken}");
    }
}

#[tokio::test]
async fn the_state_at_a_step_holds_what_was_assigned_until_then_and_nothing_of_later() {
    let text = "
name: assigns
steps:
  - {id: one, set: {a: 1}}
  - {id: two, set: {a: '${{ steps.one.output.a + 1 }}'}}
  - {id: three, run: 'until test -e @DIR@/go; do sleep 0.02; done; echo 3'}
  - {id: four, set: '${{ [steps.one.output.a, steps.two.output.a, steps.three.output] }}'}
";
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("assigns", "{}").await;
    let state_at = |step: &str| {
        format!(
            "SELECT coalesce(json_object_agg(key, output ORDER BY seq)::text, '') FROM stepd.steps WHERE run = '{run}' AND state = 'completed'
            AND seq <= (SELECT seq FROM stepd.steps WHERE run = '{run}' AND key = '{step}')"
        )
    };
    db.step_reaches(&run, "three", "running", SOON).await;
    let before = r#"{ "one" : {"a":1}, "two" : {"a":2} }"#;
    assert_eq!(db.one::<String>(state_at("three")).await, before);
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.one::<String>(state_at("two")).await, before, "what came later has changed nothing");
    assert_eq!(db.one::<String>(state_at("one")).await, r#"{ "one" : {"a":1} }"#);
    assert_eq!(
        db.one::<String>(state_at("four")).await,
        r#"{ "one" : {"a":1}, "two" : {"a":2}, "three" : 3, "four" : [1,2,3] }"#
    );
}

#[test]
fn the_handbook_says_what_agents_do_not_do() {
    let text = std::fs::read_to_string(root("docs/tools-and-models.md")).unwrap();
    let part = text.split("## What there is not").nth(1).expect("the section");
    for word in ["Streaming", "Memory", "Bedrock"] {
        assert!(part.contains(word), "{word}");
    }
}

/// Runs that end as their files say, without anything beside a worker.
const EXAMPLES: [(&str, &str, &str); 7] = [
    ("bos.yaml", "{}", "completed"),
    ("flaky.yaml", "{}", "completed"),
    ("poll.yaml", "{}", "completed"),
    ("report.yaml", "{}", "completed"),
    ("saga.yaml", r#"{"order": 7, "cents": 9000}"#, "completed"),
    ("saga.yaml", r#"{"order": 8, "cents": 90000}"#, "failed"),
    ("two_agents.json", "{}", "completed"),
];

#[tokio::test]
async fn every_example_runs_to_the_end_that_its_file_says() {
    let (db, files) = (Db::new().await, Files::new::<&str>([]));
    for (name, ..) in EXAMPLES {
        std::fs::copy(root("examples").join(name), files.workflows().join(name)).unwrap();
    }
    let _worker = Spec::new(&db, &files).ready().await;
    let mut runs = Vec::new();
    for (name, input, state) in EXAMPLES {
        let workflow = name.split_once('.').unwrap().0;
        runs.push((db.enqueue(workflow, input).await, workflow, state));
    }
    for (run, _, state) in &runs {
        db.reaches(run, state, SOON).await;
    }
    let run = |n: usize| runs[n].0.as_str();
    assert_eq!(db.output(run(2)).await, r#"{"parts":20,"failed":1}"#);
    assert_eq!(db.output(run(4)).await, r#""by courier""#);
    let ends = format!(
        "SELECT key || ': ' || coalesce(output #>> '{{}}', '') FROM stepd.steps WHERE run = '{}' AND seq > (SELECT seq FROM stepd.steps WHERE run = '{}' AND key = '(end)') ORDER BY seq",
        run(5),
        run(5)
    );
    assert_eq!(
        db.all::<String>(ends).await,
        ["reserve.undo: released r-8", "tell: order 8: exit_1 at charge", "close: order 8 has failed"]
    );
}

#[tokio::test]
async fn a_run_shows_which_case_was_taken_how_often_it_went_round_and_how_it_ends() {
    let text = "
name: shown
resume: never
steps:
  - id: round
    repeat: {steps: [{id: look, set: '${{ index }}'}], until: index == 2, max: 5}
  - id: kind
    switch: input.kind
    cases:
      parcel: [{id: tag, set: labelled}]
    default: [{id: fail, run: exit 3, retry: {max_attempts: 1}}]
finally:
  - {set: '${{ run.state }}'}
";
    let without = text.replace("name: shown", "name: open").replace("finally:\n  - {set: '${{ run.state }}'}\n", "");
    let (db, files) = (Db::new().await, Files::new([text.to_owned(), without]));
    let _worker = Spec::new(&db, &files).ready().await;
    for (workflow, kind, state, shown) in [
        ("shown", "parcel", "completed", &["took parcel", "the run ends completed", "3 rounds, 3 steps"][..]),
        ("shown", "letter", "failed", &["took default", "the run ends failed", "finally[0]"]),
        // The switch is the last of all: what it chose is kept there, too.
        ("open", "parcel", "completed", &["took parcel"]),
    ] {
        let run = db.enqueue(workflow, &json!({"kind": kind}).to_string()).await;
        db.reaches(&run, state, SOON).await;
        let told = stepd(&db, &["show", &run]).await.is(0).out;
        for text in shown {
            assert!(told.contains(text), "{workflow}, {kind}: `{text}` is not in\n{told}");
        }
        let steps: Value = serde_json::from_str(&stepd(&db, &["show", &run, "-o", "json"]).await.is(0).out).unwrap();
        let chosen =
            steps["steps"].as_array().unwrap().iter().find(|s| s["key"] == "kind").map(|s| s["chosen"].clone());
        assert_eq!(chosen, Some(json!(if kind == "parcel" { "parcel" } else { "default" })));
    }
}

//! The handbook, `docs/language.md`: every example in it is loaded and run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stepd::{BoxFuture, Error, Failure, Flow, Step, StepCx, StepOutput, Stepd};

use crate::support::{Db, SOON, wait_until};

/// One example: the YAML, and what is said about it.
#[derive(Debug, Default)]
struct Example {
    line: usize,
    yaml: String,
    input: Option<Value>,
    output: Option<Value>,
    /// The code with which it fails.
    fails: Option<Value>,
    /// The outputs of some of its steps, by key.
    steps: HashMap<String, Value>,
    /// What stand-ins answer, by step.
    answers: HashMap<String, Value>,
    /// What is emitted, by the event's name; null: nothing.
    events: HashMap<String, Value>,
}

fn examples() -> Vec<Example> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/language.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut found, mut next, mut inside) = (Vec::new(), Example::default(), false);
    for (n, line) in text.lines().enumerate() {
        let said = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")).and_then(|l| l.split_once(": "));
        match (inside, line, said) {
            (false, "```yaml", _) => (inside, next.line) = (true, n + 1),
            (true, "```", _) => {
                inside = false;
                found.push(std::mem::take(&mut next));
            }
            (true, ..) => next.yaml.push_str(&format!("{line}\n")),
            (false, _, Some((what, json))) if what != "table" => {
                let value: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("line {}: {e}", n + 1));
                let map = |value: Value| value.as_object().cloned().unwrap().into_iter().collect();
                match what {
                    "input" => next.input = Some(value),
                    "output" => next.output = Some(value),
                    "fails" => next.fails = Some(value),
                    "steps" => next.steps = map(value),
                    "answers" => next.answers = map(value),
                    "events" => next.events = map(value),
                    other => panic!("line {}: what is {other}?", n + 1),
                }
            }
            _ => {}
        }
    }
    found
}

/// Stands in for a service: answers as the example says.
struct StandIn {
    kind: &'static str,
    answers: Arc<Mutex<HashMap<(String, String), Value>>>,
}

impl Step for StandIn {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn run<'a>(&'a self, cx: &'a StepCx, _params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        let key = (cx.workflow.to_string(), cx.key.as_str().to_owned());
        let answer = self.answers.lock().unwrap().get(&key).cloned();
        Box::pin(async move {
            let answer = answer.unwrap_or_else(|| panic!("no stand-in answers for {key:?}"));
            if let Some(code) = answer["fail"].as_str() {
                return Err(Failure::transient(code.to_owned(), "the stand-in says so"));
            }
            let default = if self.kind == "sql" { answer["rows"].clone() } else { answer["body"].clone() };
            Ok(Flow::Done(StepOutput { raw: answer, default }))
        })
    }
}

/// Is the output what the handbook says? `"*"` stands for any text.
fn fits(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::String(any), Value::String(_)) if any == "*" => true,
        (Value::Array(e), Value::Array(g)) => e.len() == g.len() && e.iter().zip(g).all(|(e, g)| fits(e, g)),
        (Value::Object(e), Value::Object(g)) => {
            e.len() == g.len() && e.iter().all(|(k, v)| g.get(k).is_some_and(|g| fits(v, g)))
        }
        _ => expected == got,
    }
}

fn name(yaml: &str) -> String {
    yaml.lines().find_map(|l| l.strip_prefix("name: ")).expect("an example is a whole workflow").to_owned()
}

#[tokio::test]
async fn every_example_of_the_handbook_gives_what_it_says() {
    let (db, dir) = (Db::new().await, tempfile::tempdir().unwrap());
    let all = examples();
    assert!(all.len() >= 9, "only {} examples", all.len());
    let answers: Arc<Mutex<HashMap<(String, String), Value>>> = Arc::default();
    for example in &all {
        let name = name(&example.yaml);
        std::fs::write(dir.path().join(format!("{name}.yaml")), &example.yaml).unwrap();
        let mut known = answers.lock().unwrap();
        known.extend(example.answers.iter().map(|(step, a)| ((name.clone(), step.clone()), a.clone())));
    }
    let stand_in = |kind| StandIn { kind, answers: answers.clone() };
    let stepd = Stepd::builder().database(&db.url).queue("own").workflow_files(dir.path()).kind(stand_in("http"));
    let stepd = stepd.kind(stand_in("mcp")).kind(stand_in("llm"));
    let stepd = stepd.kind(stand_in("sql")).start().await.unwrap();
    for example in &all {
        let name = name(&example.yaml);
        let input = example.input.clone().unwrap_or(json!({}));
        let run = stepd.enqueue(name.as_str(), &input).await.unwrap();
        let state = format!("SELECT state::text FROM stepd.runs WHERE id = '{run}'");
        wait_until(&format!("the end of {name} (line {})", example.line), SOON, async || {
            for (step, prompt) in [("approval", true), ("event", false)] {
                let waits = format!(
                    "SELECT coalesce(event, key) FROM stepd.waiting WHERE run = '{run}' AND waits_for = '{step}'"
                );
                for what in db.all::<String>(waits).await {
                    match (prompt, example.events.get(&what)) {
                        // Somebody may have been faster: this test, a moment ago.
                        (true, _) => drop(stepd.approve(run, Some(&what), None).await),
                        (false, Some(Value::Null)) => {}
                        (false, Some(payload)) => db.exec(format!("SELECT stepd.emit('{what}', '{payload}')")).await,
                        (false, None) => panic!("{name} waits for {what}, and the handbook says nothing of it"),
                    }
                }
            }
            ["completed", "failed"].contains(&&*db.one::<String>(state.as_str()).await)
        })
        .await;
        let (expected, output) = match stepd.result(run).await {
            Ok(output) => (&example.output, output),
            Err(Error::Failed { failure, .. }) => (&example.fails, json!(failure.code)),
            Err(error) => panic!("{name}: {error}"),
        };
        let expected =
            expected.as_ref().unwrap_or_else(|| panic!("the handbook does not say that {name} gives {output}"));
        assert!(fits(expected, &output), "{name} (line {}) gives {output}\nthe handbook says {expected}", example.line);
        for (key, expected) in &example.steps {
            let told = format!("SELECT output::text FROM stepd.steps WHERE run = '{run}' AND key = '{key}'");
            let got: Value = serde_json::from_str(&db.one::<String>(told).await).unwrap();
            assert!(fits(expected, &got), "step {key} of {name} (line {}) gives {got}", example.line);
        }
    }
    assert!(stepd.shutdown().await);
}

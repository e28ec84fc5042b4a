//! The daemon's log, as those see it who collect it.

use serde_json::Value;

use crate::support::{Db, Files, SOON, Spec, wait_until};

const TALKS: &str = r#"
name: talks
resume: never
steps:
  - id: talk
    run: |
      echo "key is ${KEY}" >&2
      printf 'no newline' >&2
      echo '{"not": "a log line"}' >&2
      echo "{\"key\": \"Bearer ${KEY}\", \"n\": 1.50}"
    env: {KEY: "${{ secrets.api }}"}
  - id: slow
    sql: SELECT pg_sleep(1.2)
  - id: boom
    http: GET http://127.0.0.1:1/?key=${{ secrets.api }}
    retry: {max_attempts: 1}
"#;

const SECRET: &str = "geheim+geheim/17";

fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[tokio::test]
async fn every_line_is_json_and_those_of_a_run_name_it_whoever_wrote_them() {
    let (db, files) = (Db::new().await, Files::new([TALKS]));
    let level = "info,stepd=debug,sqlx=trace,reqwest=trace,hyper_util=trace";
    let spec = Spec::new(&db, &files).env("STEPD_LOG_LEVEL", level).env("STEPD_SECRETS__API", SECRET);
    let mut worker = spec.env("STEPD_HTTP_ALLOW", "127.0.0.1").ready().await;
    let run = db.enqueue("talks", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    worker.logs("run left").await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let lines = lines(&worker.log());
    let id: String = db.one("SELECT id::text FROM stepd.runs").await;
    let of_run: Vec<&Value> = lines.iter().filter(|l| l["run.id"] == id).collect();
    let said = |text: &str| of_run.iter().find(|l| l["message"].as_str().is_some_and(|m| m.contains(text))).copied();
    for text in ["key is ***", "no newline", "{\"not\": \"a log line\"}"] {
        let line = said(text).unwrap_or_else(|| panic!("no line of the run says {text}: {}", worker.log()));
        assert_eq!(
            (&line["target"], &line["step.key"], &line["attempt"]),
            (&"stepd::stderr".into(), &"talk".into(), &1.into())
        );
    }
    // What libraries write in a step's name: the driver's word of a statement, in a task of its own; the client's steps.
    for (target, step) in [("sqlx", "slow"), ("hyper_util", "boom")] {
        let from = |l: &&&Value| l["target"].as_str().is_some_and(|t| t.starts_with(target)) && l["step.key"] == step;
        assert!(of_run.iter().any(|l| from(&l)), "no line of {target} in {step}: {}", worker.log());
    }
    for line in &of_run {
        assert_eq!(line["trace_id"], id.replace('-', ""));
        assert!(line["worker.id"].is_string() && line["level"].is_string(), "{line}");
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
    // The daemon's own lines name the worker from its registration on.
    let ready = lines.iter().find(|l| l["message"] == "ready").unwrap();
    assert!(ready["worker.id"].is_string() && ready["run.id"].is_null(), "{ready}");
    let output: String = db.one("SELECT output::text FROM stepd.steps WHERE key = 'talk'").await;
    assert_eq!(output, r#"{"key":"Bearer ***","n":1.50}"#);
    let encoded = SECRET.replace('+', "%2B").replace('/', "%2F");
    let stored: String = db.one("SELECT string_agg(r::text, '') FROM (SELECT error::text FROM stepd.runs UNION ALL SELECT output::text FROM stepd.steps UNION ALL SELECT data::text FROM stepd_engine.events) r").await;
    for text in [worker.log(), stored] {
        assert!(!text.contains(SECRET) && !text.contains(&encoded), "{text}");
    }
}

#[tokio::test]
async fn what_programs_write_to_stderr_is_logged_only_where_that_is_wanted_and_never_without_end() {
    let noisy = "name: noisy\nsteps:\n  - id: n\n    run: seq 1 5000 >&2; head -c 10000 /dev/zero | tr '\\0' x >&2\n";
    let (db, files) = (Db::new().await, Files::new([noisy]));
    let mut quiet = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("noisy", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(quiet.drain(SOON).await, Some(0));
    assert_eq!(quiet.logged("stepd::stderr"), 0);
    let mut worker = Spec::new(&db, &files).env("STEPD_LOG_LEVEL", "info,stepd::stderr=debug").ready().await;
    let run = db.enqueue("noisy", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(worker.logged("stepd::stderr"), 1_001);
    // 5,000 lines, and one of 10,000 bytes.
    assert_eq!(worker.logged("\"left_out\":4001"), 1, "{}", worker.log());
}

#[tokio::test]
async fn logs_for_people_escape_what_could_play_with_the_terminal_and_a_wrong_level_is_refused() {
    let (db, files) =
        (Db::new().await, Files::new(["name: x\nsteps: [{id: a, run: \"printf '\\\\033[2J\\\\n' >&2\"}]\n"]));
    let spec = Spec::new(&db, &files).env("STEPD_LOG_FORMAT", "pretty");
    let mut worker = spec.clone().env("STEPD_LOG_LEVEL", "info,stepd::stderr=debug").start();
    worker.logs(" ready").await;
    let run = db.enqueue("x", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    wait_until("the program's line is there", SOON, async || worker.logged("\\x1b[2J") == 1).await;
    assert!(!worker.log().contains('\u{1b}'), "{}", worker.log());
    let mut wrong = spec.env("STEPD_LOG_LEVEL", "info,stepd=lod").start();
    assert_eq!(wrong.ends(SOON).await.code(), Some(2));
    assert_eq!(wrong.logged("STEPD_LOG_LEVEL: `log_level` must be a filter"), 1, "{}", wrong.log());
}

//! What operators look at and set from the shell: the real binary beside a real daemon.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::cli::{ASK, BAD, HELLO, stepd, stepd_at};
use crate::support::{Db, Files, SOON, Spec, wait_until};

const FLAKY: &str = "
name: flaky
resume: never
steps:
  - id: try
    run: test \"$STEPD_ATTEMPT\" -gt 1
    retry: {initial: 10ms}
  - id: ok
    approve: Ship it?
output: 1
";

/// A command at work, whose lines are read as they come.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn new(db: &Db, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepd"));
        command.args(args).env("DATABASE_URL", &db.url).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on until a line holds a text; every line that was read.
    async fn reads(mut self, text: &str) -> (Self, Vec<String>) {
        let text = text.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let mut seen = Vec::new();
            for line in self.lines.by_ref() {
                let line = line.unwrap();
                let found = line.contains(&text);
                seen.push(line);
                if found {
                    return (self, seen);
                }
            }
            panic!("`{text}` is not in {seen:#?}");
        });
        tokio::time::timeout(SOON, read).await.expect("in time").unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn documents(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_watched_run_is_told_line_by_line_and_ends_the_watch_with_its_result() {
    let (db, files) = (Db::new().await, Files::new([HELLO, BAD, FLAKY]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("hello", r#"{"who":"me"}"#).await;
    let done = stepd(&db, &["watch", &run]).await.is(0);
    assert_eq!(done.line(), r#"{"to":"me","n":123456789012345678901234567890}"#);
    let order: Vec<_> = ["run enqueued", "run started", "step completed", "run completed"]
        .iter()
        .map(|word| done.err.find(word).unwrap_or_else(|| panic!("{word}: {}", done.err)))
        .collect();
    assert!(order.is_sorted(), "{}", done.err);
    let run = db.enqueue("bad", "{}").await;
    let done = stepd(&db, &["watch", "@last", "-o", "json"]).await.is(5).says("attempt failed");
    let document: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&document["id"], &document["state"]), (&run.into(), &"failed".into()));
    let run = db.enqueue("flaky", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    stepd(&db, &["watch", &run, "--timeout", "700ms"]).await.is(7).says("has not ended in time; it goes on");
    db.exec(format!("SELECT stepd.cancel('{run}', 'enough')")).await;
    stepd(&db, &["watch", &run]).await.is(6).says("was cancelled");
    stepd(&db, &["watch", "0198c2f0-a1b2-7abc-8def-0123456789ab"]).await.is(3);
    stepd(&db, &["watch", "@last", "--workflow", "flaky"]).await.is(2);
}

#[tokio::test]
async fn a_watch_over_all_runs_tells_every_change_of_those_that_fit() {
    let (db, files) = (Db::new().await, Files::new([HELLO, ASK]));
    let _worker = Spec::new(&db, &files).ready().await;
    let before = db.enqueue("ask", "{}").await;
    db.reaches(&before, "waiting", SOON).await;
    let watch = Running::new(&db, &["watch", "--workflow", "ask", "-o", "jsonl"]);
    // What is unfinished at the start is told, too.
    let (watch, lines) = watch.reads(&before).await;
    assert_eq!(documents(&lines.join("\n"))[0]["state"], "waiting");
    let other = db.enqueue("hello", r#"{"who":"me"}"#).await;
    db.reaches(&other, "completed", SOON).await;
    let new = db.enqueue("ask", "{}").await;
    let (watch, _) = watch.reads(&new).await;
    db.exec(format!("SELECT stepd.cancel('{before}')")).await;
    let (_watch, lines) = watch.reads("cancelled").await;
    let told = documents(&lines.join("\n"));
    assert_eq!(told.last().unwrap()["id"], before.as_str());
    assert!(told.iter().all(|d| d["id"] != other.as_str() && d["workflow"] == "ask"), "{told:?}");
}

#[tokio::test]
async fn the_log_of_a_run_has_its_attempts_and_operators_and_can_be_followed_to_its_end() {
    let (db, files) = (Db::new().await, Files::new([FLAKY]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("flaky", "{}").await;
    let follow = Running::new(&db, &["logs", "--follow", &run]);
    let (follow, lines) = follow.reads("step waiting").await;
    assert!(lines.iter().any(|l| l.contains("attempt failed    try, attempt 1: exit_1: ")), "{lines:#?}");
    stepd(&db, &["approve", &run, "-m", "go"]).await.is(0);
    let (mut follow, lines) = follow.reads("run completed").await;
    assert!(lines.iter().any(|l| l.contains("approved          ok by postgres: go")), "{lines:#?}");
    assert_eq!(follow.child.wait().unwrap().code(), Some(0), "it ends with the run");
    let all = stepd(&db, &["logs", &run]).await.is(0).out;
    assert!(all.lines().next().unwrap().ends_with("run enqueued      by postgres"), "{all}");
    let list = documents(&stepd(&db, &["logs", &run, "-o", "jsonl"]).await.is(0).out);
    let failed = list.iter().find(|l| l["event"] == "attempt failed").unwrap();
    assert_eq!((&failed["key"], &failed["data"]["failure"]["code"]), (&"try".into(), &"exit_1".into()));
    stepd(&db, &["logs", "0198c2f0-a1b2-7abc-8def-0123456789ab"]).await.is(3);
}

#[tokio::test]
async fn the_pause_before_a_retry_is_told_by_the_attempt_that_failed() {
    let slow = FLAKY.replace("initial: 10ms", "initial: 1h");
    let (db, files) = (Db::new().await, Files::new([slow.as_str()]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("flaky", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    let log = stepd(&db, &["logs", &run]).await.is(0).out;
    let last = log.lines().last().unwrap();
    assert!(last.contains("attempt failed    try, attempt 1: exit_1: ") && last.contains("; again in "), "{log}");
    assert!(!log.contains("step waiting"), "{log}");
}

#[tokio::test]
async fn an_event_is_emitted_from_the_shell() {
    let (db, files) = (Db::new().await, Files::new([ASK]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("ask", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    stepd(&db, &["approve", &run]).await.is(0);
    db.step_reaches(&run, "paid", "waiting", SOON).await;
    assert!(
        stepd(&db, &["emit", "paid", "--payload", r#"{"n":2}"#]).await.is(0).out.starts_with("no run waits for it")
    );
    let done = stepd(&db, &["emit", "paid", "--payload", r#"{"n":1}"#, "-o", "json"]).await.is(0);
    assert_eq!(done.line(), r#"{"name":"paid","reached":1}"#);
    db.reaches(&run, "completed", SOON).await;
    stepd(&db, &["emit", "paid", "--payload", "{n"]).await.is(2).says("--payload: not JSON");
}

#[tokio::test]
async fn a_queue_is_paused_limited_and_let_go_from_the_shell() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let _worker = Spec::new(&db, &files).ready().await;
    let done = stepd(&db, &["queue", "pause", "default"]).await.is(0);
    assert!(done.out.starts_with("default  paused by postgres since "), "{}", done.out);
    let run = db.enqueue("hello", r#"{"who":"me"}"#).await;
    let list = documents(&stepd(&db, &["queue", "ls", "-o", "jsonl"]).await.is(0).out);
    assert_eq!((&list[0]["name"], &list[0]["paused"], &list[0]["held"]), (&"default".into(), &true.into(), &1.into()));
    assert_eq!(stepd(&db, &["queue", "unpause", "default"]).await.is(0).line(), "default  open");
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(stepd(&db, &["queue", "limit", "default", "3"]).await.is(0).line(), "default  limited to 3");
    assert_eq!(db.count("SELECT max_running::bigint FROM stepd.queues WHERE name = 'default'").await, 3);
    assert_eq!(stepd(&db, &["queue", "limit", "default", "none"]).await.is(0).line(), "default  open");
    stepd(&db, &["queue", "limit", "default", "0"]).await.is(2).says("stepd queue pause");
    // A typo pauses nothing.
    stepd(&db, &["queue", "pause", "defualt"]).await.is(3).says("hint: did you mean default?");
    assert_eq!(db.count("SELECT count(*) FROM stepd.queues").await, 1);
    stepd(&db, &["queue", "limit", "later", "2"]).await.is(0).says("has named the queue later so far");
}

#[tokio::test]
async fn a_retired_workflow_takes_no_new_job_ends_its_runs_and_comes_back_with_a_worker_that_has_it() {
    let (db, files) = (Db::new().await, Files::new([ASK]));
    let worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("ask", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    let done = stepd(&db, &["workflow", "retire", "ask"]).await.is(0);
    assert!(done.out.starts_with("ask  retired "), "{}", done.out);
    done.says("1 of its runs in flight go on");
    stepd(&db, &["workflow", "retire", "ask"]).await.is(0);
    stepd(&db, &["workflow", "retire", "aks"]).await.is(3).says("hint: did you mean ask?");
    let refused =
        db.ask::<String>("INSERT INTO stepd.jobs (workflow) VALUES ('ask') RETURNING id::text").await.unwrap_err();
    assert!(refused.to_string().contains("unknown workflow \"ask\""), "{refused}");
    stepd(&db, &["approve", &run]).await.is(0);
    db.step_reaches(&run, "paid", "waiting", SOON).await;
    stepd(&db, &["emit", "paid", "--payload", r#"{"n":1}"#]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    drop(worker);
    let _worker = Spec::new(&db, &files).ready().await;
    let again = db.enqueue("ask", "{}").await;
    db.reaches(&again, "waiting", SOON).await;
}

#[tokio::test]
async fn workers_say_whether_they_live_and_what_they_serve() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    stepd(&db, &["worker", "ls"]).await.is(0).says("no workers: start one with stepd serve");
    let mut worker = Spec::new(&db, &files).lease(3).arg("--queue=gpu").concurrency(7).ready().await;
    let line = || async { documents(&stepd(&db, &["worker", "ls", "-o", "jsonl"]).await.is(0).out).remove(0) };
    let now = line().await;
    assert_eq!((&now["state"], &now["slots"], &now["queues"][0]), (&"alive".into(), &7.into(), &"gpu".into()));
    assert_eq!(now["pid"], worker.pid());
    assert!(now["beat_age_ms"].as_i64().unwrap() < 3_000, "{now}");
    worker.kill9();
    wait_until("it is silent", SOON, async || line().await["state"] == "silent").await;
    let table = stepd(&db, &["worker", "ls"]).await.is(0).out;
    assert!(table.contains("silent") && table.contains("gpu"), "{table}");
}

#[tokio::test]
async fn the_documented_query_for_advisory_locks_finds_the_lock_of_a_worker_with_a_live_run() {
    let (db, files) = (Db::new().await, Files::new(["name: long\nsteps:\n  - id: s\n    run: sleep 60\n"]));
    let worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "s", "running", SOON).await;
    let held =
        "SELECT locktype, database, classid, objid, mode, granted, pid FROM pg_locks WHERE locktype = 'advisory'";
    let holder = format!(
        "SELECT w.pid FROM ({held}) l JOIN stepd_engine.workers w ON w.number = l.objid::bigint
         WHERE l.granted AND l.classid = 'stepd_engine.workers'::regclass::oid
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND w.id = (SELECT worker FROM stepd.runs WHERE id = '{run}')"
    );
    assert_eq!(db.all::<i32>(holder).await, [worker.pid()]);
}

#[tokio::test]
async fn workflows_show_runs_failures_and_durations_of_the_last_day_and_the_definition() {
    let (db, files) = (Db::new().await, Files::new([HELLO, BAD, ASK]));
    let _worker = Spec::new(&db, &files).ready().await;
    for _ in 0..3 {
        db.enqueue("hello", r#"{"who":"me"}"#).await;
    }
    let bad = db.enqueue("bad", "{}").await;
    let ask = db.enqueue("ask", "{}").await;
    db.reaches(&bad, "failed", SOON).await;
    db.reaches(&ask, "waiting", SOON).await;
    wait_until("the others have ended", SOON, async || db.count("SELECT count(*) FROM stepd.jobs").await == 1).await;
    // One of yesterday's does not count.
    db.exec(
        "INSERT INTO stepd_engine.ended SELECT (e).* FROM (SELECT jsonb_populate_record(e, jsonb_build_object('id',
            '01900000-0000-7000-8000-000000000001')) AS e FROM stepd_engine.ended e WHERE workflow = 'bad') x",
    )
    .await;
    let list = documents(&stepd(&db, &["workflow", "ls", "-o", "jsonl"]).await.is(0).out);
    let of = |name: &str| list.iter().find(|w| w["name"] == name).unwrap();
    assert_eq!((&of("bad")["last_day"]["runs"], &of("bad")["last_day"]["failed"]), (&1.into(), &1.into()));
    assert!(of("bad")["last_day"]["p50_seconds"].is_null());
    assert_eq!((&of("ask")["in_flight"], &of("hello")["last_day"]["runs"]), (&1.into(), &3.into()));
    // The durations are those of the views.
    let p50 = db
        .one::<f64>(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY EXTRACT(EPOCH FROM (ended_at - started_at)))
             FROM stepd.runs WHERE workflow = 'hello' AND state = 'completed'",
        )
        .await;
    assert!((of("hello")["last_day"]["p50_seconds"].as_f64().unwrap() - p50).abs() < 1e-9, "{}", of("hello"));
    assert!(of("hello")["last_day"]["p95_seconds"].as_f64().unwrap() >= p50);

    let shown = stepd(&db, &["workflow", "show", "ask"]).await.is(0).out;
    for text in ["the present one  waiting  1", "approve: Ship it?", "last day   1 run, 0 failed"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    // Loaded anew: the run in flight keeps the definition that it began with.
    files.write("w2.yaml", &ASK.replace("Ship it?", "Really?"));
    let _newer = Spec::new(&db, &files).ready().await;
    let shown = stepd(&db, &["workflow", "show", "ask"]).await.is(0).out;
    assert!(shown.contains("an earlier one, ") && shown.contains("approve: Really?"), "{shown}");
    stepd(&db, &["workflow", "show", "aks"]).await.is(3).says("did you mean ask?");
}

#[tokio::test]
async fn the_durations_of_runs_are_there_as_the_documented_query_asks_for_them() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("hello", r#"{"who":"me"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    let seconds = db
        .all::<f64>(
            "SELECT EXTRACT(EPOCH FROM (ended_at - started_at))::float8 AS duration_seconds FROM stepd.runs WHERE state = 'completed'",
        )
        .await;
    assert!(seconds.len() == 1 && seconds[0] > 0.0 && seconds[0] < 30.0, "{seconds:?}");
}

#[tokio::test]
async fn the_database_says_how_much_there_is_of_what() {
    let (db, files) = (Db::new().await, Files::new([HELLO, ASK]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("hello", r#"{"who":"me"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    let run = db.enqueue("ask", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    let document: Value = serde_json::from_str(&stepd(&db, &["db", "-o", "json"]).await.is(0).out).unwrap();
    let states = serde_json::json!([
        {"state": "waiting", "runs": 1, "estimated": false}, {"state": "completed", "runs": 1, "estimated": false}
    ]);
    assert_eq!(document["states"], states);
    let jobs = document["tables"].as_array().unwrap().iter().find(|t| t["table"] == "stepd.jobs").unwrap();
    assert!(jobs["bytes"].as_i64().unwrap() > 0 && jobs["bloated"] == false, "{jobs}");
    db.exec("ALTER TABLE stepd.jobs SET (autovacuum_enabled = false)").await;
    let told = stepd(&db, &["db"]).await.is(0).out;
    assert!(told.contains("ALTER TABLE stepd.jobs RESET (autovacuum_enabled)"), "{told}");
}

#[test]
fn completions_and_manual_pages_are_made_from_the_command_line_itself() {
    for (shell, word) in [("bash", "_stepd"), ("zsh", "#compdef stepd"), ("fish", "complete -c stepd")] {
        let text = stepd_at(None, &["completions", shell]).is(0).out;
        assert!(text.contains(word) && text.contains("doctor"), "{shell}");
        assert!(!text.contains("guard"), "{shell}: what is hidden is not completed");
    }
    let page = stepd_at(None, &["man"]).is(0).out;
    assert!(page.contains(".TH stepd 1") && page.contains("stepd\\-doctor(1)"), "{page}");
    assert!(stepd_at(None, &["man", "queue", "pause"]).is(0).out.contains("Stop a queue"));
    stepd_at(None, &["man", "nothing"]).is(3);
    let dir = tempfile::tempdir().unwrap();
    stepd_at(None, &["man", "--dir", &dir.path().display().to_string()]).is(0);
    for name in ["stepd.1", "stepd-doctor.1", "stepd-queue-pause.1"] {
        assert!(dir.path().join(name).is_file(), "{name}");
    }
}

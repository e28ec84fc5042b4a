// A test ends with its tasks.
#![allow(clippy::disallowed_methods)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ProcessOptions, kinds};
use crate::model::{Class, Failure};
use crate::os::proc;
use crate::steps::step::{Flow, Step, StepCx, StepOutput, StopReason};
use crate::steps::testing;

/// Names the helper processes of the tests.
const HELPER: &str = "STEPD_TEST_PROCESS_HELPER";
const GUARD: &str = "steps::process::tests::the_guard_of_the_tests";

pub(super) fn options() -> ProcessOptions {
    let guard = vec![std::env::current_exe().unwrap().into(), "--exact".into(), GUARD.into()];
    ProcessOptions { grace: Duration::from_millis(200), guard, ..ProcessOptions::default() }
}

#[test]
fn the_guard_of_the_tests() {
    if std::env::var_os("STEPD_GUARD_TOKEN").is_some() {
        let _ = super::guard_main();
    }
}

pub(super) async fn flow(step: &impl Step, cx: &StepCx, params: Value) -> Result<StepOutput, Failure> {
    match step.run(cx, params).await? {
        Flow::Done(output) => Ok(output),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn run(script: &str) -> Result<StepOutput, Failure> {
    flow(&kinds(options()).0, &testing::context().0, json!({"script": script})).await
}

pub(super) async fn exec(params: Value) -> Result<StepOutput, Failure> {
    flow(&kinds(options()).1, &testing::context().0, params).await
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The processes whose ids a script has written, one a file, as soon as all are there.
async fn family(folder: &Path, size: usize) -> Vec<proc::Stat> {
    let mut found = Vec::new();
    until("all children have written their ids", || {
        let files = std::fs::read_dir(folder).unwrap().map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap());
        found = files.filter_map(|text| proc::stat(text.trim().parse().ok()?)).collect();
        found.len() == size
    })
    .await;
    found
}

pub(super) fn living(family: &[proc::Stat]) -> usize {
    family.iter().filter(|s| proc::is_alive(s.pid, s.start)).count()
}

/// Starts a child, one in a session of its own, and one double-forked into a session of its own
/// without any of our pipes; then hangs, deaf to TERM.
fn hang(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "trap '' TERM
         sh -c 'echo $$ > {folder}/child; while :; do sleep 1000; done' &
         setsid sh -c 'echo $$ > {folder}/session; exec sleep 1000' &
         (setsid sh -c 'echo $$ > {folder}/double; exec sleep 1000' < /dev/null > /dev/null 2>&1 &)
         echo $$ > {folder}/main
         while :; do sleep 1000; done"
    )
}

#[tokio::test]
async fn json_is_parsed_and_all_else_is_text_without_the_last_newline() {
    let out = run(r#"echo '{"a": [1, 2]}'; echo note >&2"#).await.unwrap();
    assert_eq!(out.default, json!({"a": [1, 2]}));
    assert_eq!(out.raw, json!({"exit_code": 0, "stdout": "{\"a\": [1, 2]}", "stderr": "note", "json": {"a": [1, 2]}}));
    assert_eq!(run("echo two; echo lines; echo").await.unwrap().default, json!("two\nlines"));
    assert_eq!(
        run("printf 123456789012345678901234567890").await.unwrap().default,
        serde_json::from_str::<Value>("123456789012345678901234567890").unwrap()
    );
    assert_eq!(run(":").await.unwrap().raw["json"], json!(null));
}

#[tokio::test]
async fn nul_bytes_and_broken_utf8_survive_as_far_as_json_can_hold_them() {
    assert_eq!(run(r"printf 'a\0b'").await.unwrap().default, json!("a\u{0}b"));
    assert_eq!(run(r"printf 'a\377b'").await.unwrap().default, json!("a\u{fffd}b"));
}

#[tokio::test]
async fn an_exit_code_is_the_failures_code_and_the_tails_are_its_details() {
    let failure = run("echo out; echo why >&2; exit 75").await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("exit_75", Class::Transient));
    assert_eq!(failure.message, "the program ended with exit code 75: why");
    assert_eq!(*failure.details.unwrap(), json!({"exit_code": 75, "signal": null, "stdout": "out", "stderr": "why"}));
    let failure = run("kill -9 $$").await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("signal_9", Class::Transient));
    let failure = run("no-such-program").await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("exit_127", Class::Permanent));
    assert!(failure.message.contains("charge: line 1"), "the shell names the step: {failure}");
    let failure = exec(json!({"argv": ["/no/such/program"]})).await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("spawn", Class::Permanent));
}

#[tokio::test]
async fn a_script_ends_at_its_first_failing_command() {
    assert_eq!(run("false; echo on").await.unwrap_err().code, "exit_1");
    let sh = flow(&kinds(options()).0, &testing::context().0, json!({"script": "false; echo on", "shell": "sh"})).await;
    assert_eq!(sh.unwrap_err().code, "exit_1");
    let own = json!({"script": "echo \"$0\"", "shell": ["env", "sh", "-c"]});
    assert_eq!(flow(&kinds(options()).0, &testing::context().0, own).await.unwrap().default, json!("sh"));
}

#[tokio::test]
async fn the_environment_is_the_attempts_own() {
    let (cx, _stop) = testing::context();
    let params = json!({"argv": ["env"], "env": {"N": 7, "J": {"a": 1}, "HOME": null, "STEPD_EPOCH": "999"}});
    let out = flow(&kinds(options()).1, &cx, params).await.unwrap();
    let text = out.default.as_str().unwrap().to_owned();
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        format!("STEPD_RUN_ID={}", cx.run),
        "STEPD_STEP_KEY=charge".into(),
        format!("STEPD_IDEMPOTENCY_KEY={}/charge", cx.run),
        "STEPD_EPOCH=3".into(),
        "STEPD_ATTEMPT=2".into(),
        format!("TRACEPARENT={}", cx.traceparent().unwrap()),
        "N=7".into(),
        r#"J={"a":1}"#.into(),
    ] {
        assert!(lines.contains(&line.as_str()), "{line} in {text}");
    }
    assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn stdin_is_a_string_as_it_is_and_other_values_as_json() {
    assert_eq!(exec(json!({"argv": ["cat"], "stdin": "a\u{0}b"})).await.unwrap().default, json!("a\u{0}b"));
    assert_eq!(exec(json!({"argv": ["cat"], "stdin": {"a": [1]}})).await.unwrap().default, json!({"a": [1]}));
    assert_eq!(exec(json!({"argv": ["cat"]})).await.unwrap().default, json!(""));
    let unread = json!({"argv": ["true"], "stdin": "x".repeat(1 << 20)});
    assert_eq!(exec(unread).await.unwrap().default, json!(""));
    let big = "y".repeat(1 << 20);
    assert_eq!(exec(json!({"argv": ["cat"], "stdin": big})).await.unwrap().default, json!(big));
}

#[tokio::test]
async fn wrong_parameters_are_permanent_and_named() {
    for (params, word) in [
        (json!({}), "argv"),
        (json!({"argv": []}), "argv"),
        (json!({"argv": ["a\u{0}b"]}), "argv"),
        (json!({"argv": ["true"], "cwd": "relative"}), "cwd"),
        (json!({"argv": ["true"], "env": {"A=B": "x"}}), "env"),
        (json!({"argv": ["true"], "env": {"A": "\u{0}"}}), "env"),
    ] {
        let failure = exec(params).await.unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.class), ("invalid_params", Class::Permanent));
        assert!(failure.message.contains(word), "{failure}");
    }
    assert_eq!(exec(json!({"argv": ["pwd"], "cwd": "/"})).await.unwrap().default, json!("/"));
}

#[tokio::test]
async fn more_output_than_the_limit_is_too_large() {
    let (run, _) = kinds(ProcessOptions { output_limit: 100_000, ..options() });
    let (cx, _stop) = testing::context();
    let failure = flow(&run, &cx, json!({"script": "yes"})).await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("too_large", Class::Permanent));
    let fits = flow(&run, &cx, json!({"script": "head -c 100000 /dev/zero"})).await.unwrap();
    assert_eq!(fits.default.as_str().unwrap().len(), 100_000);
}

#[tokio::test]
async fn a_hung_step_and_all_its_children_are_dead_at_its_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let (cx, stop) = testing::context();
    let script = hang(folder.path());
    let step = tokio::spawn(async move { flow(&kinds(options()).0, &cx, json!({"script": script})).await });
    let family = family(folder.path(), 4).await;
    assert_eq!(living(&family), 4);
    let started = Instant::now();
    stop.stop(StopReason::Timeout);
    let failure = step.await.unwrap().unwrap_err();
    assert_eq!(living(&family), 0, "dead before the step has ended");
    assert_eq!((failure.code.as_ref(), failure.class), ("timeout", Class::Transient));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_step_that_listens_to_term_has_its_grace_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let (cx, stop) = testing::context();
    let (run, _) = kinds(ProcessOptions { grace: Duration::from_secs(30), ..options() });
    let script = format!(
        "trap 'echo bye; exit 3' TERM; echo $$ > {}/main; while :; do sleep 0.01; done",
        folder.path().display()
    );
    let step = tokio::spawn(async move { flow(&run, &cx, json!({"script": script})).await });
    family(folder.path(), 1).await;
    stop.stop(StopReason::Cancelled);
    let failure = step.await.unwrap().unwrap_err();
    assert_eq!(failure.code, "interrupted");
    assert_eq!(failure.details.unwrap()["stdout"], "bye", "also where it was stopped in the moment of its start");
}

#[tokio::test]
async fn a_dropped_attempt_kills_all_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let (cx, _stop) = testing::context();
    let script = hang(folder.path());
    let step = tokio::spawn(async move { flow(&kinds(options()).0, &cx, json!({"script": script})).await });
    let family = family(folder.path(), 4).await;
    step.abort();
    until("all are dead", || living(&family) == 0).await;
}

#[tokio::test]
async fn what_outlives_the_main_process_is_killed_and_does_not_hold_up_the_step() {
    for pipes in ["", "> /dev/null 2>&1"] {
        for how in ["", "setsid"] {
            let folder = tempfile::tempdir().unwrap();
            let (file, started) = (folder.path().join("pid"), Instant::now());
            let file = file.display();
            let script = format!(
                "{how} sh -c 'echo $$ > {file}; exec sleep 1000' {pipes} & while [ ! -s {file} ]; do :; done; cat {file}"
            );
            let out = run(&script).await.unwrap();
            let pid = i32::try_from(out.default.as_i64().unwrap()).unwrap();
            assert!(proc::stat(pid).is_none_or(|s| s.is_zombie()), "{how} {pipes}");
            assert!(started.elapsed() < Duration::from_secs(5));
        }
    }
}

#[tokio::test]
async fn the_helper_of_the_test_below() {
    let Some(folder) = std::env::var_os(HELPER) else { return };
    let (run, _) = kinds(options());
    let (cx, _stop) = testing::context();
    println!("\n{HELPER}");
    let _ = flow(&run, &cx, json!({"script": hang(Path::new(&folder))})).await;
}

#[tokio::test]
async fn a_killed_daemon_leaves_no_child_after_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "steps::process::tests::the_helper_of_the_test_below"])
        .env(HELPER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == HELPER));
    let family = family(folder.path(), 4).await;
    let places: Vec<_> = family.iter().map(|s| std::fs::read_link(format!("/proc/{}/cwd", s.pid)).unwrap()).collect();
    assert!(places.iter().all(|place| place.exists()), "{places:?}");
    let id = i32::try_from(daemon.id()).unwrap();
    daemon.kill().unwrap();
    let killed = Instant::now();
    daemon.wait().unwrap();
    until("all are dead", || living(&family) == 0).await;
    let took = killed.elapsed();
    println!("children dead {took:?} after the daemon's SIGKILL");
    assert!(took < Duration::from_secs(1), "{took:?}");
    until("the guard is gone, too", || !proc::all().iter().any(|s| s.parent == id)).await;
    until("and the folder of the step", || !places.iter().any(|place| place.exists())).await;
}

//! Programs that want too much, and what they are given.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::tests::{exec, flow, living, options, run, until};
use super::{ProcessOptions, kinds};
use crate::model::{Class, Failure};
use crate::os::proc;
use crate::rules::limits::{Limits, Resource};
use crate::steps::step::StepOutput;
use crate::steps::testing;

const MIB: u64 = 1 << 20;

async fn limited(script: &str, limits: Value) -> Result<StepOutput, Failure> {
    flow(&kinds(options()).0, &testing::context().0, json!({"script": script, "limits": limits})).await
}

/// The step was killed for wanting too much of that.
#[track_caller]
fn wanted(done: Result<StepOutput, Failure>, name: &str, words: &str) -> Failure {
    let failure = done.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("limit_exceeded", Class::Permanent), "{failure}");
    assert_eq!(failure.details.as_ref().unwrap()["limit"]["limit"], name);
    assert!(failure.message.contains(words) && failure.message.contains(&format!("{{{name}: …}}")), "{failure}");
    failure
}

#[tokio::test]
async fn who_takes_too_much_memory_is_killed_and_told_how_much() {
    let one = "echo begun; perl -e '$x = \"x\" x (150 << 20); sleep 100'";
    let failure = wanted(limited(one, json!({"memory": 64 * MIB})).await, "memory", "more than 64 MiB of memory (");
    assert_eq!(failure.details.unwrap()["stdout"], "begun");
    let many = "for n in 1 2 3 4; do perl -e '$x = \"x\" x (30 << 20); sleep 100' & done; wait";
    wanted(limited(many, json!({"memory": 64 * MIB})).await, "memory", "64 MiB");
}

#[tokio::test]
async fn memory_that_several_share_is_counted_once() {
    let shared = "perl -e '$x = \"x\" x (60 << 20); for (1..4) { fork or do { select undef, undef, undef, 0.4; exit } } \
                  1 while wait > 0; print length $x'";
    assert_eq!(limited(shared, json!({"memory": 160 * MIB})).await.unwrap().default, json!(60 * MIB));
}

#[tokio::test]
async fn processor_time_of_all_together_is_limited_wherever_they_hide() {
    let two = "while :; do :; done & while :; do :; done";
    wanted(limited(two, json!({"cpu": 1_000})).await, "cpu", "more than 1 s of processor time");
    let hidden = "(setsid sh -c 'while :; do :; done' < /dev/null > /dev/null 2>&1 &); sleep 1000";
    wanted(limited(hidden, json!({"cpu": 1_000})).await, "cpu", "1 s");
}

#[tokio::test]
async fn more_processes_than_allowed_are_all_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = format!("while :; do sleep 1000 & echo $! >> {}; done", file.display());
    wanted(limited(&script, json!({"processes": 20})).await, "processes", "more than 20 of processes at one time");
    let pids = std::fs::read_to_string(file).unwrap();
    let family: Vec<_> = pids.lines().filter_map(|pid| proc::stat(pid.parse().ok()?)).collect();
    until("none of them is left", || living(&family) == 0).await;
}

#[tokio::test]
async fn a_file_grows_no_larger_and_no_more_files_are_opened_than_allowed() {
    let limit = json!({"file_size": 10_240});
    wanted(
        limited("head -c 20000 /dev/zero > f", limit.clone()).await,
        "file_size",
        "more than 10 KiB of bytes in one file",
    );
    wanted(limited("head -c 20000 /dev/zero > f; true", limit.clone()).await, "file_size", "10 KiB");
    assert_eq!(limited("head -c 10240 /dev/zero > f; wc -c < f", limit).await.unwrap().default, json!(10_240));
    let many = "for n in $(seq 3 100); do eval \"exec $n< /dev/null\"; done";
    let failure = limited(many, json!({"open_files": 32})).await.unwrap_err();
    assert!(failure.code.starts_with("exit_") && failure.message.contains("Too many open files"), "{failure}");
}

#[tokio::test]
async fn the_kernel_holds_each_process_to_its_limits_and_none_can_raise_them() {
    let limits = json!({"memory": 64 * MIB, "cpu": 7_000, "file_size": MIB, "open_files": 50});
    let out =
        limited("ulimit -d; ulimit -St; ulimit -f; ulimit -n; ulimit -n 60 2> /dev/null || echo no", limits).await;
    let kib = (64 * 2 + 128) * 1024;
    assert_eq!(out.unwrap().default, json!(format!("{kib}\n8\n1024\n50\nno")));
}

#[tokio::test]
async fn a_step_has_the_limits_of_the_configuration_and_may_have_less_but_not_more() {
    let all = Limits::default().with(Resource::FileSize, 1_024);
    let (run, _) = kinds(ProcessOptions { limits: all, ..options() });
    let (cx, _stop) = testing::context();
    let script = "head -c 2000 /dev/zero > f";
    wanted(flow(&run, &cx, json!({"script": script})).await, "file_size", "more than 1 KiB");
    let more = json!({"script": script, "limits": {"file_size": 4_096}});
    let failure = flow(&run, &cx, more).await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("invalid_params", Class::Permanent));
    assert!(failure.message.contains("asks for more bytes in one file than [limits]"), "{failure}");
    let wrong = json!({"script": script, "limits": {"file_size": "much"}});
    assert_eq!(flow(&run, &cx, wrong).await.unwrap_err().code, "invalid_params");
}

#[tokio::test]
async fn each_attempt_starts_in_an_empty_folder_of_its_own_that_is_gone_afterwards() {
    let script = "umask; stat -c %a . ; ls -A | wc -l; pwd; test \"$TMPDIR\" = \"$PWD\"; mkdir sub; echo x > sub/file; stat -c %a sub/file";
    let mut seen = Vec::new();
    for _ in 0..2 {
        let out = run(script).await.unwrap().default;
        let lines: Vec<&str> = out.as_str().unwrap().lines().collect();
        assert_eq!((lines[0], lines[1], lines[2], lines[4]), ("0077", "700", "0", "600"));
        seen.push(PathBuf::from(lines[3]));
    }
    assert_ne!(seen[0], seen[1]);
    until("both are gone", || !seen.iter().any(|folder| folder.exists())).await;
    let elsewhere = exec(json!({"argv": ["pwd"], "cwd": "/"})).await.unwrap();
    assert_eq!(elsewhere.default, json!("/"));
}

#[tokio::test]
async fn a_program_has_no_privileges_to_gain_no_open_files_and_no_group_of_ours() {
    let out =
        run("grep NoNewPrivs /proc/self/status; ls /proc/self/fd | wc -l; ulimit -c; ps -o pgid= -p $$").await.unwrap();
    let text = out.default.as_str().unwrap().to_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // 0, 1, 2, and the folder that `ls` reads.
    assert_eq!((lines[0].ends_with('1'), lines[1], lines[2]), (true, "4", "0"), "{text}");
    assert_ne!(lines[3], nix::unistd::getpgrp().to_string());
}

#[tokio::test]
async fn data_does_not_become_an_option() {
    for (word, refused) in [("-rf", true), ("--output=/etc/passwd", true), ("-5", false), ("-0.5", false), ("-", false)]
    {
        let done = exec(json!({"argv": ["printf", "%s", word], "data": [2]})).await;
        assert_eq!(done.is_err(), refused, "{word}");
        if let Err(failure) = done {
            assert_eq!(failure.code, "invalid_params");
            assert!(failure.message.contains("as argument 2") && failure.message.contains("write \"--\""), "{failure}");
        }
    }
    assert!(exec(json!({"argv": ["printf", "%s", "-x"]})).await.is_ok(), "what stands in the file is meant so");
}

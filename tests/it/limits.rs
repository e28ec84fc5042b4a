//! Programs that want too much, under the real daemon: each fails alone, and says of what it wanted too much.

use serde_json::Value;

use crate::cli::{HELLO, stepd, stepd_at};
use crate::support::{Db, Files, SOON, Spec};

const GREEDY: &str = r#"
name: greedy
resume: never
retry: {max_attempts: 1}
steps:
  - {id: memory, needs: [], on_error: continue, limits: {memory: 48MiB}, exec: [perl, -e, '$x = "x" x (60 << 20); sleep 1000']}
  - {id: cpu, needs: [], on_error: continue, limits: {cpu: 1s}, run: '(setsid sh -c "while :; do :; done" < /dev/null > /dev/null 2>&1 &) ; sleep 1000'}
  - {id: processes, needs: [], on_error: continue, limits: {processes: 12}, run: 'while :; do sleep 1000 & done'}
  - {id: file, needs: [], on_error: continue, run: head -c 2M /dev/zero > file}
  - {id: files, needs: [], on_error: continue, limits: {open_files: 24}, run: 'for n in $(seq 3 90); do eval "exec $n< /dev/null"; done'}
  - {id: output, needs: [], on_error: continue, run: 'yes'}
  - {id: time, needs: [], on_error: continue, timeout: 300ms, run: sleep 1000}
  - {id: modest, needs: [], limits: {memory: 48MiB, cpu: 1s, processes: 12, file_size: 64KiB, open_files: 24}, run: 'echo fine | tee file'}
  - {id: more, needs: [], on_error: continue, limits: {file_size: 2MiB}, run: 'true'}
"#;

#[tokio::test]
async fn steps_that_want_too_much_fail_alone_and_say_of_what() {
    let (db, files) = (Db::new().await, Files::new([GREEDY, HELLO]));
    std::fs::write(files.path("stepd.toml"), "max_output_bytes = 65536\n[limits]\nfile_size = \"1MiB\"\n").unwrap();
    let config = files.path("stepd.toml").display().to_string();
    let mut worker = Spec::new(&db, &files).arg("--config").arg(&config).ready().await;
    let run = db.enqueue("greedy", "{}").await;
    let other = db.enqueue("hello", r#"{"who": "Ada"}"#).await;
    db.reaches(&other, "completed", SOON).await;
    db.reaches(&run, "completed", SOON).await;
    let failures = db.all::<String>(format!(
        "SELECT key || ' ' || coalesce(error_code, 'none') || ' ' || coalesce(error_message, '') FROM stepd.steps WHERE run = '{run}' ORDER BY key"
    ));
    let failures = failures.await;
    let of = |key: &str| {
        failures.iter().find(|f| f.starts_with(&format!("{key} "))).unwrap_or_else(|| panic!("{failures:#?}"))
    };
    for (key, words) in [
        (
            "memory",
            &["memory limit_exceeded the program was killed", "more than 48 MiB of memory (", "{memory: …}"][..],
        ),
        ("cpu", &["cpu limit_exceeded", "more than 1 s of processor time"]),
        ("processes", &["processes limit_exceeded", "more than 12 of processes at one time"]),
        ("file", &["file limit_exceeded", "more than 1 MiB of bytes in one file", "[limits] of the configuration"]),
        ("files", &["files exit_1", "Too many open files"]),
        ("output", &["output too_large", "more than 65536 bytes"]),
        ("time", &["time timeout", "took longer than its limit of 300ms"]),
        ("modest", &["modest none"]),
        (
            "more",
            &[
                "more invalid_params",
                "asks for more bytes in one file than [limits] of this worker's configuration allows (1 MiB)",
            ],
        ),
    ] {
        for part in words {
            assert!(of(key).contains(part), "{part}: {}", of(key));
        }
    }
    let shown = stepd(&db, &["show", &run]).await.is(0).out;
    assert!(shown.contains("limit_exceeded"), "{shown}");
    let children = || stepd::os::proc::children_of(worker.pid()).len();
    // The guard; every program is gone.
    crate::support::wait_until("nothing of it is left", SOON, async || children() <= 1).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[test]
fn a_limit_that_is_none_is_told_where_it_stands() {
    let files = Files::new([
        "name: a\nsteps:\n  - id: one\n    run: x\n    limits: {memry: 1GiB, cpu: 5, memory: 10, processes: many, open_files: 3, file_size: 1GB}\n",
    ]);
    let done = stepd_at(None, &["check", &files.workflows().join("w0.yaml").display().to_string()]).is(1);
    for part in [
        "`limits` has no key `memry`",
        "did you mean `memory`?",
        "`cpu` must be text with a unit",
        "`memory` must be text with a unit",
        "`processes` must be a whole number",
        "`3` is no limit of open files: write a whole number, such as 64 (from 8 to",
        "`1GB` is no limit of bytes in one file: write a whole number of KiB, MiB or GiB",
    ] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
    std::fs::write(files.path("stepd.toml"), "[limits]\nmemry = '1GiB'\ncpu = 5\nprocesses = 64\n").unwrap();
    let done = stepd_at(None, &["config", "--config", &files.path("stepd.toml").display().to_string()]).is(2);
    for part in [
        "stepd.toml:2: `limits.memry`: there is no such limit; did you mean `memory`?",
        "stepd.toml:3: `limits.cpu`: `5` is no limit",
    ] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
    std::fs::write(files.path("stepd.toml"), "[limits]\nmemory = '1GiB'\nprocesses = 64\n").unwrap();
    let done =
        stepd_at(None, &["config", "-o", "json", "--config", &files.path("stepd.toml").display().to_string()]).is(0);
    let shown: Vec<Value> = serde_json::from_str(&done.out).unwrap();
    let value = |key: &str| shown.iter().find(|s| s["key"] == key).map(|s| s["value"].clone());
    assert_eq!((value("limits.memory"), value("limits.processes")), (Some("1GiB".into()), Some("64".into())));
}

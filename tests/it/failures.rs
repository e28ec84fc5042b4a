//! The stream of failures: a JSON line for each failed attempt, in a file that may be moved away, or have no room.

use std::path::Path;

use serde_json::Value;

use crate::support::{Db, Files, SOON, Spec, wait_until};

const TWICE: &str = "name: twice\nresume: never\nsteps:\n  - {id: bad, run: 'echo of $STEPD_ATTEMPT >&2; exit 3', retry: {max_attempts: 2, initial: 10ms}}\n";

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[tokio::test]
async fn each_failed_attempt_is_a_line_of_the_file_also_after_that_was_moved_away() {
    let (db, files) = (Db::new().await, Files::new([TWICE]));
    let (file, moved) = (files.path("e.jsonl"), files.path("e.1"));
    let mut worker = Spec::new(&db, &files).arg("--error-log").arg(&file.display().to_string()).ready().await;
    let run: String = db.one("SELECT stepd.enqueue('twice', session_id => 'chat')::text").await;
    db.reaches(&run, "failed", SOON).await;
    wait_until("both attempts are told", SOON, async || lines(&file).len() == 2).await;
    let told = lines(&file);
    for (n, line) in told.iter().enumerate() {
        assert_eq!((&line["run.id"], &line["step.key"]), (&run.as_str().into(), &"bad".into()));
        assert_eq!(
            (&line["attempt"], &line["code"], &line["session.id"]),
            (&(n + 1).into(), &"exit_3".into(), &"chat".into())
        );
        assert_eq!(line["message"], format!("the program ended with exit code 3: of {}", n + 1));
        assert_eq!(line["trace_id"], run.replace('-', ""));
        assert_eq!(line["workflow"], "twice");
    }
    assert!(told[0]["retry_in_ms"].is_number() && told[1]["retry_in_ms"].is_null(), "{told:?}");
    std::fs::rename(&file, &moved).unwrap();
    worker.hup();
    wait_until("the file is opened anew", SOON, async || file.exists()).await;
    let run = db.enqueue("twice", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0), "with what was to be told last");
    assert_eq!((lines(&moved).len(), lines(&file).len()), (2, 2));
}

#[tokio::test]
async fn a_full_disk_harms_no_run_and_a_file_that_cannot_be_opened_is_named_at_the_start() {
    let (db, files) = (Db::new().await, Files::new([TWICE, "name: good\nsteps: [{id: a, set: 1}]\n"]));
    let mut worker = Spec::new(&db, &files).env("STEPD_ERROR_LOG", "/dev/full").ready().await;
    let (bad, good) = (db.enqueue("twice", "{}").await, db.enqueue("good", "{}").await);
    db.reaches(&bad, "failed", SOON).await;
    db.reaches(&good, "completed", SOON).await;
    worker.logs("failures cannot be told").await;
    assert_eq!(worker.logged("failures cannot be told"), 1, "once, however many");
    assert_eq!(worker.drain(SOON).await, Some(0));
    let mut wrong = Spec::new(&db, &files).env("STEPD_ERROR_LOG", "/nowhere/e.jsonl").start();
    assert_ne!(wrong.ends(SOON).await.code(), Some(0));
    assert_eq!(wrong.logged("error_log: /nowhere/e.jsonl cannot be opened"), 1, "{}", wrong.log());
}

//! `stepd demo`, as a newcomer runs it, but without a terminal.

// Helpers of tests, too, may unwrap.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

fn demo() -> Child {
    Command::new(env!("CARGO_BIN_EXE_stepd"))
        .arg("demo")
        // It leads nowhere: a demo that used it would fail.
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .env("PGHOST", "/nowhere")
        .env("STEPD_QUEUES", "another")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Everything that descends from a process.
fn family(of: u32) -> BTreeSet<i32> {
    let all = stepd::os::proc::all();
    let mut family = BTreeSet::from([i32::try_from(of).unwrap()]);
    loop {
        let before = family.len();
        family.extend(all.iter().filter(|s| family.contains(&s.parent)).map(|s| s.pid).collect::<Vec<_>>());
        if family.len() == before {
            family.remove(&i32::try_from(of).unwrap());
            return family;
        }
    }
}

fn alive(pids: &BTreeSet<i32>) -> bool {
    pids.iter().any(|pid| stepd::os::proc::stat(*pid).is_some_and(|s| !s.is_zombie()))
}

/// The folders of its server and its workers, by their names.
fn folders(of: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/tmp").unwrap().chain(std::fs::read_dir(std::env::temp_dir()).unwrap());
    let of = format!("-{of}-");
    entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            let ours = |n: &str| ["stepd-pg-", "stepd-demo-"].iter().any(|own| n.starts_with(own)) && n.contains(&of);
            p.file_name().and_then(|n| n.to_str()).is_some_and(ours)
        })
        .collect()
}

/// Reads stdout until it holds the text, and gathers the family meanwhile.
async fn until(child: &mut Child, text: &str) -> BTreeSet<i32> {
    let mut out = child.stdout.take().unwrap();
    let text = text.to_owned();
    let (out, found) = tokio::task::spawn_blocking(move || {
        let (mut seen, mut buffer) = (String::new(), [0; 4096]);
        while !seen.contains(&text) {
            match out.read(&mut buffer) {
                Ok(0) | Err(_) => return (out, false),
                Ok(n) => seen.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
        }
        (out, true)
    })
    .await
    .unwrap();
    assert!(found);
    child.stdout = Some(out);
    family(child.id())
}

#[tokio::test]
async fn the_demo_proves_itself_and_leaves_nothing_behind() {
    let child = demo();
    let id = child.id();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    for line in [
        "INSERT INTO stepd.jobs (workflow, input)",
        "items 16   effects 16   lost 0   doubled 0",
        "none ran twice",
        "from SIGKILL to the first step",
        "run             completed",
        "Proved:",
    ] {
        assert!(text.contains(line), "no `{line}` in:\n{said}");
    }
    assert!(!text.contains('\x1b'), "colours in a pipe:\n{said}");
    assert_eq!(folders(id), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_interrupted_demo_cleans_up() {
    let mut child = demo();
    let family = until(&mut child, "A job is a row").await;
    assert!(family.len() > 5, "a server and two workers: {family:?}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let id = child.id();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(folders(id), Vec::<PathBuf>::new());
    wait_until("all its processes are gone", LIMIT, async || !alive(&family)).await;
}

#[tokio::test]
async fn a_killed_demo_leaves_no_process_behind() {
    let mut child = demo();
    let family = until(&mut child, "charged · on worker").await;
    assert!(family.len() > 5, "a server and two workers: {family:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("all its processes are gone", LIMIT, async || !alive(&family)).await;
    // The next start of a private Postgres would sweep it away, too.
    for folder in folders(child.id()) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

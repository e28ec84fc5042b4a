//! The command line, as a shell sees it: the real binary, its output, its exit codes.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Db, Files, SOON, Spec};

pub const ASK: &str = "
name: ask
steps:
  - id: ok
    approve: Ship it?
  - id: paid
    wait: paid
    match: {n: 1}
output: steps.paid.output
";

pub const HELLO: &str = "
name: hello
input: {required: [who], properties: {who: {type: string}}}
steps:
  - id: greet
    run: printf '{\"to\":\"%s\",\"n\":123456789012345678901234567890}' \"$WHO\"
    env: {WHO: \"${{ input.who }}\"}
output: steps.greet.output
";

pub const BAD: &str = "
name: bad
resume: never
steps:
  - id: boom
    run: exit 3
    retry: {max_attempts: 1}
";

/// What a command came to.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    #[track_caller]
    pub fn is(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "`{text}` is not in {}", self.err);
        self
    }

    pub fn line(&self) -> String {
        self.out.trim().to_owned()
    }
}

/// Runs `stepd` with a database URL; none: with an empty environment.
pub fn stepd_at(url: Option<&str>, args: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepd"));
    command.args(args);
    done(command, url)
}

/// … without one, and killed when it takes more of a processor's time.
pub fn stepd_within(seconds: u32, args: &[&str]) -> Done {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -t {seconds}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_stepd")]).args(args);
    done(command, None)
}

fn done(mut command: Command, url: Option<&str>) -> Done {
    command.stdin(Stdio::null());
    for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("STEPD_")) {
        command.env_remove(key);
    }
    for (key, _) in std::env::vars_os().filter(|(k, _)| crate::support::is_of_traces(k)) {
        command.env_remove(key);
    }
    command.env_remove("DATABASE_URL").env_remove("RUST_LOG").env("LANG", "C.UTF-8").env_remove("LC_ALL");
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// As [`stepd_at`], off the test's own thread.
pub async fn stepd(db: &Db, args: &[&str]) -> Done {
    let (url, args) = (db.url.clone(), args.iter().map(ToString::to_string).collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || stepd_at(Some(&url), &args.iter().map(String::as_str).collect::<Vec<_>>()))
        .await
        .unwrap()
}

/// … with a configuration.
pub async fn stepd_with(db: &Db, config: &std::path::Path, args: &[&str]) -> Done {
    let config = config.display().to_string();
    stepd(db, &[&["--config", config.as_str()], args].concat()).await
}

#[tokio::test]
async fn a_wait_ends_as_the_run_does() {
    let (db, files) = (Db::new().await, Files::new([HELLO, BAD]));
    let _worker = Spec::new(&db, &files).ready().await;
    let done = stepd(&db, &["enqueue", "hello", "--input", r#"{"who":"me"}"#, "--wait"]).await.is(0);
    assert_eq!(done.line(), r#"{"to":"me","n":123456789012345678901234567890}"#);
    stepd(&db, &["enqueue", "bad", "--wait"]).await.is(5).says("failed at boom: exit_3");
    let done = stepd(&db, &["enqueue", "bad", "--wait", "-o", "json"]).await.is(5);
    let document: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&document["state"], &document["error"]["code"]), (&"failed".into(), &"exit_3".into()));
}

#[tokio::test]
async fn what_cannot_be_enqueued_is_refused_at_once() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let _worker = Spec::new(&db, &files).ready().await;
    stepd(&db, &["enqueue", "helo"]).await.is(3).says("hint: Did you mean \"hello\"?");
    stepd(&db, &["enqueue", "hello", "--input", r#"{"who":1}"#]).await.is(2).says("/who");
    stepd(&db, &["enqueue", "hello", "--input", "{who"]).await.is(2).says("--input: not JSON");
    stepd(&db, &["enqueue", "hello", "--priority", "10"]).await.is(2);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 0);
}

#[tokio::test]
async fn a_waiting_run_is_answered_from_the_shell() {
    let (db, files) = (Db::new().await, Files::new([ASK]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = stepd(&db, &["enqueue", "ask", "--label", "team=red"]).await.is(0).line();
    db.reaches(&run, "waiting", SOON).await;
    assert!(stepd(&db, &["why", "@last"]).await.is(0).out.starts_with("waiting for approval at ok \"Ship it?\""));
    stepd(&db, &["signal", &run[..20], "paid", "--payload", r#"{"n":1,"x":2}"#]).await.is(0);
    stepd(&db, &["approve", &run, "-m", "go"]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    stepd(&db, &["approve", &run]).await.is(4).says("SD011");
    stepd(&db, &["signal", "0198c2f0-a1b2-7abc-8def-0123456789ab", "paid"]).await.is(3).says("SD010");

    let other = stepd(&db, &["enqueue", "ask"]).await.is(0).line();
    db.reaches(&other, "waiting", SOON).await;
    stepd(&db, &["reject", &other, "nope"]).await.is(3).says("SD014");
    stepd(&db, &["enqueue", "ask", "--wait", "--wait-timeout", "300ms"]).await.is(7);
    stepd(&db, &["cancel", &other, "--reason", "enough"]).await.is(0);
    assert_eq!(db.state(&other).await, "cancelled");
    let found = stepd(&db, &["ls", "--label", "team=red", "--state", "completed,failed", "--since", "1h", "-o", "id"])
        .await
        .is(0);
    assert_eq!(found.line(), run);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_bulk_action_counts_and_needs_a_yes() {
    let (db, files) = (Db::new().await, Files::new([ASK, BAD]));
    let _worker = Spec::new(&db, &files).ready().await;
    for _ in 0..3 {
        let run = db.enqueue("ask", "{}").await;
        db.reaches(&run, "waiting", SOON).await;
    }
    stepd(&db, &["cancel"]).await.is(2);
    stepd(&db, &["cancel", "@last", "--workflow", "ask"]).await.is(2);
    stepd(&db, &["cancel", "--workflow", "ask"]).await.is(2).says("this would cancel 3 runs").says("--yes");
    stepd(&db, &["cancel", "--state", "completed", "--yes"]).await.is(2);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'waiting'").await, 3);
    let done = stepd(&db, &["cancel", "--workflow", "ask", "--yes", "-o", "id"]).await.is(0).says("3 runs cancelled");
    assert_eq!(done.out.lines().count(), 3);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'cancelled'").await, 3);
    let run = db.enqueue("bad", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    stepd(&db, &["retry", "--workflow", "bad", "--yes"]).await.is(0).says("1 run retried");
}

#[tokio::test]
async fn a_prefix_must_mean_one_run() {
    let (db, files) = (Db::new().await, Files::new([ASK]));
    let _worker = Spec::new(&db, &files).ready().await;
    stepd(&db, &["show", "@last"]).await.is(3);
    let (a, b) = (db.enqueue("ask", "{}").await, db.enqueue("ask", "{}").await);
    stepd(&db, &["why", "0"]).await.is(2).says(&a).says(&b);
    stepd(&db, &["why", "ffff"]).await.is(3);
    stepd(&db, &["why", "zz"]).await.is(2);
    assert!(stepd(&db, &["show", &b]).await.is(0).out.contains(&b));
    assert_eq!(stepd(&db, &["show", "@last", "-o", "id"]).await.is(0).line(), b);
}

#[tokio::test]
async fn a_crash_and_its_resume_are_shown() {
    let (db, files) = (
        Db::new().await,
        Files::new(["
name: slow
steps:
  - id: first
    set: 1
  - id: long
    run: test \"$STEPD_EPOCH\" -gt 1 || sleep 60
"]),
    );
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("slow", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    worker.kill9();
    let _other = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    let order = "SELECT string_agg(event, ', ' ORDER BY seq) FROM stepd.history WHERE event IN ('crashed', 'resumed', 'run completed')";
    assert_eq!(db.one::<String>(order).await, "crashed, resumed, run completed");
    let by = "SELECT data ->> 'worker' FROM stepd.history WHERE event = 'resumed'";
    assert_eq!(db.one::<String>(by).await, db.one::<String>("SELECT id::text FROM stepd.workers").await);
    let shown = stepd(&db, &["show", &run]).await.is(0).out;
    let row = |name: &str| {
        shown.lines().find(|l| l.starts_with(name) && l.contains('█') || l.contains('─')).map(str::to_owned)
    };
    let (died, resumed) = (row("long").and_then(|l| l.find('×')), row("long").and_then(|l| l.find('↻')));
    assert!(died.is_some() && died < resumed, "{shown}");
    assert!(shown.contains("1 death of a worker"), "{shown}");
    let document: serde_json::Value =
        serde_json::from_str(&stepd(&db, &["show", &run, "-o", "jsonl"]).await.is(0).out).unwrap();
    assert_eq!((&document["state"], document["steps"].as_array().map(Vec::len)), (&"completed".into(), Some(2)));
    assert!(document["history"].to_string().contains("crashed"), "{document}");
}

#[tokio::test]
async fn labels_say_what_people_call_a_step_or_an_item() {
    let (db, files) = (
        Db::new().await,
        Files::new(["
name: labelled
steps:
  - id: docs
    map: ${{ input.docs }}
    as: doc
    label: doc.name
    max_parallel: 2
    steps:
      - id: text
        run: echo text
      - id: save
        sql: SELECT 1
      - id: rest
        if: doc.name == 'b.pdf'
        set: 1
  - id: last
    label: \"'the last of ' ~ input.docs | length\"
    set: 1
  - id: nameless
    label: input.docs[7].name
    set: 1
"]),
    );
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("labelled", r#"{"docs": [{"name": "a.pdf"}, {"name": "b.pdf"}]}"#).await;
    db.reaches(&run, "completed", SOON).await;
    let labels = db
        .all::<String>(format!(
            "SELECT key || '=' || coalesce(label, '') FROM stepd.steps WHERE run = '{run}' ORDER BY key"
        ))
        .await;
    assert_eq!(
        labels,
        [
            "docs=",
            "docs[0].rest=a.pdf",
            "docs[0].save=a.pdf",
            "docs[0].text=a.pdf",
            "docs[1].rest=b.pdf",
            "docs[1].save=b.pdf",
            "docs[1].text=b.pdf",
            "last=the last of 2",
            "nameless="
        ]
    );
    let shown = stepd(&db, &["show", &run, "--all"]).await.is(0).out;
    for name in ["docs[1].text (b.pdf)  completed", "docs[0] (a.pdf)  ", "last (the last of 2)  "] {
        assert!(shown.contains(name), "{name}: {shown}");
    }
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn nothing_of_a_run_changes_when_an_idle_daemon_is_killed_and_started_again() {
    let (db, files) = (Db::new().await, Files::new([ASK, HELLO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let ended = db.enqueue("hello", r#"{"who":"me"}"#).await;
    let waits = db.enqueue("ask", "{}").await;
    db.reaches(&ended, "completed", SOON).await;
    db.reaches(&waits, "waiting", SOON).await;
    let show = async |run: &str| {
        let document = stepd(&db, &["show", run, "-o", "json"]).await.is(0).out;
        // The sentence says for how long already.
        document.lines().filter(|l| !l.trim_start().starts_with("\"why\"")).collect::<Vec<_>>().join("\n")
    };
    let before = [show(&ended).await, show(&waits).await];
    worker.kill9();
    let again = Spec::new(&db, &files).ready().await;
    crate::support::wait_until("the dead one's row is swept", SOON, async || {
        let pids = db.all::<i32>("SELECT pid FROM stepd.workers").await;
        pids == [again.pid()]
    })
    .await;
    assert_eq!([show(&ended).await, show(&waits).await], before);
}

#[tokio::test]
async fn data_cannot_write_to_the_terminal() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let wild = "{\"who\": \"\\u001b[2J\\u202e\\r\u{202e}\u{9b}\"}";
    let run = db.enqueue("hello", wild).await;
    db.exec(format!("UPDATE stepd.jobs SET labels = '{{\"\u{202e}\": \"\u{9b}2J\"}}' WHERE id = '{run}'")).await;
    for args in [vec!["show", "@last"], vec!["show", "@last", "-o", "json"], vec!["ls", "-o", "jsonl"], vec!["ls"]] {
        let out = stepd(&db, &args).await.is(0).out;
        let wild = out.chars().find(|c| c.is_control() && *c != '\n' || matches!(c, '\u{202e}'));
        assert_eq!(wild, None, "{args:?}: {out:?}");
    }
}

#[test]
fn a_database_that_is_away_is_told_within_five_seconds() {
    let away = "postgres://nobody@127.0.0.1:1/nothing";
    for args in [
        vec!["ls"],
        vec!["show", "@last"],
        vec!["enqueue", "x"],
        vec!["cancel", "@last"],
        vec!["run", "x"],
        vec!["migrate"],
    ] {
        let began = Instant::now();
        stepd_at(Some(away), &args).is(69);
        assert!(began.elapsed() < Duration::from_secs(5), "{args:?}");
    }
    stepd_at(None, &["ls"]).is(2).says("DATABASE_URL");
    stepd_at(None, &["ls", "--state", "fialed"]).is(2).says("failed");
    stepd_at(None, &["check", "/nowhere.yaml"]).is(2);
}

//! The worker's machine runs out of something: files, processes, memory, space. Its steps wait, or run elsewhere; nothing is lost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::limits::{Group, Small, files, limit_files};
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const WORK: &str = "
name: work
resume: never
steps:
  - id: own
    sql: INSERT INTO effects (run) VALUES ($1)
    params: [\"${{ run.id }}\"]
    retry: {max_attempts: 1}
  - id: program
    run: echo \"$STEPD_RUN_ID\" >> @DIR@/effects
    retry: {max_attempts: 1}
";

async fn enqueue(db: &Db, n: i64) {
    db.exec(format!("INSERT INTO stepd.jobs (workflow) SELECT 'work' FROM generate_series(1, {n})")).await;
}

/// Each run has completed, with its only attempt of each step, and each effect is there once.
async fn each_once(db: &Db, files: &Files, n: i64) {
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, n);
    assert_eq!(db.events("attempt_failed").await, 0, "the machine's trouble uses up no attempt");
    assert_eq!(db.events("crashed").await + db.events("taken_over").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM effects").await, n);
    let effects = files.counts("effects");
    assert_eq!(effects.len(), usize::try_from(n).unwrap());
    assert!(effects.values().all(|times| *times == 1));
}

/// Whoever looks for work has the connection for it.
async fn looks_for_work(db: &Db) {
    let looked = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'stepd claimer' AND datname = current_database() AND state = 'idle' AND query <> ''";
    wait_until("it has looked for work", SOON, async || db.count(looked).await == 1).await;
}

fn asks(site: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(site.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// None to accept a connection with, none to make one, none for a program's pipes.
#[tokio::test]
async fn without_a_file_descriptor_left_steps_wait_requests_wait_and_it_is_told_once() {
    let (db, dir) = (Db::new().await, Files::new([WORK]));
    db.exec("CREATE TABLE effects (run uuid)").await;
    let mut worker = Spec::new(&db, &dir).http().ready().await;
    let site = worker.site().await;
    looks_for_work(&db).await;
    limit_files(worker.pid(), Some(files(worker.pid())));
    enqueue(&db, 10).await;
    let at = site.clone();
    let unanswered = tokio::task::spawn_blocking(move || asks(&at).is_err()).await.unwrap();
    holds_for("nothing completes", Duration::from_secs(2), async || {
        worker.is_running() && db.count("SELECT count(*) FROM stepd.runs WHERE state <> 'completed'").await == 10
    })
    .await;
    limit_files(worker.pid(), None);
    each_once(&db, &dir, 10).await;
    assert!(unanswered, "it could not accept a connection");
    let at = site.clone();
    wait_until("it answers again", SOON, async || {
        let at = at.clone();
        tokio::task::spawn_blocking(move || asks(&at).is_ok_and(|said| said.contains("200 OK"))).await.unwrap()
    })
    .await;
    let loud = worker.log().lines().filter(|l| l.contains("\"WARN\"") || l.contains("\"ERROR\"")).count();
    assert!(loud <= 2, "{loud} loud lines: {}", worker.log());
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// Not even the machine's certificates can be read then, which are read for the first request.
#[tokio::test]
async fn without_a_file_descriptor_left_requests_to_others_wait_and_are_sent_once() {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let ask = "
name: work
resume: never
steps:
  - id: ask
    http: POST @URI@
    body: ${{ run.id }}
    retry: {max_attempts: 1}
";
    let (db, dir) = (Db::new().await, Files::new([ask.replace("@URI@", &server.uri())]));
    let mut worker = Spec::new(&db, &dir).env("STEPD_HTTP_ALLOW", "127.0.0.1").ready().await;
    looks_for_work(&db).await;
    limit_files(worker.pid(), Some(files(worker.pid())));
    enqueue(&db, 10).await;
    worker.logs("no request can be made").await;
    holds_for("nothing is sent", Duration::from_secs(1), async || {
        worker.is_running() && server.received_requests().await.unwrap().is_empty()
    })
    .await;
    limit_files(worker.pid(), None);
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 10);
    assert_eq!(db.events("attempt_failed").await, 0, "the machine's trouble uses up no attempt");
    assert_eq!(server.received_requests().await.unwrap().len(), 10);
    assert_eq!(worker.logged("no request can be made"), 1);
    assert_eq!(worker.logged("requests can be made again"), 1);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn without_a_process_left_programs_wait_and_it_is_told_once() {
    let Some(group) = Group::new("pids") else { return };
    let (db, dir) = (Db::new().await, Files::new([WORK]));
    db.exec("CREATE TABLE effects (run uuid)").await;
    // It has not started any: not even the thread that it starts them from.
    let mut worker = Spec::new(&db, &dir).ready().await;
    group.add(worker.pid());
    group.set("pids.max", &group.get("pids.current").to_string());
    enqueue(&db, 10).await;
    worker.logs("no program can be started").await;
    holds_for("no program runs", Duration::from_secs(1), async || {
        worker.is_running() && dir.lines("effects").is_empty()
    })
    .await;
    group.set("pids.max", "max");
    each_once(&db, &dir, 10).await;
    assert_eq!(worker.logged("no program can be started"), 1);
    assert_eq!(worker.logged("programs can be started again"), 1);
    assert_eq!(worker.logged("\"WARN\""), 1, "{}", worker.log());
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// The kernel kills what takes the most of a group's memory: here the step's program, and its worker lives.
#[tokio::test]
async fn a_program_that_takes_all_memory_is_killed_alone_and_its_failure_says_so() {
    const GREEDY: &str = "
name: greedy
resume: never
steps:
  - id: eat
    run: head -c 900000000 /dev/zero | tail -c 900000000 | wc -c
    retry: {max_attempts: 1}
";
    let Some(group) = Group::new("memory") else { return };
    let (db, dir) = (Db::new().await, Files::new([WORK, GREEDY]));
    db.exec("CREATE TABLE effects (run uuid)").await;
    let mut worker = Spec::new(&db, &dir).ready().await;
    group.add(worker.pid());
    group.set("memory.limit_in_bytes", "400M");
    let run = db.enqueue("greedy", "{}").await;
    enqueue(&db, 5).await;
    wait_until("it has failed", SOON, async || db.state(&run).await == "failed").await;
    assert!(worker.is_running());
    let told: String =
        db.one(format!("SELECT error_code || ' ' || error_message FROM stepd.runs WHERE id = '{run}'")).await;
    eprintln!("{told}");
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'work' AND state = 'completed'").await, 5);
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 5);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// … or the worker: then its runs go on elsewhere, and the trail says what killed it.
#[tokio::test]
async fn a_worker_that_the_kernel_kills_for_want_of_memory_is_taken_over_by_its_lock() {
    const LONG: &str = "
name: long
steps:
  - id: before
    sql: INSERT INTO effects (run) VALUES ($1)
    params: [\"${{ run.id }}\"]
  - id: long
    run: echo \"$STEPD_EPOCH\" >> @DIR@/started; [ \"$STEPD_EPOCH\" != 1 ] || sleep 1000
  - id: after
    sql: INSERT INTO effects (run) VALUES ($1)
    params: [\"${{ run.id }}\"]
";
    let Some(group) = Group::new("memory") else { return };
    let (db, dir) = (Db::new().await, Files::new([LONG]));
    db.exec("CREATE TABLE effects (run uuid)").await;
    let mut worker = Spec::new(&db, &dir).ready().await;
    let run = db.enqueue("long", "{}").await;
    wait_until("it is in the middle", SOON, async || dir.lines("started").len() == 1).await;
    group.add(worker.pid());
    std::fs::write(format!("/proc/{}/oom_score_adj", worker.pid()), "1000").unwrap();
    let mut other = Spec::new(&db, &dir).ready().await;
    group.set("memory.limit_in_bytes", "100M");
    // Somebody else in the group wants more than there is.
    let mut eats = std::process::Command::new("sh");
    let procs = format!(
        "echo $$ > {}; head -c 300000000 /dev/zero | tail -c 300000000 > /dev/null",
        group.path("cgroup.procs").display()
    );
    let mut eats = eats.args(["-c", &procs]).stderr(std::process::Stdio::null()).spawn().unwrap();
    assert_eq!(worker.ends(SOON).await.code(), None, "a signal has ended it");
    db.reaches(&run, "completed", SOON).await;
    let _ = eats.wait();
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 2, "each once");
    assert_eq!(dir.lines("started"), ["1", "3"], "the take-over is an epoch of its own");
    let told: String = db.one("SELECT data::text FROM stepd_engine.events WHERE kind = 'crashed'").await;
    assert!(told.contains("\"found_by\": \"lock\"") || told.contains("\"found_by\":\"lock\""), "{told}");
    eprintln!("{told}");
    assert_eq!(other.drain(SOON).await, Some(0));
}

/// The file of failures and the export of old runs are on a full disk: runs go on, the lines that are missing are counted, and no run
/// is removed that could not be written first.
#[tokio::test]
async fn a_full_disk_of_the_worker_stops_no_run_and_removes_none() {
    const FAILS: &str = "
name: fails
resume: never
steps:
  - id: a
    run: echo no >&2; exit 3
    retry: {max_attempts: 1}
";
    let (db, dir) = (Db::new().await, Files::new([WORK, FAILS]));
    let Some(small) = Small::mount(&dir.path("small"), 1) else { return };
    db.exec("CREATE TABLE effects (run uuid)").await;
    let failures = small.path().join("failures.jsonl");
    let mut worker = Spec::new(&db, &dir)
        .arg("--error-log")
        .arg(&failures.display().to_string())
        .env("STEPD_RETENTION__COMPLETED", "1s")
        .env("STEPD_RETENTION_EXPORT", small.path().display())
        .ready()
        .await;
    small.fill();
    enqueue(&db, 10).await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'fails' FROM generate_series(1, 10)").await;
    db.all_ended(SOON).await;
    worker.logs("history cannot be exported, and stays until it can").await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 10, "none is removed");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'failed'").await, 10);
    small.empty();
    let run = db.enqueue("fails", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    wait_until("the next line says how many are missing", SOON, async || {
        std::fs::read_to_string(&failures).unwrap_or_default().contains("missing")
    })
    .await;
    assert!(
        worker.log().lines().filter(|l| l.contains("\"WARN\"") || l.contains("\"ERROR\"")).count() <= 3,
        "{}",
        worker.log()
    );
    assert_eq!(worker.drain(SOON).await, Some(0));
}

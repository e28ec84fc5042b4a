//! The units that are shipped, under a really booted systemd: a container of this machine's own, as root only.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use stepd::postgres::{Options, PrivatePostgres};

use crate::support::{Booted, Db, SOON, wait_until};

const KINDS: &str = r#"
name: kinds
resume: never
steps:
  - id: shell
    run: |
      test "$(id -un)" = stepd
      echo "$KEY" | wc -c
      touch /tmp/mine /var/lib/stepd/mine
      ! touch /etc/mine 2>/dev/null
      ps aux > /dev/null
      ! command -v python3 > /dev/null || python3 -c 'import ctypes, socket, threading' >&2
    env: {KEY: "${{ secrets.word }}"}
  - id: program
    exec: [/usr/bin/env]
  - id: own
    sql: SELECT 1 AS n
  - id: named
    sql: SELECT 2 AS n
    connection: other
  - id: web
    http: GET ${{ env.url }}
  - id: nap
    sleep: 200ms
  - id: each
    map: "${{ [1, 2, 3] }}"
    steps:
      - id: one
        set: {n: "${{ item }}"}
  - id: yes
    approve: Go on?
  - id: told
    wait: told
  - id: end
    set: {web: "${{ steps.web.output }}", told: "${{ steps.told.output }}"}
output: steps.end.output
"#;

const QUICK: &str = "name: quick\nsteps:\n  - id: a\n    run: sleep 0.05\n";

const LONG: &str = r#"
name: long
steps:
  - id: long
    run: |
      test "$STEPD_EPOCH" -gt 1 && exit 0
      setsid sh -c 'setsid sleep 1000 & sleep 1000' &
      sleep 1000
"#;

/// A Postgres that listens on TCP, a booted systemd that shares the network, and the shipped unit in it.
pub struct Ground {
    pub machine: Booted,
    pub db: Db,
    _pg: PrivatePostgres,
    _units: tempfile::TempDir,
}

impl Ground {
    /// `dropin`: what the test changes of the unit.
    pub async fn new(dropin: &str) -> Option<Self> {
        let dropin = dropin.to_owned();
        let (pg, port, units, machine) = tokio::task::spawn_blocking(move || {
            let units = tempfile::tempdir().unwrap();
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
            std::fs::copy(shipped.join("stepd.service"), units.path().join("stepd.service")).unwrap();
            std::fs::create_dir(units.path().join("stepd.service.d")).unwrap();
            std::fs::write(units.path().join("stepd.service.d/test.conf"), format!("[Service]\n{dropin}")).unwrap();
            let mounts = [
                (PathBuf::from(env!("CARGO_BIN_EXE_stepd")), "/usr/bin/stepd"),
                (shipped.join("sysusers.d/stepd.conf"), "/usr/lib/sysusers.d/stepd.conf"),
                (shipped.join("tmpfiles.d/stepd.conf"), "/usr/lib/tmpfiles.d/stepd.conf"),
            ];
            let machine = Booted::start(units.path(), &mounts)?;
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let settings = vec![("listen_addresses".into(), "127.0.0.1".into()), ("port".into(), port.to_string())];
            let pg = PrivatePostgres::start(&Options { durable: false, settings, ..Options::default() }).unwrap();
            Some((pg, port, units, machine))
        })
        .await
        .unwrap()?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let db = Db { pool: sqlx::PgPool::connect(&url).await.unwrap(), url, name: "postgres".into() };
        machine.ok(&["systemd-sysusers"]);
        machine.ok(&["systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/stepd.conf"]);
        let ground = Self { machine, db, _pg: pg, _units: units };
        ground.machine.write("/etc/stepd/credentials/database_url", &ground.db.url);
        ground.configure("");
        for (name, text) in [("kinds", KINDS), ("quick", QUICK), ("long", LONG)] {
            ground.workflow(name, text);
        }
        Some(ground)
    }

    fn configure(&self, more: &str) {
        let text = format!("workflows = ['workflows']\ngrace_seconds = 2\nconcurrency = 8\nlease_seconds = 5\n{more}");
        self.machine.write("/etc/stepd/stepd.toml", &text);
    }

    fn workflow(&self, name: &str, text: &str) {
        self.machine.write(&format!("/etc/stepd/workflows/{name}.yaml"), text);
    }

    /// systemctl VERB stepd, off the test's own thread is not needed: nothing else runs here meanwhile.
    fn systemctl(&self, verb: &str) -> Duration {
        let began = Instant::now();
        self.machine.ok(&["systemctl", verb, "stepd"]);
        began.elapsed()
    }
}

pub const CREDENTIAL: &str = "LoadCredential=database_url:/etc/stepd/credentials/database_url\n";

#[test]
fn the_units_are_valid_and_shut_in() {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there("systemd-analyze") {
        eprintln!("SKIPPED: there is no systemd-analyze here");
        return;
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let unit = std::fs::read_to_string(shipped.join("stepd.service")).unwrap();
    let strict = std::fs::read_to_string(shipped.join("stepd.service.d/strict.conf")).unwrap();
    let unit = unit.replace("/usr/bin/stepd", env!("CARGO_BIN_EXE_stepd"));
    let strict = strict.replace("[Service]\n", "");
    let strict = unit.replace("[Install]", &format!("{strict}\n[Install]"));
    for (text, threshold) in [(&unit, "15"), (&strict, "12")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stepd.service");
        std::fs::write(&path, text).unwrap();
        // Its exit code is 0 even for keys that it does not know: what counts is that it says nothing.
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&verified.stderr), "");
        assert!(verified.status.success());
        let limit = format!("--threshold={threshold}");
        let judged = Command::new("systemd-analyze").args(["security", "--offline=true", &limit]).arg(&path).output();
        let judged = judged.unwrap();
        let last = String::from_utf8_lossy(&judged.stdout).lines().last().unwrap_or_default().to_owned();
        assert!(judged.status.success(), "more exposed than {threshold}: {last}");
        eprintln!("{last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_starts_reloads_and_stops_a_daemon_under_load() {
    let Some(g) = Ground::new(CREDENTIAL).await else { return };
    let took = g.systemctl("start");
    let first = took;
    g.systemctl("restart");
    let began = Instant::now();
    g.systemctl("restart");
    eprintln!("ready after {first:?}, the schema made; stopped and ready again after {:?}", began.elapsed());
    let worker: String = g.db.one("SELECT id::text FROM stepd_engine.workers").await;
    wait_until("the status names the worker", SOON, async || g.machine.property("StatusText").contains(&worker)).await;
    // A good reload is in force when it returns …
    g.workflow("more", "name: more\nsteps: [{id: a, run: 'true'}]\n");
    g.systemctl("reload");
    wait_until("it is in force", SOON, async || {
        g.db.count("SELECT count(*) FROM stepd.workflows WHERE name = 'more'").await == 1
    })
    .await;
    assert_eq!(g.machine.property("ActiveState"), "active");
    // … and a bad one is refused, with the reason, and changes nothing.
    g.configure("concurency = 9\n");
    let refused = g.machine.run(&["systemctl", "reload", "stepd"]);
    assert!(!refused.status.success());
    assert!(g.machine.journal().contains("did you mean `concurrency`?"), "{}", g.machine.journal());
    assert_eq!(g.machine.property("ActiveState"), "active");
    // Sent by hand, the signal finds the same; the status says so.
    g.machine.ok(&["systemctl", "kill", "-s", "HUP", "--kill-who=main", "stepd"]);
    wait_until("the status tells", SOON, async || g.machine.property("StatusText").contains("reload failed")).await;
    g.configure("");
    g.systemctl("reload");
    wait_until("and no longer", SOON, async || !g.machine.property("StatusText").contains("reload failed")).await;

    g.db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 300)").await;
    let long = g.db.enqueue("long", "{}").await;
    g.db.exec(format!("UPDATE stepd.jobs SET priority = 0 WHERE id = '{long}'")).await;
    g.db.step_reaches(&long, "long", "running", SOON).await;
    wait_until("it is under load", SOON, async || g.db.count("SELECT count(*) FROM stepd_engine.ended").await > 20)
        .await;
    let took = g.systemctl("stop");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!((g.machine.property("Result"), g.machine.property("ExecMainStatus")), ("success".into(), "0".into()));
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.jobs WHERE state = 'running'").await, 0);
    assert!(g.db.count("SELECT count(*) FROM stepd.jobs").await > 0, "there was load");
    assert_eq!(g.db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
    assert!(!g.machine.run(&["pgrep", "-u", "stepd"]).status.success(), "an orphan is left");
    g.systemctl("start");
    g.db.all_ended(Duration::from_secs(60)).await;
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND crashes = 0").await, 301);
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.steps WHERE attempts <> 1").await, 0);
    assert_eq!(g.db.events("crashed").await + g.db.events("taken_over").await + g.db.events("attempt_failed").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_daemon_is_restarted_by_the_watchdog_and_its_run_resumes_and_a_crash_loop_ends() {
    let Some(g) = Ground::new(&format!("{CREDENTIAL}WatchdogSec=3s\nRestartSec=100ms\n")).await else { return };
    g.systemctl("start");
    let run = g.db.enqueue("long", "{}").await;
    g.db.step_reaches(&run, "long", "running", SOON).await;
    let pid = g.machine.property("MainPID");
    // Alive for longer than the watchdog's span: it is pinged.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((g.machine.property("MainPID"), g.machine.property("NRestarts")), (pid, "0".into()));
    let began = Instant::now();
    g.machine.ok(&["systemctl", "kill", "-s", "STOP", "--kill-who=main", "stepd"]);
    wait_until("it is restarted", SOON, async || g.machine.property("NRestarts") == "1").await;
    g.db.reaches(&run, "completed", Duration::from_secs(60)).await;
    eprintln!("hung, killed, restarted, resumed: {:?}", began.elapsed());
    assert!(!g.machine.ok(&["sh", "-c", "ps -u stepd -o args | cat"]).contains("sleep 1000"), "an orphan is left");
    // Killed again and again, it stays down in the end.
    g.machine.ok(&["systemctl", "reset-failed", "stepd"]);
    for n in 1..=30 {
        if g.machine.property("ActiveState") == "failed" {
            assert!(n > 5, "too soon: {n}");
            break;
        }
        let _ = g.machine.run(&["systemctl", "kill", "-s", "KILL", "stepd"]);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    wait_until("it stays down", SOON, async || g.machine.property("ActiveState") == "failed").await;
    // A wrong configuration is not tried again.
    g.configure("concurency = 9\n");
    g.machine.ok(&["systemctl", "reset-failed", "stepd"]);
    assert!(!g.machine.run(&["systemctl", "start", "stepd"]).status.success());
    assert_eq!((g.machine.property("ActiveState"), g.machine.property("NRestarts")), ("failed".into(), "0".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_strict_drop_in_a_daemon_that_runs_no_commands_works() {
    let strict =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/stepd.service.d/strict.conf"));
    let strict = strict.unwrap().replace("[Service]", "");
    let Some(g) = Ground::new(&format!("{CREDENTIAL}{strict}")).await else { return };
    let server = wiremock::MockServer::start().await;
    wiremock::Mock::given(wiremock::matchers::any())
        .respond_with(wiremock::ResponseTemplate::new(200).set_body_string("fine"))
        .mount(&server)
        .await;
    g.workflow(
        "web",
        "name: web\nsteps:\n  - id: n\n    sql: SELECT 1 AS n\n  - id: w\n    http: GET ${{ env.url }}\n",
    );
    g.configure(&format!("http_allow = ['127.0.0.1']\n[env]\nurl = '{}'\n", server.uri()));
    g.systemctl("start");
    let run = g.db.enqueue("web", "{}").await;
    g.db.reaches(&run, "completed", SOON).await;
    g.systemctl("stop");
    assert_eq!(g.machine.property("Result"), "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_step_works_in_the_hardened_unit_and_the_journal_finds_a_run_by_its_id() {
    let secrets = "LoadCredential=secrets.word:/etc/stepd/credentials/word\n\
                   LoadCredential=connections.other:/etc/stepd/credentials/database_url\n";
    let Some(g) = Ground::new(&format!("{CREDENTIAL}{secrets}")).await else { return };
    let server = wiremock::MockServer::start().await;
    let answer = wiremock::ResponseTemplate::new(200).set_body_json(serde_json::json!({"from": "web"}));
    wiremock::Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    g.machine.write("/etc/stepd/credentials/word", "geheimes-wort");
    g.configure(&format!(
        "http_allow = ['127.0.0.1']\nlog_level = 'info,stepd=debug'\n[env]\nurl = '{}'\n",
        server.uri()
    ));
    g.systemctl("start");
    let run = g.db.enqueue("kinds", "{}").await;
    g.db.step_reaches(&run, "yes", "waiting", SOON).await;
    g.db.exec(format!("SELECT stepd.approve('{run}', 'yes')")).await;
    g.db.step_reaches(&run, "told", "waiting", SOON).await;
    g.db.exec(format!("SELECT stepd.signal('{run}', 'told', '\"x\"')")).await;
    g.db.reaches(&run, "completed", SOON).await;
    let output = g.db.output(&run).await;
    assert!(output.contains("\"from\"") && output.contains("\"x\""), "{output}");
    let shell: String = g.db.one("SELECT output::text FROM stepd.steps WHERE key = 'shell'").await;
    assert!(shell.contains("14"), "the secret has 13 letters: {shell}");
    let environment: String = g.db.one("SELECT output::text FROM stepd.steps WHERE key = 'program'").await;
    assert!(environment.contains("STEPD_RUN_ID"), "{environment}");
    for word in ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "WATCHDOG", "JOURNAL_STREAM"] {
        assert!(!environment.contains(word), "{word} is no business of a step: {environment}");
    }
    let query = format!("RUN_ID={run}");
    let of_run = g.machine.ok(&["journalctl", &query, "--no-pager", "-o", "json"]);
    assert!(of_run.lines().count() > 0, "{}", g.machine.journal());
    for line in of_run.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&entry["RUN_ID"], &entry["SYSLOG_IDENTIFIER"]), (&run.as_str().into(), &"stepd".into()));
        assert_eq!(entry["TRACE_ID"], run.replace('-', ""));
        assert!(entry["PRIORITY"].is_string() && entry["_SYSTEMD_UNIT"] == "stepd.service", "{entry}");
    }
    assert!(!g.machine.journal().contains("geheimes-wort"));
    g.systemctl("stop");
}

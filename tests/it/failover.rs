//! The primary's host is lost, and its standby takes its place: under one address that names both.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection as _;
use stepd::postgres::{Options, PrivatePostgres};

use crate::cli::stepd_at;
use crate::support::{Db, Files, Pair, SOON, Server, Spec, holds_for, wait_until};

const WORK: &str = r"
name: work
steps:
  - id: before
    run: echo before >> @DIR@/effects
  - id: between
    run: echo between >> @DIR@/effects; until [ -e @DIR@/on ]; do sleep 0.02; done
  - id: long
    run: echo long >> @DIR@/effects; until [ -e @DIR@/go ]; do sleep 0.02; done
  - id: after
    run: echo after >> @DIR@/effects
";

/// Two hosts, stepd's schema, and the address of both.
struct Ground {
    pair: Arc<Mutex<Pair>>,
    url: String,
    files: Files,
}

impl Ground {
    async fn new() -> Self {
        let settings = Options { durable: false, ..Options::default() };
        let pair = tokio::task::spawn_blocking(move || Pair::synchronous(settings)).await.unwrap();
        let place = |pg: &PrivatePostgres| pg.folder().display().to_string().replace('/', "%2F");
        let hosts: Vec<String> = pair.hosts().iter().map(place).collect();
        let url = format!("postgres://postgres@{}/postgres", hosts.join(","));
        let at = url.clone();
        tokio::task::spawn_blocking(move || stepd_at(Some(&at), &["migrate"])).await.unwrap().is(0);
        Self { pair: Arc::new(Mutex::new(pair)), url, files: Files::new([WORK]) }
    }

    /// What is said to the hosts blocks.
    async fn says(&self, what: impl FnOnce(&mut Pair) + Send + 'static) {
        let pair = self.pair.clone();
        tokio::task::spawn_blocking(move || what(&mut pair.lock().unwrap())).await.unwrap();
    }

    /// The primary of now.
    fn db(&self) -> Db {
        let url = self.pair.lock().unwrap().primary().url("postgres");
        Db { pool: sqlx::PgPool::connect_lazy(&url).unwrap(), url: self.url.clone(), name: "postgres".into() }
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.files.path(name), "").unwrap();
    }

    async fn has(&self, effects: &str) {
        has(&self.files, effects).await;
    }
}

fn effects(files: &Files) -> String {
    files.lines("effects").join(" ")
}

async fn has(files: &Files, wanted: &str) {
    wait_until(wanted, SOON, async || effects(files) == wanted).await;
}

#[tokio::test]
async fn a_failover_to_a_synchronous_standby_loses_nothing_and_no_step_runs_twice() {
    let ground = Ground::new().await;
    let mut worker = Spec::new(&ground.db(), &ground.files).ready().await;
    let run = ground.db().enqueue("work", "{}").await;
    ground.touch("on");
    ground.has("before between long").await;
    ground.says(Pair::fail_over).await;
    ground.touch("go");
    ground.db().reaches(&run, "completed", SOON).await;
    assert_eq!(effects(&ground.files), "before between long after");
    assert_eq!(worker.logged("lost commits"), 0);
    assert_eq!(ground.db().count("SELECT count(*) FROM stepd_engine.events WHERE kind = 'crashed'").await, 0);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn commits_that_a_failover_has_lost_are_told_and_their_runs_go_on_from_what_is_recorded() {
    let ground = Ground::new().await;
    let mut worker = Spec::new(&ground.db(), &ground.files).ready().await;
    let run = ground.db().enqueue("work", "{}").await;
    ground.has("before between").await;
    ground.says(|pair| pair.part()).await;
    ground.touch("on");
    ground.has("before between long").await;
    // The checkpoint of `between` is acknowledged, and the standby does not have it.
    ground.says(Pair::fail_over).await;
    worker.logs("postgres has lost commits").await;
    ground.has("before between long between long").await;
    ground.touch("go");
    ground.db().reaches(&run, "completed", SOON).await;
    assert_eq!(effects(&ground.files), "before between long between long after");
    let steps = "SELECT string_agg(key, ' ' ORDER BY seq) FROM stepd.steps WHERE state = 'completed'";
    assert_eq!(ground.db().one::<String>(steps).await, "before between long after");
    assert_eq!(worker.logged("postgres has lost commits"), 1);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// What was acknowledged before it was written to the log is gone with the server's memory.
#[tokio::test]
async fn commits_that_a_crash_under_asynchronous_commit_has_lost_are_told_and_their_runs_go_on() {
    let server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([WORK]));
    db.exec("CREATE TABLE mark (n integer)").await;
    // Nobody but the writer of the log writes it.
    for setting in ["synchronous_commit = off", "autovacuum = off", "bgwriter_lru_maxpages = 0"] {
        db.exec(format!("ALTER SYSTEM SET {setting}")).await;
    }
    db.exec("SELECT pg_reload_conf()").await;
    wait_until("commits do not wait", SOON, async || db.one::<String>("SHOW synchronous_commit").await == "off").await;
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("work", "{}").await;
    db.step_reaches(&run, "before", "completed", SOON).await;
    has(&files, "before between").await;
    let log_writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let log_writer = db.one::<i32>(log_writer).await;
    kill(Pid::from_raw(log_writer), Signal::SIGSTOP).unwrap();
    // All that was committed so far is written with it.
    db.exec("BEGIN; SET LOCAL synchronous_commit = on; INSERT INTO mark VALUES (1); COMMIT").await;
    std::fs::write(files.path("on"), "").unwrap();
    has(&files, "before between long").await;
    server.pg.kill_backend(log_writer).unwrap();
    worker.logs("postgres has lost commits").await;
    has(&files, "before between long between long").await;
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(effects(&files), "before between long between long after");
    assert_eq!(worker.logged("postgres has lost commits"), 1);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

const EFFECTS: &str = r#"
name: effects
steps:
  - {id: gate, sql: 'SELECT pg_advisory_xact_lock(42)::text'}
  - {id: one, sql: "INSERT INTO effects VALUES ('one')"}
  - {id: two, sql: "INSERT INTO effects VALUES ('two')"}
  - {id: long, run: 'until [ -e @DIR@/go ]; do sleep 0.02; done'}
"#;

/// Nothing but `sql` steps has committed since the standby was cut off: no writer knows of it.
#[tokio::test]
async fn a_lost_commit_of_a_sql_step_is_told_and_its_effect_made_again() {
    let ground = Ground::new().await;
    ground.files.write("effects.yaml", EFFECTS);
    ground.db().exec("CREATE TABLE effects (what text)").await;
    let url = ground.pair.lock().unwrap().primary().url("postgres");
    let mut gate = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_lock(42)").execute(&mut gate).await.unwrap();
    let mut worker = Spec::new(&ground.db(), &ground.files).failpoints("sql.before_commit=3:stop").ready().await;
    let run = ground.db().enqueue("effects", "{}").await;
    ground.db().step_reaches(&run, "gate", "running", SOON).await;
    ground.says(|pair| pair.part()).await;
    gate.close().await.unwrap();
    worker.stands_still(SOON).await;
    assert_eq!(ground.db().count("SELECT count(*) FROM effects").await, 1, "acknowledged, and the standby has it not");
    ground.says(Pair::fail_over).await;
    assert_eq!(ground.db().count("SELECT count(*) FROM effects").await, 0);
    worker.cont();
    worker.logs("postgres has lost commits").await;
    ground.db().step_reaches(&run, "long", "running", SOON).await;
    ground.touch("go");
    ground.db().reaches(&run, "completed", SOON).await;
    let effects = "SELECT string_agg(what, ' ' ORDER BY what) FROM effects";
    assert_eq!(ground.db().one::<String>(effects).await, "one two");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

const TWO: &str = r#"
name: two
steps:
  - {id: one, sql: "INSERT INTO effects VALUES ('one')"}
  - {id: two, run: 'echo two >> @DIR@/effects'}
"#;

/// A commit whose session is ended while it waits for the standby can be seen from then on, and the standby does not have it.
#[tokio::test]
async fn no_run_goes_on_from_a_commit_that_the_standby_does_not_have() {
    let ground = Ground::new().await;
    ground.files.write("two.yaml", TWO);
    ground.db().exec("CREATE TABLE effects (what text)").await;
    let mut worker = Spec::new(&ground.db(), &ground.files).failpoints("sql.before_commit=1:stop").ready().await;
    let run = ground.db().enqueue("two", "{}").await;
    worker.stands_still(SOON).await;
    ground.says(|pair| pair.hold_back()).await;
    worker.cont();
    let db = ground.db();
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'COMMIT%'";
    wait_until("its session is ended while it waits", SOON, async || db.count(ended).await == 1).await;
    db.step_reaches(&run, "one", "completed", SOON).await;
    holds_for("nobody goes on from it", Duration::from_secs(2), async || effects(&ground.files).is_empty()).await;
    ground.says(Pair::fail_over).await;
    ground.db().reaches(&run, "completed", SOON).await;
    let steps = "SELECT string_agg(key, ' ' ORDER BY seq) FROM stepd.steps WHERE state = 'completed'";
    assert_eq!(ground.db().one::<String>(steps).await, "one two");
    assert_eq!(ground.db().count("SELECT count(*) FROM effects").await, 1);
    assert_eq!(effects(&ground.files), "two");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn what_was_removed_with_its_history_is_no_lost_commit() {
    let db = Db::new().await;
    let files = Files::new(["name: quick\nsteps:\n  - {id: a, set: 1}\n"]);
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("quick", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    db.exec("DELETE FROM stepd_engine.ended").await;
    let presence = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'stepd presence%'";
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'stepd presence%'";
    let began: String = db.one("SELECT max(backend_start)::text FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'stepd presence%'").await;
    assert_eq!(db.count(ended).await, 1);
    wait_until("there is another session", SOON, async || {
        db.count(format!("{presence} AND backend_start > '{began}'")).await == 1
            && db.count("SELECT count(*) FROM stepd_engine.workers w JOIN pg_locks l ON l.locktype = 'advisory' AND l.objid = w.number::oid AND l.granted").await == 1
    })
    .await;
    let next = db.enqueue("quick", "{}").await;
    db.reaches(&next, "completed", SOON).await;
    assert_eq!(worker.logged("lost commits"), 0);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

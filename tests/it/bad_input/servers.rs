//! Databases that stepd cannot work with, or not yet; and clocks that are wrong.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::{ECHO, Transcript};
use crate::cli::{stepd, stepd_at};
use crate::support::{Db, Files, SOON, Server, Spec, holds_for, tools, wait_until};

/// Another role, another database of the same server.
fn of(db: &Db, role: &str, name: &str) -> Db {
    let (folder, port) = place(db);
    let url = format!("postgres://{role}@localhost:{port}/{name}?host={folder}");
    Db { url, name: name.to_owned(), ..db.clone() }
}

/// Where a server listens: a folder, and a port.
fn place(db: &Db) -> (String, u16) {
    let options = PgConnectOptions::from_str(&db.url).unwrap();
    (options.get_socket().expect("a private server").display().to_string(), options.get_port())
}

#[tokio::test]
async fn what_cannot_be_used_is_told_in_one_sentence_with_the_next_step() {
    let db = Db::new().await;
    let mut seen = Transcript::default();
    let latin = format!("{}_latin", db.name);
    db.exec(format!("CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1'")).await;
    let ascii = format!("{}_ascii", db.name);
    db.exec(format!("CREATE DATABASE {ascii} TEMPLATE template0 ENCODING 'SQL_ASCII'")).await;
    let at = |name: &str| of(&db, "postgres", name);
    for name in [&latin, &ascii] {
        let worker = ends_at_once(&at(name)).await;
        assert!(worker.contains("and stepd needs UTF8"), "{worker}");
        seen.stepd(&at(name), &["migrate"]).await;
    }
    seen.stepd(&at("nowhere"), &["ls"]).await;
    // In a line of JSON, where quotes are escaped.
    assert!(ends_at_once(&at("nowhere")).await.replace('\\', "").contains("database \"nowhere\" does not exist"));
    let stranger = of(&db, "stranger", &db.name);
    seen.stepd(&stranger, &["ls"]).await;
    let empty = at("postgres");
    seen.stepd(&empty, &["ls"]).await;
    for url in
        ["mysql://root@localhost/app", "postgres://localhost:99999/app", "localhost", "postgres://x@127.0.0.1:1/x"]
    {
        seen.done(&format!("ls --database-url {url}"), &stepd_at(None, &["ls", "--database-url", url]));
    }
    let (folder, port) = place(&db);
    insta::assert_snapshot!(seen.read(&[
        (&format!("{folder}:{port}"), "FOLDER:5432"),
        (&latin, "latin"),
        (&ascii, "ascii"),
        (&db.name, "app")
    ]));
}

/// The log of a daemon that ends before it is ready.
async fn ends_at_once(db: &Db) -> String {
    let files = Files::new([ECHO]);
    let mut worker = Spec::new(db, &files).start();
    assert_ne!(worker.ends(SOON).await.code(), Some(0));
    worker.log()
}

#[tokio::test]
async fn a_wrong_password_is_not_tried_again() {
    let server = Server::own().await;
    let db = server.db().await;
    db.exec("CREATE ROLE app LOGIN PASSWORD 'right'").await;
    let file = server.pg.folder().join("data/pg_hba.conf");
    let rules = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("local all app scram-sha-256\n{rules}")).unwrap();
    db.exec("SELECT pg_reload_conf()").await;
    let with = |password: &str| of(&db, &format!("app:{password}"), &db.name);
    wait_until("passwords are asked for", SOON, async || stepd(&with("wrong"), &["ls"]).await.code == Some(4)).await;
    let told = stepd(&with("wrong"), &["ls"]).await.is(4);
    let told = told.says("password authentication failed for user \"app\"").says("hint: check user and password");
    assert!(!told.err.contains("wrong"), "{}", told.err);
    assert!(ends_at_once(&with("wrong")).await.contains("password authentication failed"));
    // Known, but without rights.
    stepd(&with("right"), &["ls"]).await.is(4).says("permission denied").says("ask for a grant");
}

#[tokio::test]
async fn a_database_that_takes_no_writes_or_no_connections_is_waited_for_and_told_once() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let server = db.clone();
    let name = format!("{}_few", db.name);
    db.exec(format!("CREATE ROLE {name} LOGIN CONNECTION LIMIT 0")).await;
    db.exec(format!("CREATE DATABASE {name} OWNER {name}")).await;
    db.exec(format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let few = of(&db, &name, &name);
    let mut worker = Spec::new(&few, &files).start();
    worker.logs("too many connections for role").await;
    stepd(&few, &["ls"]).await.is(69).says("too many connections").says("hint: close other sessions");
    stepd(&few, &["migrate"]).await.is(69);
    holds_for("it is told once", Duration::from_secs(2), async || worker.logged("\"WARN\"") == 1).await;
    server.exec(format!("ALTER ROLE {name} CONNECTION LIMIT -1")).await;
    worker.logs("default_transaction_read_only is on for this server, database or role: turn it off").await;
    stepd(&few, &["migrate"]).await.is(69).says("the server takes no writes");
    holds_for("it waits", Duration::from_secs(1), async || worker.logged("\"ready\"") == 0).await;
    server.exec(format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    worker.logs("\"ready\"").await;
    assert!(worker.logged("\"WARN\"") <= 2, "{}", worker.log());
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_running_daemon_without_a_connection_to_spare_goes_on_with_those_it_has_and_says_so_once() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let name = format!("{}_full", db.name);
    db.exec(format!("CREATE ROLE {name} LOGIN")).await;
    db.exec(format!("CREATE DATABASE {name} OWNER {name}")).await;
    let full = of(&db, &name, &name);
    let mut worker = Spec::new(&full, &files).ready().await;
    db.exec(format!("ALTER ROLE {name} CONNECTION LIMIT 0")).await;
    db.exec(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")).await;
    worker.logs("claims pause").await;
    holds_for("one line", Duration::from_secs(3), async || worker.logged("\"WARN\"") + worker.logged("\"ERROR\"") == 1)
        .await;
    db.exec(format!("ALTER ROLE {name} CONNECTION LIMIT -1")).await;
    worker.logs("postgres is back").await;
    assert_eq!(worker.logged("\"registered\""), 1);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

const TIMED: &str = "
name: timed
timeout: 1h
steps:
  - {id: nap, sleep: 1500ms}
  - id: again
    run: test \"$STEPD_ATTEMPT\" -ge 2
    retry: {max_attempts: 3, backoff: constant, initial: 1s, jitter: 0}
  - id: long
    run: test -e @DIR@/go || sleep 60
  - {id: never, wait: never, timeout: 1s, on_error: continue}
";

#[tokio::test]
async fn a_clock_two_hours_off_changes_nothing() {
    let Some(library) = tools::faketime().map(|l| l.display().to_string()) else { return };
    let (db, files) = (Db::new().await, Files::new([TIMED]));
    let off = |by: &str| {
        let spec = Spec::new(&db, &files).lease(3).env("LD_PRELOAD", &library).env("FAKETIME", by);
        spec.env("FAKETIME_DONT_FAKE_MONOTONIC", 1).env("FAKETIME_NO_CACHE", 1)
    };
    let mut late = off("-2h").ready().await;
    // It is off: its log has its own clock.
    let hour: String =
        db.one("SELECT to_char(now() AT TIME ZONE 'UTC' - interval '2 hours', 'YYYY-MM-DD\"T\"HH24')").await;
    assert!(late.log().contains(&format!("\"timestamp\":\"{hour}")), "{}", late.log());
    let run = db.enqueue("timed", "{}").await;
    let later: String = db
        .one("INSERT INTO stepd.jobs (workflow, run_at) VALUES ('timed', now() + interval '1 hour') RETURNING id::text")
        .await;
    db.step_reaches(&run, "long", "running", SOON).await;
    let _early = off("+2h").ready().await;
    let alive = "SELECT count(*) FROM stepd_engine.workers";
    holds_for("neither takes the other for dead", Duration::from_secs(5), async || db.count(alive).await == 2).await;
    assert_eq!(db.count("SELECT coalesce(sum(crashes), 0)::bigint FROM stepd.runs").await, 0);
    // The other, whose clock is four hours ahead of it, takes over.
    std::fs::write(files.path("go"), "").unwrap();
    late.kill9();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.state(&later).await, "scheduled");
    let strange = "SELECT count(*) FROM stepd.history h WHERE h.at NOT BETWEEN now() - interval '2 minutes' AND now() + interval '1 second'";
    assert_eq!(db.count(strange).await, 0);
    // As the run saw it: what one worker notes and what the next does are milliseconds apart at most.
    let order = "SELECT coalesce(string_agg(h.event || ' ' || (h.at - before), ', '), '') FROM
        (SELECT event, at, lag(at) OVER (PARTITION BY run ORDER BY seq) AS before FROM stepd.history) h WHERE h.at < h.before";
    assert_eq!(db.one::<String>(order).await, "", "the history is in order");
    let nap = "SELECT extract(epoch FROM ended_at - started_at) BETWEEN 1.4 AND 10 FROM stepd.steps WHERE key = ";
    assert!(db.one::<bool>(format!("{nap} 'nap'")).await);
    assert_eq!(db.count("SELECT count(*) FROM stepd.attempts WHERE key = 'again'").await, 2);
    let lasted: bool =
        db.one(format!("SELECT ended_at - started_at < interval '1 minute' FROM stepd.runs WHERE id = '{run}'")).await;
    assert!(lasted);
}

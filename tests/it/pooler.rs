//! A real PgBouncer between the daemons and Postgres: what works there works right, and the rest is replaced, or refused with the next step.

mod talk;

use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use crate::cli::{stepd, stepd_at};
use crate::support::{Db, Files, PgBouncer, Proxy, SOON, Server, Spec, TRANSACTION, holds_for, wait_until};

/// Effects in the transaction of their checkpoint and beside it, steps side by side, a map, and waits.
const WORK: &str = "
name: work
resume: never
steps:
  - {id: first, sql: \"INSERT INTO effects VALUES ($1, 'first')\", params: [\"${{ run.id }}\"]}
  - id: items
    map: [1, 2, 3]
    steps:
      - {id: effect, sql: \"INSERT INTO effects VALUES ($1, $2)\", params: [\"${{ run.id }}\", \"${{ step.key }}\"]}
      - {id: file, run: \"echo $STEPD_RUN_ID >> @DIR@/ran\"}
  - {id: nap, sleep: 20ms}
  - {id: told, wait: go}
  - {id: last, sql: \"INSERT INTO effects VALUES ($1, 'last')\", params: [\"${{ run.id }}\"]}
output: input.n
";

const HELD: &str = "
name: held
resume: never
steps:
  - {id: before, sql: \"INSERT INTO effects VALUES ($1, 'before')\", params: [\"${{ run.id }}\"]}
  - {id: hold, run: \"until test -e @DIR@/go; do sleep 0.05; done\"}
  - {id: after, sql: \"INSERT INTO effects VALUES ($1, 'after')\", params: [\"${{ run.id }}\"]}
";

async fn ground() -> (Db, Files) {
    let (db, files) = (Db::new().await, Files::new([WORK, HELD]));
    db.exec("CREATE TABLE effects (run text NOT NULL, step text NOT NULL, UNIQUE (run, step))").await;
    (db, files)
}

/// The steps' own session locks aside: the workers'.
const LOCKS: &str =
    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.locktype = 'advisory' AND l.classid = 'stepd_engine.workers'::regclass::oid AND l.objid < 1000000";

#[tokio::test]
async fn behind_a_pooler_of_any_mode_two_daemons_run_everything_once_and_leave_nothing_in_its_sessions() {
    let ignoring = "ignore_startup_parameters = extra_float_digits,options";
    for (settings, database) in [
        // As few servers as can be: each is everybody's.
        (format!("{TRANSACTION}\ndefault_pool_size = 3"), ""),
        (format!("{TRANSACTION}\n{ignoring}"), "SET idle_in_transaction_session_timeout = '10s'"),
        // A server for every connection that both may open.
        (format!("pool_mode = session\n{ignoring}\ndefault_pool_size = 50"), ""),
    ] {
        let (db, files) = ground().await;
        if !database.is_empty() {
            db.exec(format!("ALTER DATABASE {} {database}", db.name)).await;
        }
        let Some(bouncer) = PgBouncer::before(&db, &settings).await else { return };
        let (mut one, mut two) =
            (Spec::new(&bouncer.db, &files).ready().await, Spec::new(&bouncer.db, &files).ready().await);
        let mut runs = Vec::new();
        for n in 0..12 {
            runs.push(db.enqueue("work", &format!("{{\"n\": {n}}}")).await);
        }
        for run in &runs {
            db.step_reaches(run, "told", "waiting", SOON).await;
            db.exec(format!("SELECT stepd.signal('{run}', 'go')")).await;
        }
        for (n, run) in runs.iter().enumerate() {
            db.reaches(run, "completed", SOON).await;
            assert_eq!(db.output(run).await, n.to_string(), "{settings}");
        }
        assert_eq!(db.count("SELECT count(*) FROM effects").await, 12 * 5);
        assert_eq!(files.lines("ran").len(), 12 * 3);
        for worker in [&mut one, &mut two] {
            assert_eq!(worker.logged("behind a connection pooler"), 1, "{}", worker.log());
            let log = worker.log();
            let loud = log.lines().filter(|l| l.contains("\"WARN\"") || l.contains("\"ERROR\""));
            // A busy machine is no trouble of the pooler's.
            assert_eq!(loud.filter(|l| !l.contains("slow statement")).count(), 1, "{log}");
        }
        assert_eq!(db.count(LOCKS).await, 0, "nobody believes in a lock");
        assert_eq!(db.count("SELECT count(*) FROM stepd_engine.worker_sessions").await, 0, "nor marks one");
        assert_eq!((one.drain(SOON).await, two.drain(SOON).await), (Some(0), Some(0)));
        // Whoever is given one of its sessions next finds it as new.
        if settings.contains(TRANSACTION) {
            let next: PgConnectOptions = bouncer.db.url.parse().unwrap();
            let mut next = next.extra_float_digits(None).connect().await.unwrap();
            let left = "SELECT current_setting('statement_timeout') || current_setting('enable_seqscan') || coalesce(current_setting('stepd.session', true), '')
                || (SELECT count(*) FROM pg_prepared_statements)";
            let row = sqlx::raw_sql(left).fetch_one(&mut next).await.unwrap();
            assert_eq!(sqlx::Row::try_get_unchecked::<String, _>(&row, 0).unwrap(), "0on0");
        }
    }
}

#[tokio::test]
async fn behind_a_pooler_a_killed_worker_is_taken_over_by_its_lease_and_past_it_by_its_lock() {
    for direct in [false, true] {
        let (db, files) = ground().await;
        let Some(bouncer) = PgBouncer::before(&db, TRANSACTION).await else { return };
        let mut spec = Spec::new(&bouncer.db, &files).lease(if direct { 60 } else { 3 });
        if direct {
            spec = spec.env("STEPD_DATABASE_DIRECT_URL", &db.url);
        }
        let mut dead = spec.ready().await;
        let mut runs = Vec::new();
        for _ in 0..5 {
            runs.push(db.enqueue("held", "{}").await);
        }
        for run in &runs {
            db.step_reaches(run, "hold", "running", SOON).await;
        }
        let mut heir = spec.ready().await;
        assert_eq!(db.count(LOCKS).await, if direct { 2 } else { 0 });
        holds_for("the living are left alone", Duration::from_secs(4), async || db.events("crashed").await == 0).await;
        dead.kill9();
        std::fs::write(files.path("go"), "").unwrap();
        for run in &runs {
            db.reaches(run, "completed", SOON).await;
        }
        let found = "SELECT string_agg(DISTINCT data::jsonb ->> 'found_by', ',') FROM stepd_engine.events WHERE kind = 'crashed'";
        assert_eq!(db.one::<String>(found).await, if direct { "lock" } else { "lease" });
        assert_eq!(db.count("SELECT count(*) FROM effects").await, 10, "each once");
        assert_eq!(heir.logged("behind a connection pooler"), usize::from(!direct));
        assert_eq!(heir.drain(SOON).await, Some(0));
    }
}

#[tokio::test]
async fn a_pooler_that_is_killed_is_waited_for_and_nothing_is_lost() {
    let (db, files) = ground().await;
    let Some(mut bouncer) = PgBouncer::before(&db, TRANSACTION).await else { return };
    let mut worker = Spec::new(&bouncer.db, &files).ready().await;
    let run = db.enqueue("held", "{}").await;
    db.step_reaches(&run, "hold", "running", SOON).await;
    bouncer.restart().await;
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 2);
    assert_eq!(db.count("SELECT sum(crashes)::bigint FROM stepd.runs").await, 0);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_pooler_that_is_put_before_postgres_under_a_running_daemon_is_found_and_gone_through() {
    let (db, files) = ground().await;
    let Some(bouncer) = PgBouncer::before(&db, &format!("{TRANSACTION}\ndefault_pool_size = 2")).await else { return };
    let proxy = Proxy::new(&db).await;
    let mut worker = Spec::new(&proxy.db, &files).ready().await;
    let before = db.enqueue("held", "{}").await;
    db.step_reaches(&before, "hold", "running", SOON).await;
    proxy.leads_to(&bouncer.db);
    proxy.cut();
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&before, "completed", SOON).await;
    for _ in 0..5 {
        db.enqueue("held", "{}").await;
    }
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 6);
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 12);
    wait_until("its lock is not believed in any more", SOON, async || {
        db.count("SELECT count(*) FROM stepd_engine.worker_sessions").await == 0
    })
    .await;
    assert_eq!(db.events("crashed").await, 0);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn what_cannot_be_done_through_a_pooler_is_refused_with_the_next_step() {
    let (db, files) = ground().await;
    let Some(bouncer) = PgBouncer::before(&db, TRANSACTION).await else { return };
    let Some(statements) = PgBouncer::before(&db, "pool_mode = statement").await else { return };
    let server = Server::own().await;
    let other = server.db().await;
    let mut refused = Vec::new();
    for (db, direct) in [(&statements.db, None), (&bouncer.db, Some(&bouncer.db.url)), (&bouncer.db, Some(&other.url))]
    {
        let mut spec = Spec::new(db, &files);
        if let Some(direct) = direct {
            spec = spec.env("STEPD_DATABASE_DIRECT_URL", direct);
        }
        let mut worker = spec.start();
        assert_ne!(worker.ends(SOON).await.code(), Some(0));
        refused.push(worker.log());
    }
    let said = ["set pool_mode = transaction", "it is there to lead past it", "lead to different databases"];
    for (log, said) in refused.iter().zip(said) {
        assert!(log.contains(said), "{said}: {log}");
    }
    stepd(&statements.db, &["migrate"]).await.is(69).says("statement mode");
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
}

#[tokio::test]
async fn two_migrations_at_once_through_a_pooler_make_one_schema_and_leave_no_lock_behind() {
    let server = Server::own().await;
    server.pg.create_database("bare", None).await.unwrap();
    let db = server.at("bare");
    let Some(bouncer) = PgBouncer::before(&db, TRANSACTION).await else { return };
    let (one, two) = tokio::join!(stepd(&bouncer.db, &["migrate"]), stepd(&bouncer.db, &["migrate"]));
    let (one, two) = (one.is(0), two.is(0));
    assert!(one.out.contains("version") && two.out.contains("version"), "{}{}", one.out, two.out);
    let again = stepd(&bouncer.db, &["migrate", "--roles", "--compat", "views"]).await.is(0);
    assert!(again.out.contains("up to date"), "{}", again.out);
    assert_eq!(db.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await, 0);
    let once = "SELECT count(*) = count(DISTINCT version) AND count(*) > 5 FROM stepd_engine.migrations";
    assert!(db.one::<bool>(once).await);
}

#[tokio::test]
async fn the_command_line_works_through_a_pooler() {
    let (db, files) = ground().await;
    let Some(bouncer) = PgBouncer::before(&db, &format!("{TRANSACTION}\ndefault_pool_size = 1")).await else { return };
    let worker = Spec::new(&bouncer.db, &files).http().ready().await;
    let behind = &bouncer.db;
    let run = stepd(behind, &["enqueue", "work", "--input", "{\"n\": 7}"]).await.is(0).line();
    db.step_reaches(&run, "told", "waiting", SOON).await;
    assert!(stepd(behind, &["why", &run]).await.is(0).out.contains("go"));
    stepd(behind, &["signal", &run, "go"]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    assert!(stepd(behind, &["show", &run]).await.is(0).out.contains("items"));
    assert!(stepd(behind, &["ls", "-o", "id"]).await.is(0).out.contains(run.as_str()));
    assert!(stepd(behind, &["show", &run, "--attempts"]).await.is(0).out.contains("effect"));
    let other = stepd(behind, &["enqueue", "held"]).await.is(0).line();
    db.step_reaches(&other, "hold", "running", SOON).await;
    stepd(behind, &["cancel", &other, "--reason", "o'clock \\'"]).await.is(0);
    db.reaches(&other, "cancelled", SOON).await;
    assert!(stepd(behind, &["worker", "ls"]).await.is(0).out.contains(&worker.pid().to_string()));
    stepd(behind, &["run", "work", "--help"]).await.is(0);
    assert!(stepd_at(Some("postgres://postgres@127.0.0.1:1/x"), &["ls"]).code == Some(69));
}

/// A key and a certificate of a name, signed by nobody else.
fn certificate(bouncer_folder: &std::path::Path) -> Option<()> {
    let done = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "key",
            "-out",
            "cert",
        ])
        .current_dir(bouncer_folder)
        .output()
        .ok()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(())
}

#[tokio::test]
async fn a_pooler_that_speaks_tls_is_gone_through_as_its_mode_says() {
    let (db, files) = ground().await;
    let keys = tempfile::tempdir_in("/tmp").unwrap();
    if certificate(keys.path()).is_none() {
        eprintln!("SKIPPED: there is no openssl here, so no certificate for a pooler that speaks TLS");
        return;
    }
    for entry in std::fs::read_dir(keys.path()).unwrap() {
        std::fs::set_permissions(entry.unwrap().path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    std::fs::set_permissions(keys.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let here = keys.path().display();
    let settings = format!(
        "{TRANSACTION}\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nclient_tls_sslmode = require\nclient_tls_key_file = {here}/key\n\
         client_tls_cert_file = {here}/cert"
    );
    let Some(_bouncer) = PgBouncer::before(&db, &settings).await else { return };
    let at = |host: &str, mode: &str| Db {
        url: format!("postgres://postgres@{host}:{port}/{}?sslmode={mode}", db.name),
        ..db.clone()
    };
    for good in [
        at("127.0.0.1", "require"),
        at("localhost", &format!("verify-full&sslrootcert={here}/cert")),
        at("127.0.0.1", &format!("verify-ca&sslrootcert={here}/cert")),
    ] {
        stepd(&good, &["ls"]).await.is(0);
    }
    for bad in [
        at("127.0.0.1", "disable"),
        at("127.0.0.1", &format!("verify-full&sslrootcert={here}/cert")),
        at("localhost", "verify-full"),
    ] {
        stepd(&bad, &["ls"]).await.is(69);
    }
    let mut worker = Spec::new(&at("localhost", &format!("verify-full&sslrootcert={here}/cert")), &files).ready().await;
    std::fs::write(files.path("go"), "").unwrap();
    let run = db.enqueue("held", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

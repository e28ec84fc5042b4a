//! Configuration as a shell and a daemon see it: sources, complaints, what is shown; and the databases that it can name.

use std::path::Path;
use std::process::{Command, Stdio};

use stepd::postgres::{Options, PrivatePostgres, StopMode};

use crate::cli::{HELLO, stepd_at};
use crate::support::{Db, Files, SOON, Server, Spec, wait_until};

fn stepd_in(folder: &Path, environment: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepd"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if ["STEPD_", "PG", "DATABASE_", "RUST_LOG"].iter().any(|p| name.as_encoded_bytes().starts_with(p.as_bytes())) {
            command.env_remove(name);
        }
    }
    let done = command.envs(environment.iter().copied()).output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

#[test]
fn a_wrong_configuration_is_refused_with_all_that_is_wrong_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stepd.toml"), "# mine\nconcurency = 5\nlease_seconds = 'long'\n").unwrap();
    for command in [&["serve"][..], &["ls"], &["config"], &["migrate"]] {
        let (code, out, err) = stepd_in(folder.path(), &[("STEPD_QUEUE", "x")], command);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        for part in [
            "3 errors",
            "stepd.toml:2: there is no key `concurency`; did you mean `concurrency`?",
            "stepd.toml:3: `lease_seconds` must be a whole number from 3 to 86400; it is text",
            "STEPD_QUEUE: there is no key `queue`; did you mean STEPD_QUEUES?",
        ] {
            assert!(err.contains(part), "{part}: {err}");
        }
    }
}

#[test]
fn what_is_in_force_is_shown_with_its_sources_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = "grace_seconds = 9\n[secrets]\nstripe = 'geheim'\n";
    std::fs::write(folder.path().join("stepd.toml"), file).unwrap();
    let environment = [("DATABASE_HOST", "db"), ("DATABASE_PASSWORD", "geheim"), ("STEPD_CONCURRENCY", "7")];
    let (code, out, err) = stepd_in(folder.path(), &environment, &["config"]);
    assert_eq!(code, Some(0), "{err}");
    let line =
        |key: &str| out.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key}: {out}")).to_owned();
    assert!(line("concurrency = 7").ends_with("# STEPD_CONCURRENCY"), "{out}");
    assert!(line("grace_seconds = 9").ends_with("# stepd.toml:1"), "{out}");
    assert!(line("lease_seconds = 15").ends_with("# default"), "{out}");
    assert!(line("database_password = \"***\"").ends_with("# DATABASE_PASSWORD"), "{out}");
    assert!(line("secrets.stripe = \"***\"").ends_with("# stepd.toml:3"), "{out}");
    assert!(!out.contains("geheim"));
    let (_, out, _) = stepd_in(folder.path(), &environment, &["config", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let host = document.as_array().unwrap().iter().find(|s| s["key"] == "database_host").unwrap();
    assert_eq!((&host["value"], &host["source"]), (&"db".into(), &"DATABASE_HOST".into()));
    assert!(!out.contains("geheim"));
}

#[test]
fn the_template_can_be_used_as_it_is_and_a_check_says_nothing_when_all_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let (_, template, _) = stepd_in(folder.path(), &[], &["config", "--template"]);
    std::fs::write(folder.path().join("stepd.toml"), template).unwrap();
    let checked = stepd_in(folder.path(), &[], &["config", "--check"]);
    assert_eq!(checked, (Some(0), String::new(), String::new()));
    std::fs::write(folder.path().join("bad.yaml"), "name: bad\nsteps: [{id: a, rn: x}]\n").unwrap();
    let (code, _, err) = stepd_in(folder.path(), &[("STEPD_WORKFLOWS", "bad.yaml")], &["config", "--check"]);
    assert!(code == Some(1) && err.contains("did you mean `run`?"), "{err}");
}

#[tokio::test]
async fn a_daemon_runs_with_only_the_five_variables_of_a_database() {
    let server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([HELLO]));
    let mut worker = Spec::new(&db, &files)
        .env("DATABASE_URL", "")
        .env("DATABASE_HOST", server.pg.folder().display())
        .env("DATABASE_PORT", 5432)
        .env("DATABASE_NAME", &db.name)
        .env("DATABASE_USER", "postgres")
        .env("DATABASE_PASSWORD", "unused")
        .ready()
        .await;
    let run = db.enqueue("hello", r#"{"who":"me"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_pool_of_two_serves_twenty_runs_and_unknown_workflows_are_parked_where_that_is_configured() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let spec = Spec::new(&db, &files).env("STEPD_DATABASE_POOL", 2).env("STEPD_ON_UNKNOWN_WORKFLOW", "park");
    let mut worker = spec.ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow, input) SELECT 'hello', '{\"who\":\"x\"}' FROM generate_series(1, 20)")
        .await;
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 20);
    let parked = db.enqueue("later", "{}").await;
    assert_eq!(db.state(&parked).await, "held");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// A certificate authority, a server's certificate of it, and another authority; with the machine's openssl.
fn certificates(folder: &Path) -> bool {
    let script = "set -e; cd \"$1\"; for ca in ca other; do \
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $ca.key -out $ca.crt -subj /CN=$ca -days 2; done; \
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr -subj /CN=server; \
        echo subjectAltName=IP:127.0.0.1 > ext; \
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.crt";
    let done =
        Command::new("sh").args(["-c", script, "sh"]).arg(folder).stderr(Stdio::null()).stdout(Stdio::null()).status();
    done.is_ok_and(|s| s.success())
}

#[tokio::test]
async fn tls_is_as_strict_as_configured() {
    let (folder, files) = (tempfile::tempdir().unwrap(), Files::new([HELLO]));
    if !certificates(folder.path()) {
        eprintln!("SKIPPED: no certificates can be made here (openssl is missing)");
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = vec![("listen_addresses".into(), "127.0.0.1".into()), ("port".into(), port.to_string())];
    let pg = PrivatePostgres::start(&Options { durable: false, settings, ..Options::default() }).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(pg.folder()).unwrap());
    for file in ["server.key", "server.crt"] {
        let to = pg.folder().join(file);
        std::fs::copy(folder.path().join(file), &to).unwrap();
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&to, Some(owner), None).unwrap();
    }
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let db = Db { pool: sqlx::PgPool::connect(&url).await.unwrap(), url, name: "postgres".into() };
    for (name, file) in [("ssl_key_file", "server.key"), ("ssl_cert_file", "server.crt")] {
        db.exec(format!("ALTER SYSTEM SET {name} = '{}'", pg.folder().join(file).display())).await;
    }
    let spec = Spec::new(&db, &files).env("STEPD_DATABASE_SSLROOTCERT", folder.path().join("ca.crt").display());
    // Without TLS at the server, a daemon that requires it does not work without.
    let mut required = spec.clone().env("PGSSLMODE", "require").start();
    required.logs("postgres cannot be used yet").await;
    assert_eq!(db.count("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'stepd%'").await, 0);
    db.exec("ALTER SYSTEM SET ssl = on").await;
    db.exec("SELECT pg_reload_conf()").await;
    // That daemon has only waited. And now its connections are encrypted.
    required.logs("\"ready\"").await;
    let plain = "SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.application_name LIKE 'stepd%' AND NOT s.ssl";
    assert_eq!(db.count(plain).await, 0);
    assert!(db.count("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'stepd%'").await > 0);
    assert_eq!(required.drain(SOON).await, Some(0));
    let full = spec.clone().env("PGSSLMODE", "verify-full");
    assert_eq!(full.ready().await.drain(SOON).await, Some(0));
    let mut other = full.env("STEPD_DATABASE_SSLROOTCERT", folder.path().join("other.crt").display()).start();
    other.logs("postgres cannot be used yet").await;
    assert_eq!(other.logged("\"registered\""), 0);
}

/// A primary, and a standby that was made from it: in recovery, it answers, and cannot be written.
fn pair(folder: &Path) -> (PrivatePostgres, PrivatePostgres) {
    let options = |name: &str| Options { durable: false, data: Some(folder.join(name)), ..Options::default() };
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut primary = PrivatePostgres::start(&options("primary")).unwrap();
    primary.stop(StopMode::Fast);
    let copied = Command::new("cp").arg("-a").arg(folder.join("primary")).arg(folder.join("standby")).status().unwrap();
    assert!(copied.success());
    std::fs::write(folder.join("standby/postgres/standby.signal"), "").unwrap();
    primary.start_again().unwrap();
    (primary, PrivatePostgres::start(&options("standby")).unwrap())
}

#[tokio::test]
async fn of_several_hosts_the_one_that_can_be_written_is_used_also_after_a_failover() {
    let (folder, files) = (tempfile::tempdir().unwrap(), Files::new([HELLO]));
    let at = folder.path().to_owned();
    let (mut primary, standby) = tokio::task::spawn_blocking(move || pair(&at)).await.unwrap();
    let place = |pg: &PrivatePostgres| pg.folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@nowhere.invalid,{},{}/postgres", place(&standby), place(&primary));
    let of = |pg: &PrivatePostgres| Db {
        pool: sqlx::PgPool::connect_lazy(&pg.url("postgres")).unwrap(),
        url: url.clone(),
        name: "postgres".into(),
    };
    let (first, second) = (of(&primary), of(&standby));
    let mut worker = Spec::new(&first, &files).ready().await;
    let run = first.enqueue("hello", r#"{"who":"me"}"#).await;
    first.reaches(&run, "completed", SOON).await;
    primary.stop(StopMode::Immediate);
    worker.logs("postgres is away").await;
    // What the new primary has: stepd's schema; here nothing was replicated.
    second.exec("SELECT pg_promote()").await;
    wait_until("the standby is promoted", SOON, async || !second.one::<bool>("SELECT pg_is_in_recovery()").await).await;
    let migrated = tokio::task::spawn_blocking(move || stepd_at(Some(&url), &["migrate"])).await.unwrap();
    migrated.is(0);
    worker.logs("postgres is back").await;
    // It registers anew, for nobody knows it here; its definitions come with a reload.
    wait_until("it is registered there", SOON, async || {
        second.count("SELECT count(*) FROM stepd_engine.workers").await == 1
    })
    .await;
    worker.hup();
    worker.logs("reloaded").await;
    let run = second.enqueue("hello", r#"{"who":"me"}"#).await;
    second.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

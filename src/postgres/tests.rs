use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::{Options, PrivatePostgres, StopMode};
use crate::os::proc;

/// Names the helper process of `a_killed_parent_leaves_no_server_behind`.
const HELPER: &str = "STEPD_TEST_PRIVATE_POSTGRES_HELPER";

fn quick() -> Options {
    Options { durable: false, ..Options::default() }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}

async fn one(server: &PrivatePostgres, database: &str, sql: &'static str) -> i64 {
    let mut connection: PgConnection = server.options(database).connect().await.unwrap();
    let value = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    value
}

#[tokio::test]
async fn data_survives_both_kinds_of_stop_and_the_folder_does_not_survive_the_drop() {
    let mut server = PrivatePostgres::start(&quick()).unwrap();
    server.create_database("plain", None).await.unwrap();
    let mut connection = server.options("plain").connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n bigint); INSERT INTO t VALUES (1)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    server.create_database("copy", Some("plain")).await.unwrap();
    let url = server.url("copy");
    PgConnection::connect(&url).await.unwrap().close().await.unwrap();
    assert!(Command::new(server.binaries().join("psql")).args([&url, "-qc", ""]).status().unwrap().success());
    for mode in [StopMode::Fast, StopMode::Immediate] {
        server.stop(mode);
        assert!(server.options("plain").connect().await.is_err());
        server.start_again().unwrap();
        assert_eq!(one(&server, "plain", "SELECT n FROM t").await, 1);
        assert_eq!(one(&server, "copy", "SELECT n FROM t").await, 1);
    }
    let (folder, postmaster) = (server.folder().to_owned(), server.postmaster().unwrap());
    drop(server);
    assert!(!folder.exists());
    assert_eq!(proc::stat(postmaster), None);
}

#[tokio::test]
async fn servers_run_side_by_side_and_a_killed_backend_is_recovered_from() {
    let (a, b) = (PrivatePostgres::start(&quick()).unwrap(), PrivatePostgres::start(&quick()).unwrap());
    assert_ne!(a.folder(), b.folder());
    let mut victim = a.options("postgres").connect().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
    assert!(b.kill_backend(pid).is_err());
    a.kill_backend(pid).unwrap();
    assert!(sqlx::query("SELECT 1").execute(&mut victim).await.is_err());
    let deadline = Instant::now() + Duration::from_secs(20);
    while a.options("postgres").connect().await.is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(one(&b, "postgres", "SELECT 1::int8").await, 1);
}

#[test]
fn the_helper_of_the_test_below() {
    if std::env::var_os(HELPER).is_none() {
        return;
    }
    let server = PrivatePostgres::start(&quick()).unwrap();
    println!("\n{HELPER} {} {}", server.postmaster().unwrap(), server.folder().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_parent_leaves_no_server_behind() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "postgres::tests::the_helper_of_the_test_below"])
        .env(HELPER, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|l| l.starts_with(HELPER)).unwrap();
    let mut words = line.split(' ').skip(1);
    let postmaster: i32 = words.next().unwrap().parse().unwrap();
    let folder = std::path::PathBuf::from(words.next().unwrap());
    let family: Vec<_> = proc::all().into_iter().filter(|s| s.pid == postmaster || s.parent == postmaster).collect();
    assert!(family.len() > 3, "the server and its helpers run");
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("all its processes are gone", || family.iter().all(|s| !proc::is_alive(s.pid, s.start)));
    assert!(folder.exists());
    let _next = PrivatePostgres::start(&quick()).unwrap();
    until(&format!("the next start has swept {}", folder.display()), || !folder.exists());
}

#[tokio::test]
async fn kept_data_is_found_again_by_the_next_server() {
    let parent = tempfile::tempdir().unwrap();
    // Root's server runs as somebody else, who must be able to walk there.
    std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let kept = Options { data: Some(parent.path().join("mine")), ..quick() };
    let mut first = PrivatePostgres::start(&kept).unwrap();
    sqlx::query("CREATE TABLE t AS SELECT 7::int8 AS n")
        .execute(&mut first.options("postgres").connect().await.unwrap())
        .await
        .unwrap();
    let socket = first.folder().to_owned();
    assert!(PrivatePostgres::start(&kept).is_err(), "two servers on one folder");
    first.stop(StopMode::Fast);
    drop(first);
    assert!(!socket.exists());
    let second = PrivatePostgres::start(&kept).unwrap();
    assert_eq!(one(&second, "postgres", "SELECT n FROM t").await, 7);
}

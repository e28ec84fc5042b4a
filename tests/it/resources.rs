//! Postgres runs out of something: space, connections, the will to write. Nothing is lost or done twice, nobody is taken over,
//! nobody is needed, and each worker says it once.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use stepd::os::proc;
use stepd::postgres::{PrivatePostgres, StopMode};

use crate::postgres_away::Ground;
use crate::support::limits::Small;
use crate::support::{Db, Files, SOON, Server, Spec, Worker, holds_for, wait_until};

/// More than the five seconds between two heartbeats.
const WHILE: Duration = Duration::from_secs(6);

/// All of them have said it, and none of them has ended.
async fn all_say(ground: &mut Ground, text: &str) {
    for worker in &mut ground.workers {
        worker.logs(text).await;
    }
}

#[tokio::test]
async fn a_full_disk_of_postgres_loses_nothing_takes_nobody_over_and_is_told_once() {
    let server = Server::own().await;
    let place = server.pg.folder().join("small");
    let Some(small) = Small::mount(&place, 48) else { return };
    let db = server.db().await;
    let beside = db.beside();
    beside.exec(format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).await;
    beside.exec(format!("ALTER DATABASE {} SET TABLESPACE small", db.name)).await;
    // Rows that need space at once.
    db.exec("CREATE TABLE filler (data text)").await;
    let mut ground = Ground::on(server, db).await;
    small.fill();
    let full = || async {
        let sql = "INSERT INTO filler SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n";
        ground.db.ask::<i32>(&format!("WITH x AS ({sql} RETURNING 1) SELECT 1 FROM x")).await.is_err()
    };
    wait_until("the disk is full", SOON, full).await;
    // A session that is ended on the full disk may be what a worker meets first: then Postgres is away.
    all_say(&mut ground, "claims pause").await;
    holds_for("the workers live", WHILE, async || ground.workers.iter_mut().all(Worker::is_running)).await;
    small.empty();
    let began = Instant::now();
    ground.under_way().await;
    eprintln!("twenty runs more {:?} after there was space again", began.elapsed());
    ground.check(2).await;
}

#[tokio::test]
async fn a_full_disk_of_the_write_ahead_log_stops_postgres_and_loses_nothing() {
    let mut server = Server::own().await;
    server.pg.stop(StopMode::Fast);
    let Some(small) = Small::mount(&server.pg.folder().join("wal"), 96) else { return };
    move_log(&server.pg, &small);
    server.pg.start_again().unwrap();
    let db = server.db().await;
    let mut ground = Ground::on(server, db).await;
    let before = comebacks(&ground);
    wait_until("Postgres has stopped", SOON, async || {
        small.fill();
        // A whole segment, and the next. A recovery makes room, and is filled again.
        let _ = ground.db.ask::<String>("SELECT pg_switch_wal()::text").await;
        let _ =
            ground.db.ask::<String>("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 20000000))::text").await;
        ground.server.pg.postmaster().and_then(proc::stat).is_none_or(|s| s.state == 'Z')
    })
    .await;
    all_say(&mut ground, "claims pause").await;
    small.empty();
    let began = Instant::now();
    wait_until("Postgres is up", SOON, async || {
        // It may still be on its way out.
        let _ = ground.server.pg.start_again();
        ground.db.ask::<i32>("SELECT 1").await.is_ok()
    })
    .await;
    ground.under_way().await;
    eprintln!("twenty runs more {:?} after there was space again", began.elapsed());
    // A recovery that made room let work go on, until that was filled too.
    let changes = comebacks(&ground) - before;
    ground.check(changes).await;
}

/// How often the server has come up.
fn comebacks(ground: &Ground) -> usize {
    std::fs::read_to_string(ground.server.pg.log()).unwrap().matches("is ready to accept connections").count()
}

/// The log goes to the small file system. The server is stopped.
fn move_log(pg: &PrivatePostgres, small: &Small) {
    let log = pg.folder().join("data/pg_wal");
    let copied = std::process::Command::new("cp").arg("-a").arg(log.join(".")).arg(small.path()).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(&log).unwrap();
    std::os::unix::fs::symlink(small.path(), &log).unwrap();
}

#[tokio::test]
async fn a_server_that_takes_no_writes_for_a_while_loses_nothing_and_takes_nobody_over() {
    let mut ground = Ground::new().await;
    let mut admin = PgConnection::connect(&ground.db.url).await.unwrap();
    sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut admin).await.unwrap();
    for (change, span) in [("on", WHILE), ("off", Duration::ZERO)] {
        let alter = format!("ALTER SYSTEM SET default_transaction_read_only = {change}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(&mut admin).await.unwrap();
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut admin).await.unwrap();
        if change == "on" {
            all_say(&mut ground, "postgres takes no writes").await;
        }
        holds_for("the workers live", span, async || ground.workers.iter_mut().all(Worker::is_running)).await;
    }
    let began = Instant::now();
    ground.under_way().await;
    eprintln!("twenty runs more {:?} after it took writes again", began.elapsed());
    ground.check(1).await;
}

#[tokio::test]
async fn connections_that_others_have_all_taken_are_waited_for_and_it_is_told_once() {
    let server = Server::of(40).await;
    let db = server.db().await;
    let ground = Ground::on(server, db).await;
    let others = ground.db.beside();
    // What a daemon needs a connection for, and has to make a new one: all but the presence.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ~ '^stepd( writer| claimer| sql step|$)'";
    let mut taken = Vec::new();
    let began = Instant::now();
    // The end of a session, or that there is no other: whichever is met first.
    while began.elapsed() < WHILE / 3 || ground.workers.iter().any(|w| w.logged("claims pause") == 0) {
        assert!(began.elapsed() < SOON, "it is not told");
        match PgConnection::connect(&others.url).await {
            Ok(one) => taken.push(one),
            // Whatever becomes free is taken at once.
            Err(_) => match taken.last_mut() {
                Some(one) => drop(sqlx::query(end).execute(&mut *one).await),
                None => tokio::task::yield_now().await,
            },
        }
    }
    eprintln!("{} connections were taken", taken.len());
    drop(taken);
    let began = Instant::now();
    ground.under_way().await;
    eprintln!("twenty runs more {:?} after there were connections again", began.elapsed());
    ground.check(2).await;
}

#[tokio::test]
async fn a_table_that_an_administrator_has_locked_keeps_all_waiting_and_is_told_once() {
    let mut ground = Ground::new().await;
    let mut admin = PgConnection::connect(&ground.db.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE stepd.jobs IN ACCESS EXCLUSIVE MODE").execute(&mut admin).await.unwrap();
    all_say(&mut ground, "postgres keeps this worker waiting").await;
    holds_for("the workers live", WHILE, async || ground.workers.iter_mut().all(Worker::is_running)).await;
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    let began = Instant::now();
    ground.under_way().await;
    eprintln!("twenty runs more {:?} after the lock was let go", began.elapsed());
    ground.check(1).await;
}

/// What a worker asks on a new session, before anything starts again, needs the table; its lock and its heartbeat do not.
#[tokio::test]
async fn a_worker_that_loses_its_session_while_a_table_is_locked_is_locked_again_and_beats_meanwhile() {
    let (db, files) = (Db::new().await, Files::new(["name: one\nsteps: [{id: a, set: 1}]\n"]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let first = db.enqueue("one", "{}").await;
    db.reaches(&first, "completed", SOON).await;
    let mut admin = PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE stepd.jobs IN ACCESS EXCLUSIVE MODE").execute(&mut admin).await.unwrap();
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'stepd presence' AND datname = current_database()";
    assert_eq!(db.count(ended).await, 1);
    let beats = "SELECT beat FROM stepd_engine.workers w WHERE EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory'
        AND l.objsubid = 2 AND l.granted AND l.classid = 'stepd_engine.workers'::regclass::oid AND l.objid::bigint = w.number)";
    let mut before = None;
    wait_until("it is locked, and has beaten twice", SOON, async || {
        let now = db.all::<i64>(beats).await.first().copied();
        before = before.or(now);
        now.zip(before).is_some_and(|(now, before)| now >= before + 2)
    })
    .await;
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    let second = db.enqueue("one", "{}").await;
    db.reaches(&second, "completed", SOON).await;
    assert_eq!(worker.logged("\"registered\""), 1, "{}", worker.log());
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// Limits that an administrator sets for people and applications are not meant for sessions that wait for work, nor for transitions that
/// count on a new snapshot with each statement.
#[tokio::test]
async fn limits_that_an_administrator_has_set_for_the_role_do_not_hamper_a_daemon() {
    const WORK: &str = "
name: work
steps:
  - id: a
    sql: INSERT INTO effects SELECT count(*) FROM pg_sleep(0.3)
  - id: b
    wait: go
";
    let (db, files) = (Db::new().await, Files::new([WORK]));
    db.exec("CREATE TABLE effects (n int)").await;
    let role = format!("hampered_{}", db.name);
    db.exec(format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
    for (name, value) in [
        ("statement_timeout", "50ms"),
        ("lock_timeout", "1ms"),
        ("idle_in_transaction_session_timeout", "1ms"),
        ("idle_session_timeout", "300ms"),
        ("default_transaction_isolation", "serializable"),
    ] {
        db.exec(format!("ALTER ROLE {role} SET {name} = '{value}'")).await;
    }
    let hampered = Db { url: db.url.replace("postgres@", &format!("{role}@")), ..db.clone() };
    let sessions = "SELECT coalesce(string_agg(pid::text, ' ' ORDER BY pid), '') FROM pg_stat_activity
        WHERE datname = current_database() AND application_name ~ '^stepd (presence|writer|claimer)'";
    let mut worker = Spec::new(&hampered, &files).ready().await;
    let run = db.enqueue("work", "{}").await;
    db.step_reaches(&run, "b", "waiting", SOON).await;
    let before: String = db.one(sessions).await;
    assert!(before.split(' ').count() >= 3, "{before}");
    holds_for("its sessions stand", Duration::from_secs(2), async || db.one::<String>(sessions).await == before).await;
    db.exec(format!("SELECT stepd.signal('{run}', 'go')")).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.events("attempt_failed").await + db.events("crashed").await, 0);
    let loud = worker.log().lines().filter(|l| l.contains("\"WARN\"") || l.contains("\"ERROR\"")).count();
    assert_eq!(loud, 0, "{}", worker.log());
    assert_eq!(worker.drain(SOON).await, Some(0));
}

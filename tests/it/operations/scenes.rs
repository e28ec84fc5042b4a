//! What the blocks of the runbook find: a shop at work, a Postgres that goes away, a host with systemd.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _};
use stepd::postgres::StopMode;

use super::{Block, Shell, blocks, plays};
use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Server, Spec, holds_for, wait_until};
use crate::systemd::{CREDENTIAL, Ground};

pub const ALL: [&str; 5] = ["shop", "away", "barred", "stopped", "booted"];

const SHIP: &str = "name: ship\nsteps:\n  - {id: pack, run: 'true'}\n  - {id: send, set: sent}\n";
const CHARGE: &str = "
name: charge
resume: never
steps:
  - {id: prepare, set: 1}
  - id: charge
    run: echo 'the card is refused' >&2; exit 3
    retry: {max_attempts: 1}
";
const RELEASE: &str = "name: release\nsteps:\n  - {id: sure, approve: 'Release it?'}\n";
const SYNC: &str = "
name: sync
concurrency: {key: input.customer, limit: 1}
steps:
  - {id: copy, run: 'until test -e @DIR@/done; do sleep 0.1; done'}
";
const RENDER: &str = "name: render\nqueue: gpu\nsteps: [{id: draw, set: 1}]\n";

/// The page's name for a database that came out of a backup.
const RESTORED: &str = "app_restored";

const TICK: &str = "name: tick\nschedule: {cron: '* * * * *'}\nsteps: [{id: a, set: 1}]\n";
const HOLD: &str = "name: hold\nsteps: [{id: a, run: 'until test -e @DIR@/let-go; do sleep 0.1; done'}]\n";

/// A shell beside a daemon, as the page's operator; `None`, said aloud, where a program that the page uses is missing.
async fn shell(server: &Server, db: &Db, files: &Files, site: &str) -> Option<Shell> {
    stepd(db, &["migrate", "--roles"]).await.is(0);
    db.exec("CREATE ROLE ops LOGIN IN ROLE stepd_operate, pg_monitor, pg_signal_backend").await;
    let stepd = Path::new(env!("CARGO_BIN_EXE_stepd")).parent().unwrap().display().to_string();
    let path = format!("{stepd}:{}:{}", server.pg.binaries().display(), std::env::var("PATH").unwrap());
    let folder = files.workflows().parent().unwrap().to_owned();
    let urls = [
        ("DATABASE_URL", db.url.replacen("postgres://postgres@", "postgres://ops@", 1)),
        ("ADMIN_URL", db.url.clone()),
        ("RESTORED_URL", server.pg.url(RESTORED)),
    ];
    let shell = Shell { folder, urls, path, site: site.to_owned() };
    let missing = shell.says("for name in psql curl; do command -v $name >/dev/null || echo $name; done");
    if missing.is_empty() {
        return Some(shell);
    }
    eprintln!("SKIPPED: the runbook is not played, for this machine has no {}", missing.replace('\n', " "));
    None
}

async fn played(shell: &Arc<Shell>, block: &Block) {
    let (shell, block) = (shell.clone(), block.clone());
    tokio::task::spawn_blocking(move || plays(&block, |script| shell.says(script))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_runbook_says_what_is_printed_below_it() {
    let server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([] as [&str; 0]));
    for (name, text) in [("ship", SHIP), ("charge", CHARGE), ("release", RELEASE), ("sync", SYNC), ("render", RENDER)] {
        files.write(&format!("{name}.yaml"), text);
    }
    db.exec("CREATE ROLE shop LOGIN").await;
    let mut worker = Spec::new(&db, &files).env("STEPD_QUEUES", "default").http().ready().await;
    let Some(shell) = shell(&server, &db, &files, &worker.site().await).await else { return };
    let shell = Arc::new(shell);
    for (workflow, input, state) in [
        ("ship", "{}", "completed"),
        ("charge", "{}", "failed"),
        ("release", "{}", "waiting"),
        ("sync", r#"{"customer": 42}"#, "running"),
        ("sync", r#"{"customer": 42}"#, "held"),
        ("render", "{}", "queued"),
    ] {
        let run = db.enqueue(workflow, input).await;
        db.reaches(&run, state, SOON).await;
    }
    let mut left_open = None;
    for block in blocks("shop") {
        if block.heading.starts_with("Dead rows") {
            let mut somebody = sqlx::PgConnection::connect(&db.url).await.unwrap();
            sqlx::raw_sql("BEGIN; SELECT txid_current()").execute(&mut somebody).await.unwrap();
            left_open = Some(somebody);
        }
        played(&shell, &block).await;
    }
    drop(left_open);
    std::fs::write(files.path("done"), "").unwrap();
    wait_until("what ran has ended", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE state = 'running'").await == 0
    })
    .await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_says_of_a_postgres_that_goes_away_is_so() {
    let mut server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([SHIP]));
    let mut worker = Spec::new(&db, &files).http().ready().await;
    let Some(shell) = shell(&server, &db, &files, &worker.site().await).await else { return };
    let shell = Arc::new(shell);
    let run = db.enqueue("ship", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    db.pool.close().await;
    let [away, back] = <[Block; 2]>::try_from(blocks("away")).ok().expect("two blocks: away, and back");
    server.pg.stop(StopMode::Fast);
    worker.logs("postgres is away").await;
    played(&shell, &away).await;
    server.pg.start_again().unwrap();
    played(&shell, &back).await;
    assert_eq!(worker.logged("postgres is away"), 1, "said once");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_says_of_a_postgres_that_takes_no_writes_or_is_locked_is_so() {
    let server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([SHIP, HOLD]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let Some(shell) = shell(&server, &db, &files, "").await.map(Arc::new) else { return };
    let [writes, locked] = <[Block; 2]>::try_from(blocks("barred")).ok().expect("two blocks: no writes, and a lock");
    db.exec("ALTER SYSTEM SET default_transaction_read_only = on").await;
    db.exec("SELECT pg_reload_conf()").await;
    worker.logs("postgres takes no writes").await;
    played(&shell, &writes).await;
    worker.logs("postgres is back").await;
    db.exec("CREATE ROLE import LOGIN IN ROLE stepd_daemon").await;
    let import = db.url.replacen("postgres://postgres@", "postgres://import@", 1);
    // Whole tables, for reading, too, or for writes alone; and the row that the daemon wants next.
    let (table, row) = ("postgres keeps this worker waiting", "a run's records wait behind somebody's lock");
    for (lock, told) in [
        ("LOCK TABLE stepd.jobs", table),
        ("LOCK TABLE stepd.jobs IN SHARE MODE", table),
        ("LOCK TABLE stepd_engine.workers IN EXCLUSIVE MODE", table),
        ("SELECT FROM stepd.jobs WHERE workflow = 'hold' FOR UPDATE", row),
    ] {
        let before = worker.logged(told);
        // A run whose end is to be written meanwhile.
        let run = db.enqueue("hold", "{}").await;
        db.reaches(&run, "running", SOON).await;
        let mut somebody = sqlx::PgConnection::connect(&import).await.unwrap();
        let begin = format!("SET application_name = nightly; BEGIN; {lock}");
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut somebody).await.unwrap();
        std::fs::write(files.path("let-go"), "").unwrap();
        wait_until("it is said", SOON, async || worker.logged(told) > before).await;
        played(&shell, &locked).await;
        assert!(sqlx::query("COMMIT").execute(&mut somebody).await.is_err(), "{lock}: it has been ended");
        db.reaches(&run, "completed", SOON).await;
        wait_until("it is over", SOON, async || {
            worker.logged(table) == worker.logged("postgres keeps nobody waiting any more")
        })
        .await;
        std::fs::remove_file(files.path("let-go")).unwrap();
    }
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_says_of_a_backup_and_of_taking_stepd_away_is_so() {
    let server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([SHIP, RELEASE, TICK]));
    let mut worker = Spec::new(&db, &files).ready().await;
    for (workflow, state) in [("ship", "completed"), ("ship", "completed"), ("release", "waiting")] {
        let run = db.enqueue(workflow, "{}").await;
        db.reaches(&run, state, SOON).await;
    }
    // What it would start by itself comes with the copy.
    db.exec("SELECT stepd.pause_schedule('tick', 'test')").await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    db.exec(
        "CREATE FUNCTION order_placed() RETURNS uuid LANGUAGE sql AS $$SELECT stepd.enqueue('ship', '{}'::jsonb)$$;
         DELETE FROM stepd.jobs WHERE workflow = 'tick'; DELETE FROM stepd_engine.ended WHERE workflow = 'tick';
         SELECT stepd.unpause_schedule('tick'); ANALYZE",
    )
    .await;
    let left = db.enqueue("ship", "{}").await;
    let Some(shell) = shell(&server, &db, &files, "").await.map(Arc::new) else { return };
    let blocks = blocks("stopped");
    assert_eq!(blocks.len(), 4, "a backup; a copy to try out; what is left of yours; the end");
    for (n, block) in blocks.iter().enumerate() {
        played(&shell, block).await;
        if n == 1 {
            a_copy_whose_work_was_taken_away_starts_nothing(&server.at(RESTORED), &files, &left).await;
            // Else the copy keeps the roles, as it must.
            db.exec(format!("DROP DATABASE {RESTORED} WITH (FORCE)")).await;
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'stepd%'").await, 0);
}

async fn a_copy_whose_work_was_taken_away_starts_nothing(copy: &Db, files: &Files, left: &str) {
    // A minute has passed since, and what the schedule owes is due.
    // Its next instant has come.
    copy.exec(
        "UPDATE stepd_engine.schedules SET seen_at = now() - interval '2 min', next_at = now() - interval '1 min'",
    )
    .await;
    let mut worker = Spec::new(copy, files).ready().await;
    holds_for("nothing starts", Duration::from_secs(3), async || {
        copy.count("SELECT count(*) FROM stepd.runs WHERE state IN ('running', 'completed') OR workflow = 'tick'").await
            == 2
    })
    .await;
    // What was taken away is all that kept it.
    copy.exec("SELECT stepd.unpause_queue('default')").await;
    copy.reaches(left, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    copy.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_installs_reloads_and_drains_a_daemon_under_systemd() {
    let Some(ground) = Ground::new(CREDENTIAL).await else { return };
    if !ground.machine.run(&["sh", "-c", "command -v psql"]).status.success() {
        eprintln!("SKIPPED: the runbook is not played under systemd, for this machine has no psql");
        return;
    }
    for block in blocks("booted") {
        plays(&block, |script| {
            let script = format!("exec 2>&1; export DATABASE_URL='{0}' ADMIN_URL='{0}'\n{script}", ground.db.url);
            String::from_utf8_lossy(&ground.machine.run(&["sh", "-c", &script]).stdout).into_owned()
        });
    }
}

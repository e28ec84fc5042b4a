//! The schema: the SQL tests of `tests/sql`, migrations from many daemons at once, beside other tables, as one script.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stepd::db::migrate;

use super::support::{Db, Files, Server, Spec, holds_for};

/// `psql`, where the machine has it. The scripts use its meta-commands; without it they are skipped, aloud.
pub fn psql() -> Option<PathBuf> {
    let found = std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    found.map(|dir| dir.join("psql")).find(|file| file.exists())
}

async fn script(name: &str) {
    let Some(psql) = psql() else {
        eprintln!("SKIPPED: tests/sql/{name} needs psql (Debian: apt-get install postgresql-client)");
        return;
    };
    let db = Db::new().await;
    let options = db.pool.connect_options();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let mut command = Command::new(psql);
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", name]).current_dir(folder);
    // By the environment, so that a reconnect inside a script finds its way too.
    command.env("PGHOST", options.get_socket().expect("a socket")).env("PGPORT", options.get_port().to_string());
    command.env("PGUSER", "postgres").env("PGDATABASE", &db.name);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{name}:\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn sql_enqueue_cancel_and_retry_do_what_they_say() {
    script("enqueue_cancel_retry.sql").await;
}

#[tokio::test]
async fn sql_a_fork_keeps_what_had_ended_before_its_step_and_nothing_that_was_undone() {
    script("fork.sql").await;
}

#[tokio::test]
async fn sql_signals_events_approvals_and_queues_do_what_they_say() {
    script("signals_approvals.sql").await;
}

#[tokio::test]
async fn sql_pause_stands_still_and_unpause_brings_a_run_back_to_where_it_belongs() {
    script("pause.sql").await;
}

#[tokio::test]
async fn sql_why_has_one_true_sentence_for_every_state() {
    script("why.sql").await;
}

#[tokio::test]
async fn sql_views_are_commented_and_safe_and_the_trigger_takes_bulk_copy_and_conflicts() {
    script("views.sql").await;
}

#[tokio::test]
async fn sql_views_stay_cheap_with_a_million_ended_runs() {
    script("scale.sql").await;
}

#[tokio::test]
async fn sql_functions_win_their_races() {
    script("races.sql").await;
}

#[tokio::test]
async fn sql_ten_migrations_at_once_on_an_empty_database_make_one_schema() {
    let server = Server::own().await;
    server.pg.create_database("empty", None).await.unwrap();
    let url = server.pg.url("empty");
    let tries = (0..10).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut conn = PgConnection::connect(&url).await.unwrap();
            migrate::migrate(&mut conn).await.unwrap().len()
        })
    });
    let mut applied = Vec::new();
    for one in tries.collect::<Vec<_>>() {
        applied.push(one.await.unwrap());
    }
    applied.sort_unstable();
    assert_eq!(applied.pop(), Some(migrate::MIGRATIONS.len()), "one applied them all");
    assert!(applied.iter().all(|n| *n == 0), "the others found nothing to do: {applied:?}");
}

#[tokio::test]
async fn sql_the_dumped_script_makes_the_same_schema_and_touches_nothing_beside_it() {
    let server = Server::own().await;
    for name in ["by_script", "by_daemon"] {
        server.pg.create_database(name, None).await.unwrap();
    }
    let mut by_script = PgConnection::connect(&server.pg.url("by_script")).await.unwrap();
    // Tables of other systems with the names that stepd uses, in the application's own schema.
    for table in ["checkpoints", "jobs", "workers", "workflow_runs"] {
        let sql = format!("CREATE TABLE public.{table} (thread_id text PRIMARY KEY)");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut by_script).await.unwrap();
    }
    let script = migrate::dump();
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN;\n{script}\nCOMMIT;"))).execute(&mut by_script).await.unwrap();
    assert!(migrate::migrate(&mut by_script).await.unwrap().is_empty(), "the script is complete");
    let mut by_daemon = PgConnection::connect(&server.pg.url("by_daemon")).await.unwrap();
    migrate::migrate(&mut by_daemon).await.unwrap();
    assert_eq!(objects(&mut by_script).await, objects(&mut by_daemon).await);
    let beside: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
    )
    .fetch_one(&mut by_script)
    .await
    .unwrap();
    assert_eq!(beside, 4);
}

/// Every column, constraint, index, function and comment of both schemas, as lines.
async fn objects(conn: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT format('%s.%s %s %s %s', table_schema, table_name, column_name, data_type, column_default) FROM information_schema.columns
             WHERE table_schema IN ('stepd', 'stepd_engine')
         UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname IN ('stepd', 'stepd_engine')
         UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
             WHERE connamespace IN ('stepd'::regnamespace, 'stepd_engine'::regnamespace)
         UNION ALL SELECT format('%s %s %s', oid::regprocedure, md5(prosrc), obj_description(oid, 'pg_proc')) FROM pg_proc
             WHERE pronamespace IN ('stepd'::regnamespace, 'stepd_engine'::regnamespace)
         ORDER BY 1",
    )
    .fetch_all(conn)
    .await
    .unwrap()
}

#[tokio::test]
async fn sql_a_daemon_that_starts_while_another_process_migrates_waits_and_says_so_once() {
    let server = Server::own().await;
    server.pg.create_database("empty", None).await.unwrap();
    let db = server.at("empty");
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(0x73_7465_7064_i64).execute(&mut other).await.unwrap();
    let files = Files::new(["name: w\nsteps: [{id: a, set: 1}]"]);
    let mut worker = Spec::new(&db, &files).start();
    worker.logs("another process is migrating").await;
    // Longer than the five seconds after which a lock is given up.
    holds_for("it waits", Duration::from_secs(6), async || worker.is_running()).await;
    assert_eq!(worker.logged("another process is migrating"), 1);
    other.close().await.unwrap();
    worker.logs("\"ready\"").await;
}

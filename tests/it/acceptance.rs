//! What people who come from older systems expect, row by row.

use std::path::Path;

use super::support::{Db, Files, SOON, Server, Spec, wait_until};

/// Four steps; the third waits for a file.
const FOUR: &str = "
name: four
steps:
  - {id: one, set: 1}
  - {id: two, run: echo 2}
  - {id: three, run: 'while [ ! -e @DIR@/go ]; do sleep 0.02; done; echo 3 >> @DIR@/effects; echo 3'}
  - {id: four, set: 4}
";

#[tokio::test]
async fn a_step_s_state_is_there_before_the_next_one_starts() {
    let (db, files) = (Db::new().await, Files::new([FOUR]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("four", "{}").await;
    let states = format!(
        "SELECT coalesce(string_agg(key || ' ' || state, ', ' ORDER BY seq), '') FROM stepd.steps WHERE run = '{run}'"
    );
    wait_until("the third step runs", SOON, async || {
        db.one::<String>(states.clone()).await == "one completed, two completed, three running"
    })
    .await;
    assert!(db.one::<String>(format!("SELECT stepd.why('{run}')")).await.contains("three"));
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.one::<String>(states).await, "one completed, two completed, three completed, four completed");
}

#[tokio::test]
async fn a_run_killed_in_its_third_step_goes_on_there_on_the_other_worker() {
    let (db, files) = (Db::new().await, Files::new([FOUR]));
    let mut first = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("four", "{}").await;
    let running =
        format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND key = 'three' AND state = 'running'");
    wait_until("the third step runs", SOON, async || db.count(running.clone()).await == 1).await;
    let _second = Spec::new(&db, &files).ready().await;
    first.kill9();
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    let epochs = format!("SELECT string_agg(epoch::text, ' ' ORDER BY seq) FROM stepd.steps WHERE run = '{run}'");
    let epochs: String = db.one(epochs).await;
    let parts: Vec<&str> = epochs.split(' ').collect();
    assert_eq!(parts[..2], ["1", "1"], "finished steps were not touched: {epochs}");
    assert!(parts[2] != "1", "the interrupted one ran again: {epochs}");
    assert_eq!(db.count(format!("SELECT crashes::bigint FROM stepd.runs WHERE id = '{run}'")).await, 1);
}

#[tokio::test]
async fn five_parallel_steps_of_one_second_take_about_one() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bos.yaml")).unwrap();
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("bos", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    let branches = format!(
        "SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND key IN ('sales', 'stock', 'staff', 'support', 'web')"
    );
    assert_eq!(db.count(branches).await, 5);
    // Parallel by the records themselves: each branch began before any of them ended.
    let overlap = format!(
        "SELECT max(started_at) < min(ended_at) FROM stepd.steps WHERE run = '{run}' AND key IN ('sales', 'stock', 'staff', 'support', 'web')"
    );
    assert!(db.one::<bool>(overlap).await);
    let first: String = db.one(format!("SELECT output -> 'prioritize' ->> 0 FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(first, "web", "the merge saw all five");
}

#[tokio::test]
async fn five_daemons_at_once_on_an_empty_database_make_one_schema_and_all_become_ready() {
    let server = Server::own().await;
    server.pg.create_database("nothing", None).await.unwrap();
    let db = server.at("nothing");
    let files = Files::new([FOUR]);
    let mut workers: Vec<_> = (0..5).map(|_| Spec::new(&db, &files).start()).collect();
    for worker in &mut workers {
        worker.logs("\"ready\"").await;
    }
    assert_eq!(
        db.count("SELECT count(*) FROM stepd_engine.migrations").await,
        i64::try_from(stepd::db::migrate::MIGRATIONS.len()).unwrap()
    );
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 5);
}

#[tokio::test]
async fn without_postgres_it_waits_says_so_once_and_goes_on_when_postgres_comes() {
    let mut server = Server::own().await;
    let db = server.db().await;
    let files = Files::new(["{name: hello, steps: [{id: a, set: 1}]}"]);
    server.pg.stop(stepd::postgres::StopMode::Fast);
    let mut worker = Spec::new(&db, &files).start();
    worker.logs("cannot be used yet").await;
    server.pg.start_again().unwrap();
    worker.logs("\"ready\"").await;
    assert_eq!(worker.logged("cannot be used yet"), 1);
    let run = db.enqueue("hello", "{}").await;
    db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn five_hundred_runs_at_once_use_no_more_connections_than_said() {
    let text = "
name: nap
steps:
  - {id: a, run: sleep 0.2}
  - {id: b, sql: SELECT 1}
";
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).concurrency(500).ready().await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'nap' FROM generate_series(1, 500)").await;
    // One for the presence, one for the claimer, two writers, two in the pool; up to eight for sql steps.
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'stepd%'";
    let mut most = 0;
    wait_until("all have ended", SOON * 4, async || {
        most = most.max(db.count(sessions).await);
        db.count("SELECT count(*) FROM stepd.jobs").await == 0
    })
    .await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 500);
    assert!(most <= 6 + 8, "{most} sessions");
}

/// The README's fenced blocks are what a newcomer types.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(tag)) if tag == language => open = Some(String::new()),
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(text), None) => text.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    blocks
}

#[tokio::test]
async fn the_readme_s_workflow_loads_and_its_sql_runs_as_printed() {
    let (db, files) = (Db::new().await, Files::new(blocks("yaml")));
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("CREATE SCHEMA app; CREATE TABLE app.users (id int, email text, name text); INSERT INTO app.users VALUES (42, 'a@b', 'A')").await;
    for block in blocks("sql") {
        for statement in block.split(";").map(str::trim).filter(|s| !s.is_empty() && !s.starts_with("--")) {
            db.exec(statement).await;
        }
    }
    wait_until("its first step is done", SOON, async || {
        db.count("SELECT count(*) FROM stepd.steps WHERE key = 'user' AND state = 'completed'").await == 1
    })
    .await;
}

//! Pauses, limits, parked jobs.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const LIMITED: &str = r#"
name: limited
queue: narrow
resume: never
steps:
  - id: a
    run: echo begins >> @DIR@/turns; sleep 0.15; echo ends >> @DIR@/turns
  - id: pause
    sleep: 200ms
  - id: b
    run: echo begins >> @DIR@/turns; sleep 0.15; echo ends >> @DIR@/turns
"#;

const PLAIN: &str = r#"
name: plain
resume: never
steps:
  - id: a
    run: echo "$STEPD_RUN_ID" >> @DIR@/effects
"#;

#[tokio::test]
async fn a_paused_queue_starts_nothing_until_it_is_unpaused() {
    let (db, files) = (Db::new().await, Files::new([PLAIN]));
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("SELECT stepd.pause_queue('default')").await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'plain' FROM generate_series(1, 20)").await;
    db.exec("INSERT INTO stepd.jobs (workflow, queue) VALUES ('plain', 'other')").await;
    wait_until("the other queue is served", SOON, async || files.lines("effects").len() == 1).await;
    holds_for("nothing of the paused queue starts", Duration::from_millis(2_500), async || {
        files.lines("effects").len() == 1
    })
    .await;
    db.exec("SELECT stepd.unpause_queue('default')").await;
    db.all_ended(SOON).await;
    assert_eq!(files.counts("effects").len(), 21);
}

#[tokio::test]
async fn a_queues_limit_is_never_exceeded_by_two_workers() {
    let (db, files) = (Db::new().await, Files::new([LIMITED]));
    let workers = [Spec::new(&db, &files).ready().await, Spec::new(&db, &files).ready().await];
    db.exec("SELECT stepd.limit_queue('narrow', 3)").await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'limited' FROM generate_series(1, 30)").await;
    let mut most = 0;
    wait_until("all have ended", SOON, async || {
        let running = db.count("SELECT count(*) FROM stepd.jobs WHERE state IN ('queued', 'running')").await;
        most = most.max(running);
        db.count("SELECT count(*) FROM stepd.jobs").await == 0
    })
    .await;
    assert!((1..=3).contains(&most), "{most} at once");
    // The same from what the steps themselves say, in the order in which they said it.
    let (turns, mut at_once) = (files.lines("turns"), 0);
    let overlap = turns.iter().map(|turn| {
        at_once += if turn == "begins" { 1 } else { -1 };
        at_once
    });
    let overlap = overlap.max().unwrap();
    assert!((1..=3).contains(&overlap), "{overlap} steps at once");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 30);
    drop(workers);
}

#[tokio::test]
async fn a_place_in_a_limited_queue_is_taken_as_soon_as_it_is_free() {
    let (db, files) = (Db::new().await, Files::new(["name: quick\nsteps:\n  - id: a\n    set: 1\n"]));
    let _worker = Spec::new(&db, &files).ready().await;
    db.exec("SELECT stepd.limit_queue('default', 2)").await;
    // Thirty rounds: were a free place only found by the poll, they would take a minute.
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 60)").await;
    db.all_ended(SOON).await;
}

#[tokio::test]
async fn an_insert_wakes_only_whom_it_concerns() {
    let (db, files) = (Db::new().await, Files::new(["name: quick\nsteps:\n  - id: a\n    set: 1\n"]));
    let mut worker = Spec::new(&db, &files).ready().await;
    worker.kill9();
    let mut ear = sqlx::postgres::PgListener::connect_with(&db.pool).await.unwrap();
    ear.listen("stepd").await.unwrap();
    let all = "";
    for (sql, heard) in [
        ("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 3)", &["job"][..]),
        // The poll finds it long before it is due.
        ("INSERT INTO stepd.jobs (workflow, run_at) VALUES ('quick', now() + interval '1 hour')", &["job"]),
        // The stager must hear of it.
        (
            "INSERT INTO stepd.jobs (workflow, run_at) VALUES ('quick', clock_timestamp() + interval '2 s')",
            &[all, "job"],
        ),
        ("SELECT stepd.limit_queue('default', 2)", &[all]),
        // It must be admitted.
        ("INSERT INTO stepd.jobs (workflow) VALUES ('quick')", &[all]),
    ] {
        db.exec(sql).await;
        for word in heard {
            assert_eq!(ear.recv().await.unwrap().payload(), *word, "{sql}");
        }
    }
}

#[tokio::test]
async fn a_job_of_an_unknown_workflow_is_parked_and_runs_when_the_workflow_is_loaded() {
    let (db, files) = (Db::new().await, Files::new([PLAIN]));
    let mut worker = Spec::new(&db, &files).ready().await;
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    let run = db.enqueue("later", "{}").await;
    assert_eq!(db.state(&run).await, "held");
    holds_for("it is parked", Duration::from_millis(500), async || db.state(&run).await == "held").await;
    files.write("later.yaml", &PLAIN.replace("plain", "later"));
    worker.hup();
    worker.logs("\"reloaded\"").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(files.lines("effects"), [run]);
}

#[tokio::test]
async fn two_daemons_share_two_hundred_runs_and_do_each_once() {
    let (db, files) = (
        Db::new().await,
        Files::new([r#"
name: once
resume: never
steps:
  - id: a
    sql: INSERT INTO effects (run, step) VALUES ($1, 'a')
    params: ["${{ run.id }}"]
  - id: b
    run: echo "$STEPD_RUN_ID" >> @DIR@/effects
  - id: c
    sql: INSERT INTO effects (run, step) VALUES ($1, 'c')
    params: ["${{ run.id }}"]
"#]),
    );
    db.exec("CREATE TABLE effects (run text, step text)").await;
    let spec = Spec::new(&db, &files).concurrency(10);
    let mut workers = [spec.ready().await, spec.ready().await];
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'once' FROM generate_series(1, 200)").await;
    db.all_ended(SOON).await;
    // A busy daemon gives back what it has not begun, for the other: that is a claim more, and no other start.
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 200);
    assert_eq!(db.events("crashed").await + db.events("taken_over").await + db.events("attempt_failed").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 400);
    assert_eq!(db.count("SELECT count(*) FROM (SELECT DISTINCT run, step FROM effects) d").await, 400);
    let lines = files.counts("effects");
    assert!(lines.len() == 200 && lines.values().all(|n| *n == 1));
    assert_eq!(db.count("SELECT count(DISTINCT worker) FROM stepd_engine.ended").await, 2, "both worked");
    for worker in &mut workers {
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

const LOOK: &str = include_str!("../../src/db/sql/look.sql");

/// The statement with its values in their places.
fn filled(statement: &str, values: &[&str]) -> String {
    let mut text = statement.replace("!\"", "\"");
    for (n, value) in values.iter().enumerate().rev() {
        text = text.replace(&format!("${}", n + 1), value);
    }
    text
}

/// The most rows that one part of a statement of the claimer reads for nothing, with the claimer's settings.
async fn read_for_nothing(db: &Db, statement: &str, values: &[&str]) -> u64 {
    let text = filled(statement, values);
    let mut conn = db.pool.acquire().await.unwrap();
    for line in ["SET enable_seqscan = off", "SET enable_bitmapscan = off", "SET jit = off", "BEGIN"] {
        sqlx::raw_sql(line).execute(&mut *conn).await.unwrap();
    }
    let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN (ANALYZE, TIMING OFF) {text}")))
        .fetch_all(&mut *conn)
        .await
        .unwrap_or_else(|e| panic!("{e}\n{text}"));
    sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await.unwrap();
    // The locks of other sessions are no rows of a table, and as many as the other tests hold.
    let mut of_locks = false;
    let removed = plan.iter().filter_map(|l| {
        if l.contains("->") {
            of_locks = l.contains("pg_lock_status");
        }
        l.trim().strip_prefix("Rows Removed by Filter: ").filter(|_| !of_locks)?.parse().ok()
    });
    removed.max().unwrap_or(0)
}

#[tokio::test]
async fn a_look_and_a_claim_do_not_read_what_came_back_to_a_queue_that_is_closed_or_not_served_or_must_be_run_alone() {
    let db = Db::new().await;
    db.exec(
        "SET session_replication_role = replica;
         INSERT INTO stepd_engine.workers (id, host, pid, version, slots) VALUES ('00000000-0000-0000-0000-00000000000a', 'h', 1, '0', 1);
         INSERT INTO stepd_engine.queues (name, exclusive, paused, open) VALUES ('foreign', true, false, true), ('paused', false, true, false);
         INSERT INTO stepd.jobs (id, workflow, queue, priority, state, lane, epoch, streak)
             SELECT stepd_engine.uuid7(), 'w', (ARRAY['foreign', 'paused', 'default'])[1 + n % 3], 5, 'queued', 1, 1, CASE n % 3 WHEN 2 THEN 4 ELSE 0 END
             FROM generate_series(1, 9000) n;
         INSERT INTO stepd.jobs (id, workflow, queue, priority, state, lane, epoch)
             SELECT stepd_engine.uuid7(), 'w', 'default', 5, 'queued', 1, 1 FROM generate_series(1, 20);
         SET session_replication_role = origin; ANALYZE",
    )
    .await;
    let me = "'00000000-0000-0000-0000-00000000000a'::uuid";
    let (all, ten, none, limit) = ("NULL::text[]", "10", "'{}'::jsonb", "4::smallint");
    let pairs = ["'{}'::text[]", "'{}'::smallint[]", "'{}'::timestamptz[]", "'{}'::uuid[]"];
    let look = read_for_nothing(&db, LOOK, &[[all].as_slice(), &pairs].concat()).await;
    let values = [[me, ten, none].as_slice(), &pairs, &[all, limit]].concat();
    let claim = read_for_nothing(&db, include_str!("../../src/db/sql/claim.sql"), &values).await;
    let solo = read_for_nothing(&db, include_str!("../../src/db/sql/claim_solo.sql"), &[me, none, all, limit]).await;
    assert!(look.max(claim).max(solo) < 50, "read for nothing: look {look}, claim {claim}, claim alone {solo}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_reads_nothing_below_the_places_that_it_is_given_and_all_that_lies_between_them() {
    let db = Db::new().await;
    // What runs stands in for what is dead: it is read and counts for nothing.
    db.exec(
        "SET session_replication_role = replica;
         INSERT INTO stepd.jobs (id, workflow, queue, priority, state, lane, epoch, worker, ready_at)
             SELECT stepd_engine.uuid7(), 'w', (ARRAY['b', 'd'])[1 + n % 2], 5, 'running', 0, 1, gen_random_uuid(), '2026-01-01'
             FROM generate_series(1, 2000) n;
         INSERT INTO stepd.jobs (id, workflow, queue, priority, state, lane, ready_at) SELECT stepd_engine.uuid7(), 'w', q, p, 'queued', 0, '2026-01-03'
             FROM unnest('{a,b,c,d,e}'::text[]) q, unnest('{4,5,6}'::smallint[]) p;
         SET session_replication_role = origin; ANALYZE",
    )
    .await;
    let nil = "'{00000000-0000-0000-0000-000000000000,00000000-0000-0000-0000-000000000000}'::uuid[]";
    let floors =
        ["NULL::text[]", "'{d,b}'::text[]", "'{5,5}'::smallint[]", "'{2026-01-02,2026-01-02}'::timestamptz[]", nil];
    let none = ["NULL::text[]", "'{}'::text[]", "'{}'::smallint[]", "'{}'::timestamptz[]", "'{}'::uuid[]"];
    // Rows a turn of the walk, in the mean over its sixteen.
    assert!(read_for_nothing(&db, LOOK, &none).await >= 100);
    assert!(read_for_nothing(&db, LOOK, &floors).await < 50);
    for values in [floors, none] {
        let text = filled(LOOK, &values);
        let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT queue || priority FROM ({text}) look (queue, priority, ready_at, id, mine, back, solo, due, held, at, writer)
             WHERE ready_at = '2026-01-03' AND mine ORDER BY 1"
        )))
        .fetch_all(&db.pool)
        .await
        .unwrap();
        let all = "a4 a5 a6 b4 b5 b6 c4 c5 c6 d4 d5 d6 e4 e5 e6";
        assert_eq!(found.join(" "), all, "{values:?}");
    }
}

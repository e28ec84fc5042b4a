//! `unique`, `concurrency` and `rate`: what a workflow says of its runs taken together.

use std::time::{Duration, Instant};

use sqlx::Connection as _;

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const ONE_BY_ORDER: &str = r#"
name: order
unique: {key: input.order_id, while: active}
steps:
  - id: a
    wait: go
"#;

const FOR_EVER: &str = r#"
name: once
unique: {key: [input.order.id, input.kind], while: forever}
resume: never
steps:
  - id: a
    run: test -z "$BAD"
    env: {BAD: "${{ input.bad | default('') }}"}
"#;

const FOR_A_TIME: &str = r#"
name: awhile
unique: {key: input.n, while: 1500ms}
steps:
  - id: a
    set: 1
"#;

async fn refused(db: &Db, sql: &str) -> String {
    let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&db.pool).await.unwrap_err();
    let error = error.into_database_error().unwrap();
    format!("{} {}", error.code().unwrap_or_default(), error.message())
}

#[tokio::test]
async fn a_second_run_of_a_key_is_refused_while_the_first_is_unfinished_and_enqueue_finds_the_first() {
    let (db, files) = (Db::new().await, Files::new([ONE_BY_ORDER]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("order", r#"{"order_id": 7}"#).await;
    let again = "INSERT INTO stepd.jobs (workflow, input) VALUES ('order', '{\"order_id\": 7}')";
    assert_eq!(refused(&db, again).await, "23505 duplicate key value violates unique constraint \"jobs_unique_key\"");
    db.exec(format!("{again} ON CONFLICT DO NOTHING")).await;
    let found: String = db.one("SELECT stepd.enqueue('order', '{\"order_id\": 7}')::text").await;
    assert_eq!(found, run);
    assert_eq!(db.one::<String>("SELECT stepd.unique_key('order', '{\"order_id\": 7}')").await, "7");
    // An explicit key wins, and what the input does not say is not unique.
    db.exec("INSERT INTO stepd.jobs (workflow, input, unique_key) VALUES ('order', '{\"order_id\": 7}', 'mine')").await;
    db.exec("INSERT INTO stepd.jobs (workflow) VALUES ('order'), ('order')").await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 4);
    wait_until("it waits", SOON, async || db.state(&run).await == "waiting").await;
    db.exec("SELECT stepd.emit('go')").await;
    db.all_ended(SOON).await;
    db.exec(again).await;
}

#[tokio::test]
async fn a_key_that_is_kept_for_ever_outlives_its_run_out_of_sight_and_a_retry_takes_it_back() {
    let (db, files) = (Db::new().await, Files::new([FOR_EVER]));
    let _worker = Spec::new(&db, &files).ready().await;
    let done = db.enqueue("once", r#"{"order": {"id": 1}, "kind": "x"}"#).await;
    let bad = db.enqueue("once", r#"{"order": {"id": 2}, "kind": "x", "bad": "1"}"#).await;
    db.reaches(&done, "completed", SOON).await;
    db.reaches(&bad, "failed", SOON).await;
    let again = "INSERT INTO stepd.jobs (workflow, input) VALUES ('once', '{\"order\": {\"id\": 1}, \"kind\": \"x\"}')";
    assert!(refused(&db, again).await.starts_with("23505"));
    let found: String = db.one("SELECT stepd.enqueue('once', '{\"order\": {\"id\": 1}, \"kind\": \"x\"}')::text").await;
    assert_eq!(found, done, "the id of the run that has ended");
    db.exec(again.replace("\"x\"", "\"y\"")).await;
    db.reaches(&found, "completed", SOON).await;
    wait_until("the third ends", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await == 2
    })
    .await;
    // Nothing that people look at shows what is left of them.
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 3);
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs").await, 3);
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs WHERE input <> '{}' OR definition IS NOT NULL").await, 0);
    assert_eq!(
        db.count(format!("SELECT count(*) FROM stepd.history WHERE run = '{done}' AND event = 'run enqueued'")).await,
        1
    );
    assert!(db.one::<String>(format!("SELECT stepd.why('{bad}')")).await.starts_with("failed at a"));
    for function in ["cancel", "pause"] {
        let error = refused(&db, &format!("SELECT stepd.{function}('{done}')")).await;
        assert!(error.contains("SD011"), "{function}: {error}");
    }
    // The repair finds nothing to mend in them.
    assert_eq!(db.count("SELECT mended::int8 FROM stepd_engine.repair(1000)").await, 0);
    db.exec(format!("SELECT stepd.retry('{bad}')")).await;
    assert_eq!(db.count(format!("SELECT count(*) FROM stepd.runs WHERE id = '{bad}'")).await, 1);
    db.reaches(&bad, "failed", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs").await, 3, "its key is kept again");
}

#[tokio::test]
async fn a_key_that_is_kept_for_a_time_is_free_when_that_is_over() {
    let (db, files) = (Db::new().await, Files::new([FOR_A_TIME]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("awhile", r#"{"n": 1}"#).await;
    db.reaches(&run, "completed", SOON).await;
    let again = "INSERT INTO stepd.jobs (workflow, input) VALUES ('awhile', '{\"n\": 1}')";
    assert!(refused(&db, again).await.starts_with("23505"));
    let kept =
        wait_until("the key is free", SOON, async || db.count("SELECT count(*) FROM stepd.jobs").await == 0).await;
    assert!(kept < Duration::from_secs(4), "{kept:?}");
    db.exec(again).await;
}

const LIMITED: &str = r#"
name: limited
concurrency: {key: input.tenant, limit: 2, when_full: queue}
queue: narrow
steps:
  - id: a
    run: sleep 0.15
  - id: pause
    sleep: 100ms
  - id: b
    run: sleep 0.15
"#;

/// The most tries of steps at once, all together or of one key, from the intervals that the views show. They are dated by the workers,
/// whose readings of the server's clock may be some milliseconds apart on a busy machine: what overlaps by less than 50 ms does not.
fn overlap(of: &str) -> String {
    format!(
        "WITH e AS (
            SELECT {of} AS key, a.started_at + interval '50 ms' AS at, 1 AS d FROM stepd.attempts a JOIN stepd.runs r ON r.id = a.run
                WHERE a.ended_at > a.started_at + interval '50 ms' AND a.key IN ('a', 'b')
            UNION ALL
            SELECT {of}, a.ended_at, -1 FROM stepd.attempts a JOIN stepd.runs r ON r.id = a.run
                WHERE a.ended_at > a.started_at + interval '50 ms' AND a.key IN ('a', 'b')
        ) SELECT max(n) FROM (SELECT sum(d) OVER (PARTITION BY key ORDER BY at, d) AS n FROM e) x"
    )
}

/// The most runs at once that hold a place, now.
fn active(of: &str, states: &str) -> String {
    format!(
        "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM stepd.jobs WHERE state IN ({states}) GROUP BY {of}) x"
    )
}

#[tokio::test]
async fn the_limits_of_a_key_and_of_a_queue_are_never_exceeded_by_four_workers_of_which_some_are_killed() {
    let (db, files) = (Db::new().await, Files::new([LIMITED]));
    let spec = Spec::new(&db, &files).concurrency(20);
    let mut workers = [spec.ready().await, spec.ready().await, spec.ready().await, spec.ready().await];
    // Four keys with two places each would be eight: the queue has five.
    db.exec("SELECT stepd.limit_queue('narrow', 5)").await;
    db.exec(
        "INSERT INTO stepd.jobs (workflow, input) SELECT 'limited', jsonb_build_object('tenant', n % 4) FROM generate_series(1, 60) n",
    )
    .await;
    let (mut of_a_key, mut of_the_queue, mut kills, mut last) = (0, 0, 0, Instant::now());
    wait_until("all have ended", SOON * 2, async || {
        of_a_key = of_a_key.max(db.count(active("concurrency_key", "'queued', 'running', 'resuming'")).await);
        of_the_queue = of_the_queue.max(db.count(active("queue", "'queued', 'running'")).await);
        if kills < 4 && last.elapsed() > Duration::from_millis(700) {
            let place = kills % workers.len();
            workers[place].kill9();
            workers[place] = spec.start();
            (kills, last) = (kills + 1, Instant::now());
        }
        db.count("SELECT count(*) FROM stepd.jobs").await == 0
    })
    .await;
    assert_eq!((of_a_key, of_the_queue), (2, 5), "as many as the limits allow, and never more");
    assert_eq!(db.count(overlap("r.concurrency_key")).await, 2);
    let all = db.count(overlap("1")).await;
    assert!((4..=5).contains(&all), "{all} at once");
    assert_eq!(kills, 4);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 60);
}

#[tokio::test]
async fn a_cancelled_run_that_has_something_to_do_at_its_end_waits_for_a_place_of_its_key_like_any_other() {
    let file = r#"
name: booked
concurrency: {limit: 1}
steps:
  - id: hold
    wait: never
    undo: {run: sleep 0.1}
  - id: never
    set: 1
"#;
    let (db, files) = (Db::new().await, Files::new([file, "name: other\nsteps:\n  - id: a\n    set: 1\n"]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("booked", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    worker.kill9();
    // It gave its place away while it waited.
    db.exec("INSERT INTO stepd.jobs (workflow) VALUES ('booked'); SELECT stepd_engine.admit(10)").await;
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "requested");
    assert_eq!(db.state(&run).await, "held", "the key's one place is taken");
    db.exec("SELECT stepd_engine.admit(10)").await;
    assert_eq!(db.count(active("concurrency_key", "'queued', 'running', 'resuming'")).await, 1);
    let _worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "cancelled", SOON).await;
    assert_eq!(
        db.count(format!(
            "SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND key = 'hold.undo' AND state = 'completed'"
        ))
        .await,
        1
    );
}

#[tokio::test]
async fn a_place_of_a_key_is_taken_as_soon_as_it_is_free() {
    let file = "name: quick\nconcurrency: {limit: 2}\nsteps:\n  - id: a\n    set: 1\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let _worker = Spec::new(&db, &files).ready().await;
    // Thirty rounds: were a free place only found by the poll, they would take a minute.
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 60)").await;
    db.all_ended(SOON).await;
}

#[tokio::test]
async fn a_full_key_turns_a_new_run_away_where_the_file_says_skip() {
    let file =
        "name: sync\nconcurrency: {key: input.k, limit: 1, when_full: skip}\nsteps:\n  - id: a\n    run: sleep 30\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let _worker = Spec::new(&db, &files).ready().await;
    let first = db.enqueue("sync", r#"{"k": "x"}"#).await;
    db.reaches(&first, "running", SOON).await;
    let second = db.enqueue("sync", r#"{"k": "x"}"#).await;
    let other = db.enqueue("sync", r#"{"k": "y"}"#).await;
    db.reaches(&second, "cancelled", SOON).await;
    db.reaches(&other, "running", SOON).await;
    assert_eq!(db.state(&first).await, "running");
    let why: String = db.one(format!("SELECT stepd.why('{second}')")).await;
    assert!(why.ends_with(": skipped: key x of workflow sync is limited to 1 at once"), "{why}");
}

#[tokio::test]
async fn a_new_run_takes_the_place_of_the_running_one_where_the_file_says_so() {
    let file = "name: build\nconcurrency: {key: input.k, limit: 1, when_full: cancel_running}\nsteps:\n  - id: a\n    run: sleep ${N:-30}\n    env: {N: \"${{ input.n | default('30') }}\"}\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let _worker = Spec::new(&db, &files).ready().await;
    let first = db.enqueue("build", r#"{"k": "x"}"#).await;
    let other = db.enqueue("build", r#"{"k": "y"}"#).await;
    db.reaches(&first, "running", SOON).await;
    db.reaches(&other, "running", SOON).await;
    let second = db.enqueue("build", r#"{"k": "x", "n": "0"}"#).await;
    db.reaches(&first, "cancelled", SOON).await;
    db.reaches(&second, "completed", SOON).await;
    assert_eq!(db.state(&other).await, "running");
    let why: String = db.one(format!("SELECT stepd.why('{first}')")).await;
    assert!(why.contains("a newer run takes its place: key x of workflow build is limited to 1 at once"), "{why}");
}

#[tokio::test]
async fn a_run_that_waits_gives_its_place_away_and_comes_back_before_new_ones() {
    let file = r#"
name: waits
concurrency: {limit: 1}
steps:
  - id: a
    wait: go
    match: {n: "${{ input.n }}"}
  - id: b
    run: echo "${N}" >> @DIR@/order; sleep 0.2
    env: {N: "${{ input.n }}"}
"#;
    let (db, files) = (Db::new().await, Files::new([file]));
    let _worker = Spec::new(&db, &files).ready().await;
    let first = db.enqueue("waits", r#"{"n": 1}"#).await;
    db.reaches(&first, "waiting", SOON).await;
    let second = db.enqueue("waits", r#"{"n": 2}"#).await;
    db.reaches(&second, "waiting", SOON).await;
    db.exec("SELECT stepd.emit('go', '{\"n\": 1}'); SELECT stepd.emit('go', '{\"n\": 2}')").await;
    db.exec("INSERT INTO stepd.jobs (workflow, input) SELECT 'waits', '{\"n\": 3}' FROM generate_series(1, 3)").await;
    db.reaches(&first, "completed", SOON).await;
    db.reaches(&second, "completed", SOON).await;
    assert_eq!(files.lines("order").len(), 2);
}

#[tokio::test]
async fn one_tenant_with_a_hundred_thousand_runs_keeps_none_from_another_with_ten_and_admission_does_not_walk_them() {
    let file = "name: quick\nconcurrency: {key: input.tenant, limit: 3}\nsteps:\n  - id: a\n    set: 1\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let mut worker = Spec::new(&db, &files).ready().await;
    db.exec("SELECT stepd.pause_queue('default')").await;
    db.exec("INSERT INTO stepd.jobs (workflow, input) SELECT 'quick', '{\"tenant\": \"large\"}' FROM generate_series(1, 100000)").await;
    db.exec("INSERT INTO stepd.jobs (workflow, input) SELECT 'quick', '{\"tenant\": \"small\"}' FROM generate_series(1, 10)").await;
    // A queue for four beside it: the tenants share its places, too.
    db.exec("SELECT stepd.limit_queue('default', 4); SELECT stepd.unpause_queue('default')").await;
    wait_until("the small tenant is through", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND concurrency_key = 'small'").await == 10
    })
    .await;
    let left = db.count("SELECT count(*) FROM stepd.jobs WHERE concurrency_key = 'large'").await;
    assert!(left > 99_000, "{left} of the large tenant are left");
    // Not by the clock, but by the order of the starts: the two share the places, so of the large one about as many had their turn.
    let before = db
        .count(
            "SELECT count(*) FROM stepd.runs WHERE concurrency_key = 'large'
                AND started_at < (SELECT max(started_at) FROM stepd.runs WHERE concurrency_key = 'small')",
        )
        .await;
    assert!((1..=60).contains(&before), "{before} of the large tenant came before the last of the small one");
    worker.kill9();
    db.exec("ANALYZE stepd.jobs").await;
    let plan: Vec<String> =
        db.all("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT * FROM stepd_engine.held_groups('{\"\",\"\",\"\",\"\"}', 2000)").await;
    let hit = plan.iter().find_map(|l| l.split("shared hit=").nth(1)?.split([' ', ',']).next()?.parse::<u64>().ok());
    assert!(hit.is_some_and(|n| n < 1_000), "{plan:#?}");
}

#[tokio::test]
async fn a_rate_lets_no_more_start_in_any_window_and_as_many_as_it_allows() {
    let file = "name: paced\nrate: {key: input.k, limit: 3, per: 1s}\nsteps:\n  - id: a\n    set: 1\n";
    let (db, files) = (Db::new().await, Files::new([file]));
    let spec = Spec::new(&db, &files);
    let _workers = [spec.ready().await, spec.ready().await];
    db.exec("INSERT INTO stepd.jobs (workflow, input) SELECT 'paced', jsonb_build_object('k', n % 2) FROM generate_series(1, 20) n").await;
    db.all_ended(SOON).await;
    let window = "SELECT max(n) FROM (SELECT count(*) OVER (PARTITION BY key ORDER BY at RANGE BETWEEN '999 ms' PRECEDING AND CURRENT ROW) AS n
        FROM stepd_engine.starts) x";
    assert_eq!(db.count(window).await, 3);
    // Ten of a key: three at once, then three each second.
    let span: f64 = db.one("SELECT extract(epoch FROM max(at) - min(at))::float8 FROM stepd_engine.starts").await;
    assert!(span >= 2.9, "{span}");
    // The log of starts is pruned when no window reaches it any more.
    wait_until("the starts are pruned", SOON, async || {
        db.exec("SELECT stepd_engine.repair(1000)").await;
        db.count("SELECT count(*) FROM stepd_engine.starts").await == 0
    })
    .await;
}

#[tokio::test]
async fn a_held_run_says_what_it_waits_for() {
    let files = Files::new([
        "name: one\nconcurrency: {key: input.k, limit: 1}\nsteps:\n  - id: a\n    run: sleep 30\n",
        "name: few\nrate: {limit: 1, per: 1h}\nsteps:\n  - id: a\n    set: 1\n",
    ]);
    let db = Db::new().await;
    let _worker = Spec::new(&db, &files).ready().await;
    let first = db.enqueue("one", r#"{"k": "x"}"#).await;
    db.reaches(&first, "running", SOON).await;
    let (second, paced) = (db.enqueue("one", r#"{"k": "x"}"#).await, db.enqueue("few", "{}").await);
    db.reaches(&paced, "completed", SOON).await;
    let late = db.enqueue("few", "{}").await;
    holds_for("both are held", Duration::from_millis(500), async || {
        db.state(&second).await == "held" && db.state(&late).await == "held"
    })
    .await;
    let why: String = db.one(format!("SELECT stepd.why('{second}')")).await;
    assert_eq!(why, format!("held: key x is limited to 1 at once, and run {first} holds it"));
    let why: String = db.one(format!("SELECT stepd.why('{late}')")).await;
    assert!(why.starts_with("held: key * is limited to 1 starts in 60 min; the next is in "), "{why}");
}

const HOURLY: &str = "
name: hourly
rate: {limit: 1, per: 1h}
steps:
  - id: a
    set: 1
";

#[tokio::test]
async fn a_pause_of_what_is_held_is_no_way_around_its_rate() {
    let (db, files) = (Db::new().await, Files::new([HOURLY]));
    let _worker = Spec::new(&db, &files).ready().await;
    let first = db.enqueue("hourly", "{}").await;
    db.reaches(&first, "completed", SOON).await;
    let held = db.enqueue("hourly", "{}").await;
    assert_eq!(db.one::<String>(format!("SELECT stepd.pause('{held}')")).await, "paused");
    assert_eq!(db.one::<String>(format!("SELECT stepd.unpause('{held}')")).await, "held");
    // Whatever admission has to say of it has been said when it has let go of another.
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'hourly' FROM generate_series(1, 3)").await;
    for _ in 0..3 {
        db.exec("SELECT stepd_engine.admit(100)").await;
    }
    assert_eq!(db.state(&held).await, "held");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE started_at IS NOT NULL").await, 1);
}

#[tokio::test]
async fn who_finds_another_at_the_admission_goes_on_where_he_stood() {
    let db = Db::new().await;
    let mut another = sqlx::PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(stepd_engine.lock_class(), -1)")
        .execute(&mut another)
        .await
        .unwrap();
    let place: Vec<String> = ["default", "w", "key 2000", ""].map(str::to_owned).to_vec();
    let done = stepd::db::maintenance::admit(&db.pool, 10, Some(&place)).await.unwrap();
    assert_eq!((done.admitted, done.last.as_ref()), (None, Some(&place)));
    sqlx::raw_sql("COMMIT").execute(&mut another).await.unwrap();
    let done = stepd::db::maintenance::admit(&db.pool, 10, Some(&place)).await.unwrap();
    assert_eq!((done.admitted, done.last), (Some(0), None), "nothing is behind it: from the beginning");
}

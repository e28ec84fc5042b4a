//! The daily figures count every end once, whoever dies, whoever commits late, and whatever is retried.

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, wait_until};

const WORKFLOWS: [&str; 3] = [
    "name: good\nsteps:\n  - id: a\n    set: 1\n  - id: b\n    set: 2\n",
    "name: bad\nresume: never\nsteps:\n  - id: docs\n    map: ${{ range(2) | list }}\n    steps: [{id: text, run: exit 3, retry: {max_attempts: 1}}]\n",
    "name: patient\nsteps:\n  - id: go\n    wait: go\n",
];

/// What has ended, and what is counted, by workflow and state: lines that must be the same.
const ENDED: &str =
    "SELECT coalesce(string_agg(format('%s %s %s', workflow, state, n), ', ' ORDER BY workflow, state), '') FROM (
    SELECT workflow, state::text AS state, count(*) AS n FROM stepd_engine.ended GROUP BY 1, 2) x";
const COUNTED: &str =
    "SELECT coalesce(string_agg(format('%s %s %s', workflow, state, n), ', ' ORDER BY workflow, state), '') FROM (
    SELECT workflow, state::text AS state, sum(runs) AS n FROM stepd.daily GROUP BY 1, 2) x";

async fn folded(db: &Db) {
    wait_until("all is folded", SOON, async || {
        db.exec("SELECT stepd_engine.fold(100)").await;
        db.count("SELECT count(*) FROM stepd_engine.tallies").await == 0
    })
    .await;
}

#[tokio::test]
async fn every_end_is_counted_once_over_kills_of_the_workers_and_of_who_folds() {
    let (db, files) = (Db::new().await, Files::new(WORKFLOWS));
    let spec = Spec::new(&db, &files).concurrency(10);
    let mut workers = vec![spec.ready().await, spec.ready().await];
    let mut late = db.pool.begin().await.unwrap();
    let waiting = [db.enqueue("patient", "{}").await, db.enqueue("patient", "{}").await];
    for run in &waiting {
        db.step_reaches(run, "go", "waiting", SOON).await;
    }
    // An operator's transaction that ends a run now and commits when all else is counted.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SELECT stepd.cancel('{}')", waiting[0])))
        .execute(&mut *late)
        .await
        .unwrap();
    for round in 0..4 {
        db.exec("INSERT INTO stepd.jobs (workflow) SELECT CASE n % 5 WHEN 0 THEN 'bad' ELSE 'good' END FROM generate_series(1, 60) n").await;
        let before = 60 * round;
        wait_until("some have ended", SOON, async || {
            db.count("SELECT count(*) FROM stepd_engine.ended").await > before + 15
        })
        .await;
        // Folding is cut off: its transaction rolls back, as when its worker dies.
        let mut cut = db.pool.begin().await.unwrap();
        sqlx::raw_sql("SELECT stepd_engine.fold(3)").execute(&mut *cut).await.unwrap();
        cut.rollback().await.unwrap();
        workers.remove(0).kill9();
        workers.push(spec.ready().await);
        db.exec("SELECT stepd.retry(id) FROM (SELECT id FROM stepd_engine.ended WHERE state = 'failed' LIMIT 4) x")
            .await;
        db.exec("SELECT stepd_engine.fold(2)").await;
    }
    wait_until("all but the waiting ones have ended", SOON, async || {
        db.count("SELECT count(*) FROM stepd.jobs WHERE workflow <> 'patient'").await == 0
    })
    .await;
    folded(&db).await;
    assert_eq!(db.one::<String>(COUNTED).await, "bad failed 48, good completed 192");
    assert_eq!(db.one::<String>(ENDED).await, db.one::<String>(COUNTED).await);
    late.commit().await.unwrap();
    folded(&db).await;
    assert_eq!(db.one::<String>(ENDED).await, db.one::<String>(COUNTED).await);
    assert_eq!(db.count("SELECT sum(runs)::bigint FROM stepd.daily WHERE state = 'cancelled'").await, 1);
    let failures: Vec<String> =
        db.all("SELECT format('%s %s %s', step, code, sum(runs)) FROM stepd.daily_failures GROUP BY step, code").await;
    assert_eq!(failures, ["docs[].text exit_3 48"]);
}

#[tokio::test]
async fn a_run_that_is_retried_is_counted_by_its_last_end_alone_whether_the_first_was_folded_or_not() {
    let (db, files) = (
        Db::new().await,
        Files::new([
            "name: flaky\nresume: never\nsteps:\n  - id: a\n    run: test -e @DIR@/there\n    retry: {max_attempts: 1}\n",
        ]),
    );
    let _worker = Spec::new(&db, &files).ready().await;
    let (first, second) = (db.enqueue("flaky", "{}").await, db.enqueue("flaky", "{}").await);
    db.reaches(&first, "failed", SOON).await;
    db.reaches(&second, "failed", SOON).await;
    folded(&db).await;
    assert_eq!(db.one::<String>(COUNTED).await, "flaky failed 2");
    db.exec(format!("BEGIN; SELECT stepd.retry('{first}'); SELECT stepd.cancel('{first}'); COMMIT")).await;
    folded(&db).await;
    assert_eq!(db.one::<String>(COUNTED).await, db.one::<String>(ENDED).await);
    std::fs::write(files.path("there"), "").unwrap();
    db.exec(format!("SELECT stepd.retry('{second}')")).await;
    db.reaches(&second, "completed", SOON).await;
    folded(&db).await;
    assert_eq!(db.one::<String>(COUNTED).await, db.one::<String>(ENDED).await);
    assert_eq!(db.count("SELECT count(*) FROM stepd.daily_failures").await, 0, "no run has failed in the end");
    let left: String = db.one("SELECT format('%s %s %s', sum(runs), sum(resumes), sum(crashes)) FROM stepd_engine.daily WHERE state = 'failed'").await;
    assert_eq!(left, "0 0 0");
    assert_eq!(db.count("SELECT sum(runs)::bigint FROM stepd.daily_durations").await, 2);
}

/// Runs that ended two days ago: a thousand that took 1 to 1000 s, ten that failed.
const HISTORY: &str = "INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, error, last_key)
    SELECT (substr(stepd_engine.first_id(t.at)::text, 1, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid,
        CASE WHEN n <= 1000 THEN 'completed' ELSE 'failed' END::stepd.run_state, 1, 5, 2, 1, t.at, t.at + interval '1 s', t.at + interval '1 s' + least(n, 1000) * interval '1 s',
        'old', 'default', '{}', '{}', CASE WHEN n > 1000 THEN '{\"class\":\"permanent\",\"code\":\"http_503\",\"message\":\"away\"}' END, CASE WHEN n > 1000 THEN 'docs[' || n || '].text' END
    FROM (SELECT n, date_trunc('day', now(), 'UTC') - interval '2 days' AS at FROM generate_series(1, 1010) n) t;
    WITH r AS (SELECT gen_random_uuid() AS id), c AS (
        INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output, usage)
        SELECT r.id, k, 1, now(), now(), 1, true, 'completed', 'k' || k, 'llm', '1', '{\"calls\":1,\"tokens_in\":100,\"tokens_out\":7,\"cost\":\"0.25\"}' FROM r, generate_series(1, 2) k)
    INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels)
        SELECT id, 'completed', 1, 5, 0, 0, now(), now(), now(), 'paid', 'default', '{}', '{}' FROM r";

#[tokio::test]
async fn the_figures_are_right_and_stay_when_their_runs_are_pruned() {
    let db = Db::new().await;
    db.exec(HISTORY).await;
    folded(&db).await;
    let figures = "SELECT format('%s %s %s %s %s %s %s', workflow, runs, completed, failed, success_rate, waited_avg, resumes) FROM stepd.stats() WHERE workflow = 'old'";
    let told: String = db.one(figures).await;
    assert_eq!(told, "old 1010 1000 10 0.9901 00:00:01 2020");
    for (name, percent) in [("duration_p50", 505.0), ("duration_p95", 960.0)] {
        let read: f64 = db.one(format!("SELECT date_part('epoch', {name}) FROM stepd.stats(name => 'old')")).await;
        assert!((read / percent - 1.0).abs() < 0.1, "{name}: {read}");
    }
    let exact: f64 = db.one("SELECT abs(date_part('epoch', duration_avg) - (SELECT avg(date_part('epoch', duration)) FROM stepd.runs WHERE workflow = 'old'))::float8 FROM stepd.stats(name => 'old')").await;
    assert!(exact < 0.001, "{exact}");
    let usage: String =
        db.one("SELECT format('%s %s %s', tokens_in, tokens_out, cost) FROM stepd.stats(name => 'paid')").await;
    assert_eq!(usage, "200 14 0.50");
    let failures: Vec<String> = db.all("SELECT format('%s %s %s', step, code, runs) FROM stepd.daily_failures").await;
    assert_eq!(failures, ["docs[].text http_503 10"]);
    let days = "SELECT format('%s %s', count(DISTINCT day), sum(runs)) FROM stepd.daily WHERE workflow = 'old' AND day BETWEEN (now() AT TIME ZONE 'UTC')::date - 2 AND (now() AT TIME ZONE 'UTC')::date - 2";
    assert_eq!(db.one::<String>(days).await, "1 1010");
    stepd(&db, &["prune", "--older-than", "1d", "--yes"]).await.is(0).says("1010 runs removed");
    folded(&db).await;
    assert_eq!(db.one::<String>(figures).await, told);
    assert_eq!(db.one::<String>(ENDED).await, "paid completed 1");
}

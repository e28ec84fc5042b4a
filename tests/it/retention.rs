//! Retention: what goes, what stays, and how gently.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sqlx::Connection as _;
use stepd::db::retention::{Bounds, Pass, pass};
use stepd::model::RunState;
use stepd::rules::retention::{ENDED, Retention, Rule};
use stepd::services::retention::BOUNDS;
use uuid::Uuid;

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, wait_until};

const NOTE: &str =
    "name: note\nsteps:\n  - id: a\n    run: echo \"$STEPD_RUN_ID\" >> @DIR@/effects\n  - id: b\n    set: 1\n";
const PATIENT: &str =
    "name: patient\nsteps:\n  - id: first\n    set: 1\n  - id: go\n    wait: go\n  - id: last\n    set: 2\n";

/// Ended runs of a workflow, each with two steps, a line of history, and a kept signal.
async fn history(db: &Db, workflow: &str, state: &str, days: u32, runs: u32) {
    db.exec(format!(
        "WITH e AS (
            INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, output,
                last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
            SELECT (substr(stepd_engine.first_id(t.at)::text, 1, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid, '{state}', 1, 5, 0, 0, t.at, t.at,
                t.at, '{workflow}', 'default', '{{}}', '{{}}', '[1,{chr} 2]', 3, 1, t.at, 'c', 'set', '3'
            FROM (SELECT now() - interval '{days} days' - n * interval '1 ms' AS at FROM generate_series(1, {runs}) n) t RETURNING id
        ), c AS (
            INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
            SELECT e.id, k, 1, now(), now(), 1, true, 'completed', 'k' || k, 'set', '1' FROM e, generate_series(1, 2) k
        ), v AS (
            INSERT INTO stepd_engine.events (run, kind) SELECT e.id, 'released' FROM e
        ) INSERT INTO stepd_engine.signals (run, kind, name) SELECT e.id, 'signal', 's' FROM e",
        chr = "\n",
    ))
    .await;
}

const LEFT: [&str; 4] = [
    "SELECT count(*) FROM stepd_engine.ended",
    "SELECT count(*) FROM stepd_engine.checkpoints",
    "SELECT count(*) FROM stepd_engine.events",
    "SELECT count(*) FROM stepd_engine.signals",
];

async fn left(db: &Db) -> Vec<i64> {
    let mut counts = Vec::new();
    for sql in LEFT {
        counts.push(db.count(sql).await);
    }
    counts
}

fn everything_older_than(days: u64) -> Retention {
    let age = Some(Duration::from_secs(days * 86_400));
    Retention::new(ENDED.map(|state| Rule { workflow: None, state, age }).into())
}

/// One pass of the retention, exported by `write`.
async fn one_pass(
    db: &Db,
    after: Uuid,
    bounds: Bounds,
    write: Option<&mut Vec<String>>,
    fails: bool,
) -> Result<Pass, String> {
    let mut conn = db.pool.acquire().await.unwrap();
    let write = write.map(|out| {
        async move |_: String, lines: Vec<String>| {
            out.extend(lines);
            if fails { Err("disk full".to_owned()) } else { Ok(()) }
        }
    });
    pass(&mut conn, &everything_older_than(1), after, bounds, write).await.unwrap()
}

#[tokio::test]
async fn a_retention_of_no_time_under_load_takes_every_ended_run_and_never_touches_a_live_one() {
    let (db, files) = (Db::new().await, Files::new([NOTE, PATIENT]));
    let spec = Spec::new(&db, &files).env("STEPD_RETENTION__DEFAULT", "0s").concurrency(20);
    let _workers = [spec.ready().await, spec.ready().await];
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(db.enqueue("patient", "{}").await);
    }
    for _ in 0..6 {
        db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'note' FROM generate_series(1, 50)").await;
    }
    wait_until("all that has ended is gone", SOON, async || {
        db.count("SELECT count(*) FROM stepd.jobs WHERE workflow = 'note'").await == 0 && db.count(LEFT[0]).await == 0
    })
    .await;
    let effects = files.counts("effects");
    assert!(effects.len() == 300 && effects.values().all(|n| *n == 1), "each ran once: {}", effects.len());
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs WHERE state = 'waiting'").await, 5);
    assert_eq!(left(&db).await[1], 10, "of the waiting runs alone, each with its finished step and its wait");
    // Each goes on from its checkpoint, ends, and goes.
    db.exec("SELECT stepd.emit('go')").await;
    wait_until("they are gone, too", SOON, async || db.count("SELECT count(*) FROM stepd.runs").await == 0).await;
    wait_until("with all that was theirs", SOON, async || left(&db).await[1..3] == [0, 0]).await;
}

#[tokio::test]
async fn each_workflow_and_state_is_kept_as_long_as_it_says_and_what_goes_goes_whole() {
    let db = Db::new().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("stepd.toml");
    let text = "[retention]\ndefault = \"30d\"\nfailed = \"forever\"\n[retention_workflows]\n\"quick.completed\" = \"1d\"\n\"quick.failed\" = \"60d\"\n";
    std::fs::write(&config, text).unwrap();
    for (workflow, state, days, runs) in [
        ("quick", "completed", 2, 10),
        ("quick", "failed", 40, 11),
        ("quick", "failed", 70, 12),
        ("slow", "completed", 2, 13),
        ("slow", "completed", 31, 14),
        ("slow", "failed", 500, 15),
        ("slow", "cancelled", 31, 16),
    ] {
        history(&db, workflow, state, days, runs).await;
    }
    let config = config.display().to_string();
    let rows = "        10  completed  quick\n        12  failed     quick\n        16  cancelled  slow\n        14  completed  slow\n";
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    stepd(&db, &["prune", "--config", &config]).await.is(2).says("--dry-run");
    let done = stepd(&db, &["prune", "--config", &config, "--dry-run"]).await.is(0).says("52 runs would be removed");
    assert_eq!(sorted(&done.out), sorted(rows));
    assert_eq!(left(&db).await, [91, 182, 91, 91], "nothing has gone yet");
    let done = stepd(&db, &["prune", "--config", &config, "--yes"]).await.is(0).says("52 runs removed");
    assert_eq!(sorted(&done.out), sorted(rows));
    assert_eq!(left(&db).await, [39, 78, 39, 39]);
    // By hand, whatever the configuration says.
    stepd(&db, &["prune", "--yes"]).await.is(2).says("for ever");
    let by_hand = ["prune", "--older-than", "30d", "--state", "failed", "--workflow", "slow", "--yes", "-o", "jsonl"];
    let done = stepd(&db, &by_hand).await.is(0);
    assert_eq!(done.line(), r#"{"workflow":"slow","state":"failed","runs":15}"#);
    assert_eq!(left(&db).await, [24, 48, 24, 24]);
}

#[tokio::test]
async fn a_hundred_thousand_runs_go_in_bounded_transactions_and_what_is_younger_stays() {
    let db = Db::new().await;
    history(&db, "old", "completed", 100, 100_000).await;
    history(&db, "young", "completed", 10, 700).await;
    db.exec("ANALYZE stepd_engine.ended, stepd_engine.checkpoints, stepd_engine.events, stepd_engine.signals").await;
    let config = everything_older_than(90);
    let mut conn = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let (mut after, mut passes, mut removed) = (Uuid::nil(), 0, 0);
    loop {
        let none = None::<fn(String, Vec<String>) -> std::future::Ready<Result<(), ()>>>;
        let done = pass(&mut conn, &config, after, BOUNDS, none).await.unwrap().unwrap();
        assert!(done.runs() <= BOUNDS.runs && done.steps <= BOUNDS.steps, "{done:?}");
        (passes, removed) = (passes + 1, removed + done.runs());
        match done.last {
            Some(last) => after = last,
            None => break,
        }
    }
    assert_eq!((passes, removed), (201, 100_000));
    assert_eq!(left(&db).await, [700, 1_400, 700, 700]);
    // With many steps fewer runs go at once, but one at least.
    history(&db, "wide", "completed", 100, 6).await;
    db.exec("INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, attempts, checkpoint, state, key, kind)
        SELECT e.id, n, 1, now(), 1, true, 'completed', 'm' || n, 'set' FROM stepd_engine.ended e, generate_series(1, 40) n WHERE e.workflow = 'wide'")
        .await;
    let (mut after, mut sizes) = (Uuid::nil(), Vec::new());
    while let Some(last) = {
        let done = one_pass(&db, after, Bounds { runs: 500, steps: 80 }, None, false).await.unwrap();
        if done.runs() > 0 && sizes.len() < 3 {
            sizes.push(done.runs());
        }
        done.last
    } {
        after = last;
    }
    assert_eq!(sizes, [2, 2, 2]);
}

#[tokio::test]
async fn an_export_holds_every_removed_run_once_and_what_cannot_be_exported_stays() {
    let (db, files) = (Db::new().await, Files::new([NOTE]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("note", r#"{"n": 123456789012345678901234567890}"#).await;
    db.reaches(&run, "completed", SOON).await;
    history(&db, "old", "failed", 2, 1_200).await;
    let ids: Vec<String> = db.all("SELECT id::text FROM stepd_engine.ended").await;
    let file = files.path("runs.jsonl").display().to_string();
    stepd(&db, &["prune", "--older-than", "0s", "--yes", "--export", "/there/is/none"])
        .await
        .is(1)
        .says("/there/is/none");
    assert_eq!(db.count(LEFT[0]).await, 1_201);
    let prune = ["prune", "--older-than", "0s", "--yes", "--export", &file];
    stepd(&db, &prune).await.is(0).says("1201 runs removed");
    assert_eq!(left(&db).await, [0, 0, 0, 0]);
    stepd(&db, &prune).await.is(0).says("0 runs removed");
    // Into a folder, a file a day.
    let folder = files.path("archive");
    std::fs::create_dir(&folder).unwrap();
    history(&db, "more", "completed", 1, 3).await;
    let prune = ["prune", "--older-than", "0s", "--yes", "--archive", &folder.display().to_string()];
    stepd(&db, &prune).await.is(0).says("3 runs removed");
    let today: String = db.one("SELECT (now() AT TIME ZONE 'UTC')::date::text").await;
    assert_eq!(files.lines(&format!("archive/stepd-runs-{today}.jsonl")).len(), 3);
    let mut told: BTreeMap<String, Value> = BTreeMap::new();
    for line in files.lines("runs.jsonl") {
        let document: Value = serde_json::from_str(&line).unwrap();
        assert!(told.insert(document["run"]["id"].as_str().unwrap().to_owned(), document).is_none(), "twice: {line}");
    }
    assert_eq!(told.len(), 1_201);
    assert!(ids.iter().all(|id| told.contains_key(id)));
    let document = &told[&run];
    assert_eq!(document["run"]["input"]["n"].to_string(), "123456789012345678901234567890");
    assert_eq!(document["run"]["state"], "completed");
    let keys: Vec<&str> = document["steps"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a", "b"]);
    assert!(document["history"].as_array().unwrap().iter().any(|h| h["event"] == "run completed"));
}

#[tokio::test]
async fn after_a_crash_between_the_export_and_the_removal_a_run_is_exported_again_and_never_lost() {
    let db = Db::new().await;
    history(&db, "old", "failed", 2, 20).await;
    let mut lines = Vec::new();
    assert_eq!(one_pass(&db, Uuid::nil(), BOUNDS, Some(&mut lines), true).await.unwrap_err(), "disk full");
    assert_eq!((lines.len(), left(&db).await), (20, vec![20, 40, 20, 20]));
    assert_eq!(one_pass(&db, Uuid::nil(), BOUNDS, Some(&mut lines), false).await.unwrap().runs(), 20);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((lines.len(), left(&db).await), (20, vec![0, 0, 0, 0]));
}

#[tokio::test]
async fn a_run_that_is_retried_at_the_moment_is_passed_by_and_two_do_not_remove_at_once() {
    let (db, files) = (Db::new().await, Files::new([NOTE]));
    let mut worker = Spec::new(&db, &files).ready().await;
    worker.kill9();
    history(&db, "note", "failed", 2, 3).await;
    let run: String = db.one("SELECT id::text FROM stepd_engine.ended LIMIT 1").await;
    let mut retry = db.pool.begin().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("SELECT stepd.retry('{run}')"))).execute(&mut *retry).await.unwrap();
    assert_eq!(one_pass(&db, Uuid::nil(), BOUNDS, None, false).await.unwrap().runs(), 2);
    retry.commit().await.unwrap();
    assert_eq!(db.state(&run).await, "queued");
    assert_eq!(db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}'")).await, 3);
    let mut other = db.pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_xact_lock(stepd_engine.lock_class(), -3)").execute(&mut *other).await.unwrap();
    assert!(one_pass(&db, Uuid::nil(), BOUNDS, None, false).await.unwrap().busy);
}

#[tokio::test]
async fn a_definition_goes_when_nothing_names_it_any_more_and_no_worker_has_said_for_a_day_that_it_has_it() {
    let (db, files) = (Db::new().await, Files::new([PATIENT, NOTE]));
    let forget = "UPDATE stepd_engine.definitions SET used_at = now() - interval '2 days'";
    let spec = Spec::new(&db, &files).env("STEPD_RETENTION__DEFAULT", "0s");
    let mut worker = spec.ready().await;
    let run = db.enqueue("patient", "{}").await;
    db.step_reaches(&run, "go", "waiting", SOON).await;
    worker.kill9();
    files.write("w0.yaml", &PATIENT.replace("set: 2", "set: 3"));
    db.exec(forget).await;
    let mut worker = spec.ready().await;
    assert_eq!(
        db.count("SELECT count(*) FROM stepd_engine.definitions WHERE used_at > now() - interval '1 h'").await,
        2,
        "a load says it"
    );
    db.exec(forget).await;
    db.exec("INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('recent', 'tried_out');
        INSERT INTO stepd_engine.definitions (hash, workflow, used_at) VALUES ('forgotten', 'tried_out', now() - interval '2 days')").await;
    let there = "SELECT workflow FROM stepd_engine.definitions ORDER BY workflow, id";
    wait_until("what nothing names is gone", SOON, async || {
        db.all::<String>(there).await == ["note", "patient", "patient", "tried_out"]
    })
    .await;
    // The waiting run has its own: it goes on with it, by a worker that has loaded another.
    assert_eq!(db.state(&run).await, "waiting");
    db.exec(format!("SELECT stepd.signal('{run}', 'go')")).await;
    wait_until("the run has ended and is gone, and its definition with it", SOON, async || {
        db.all::<String>(there).await == ["note", "patient", "tried_out"]
    })
    .await;
    assert_eq!(db.state(&run).await, "none");
    let run = db.enqueue("patient", "{}").await;
    db.step_reaches(&run, "go", "waiting", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn the_queue_of_a_run_that_was_tried_out_goes_with_it_and_no_other_queue_does() {
    let db = Db::new().await;
    history(&db, "tried", "failed", 2, 2).await;
    let (gone, live) = (format!("run-{}", Uuid::now_v7()), format!("run-{}", Uuid::now_v7()));
    db.exec(format!(
        "INSERT INTO stepd_engine.queues (name, exclusive) VALUES ('{gone}', true), ('{live}', true), ('run-reports', true);
         INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('h', 'tried');
         INSERT INTO stepd_engine.workflows (name, definition) SELECT 'tried', id FROM stepd_engine.definitions;
         INSERT INTO stepd.jobs (workflow, queue) VALUES ('tried', '{live}');
         UPDATE stepd_engine.ended SET queue = '{live}';
         UPDATE stepd_engine.ended SET queue = '{gone}' WHERE id = (SELECT id FROM stepd_engine.ended LIMIT 1)"
    ))
    .await;
    history(&db, "other", "failed", 2, 1).await;
    db.exec("UPDATE stepd_engine.ended SET queue = 'run-reports' WHERE workflow = 'other'").await;
    assert_eq!(one_pass(&db, Uuid::nil(), BOUNDS, None, false).await.unwrap().runs(), 3);
    let names: Vec<String> = db.all("SELECT name FROM stepd_engine.queues ORDER BY name").await;
    assert_eq!(names, [live, "run-reports".into()]);
}

#[tokio::test]
async fn the_daemon_exports_into_a_file_of_the_day_and_keeps_history_where_it_is_not_told_otherwise() {
    let (db, files) = (Db::new().await, Files::new([NOTE]));
    history(&db, "old", "completed", 400, 5).await;
    history(&db, "old", "failed", 400, 5).await;
    let folder = files.path("exported");
    let spec = Spec::new(&db, &files)
        .env("STEPD_RETENTION__COMPLETED", "365d")
        .env("STEPD_RETENTION_EXPORT", folder.display());
    let mut worker = spec.ready().await;
    worker.logs("cannot be exported").await;
    assert_eq!(db.count(LEFT[0]).await, 10);
    worker.kill9();
    std::fs::create_dir(&folder).unwrap();
    let _worker = spec.ready().await;
    wait_until("the completed ones are gone", SOON, async || db.count(LEFT[0]).await == 5).await;
    let day: String = db.one("SELECT (now() AT TIME ZONE 'UTC')::date::text").await;
    let file = format!("exported/stepd-runs-{day}.jsonl");
    assert_eq!(files.lines(&file).len(), 5);
    let kept: Vec<String> = db.all("SELECT DISTINCT state::text FROM stepd_engine.ended").await;
    assert_eq!(kept, [RunState::Failed.as_str()]);
}

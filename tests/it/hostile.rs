//! Hostile rows (`hostile/rows.tsv`), each put in by whoever could, beside good jobs and a daemon at work: each is refused, or fails its
//! own job at most; and whoever asks for anything afterwards is answered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use stepd::rules::state::{CRASH_LIMIT, SOLO_AFTER};
use uuid::Uuid;

use crate::cli::stepd;
use crate::http::client;
use crate::support::collector::Collector;
use crate::support::{Db, Files, SOON, Spec, Worker, wait_until};

const ROWS: &str = include_str!("hostile/rows.tsv");
const GROUND: &str = include_str!("hostile/ground.sql");

const WORKFLOWS: [&str; 5] = [
    "name: echo\nresume: never\nsteps: [{id: same, set: '${{ input }}'}]\noutput: steps.same.output\n",
    "name: strict\ninput: {required: [n], properties: {n: {type: integer}}}\nsteps: [{id: a, set: '${{ input.n }}'}]\n",
    "name: limited\nunique: {key: input.key}\nconcurrency: {key: input.key, limit: 2}\nrate: {limit: 1000, per: 1m}\nsteps: [{id: a, set: 1}]\n",
    "name: asks\nresume: never\nsteps:\n  - {id: ok, approve: 'Go on?'}\n  - {id: two, set: 2}\n",
    r"
name: three
resume: never
retry: {max_attempts: 1}
steps:
  - {id: a, set: 1}
  - {id: docs, map: '${{ input.list | default([]) }}', as: doc, steps: [{id: x, set: '${{ doc }}'}]}
  - {id: nap, sleep: 10ms}
  - id: pick
    switch: ${{ 'letter' }}
    cases:
      parcel: [{id: tag, set: labelled}]
    default: [{id: stamp, set: stamped}]
  - id: loop
    repeat: {steps: [{id: look, set: '${{ index }}'}], until: index == 2, max: 5}
  - {id: b, set: '${{ steps.a.output }}'}
finally:
  - {id: last, set: '${{ run.state }}'}
",
];

/// Everything asked for of every run? Otherwise each page of a seventh of them, and each command of a few.
fn is_long() -> bool {
    std::env::var_os("STEPD_TEST_LONG").is_some()
}

/// A line of the table.
struct Hostile {
    table: &'static str,
    what: &'static str,
    given: &'static str,
}

fn rows() -> Vec<Hostile> {
    let line = |line: &'static str| {
        let mut parts = line.splitn(3, '\t');
        let mut part = || parts.next().unwrap_or_else(|| panic!("three columns: {line}"));
        Hostile { table: part(), what: part(), given: part() }
    };
    ROWS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(line).collect()
}

/// The run that the row concerns, if there is one; or how it was refused.
async fn put(db: &Db, row: &Hostile) -> Put {
    let mut tx = db.pool.begin().await.unwrap();
    if matches!(row.table, "enqueue" | "emit" | "signal") {
        sqlx::query("SET LOCAL ROLE stepd_enqueue").execute(&mut *tx).await.unwrap();
    }
    let done = match row.given.strip_prefix('=') {
        Some(expression) => {
            let sql = format!("SELECT t.put($1, given) FROM (SELECT {expression}) AS x(given)");
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(row.table).fetch_one(&mut *tx).await
        }
        None => {
            sqlx::query_scalar("SELECT t.put($1, $2::jsonb)").bind(row.table).bind(row.given).fetch_one(&mut *tx).await
        }
    };
    let run = done.map_err(|error| {
        let of = error.as_database_error().unwrap_or_else(|| panic!("{}, {}: {error}", row.table, row.what));
        format!("refused: {} {}", of.code().unwrap_or_default(), of.constraint().unwrap_or_default())
    })?;
    tx.commit().await.unwrap();
    Ok(run)
}

/// What has come of a row.
type Put = Result<Option<Uuid>, String>;

/// After so many rows a good job has its turn.
const BETWEEN: usize = 10;

/// All rows, one after the other, and good jobs between them; the number of those.
async fn put_all(db: &Db, worker: &mut Worker) -> (Vec<(Hostile, Put)>, usize) {
    let (mut done, mut good) = (Vec::new(), 0);
    for row in rows() {
        let put = put(db, &row).await;
        if row.table == "settings" && put.is_ok() {
            // It concerns everybody: the next row is not to meet it.
            db.exec(
                "UPDATE stepd_engine.settings SET on_unknown_workflow = 'refuse', notify = true, event_ttl = '1 hour',
                    max_input_bytes = 16777216, breaker_after = 5, breaker_probe = '30 s'",
            )
            .await;
        }
        done.push((row, put));
        assert!(worker.is_running(), "the daemon has ended: {}", worker.log());
        if done.len() % BETWEEN == 0 {
            let run = db.enqueue("echo", r#"{"good": 1}"#).await;
            db.reaches(&run, "completed", SOON).await;
            good += 1;
        }
    }
    (done, good)
}

/// What goes on by itself, and soon.
const BUSY: &str = "SELECT count(*) FROM stepd.jobs WHERE state IN ('queued', 'running', 'resuming', 'held')
    OR state = 'waiting' AND due_at < now() + interval '1 minute'";

const OF_RUNS: [(&str, &str); 7] = [
    ("runs", "id"),
    ("steps", "run"),
    ("attempts", "run"),
    ("history", "run"),
    ("waiting", "run"),
    ("logs", "run"),
    ("costs", "run"),
];
const OF_ALL: [&str; 13] = [
    "locks",
    "queues",
    "workers",
    "workflows",
    "schedules",
    "breakers",
    "settings",
    "definitions",
    "states",
    "daily",
    "daily_durations",
    "daily_failures",
    "daily_costs",
];

/// Every view, whole, with every column of it; what cannot be read is told by run.
async fn read_all(db: &Db, runs: &BTreeMap<Uuid, String>) -> String {
    let mut wrong = String::new();
    let views = OF_RUNS.iter().map(|(view, _)| *view).chain(OF_ALL);
    for view in views {
        let all = sqlx::query(AssertSqlSafe(format!("SELECT v::text FROM stepd.{view} v"))).fetch_all(&db.pool).await;
        let Err(error) = all else { continue };
        let _ = writeln!(wrong, "stepd.{view}: {error}");
        let Some((_, key)) = OF_RUNS.iter().find(|(name, _)| *name == view) else { continue };
        for (run, what) in runs {
            let one = format!("SELECT v::text FROM stepd.{view} v WHERE {key} = '{run}'");
            if let Err(error) = sqlx::query(AssertSqlSafe(one)).fetch_all(&db.pool).await {
                let _ = writeln!(wrong, "  {what}: {error}");
            }
        }
    }
    for (run, what) in runs {
        if let Err(error) = sqlx::query("SELECT stepd.why($1)").bind(run).fetch_one(&db.pool).await {
            let _ = writeln!(wrong, "stepd.why, {what}: {error}");
        }
    }
    wrong
}

const PAGES: [&str; 7] = ["", "/steps?outputs=true", "/history", "/timeline", "/attempts", "/state?key=a", "/logs"];

/// Pages of the API on every run, and every list.
async fn ask_all(site: &str, runs: &BTreeMap<Uuid, String>) -> String {
    let client = client(reqwest::header::HeaderMap::new());
    let mut wrong = String::new();
    let lists = [
        "waiting",
        "locks",
        "queues",
        "workers",
        "workflows",
        "schedules",
        "costs?by=workflow",
        "stats",
        "runs?state=failed",
        "runs?label=of=/",
    ];
    let mut paths: Vec<(String, String)> = lists.iter().map(|l| (format!("/api/v1/{l}"), String::new())).collect();
    paths.extend(["/metrics", "/api/workflows"].map(|p| (p.to_owned(), String::new())));
    for (n, (run, what)) in runs.iter().enumerate() {
        let wanted = PAGES.iter().enumerate().filter(|(p, _)| is_long() || n % PAGES.len() == *p);
        paths.extend(wanted.map(|(_, page)| (format!("/api/v1/runs/{run}{page}"), what.clone())));
    }
    for (path, what) in paths {
        let answer = client.get(format!("{site}{path}")).send().await.unwrap();
        if answer.status().is_server_error() {
            let _ = writeln!(wrong, "{} {path}: {what}", answer.status());
        }
    }
    let (mut cursor, mut seen) = (String::new(), 0);
    loop {
        let answer = client.get(format!("{site}/api/v1/runs?limit=100{cursor}")).send().await.unwrap();
        if !answer.status().is_success() {
            let _ = writeln!(wrong, "{} /api/v1/runs after {seen} runs", answer.status());
            return wrong;
        }
        let page: Value = answer.json().await.unwrap();
        seen += page["runs"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(seen >= runs.len(), "{seen} runs are listed");
    wrong
}

/// The commands, for some of the runs; none of them fails, and none writes what a terminal would obey.
async fn command_all(db: &Db, runs: &BTreeMap<Uuid, String>) -> String {
    let mut wrong = String::new();
    let ids: Vec<String> = runs.keys().map(ToString::to_string).collect();
    let lists = [
        &["ls", "--limit", "5000"][..],
        &["queue", "ls"],
        &["worker", "ls"],
        &["workflow", "ls"],
        &["schedule", "ls"],
        &["lock", "ls"],
        &["stats"],
    ];
    let mut all: Vec<Vec<&str>> = lists.iter().map(|l| l.to_vec()).collect();
    let every = if is_long() { 1 } else { 60 };
    for (n, id) in ids.iter().step_by(every).enumerate() {
        all.push(vec![["show", "logs", "why"][n % 3], id]);
    }
    for args in all {
        let done = stepd(db, &args).await;
        let what =
            args.get(1).and_then(|id| id.parse().ok()).and_then(|id: Uuid| runs.get(&id)).cloned().unwrap_or_default();
        let wild = |c: char| {
            c.is_control() && c != '\n'
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        // A tombstone keeps a key, and is no run.
        if done.code != Some(if what.contains("tombstone") { 3 } else { 0 }) {
            let _ = writeln!(wrong, "stepd {args:?}, {what}: {:?} {}", done.code, done.err);
        }
        if let Some(c) = done.out.chars().find(|c| wild(*c)) {
            let _ = writeln!(wrong, "stepd {args:?}, {what}: {c:?} on a terminal");
        }
    }
    wrong
}

/// What has become of each row, as it will always.
async fn outcome(db: &Db, row: &Hostile, put: &Put) -> String {
    match put {
        Err(refused) => refused.clone(),
        // A cancel or a pause may come before the end of its run, or after it.
        Ok(_) if row.table == "signals" => "taken".to_owned(),
        Ok(None) => "taken".to_owned(),
        Ok(Some(run)) if row.table == "ended" => format!("shown as {}", db.state(&run.to_string()).await),
        Ok(Some(run)) => {
            let sql =
                format!("SELECT state::text || coalesce(': ' || error_code, '') FROM stepd.runs WHERE id = '{run}'");
            db.ask(&sql).await.unwrap_or_else(|_| "no run".to_owned())
        }
    }
}

/// What is left unfinished can be cancelled by an operator, whatever its row says.
async fn cancelled(db: &Db, worker: &mut Worker) {
    let left = "SELECT id::text FROM stepd.jobs WHERE state NOT IN ('completed', 'failed', 'cancelled')";
    // A schedule among the rows starts one more each minute.
    wait_until("nothing is left", Duration::from_secs(120), async || {
        for run in db.all::<String>(left).await {
            let cancel = format!("SELECT stepd.cancel('{run}', 'hostile')");
            if let Err(error) = sqlx::query(AssertSqlSafe(cancel)).execute(&db.pool).await {
                let code = error.as_database_error().and_then(|e| e.code().map(|c| c.into_owned())).unwrap_or_default();
                assert!(code.starts_with("SD"), "{run}: {error}");
            }
        }
        db.all::<String>(left).await.is_empty()
    })
    .await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn each_hostile_row_is_refused_or_harms_its_own_job_alone() {
    let (db, files, collector) = (Db::new().await, Files::new(WORKFLOWS), Collector::start().await);
    stepd(&db, &["migrate", "--roles"]).await.is(0);
    let spec = Spec::new(&db, &files).http().lease(5).env("STEPD_TRACES__T__URL", collector.place());
    let mut worker = spec.ready().await;
    let site = worker.site().await;
    db.exec(GROUND).await;
    let (done, good) = put_all(&db, &mut worker).await;
    // What a daemon would mend within half a minute is mended now.
    db.exec(format!("SELECT stepd_engine.repair(100000, NULL, {SOLO_AFTER}, {CRASH_LIMIT})")).await;
    wait_until("nothing is at work", SOON, async || db.count(BUSY).await == 0).await;
    let named = |(row, put): &(Hostile, Put)| Some((put.clone().ok()??, format!("{} | {}", row.table, row.what)));
    let runs: BTreeMap<Uuid, String> = done.iter().filter_map(named).collect();
    let mut told = String::new();
    for (row, put) in &done {
        let _ = writeln!(told, "{} | {} → {}", row.table, row.what, outcome(&db, row, put).await);
    }
    insta::assert_snapshot!(told);
    let wrong = [read_all(&db, &runs).await, ask_all(&site, &runs).await, command_all(&db, &runs).await].concat();
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(worker.logged("panicked"), 0, "{}", worker.log());
    cancelled(&db, &mut worker).await;
    assert!(!collector.heard().is_empty(), "the tracer is at work, too");
    eprintln!("{} rows beside {good} good jobs", done.len());
}

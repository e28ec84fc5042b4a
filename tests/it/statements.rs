//! Every statement of the daemon fails once before and once after its commit: by an error, by the loss of its connection, by the
//! death of the daemon, and by a stop of it that others take for its death.
//!
//! The statements are those of `src/db/sql` whose header names a part of the daemon as its caller, and the commit of a `sql` step. The
//! ordinary tests strike at each on both sides, with the four ways in turn; `STEPD_TEST_LONG=1` plays all of it, and
//! `STEPD_TEST_STATEMENT=name` one alone.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::Connection as _;

use crate::support::{Db, Files, Plan, SOON, Saboteur, Side, Spec, Strike, Worker, wait_until};

/// Reached by another fault only; what comes before them, and on which side.
const AFTER_ANOTHER: [(&str, &str); 2] = [("read_back", "write_step"), ("orphans", "claim")];

/// Not struck at, and why not.
const LEFT_OUT: [(&str, &str); 19] = [
    ("kept", "of a session that takes another one's place: see `failover.rs`"),
    ("trace_targets", "of daemons with a target of traces: see `traces_away.rs`"),
    ("trace_take", "of daemons with a target of traces: see `traces_away.rs`"),
    ("trace_hold", "of daemons with a target of traces: see `traces_away.rs`"),
    ("trace_done", "of daemons with a target of traces: see `traces_away.rs`"),
    ("trace_trim", "of daemons with a target of traces: see `traces_away.rs`"),
    ("trace_backlog", "of daemons with a target of traces: see `traces_away.rs`"),
    ("trace_note_waits", "of daemons with a target of traces: see `traces_away.rs`"),
    ("spawn", "of a run with children, killed there in `children.rs`"),
    ("tell_parents", "of a run with a parent, killed there in `children.rs`"),
    ("abandon", "of a run that ends without its children, killed there in `children.rs`"),
    ("sql_step_rights", "read at the start alone, where sql steps have a role of their own: see `sql_role.rs`"),
    ("witness", "of a worker that has left something to see on the same machine: see `crash_loop.rs`"),
    (
        "answer_of",
        "needs an answer in the very moment in which a wait's time is up: the isolation specs play expire against every answer",
    ),
    ("await_lock", "waits for the end of this worker's own earlier session: see `network.rs`"),
    ("exclusive_queue", "of binaries with workflows in Rust: see `library.rs`"),
    ("definition_id", "of a workflow that is tried out: see `try_out.rs`"),
    ("prune_definitions", "after a walk through the history, where a retention is configured: see `retention.rs`"),
    ("unmark", "where another session holds this worker's lock: the model plays it (`tests/model/presence.rs`)"),
];

const AT_ONCE: usize = 8;

const WAYS: [Strike; 4] = [Strike::Kill, Strike::Loss, Strike::Error, Strike::Stop];

/// Plain data, an effect in Postgres, an effect outside, a question that nobody answers, an event, a sleep.
const ALL: &str = r#"
name: all
schedule: {cron: "0 3 1 1 *"}
steps:
  - id: data
    set: {n: "${{ input.n + 1 }}"}
  - id: effect
    sql: INSERT INTO effects (run, n) VALUES ($1, $2::int) RETURNING n
    params: ["${{ run.id }}", "${{ steps.data.output.n }}"]
    output: rows[0]
  - id: outside
    run: echo "$STEPD_RUN_ID $STEPD_EPOCH" >> @DIR@/effects
  - id: ask
    approve: Go on?
    timeout: 200ms
    on_error: continue
  - id: slow
    needs: [effect]
    run: echo "by $STEPD_EPOCH" >&2; sleep 0.7
  - id: nap
    needs: [ask, slow]
    sleep: 300ms
  - id: heard
    wait: go
output: steps.effect.output.n
"#;

/// The daemon's statements, from the headers of their files.
fn of_the_daemon() -> (HashMap<String, String>, BTreeSet<String>) {
    let (mut known, mut names) = (HashMap::new(), BTreeSet::new());
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/db/sql")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let header: String = text.lines().take_while(|l| l.starts_with("--")).collect::<Vec<_>>().join(" ");
        let caller = header.split("Caller: ").nth(1).unwrap_or_else(|| panic!("{name}.sql does not say who calls it"));
        let daemon = ["services", "app::", "sql_step", "the daemon", "the `run` command and binaries"];
        if daemon.iter().any(|part| caller.starts_with(part)) {
            names.insert(name.clone());
        }
        let first = text.lines().next().unwrap().to_owned();
        assert_eq!(known.insert(first, name.clone()), None, "two statements begin alike, {name} is one");
    }
    names.insert("commit".to_owned());
    (known, names)
}

/// A database in which every statement has something to do: a dead worker with a run that somebody has locked, a run that must be run
/// alone and one that becomes so, one that is pinned to a definition of before, two in a queue for one.
async fn ground() -> (Db, Files, Vec<String>) {
    let (db, files) = (Db::new().await, Files::new([ALL]));
    let old = ALL.replace("@DIR@", files.path("").to_str().unwrap()).replace("Go on?", "Go on, once more?");
    db.exec("CREATE TABLE effects (run text, n integer)").await;
    db.exec(format!(
        "INSERT INTO stepd_engine.definitions (hash, workflow, body) VALUES ('old', 'all', $old${old}$old$);
         INSERT INTO stepd_engine.workflows (name, definition) SELECT 'all', id FROM stepd_engine.definitions;
         INSERT INTO stepd_engine.workers (host, pid, version, slots, lease_ms) VALUES ('h', 1, 'v', 1, 500)"
    ))
    .await;
    let mut runs = Vec::new();
    db.exec("SELECT stepd.limit_queue('narrow', 1)").await;
    for place in [
        "'default', NULL",
        "'default', NULL",
        "'default', NULL",
        "'default', NULL",
        "'narrow', NULL",
        "'narrow', NULL",
        "'default', '2100-01-01'",
    ] {
        let job = format!(
            "INSERT INTO stepd.jobs (workflow, input, queue, run_at) VALUES ('all', '{{\"n\": 1}}', {place}) RETURNING id::text"
        );
        runs.push(db.one(job).await);
    }
    db.exec(format!(
        "UPDATE stepd.jobs SET state = 'running', worker = (SELECT id FROM stepd_engine.workers), epoch = 1 WHERE id IN ('{}', '{}');
         UPDATE stepd.jobs SET lane = 1, epoch = 3, crashes = 2, streak = 4 WHERE id = '{}';
         UPDATE stepd.jobs SET definition = (SELECT id FROM stepd_engine.definitions) WHERE id = '{}';
         UPDATE stepd.jobs SET input = input || jsonb_build_object('large',
             (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i)) WHERE id = '{}';
         SELECT stepd.emit('go')",
        runs[0], runs[1], runs[2], runs[3], runs[3]
    ))
    .await;
    (db, files, runs)
}

struct Case {
    plan: Plan,
    /// What must happen before.
    first: Option<Plan>,
}

/// Plays one case: the fault befalls a worker, and in the end everything is as without it.
async fn play(case: &Case, known: HashMap<String, String>) {
    let what = format!("{:?}", case.plan);
    let (db, files, runs) = ground().await;
    let plans = case.first.clone().into_iter().chain([case.plan.clone()]).collect();
    let saboteur = Saboteur::new(&db, known, plans).await;
    let spec =
        |db: &Db| Spec::new(db, &files).env("STEPD_ON_UNKNOWN_WORKFLOW", "refuse").concurrency(2).grace(5).lease(3);
    // Somebody holds one of the dead worker's runs for a moment, so that it follows later.
    let mut holder = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let lock = format!("BEGIN; SELECT FROM stepd.jobs WHERE id = '{}' FOR UPDATE", runs[0]);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let mut doomed = spec(&saboteur.db).start();
    saboteur.watches(doomed.pid());
    let mut heir: Option<Worker> = None;
    let began = Instant::now();
    let (mut open, mut scheduled, mut taken) = (true, true, None);
    loop {
        let stopped = case.plan.strike == Strike::Stop && saboteur.has_struck();
        if heir.is_none() && (stopped || !doomed.is_running()) {
            heir = Some(spec(&db).start());
        }
        let seen = saboteur.seen();
        let busy = seen.iter().any(|s| s == "write_step");
        if scheduled && (busy || heir.is_some()) {
            scheduled = false;
            let alone = "UPDATE stepd.jobs SET state = 'queued', lane = 1, due_at = NULL, run_at = NULL, epoch = 3, crashes = 2, streak = 4";
            db.exec(format!("{alone} WHERE id = '{}'", runs[6])).await;
        }
        if taken.is_none() && seen.iter().any(|s| s == "take_over") {
            taken = Some(Instant::now());
        }
        let long_enough =
            taken.is_some_and(|at| at.elapsed() > Duration::from_secs(4)) && case.plan.statement != "requeue";
        if open && (seen.iter().any(|s| s == "requeue") || heir.is_some() || long_enough) {
            open = false;
            sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
        }
        let left = db.count("SELECT count(*) FROM stepd.jobs").await;
        if left == 0 {
            break;
        }
        assert!(
            began.elapsed() < SOON * 2,
            "{what}: {left} runs do not end: {:?}",
            db.all::<String>("SELECT stepd.why(id) FROM stepd.jobs").await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    saboteur.go_on();
    doomed.cont();
    for worker in [Some(&mut doomed), heir.as_mut()].into_iter().flatten() {
        if worker.is_running() {
            worker.term();
        }
        wait_until(&format!("{what}: the daemon ends"), SOON, async || {
            // Stopped at one of its last statements (deregister): it goes on like the others.
            if worker.is_running() && saboteur.has_struck() {
                worker.cont();
            }
            !worker.is_running()
        })
        .await;
    }
    assert!(
        saboteur.has_struck(),
        "{what}: the statement was not reached; these were: {:?}",
        saboteur.seen().iter().collect::<BTreeSet<_>>()
    );
    check(&db, &files, &runs, &what).await;
}

/// Every run has ended as it must: each effect in Postgres once, those outside at most once for each claim, each step finished once.
async fn check(db: &Db, files: &Files, runs: &[String], what: &str) {
    // What was sent again is there once.
    let twice =
        "SELECT count(*) FROM (SELECT FROM stepd.logs GROUP BY run, epoch, key, attempt, line HAVING count(*) > 1) t";
    assert_eq!(db.count(twice).await, 0, "{what}: lines of logs");
    for run in runs {
        assert_eq!(
            db.state(run).await,
            "completed",
            "{what}: {}",
            db.one::<String>(format!("SELECT stepd.why('{run}')")).await
        );
        assert_eq!(db.output(run).await, "2", "{what}");
        assert_eq!(db.count(format!("SELECT count(*) FROM effects WHERE run = '{run}'")).await, 1, "{what}: effects");
        let steps = db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND checkpoint")).await;
        assert_eq!(steps, 7, "{what}: steps");
        let mut epochs: Vec<String> = files.lines("effects").into_iter().filter(|l| l.starts_with(run)).collect();
        let all = epochs.len();
        epochs.sort_unstable();
        epochs.dedup();
        assert!(all == epochs.len() && all > 0, "{what}: done twice under one claim: {all} of {epochs:?}");
    }
}

fn cases() -> Vec<Case> {
    let long = std::env::var_os("STEPD_TEST_LONG").is_some();
    let wanted = std::env::var("STEPD_TEST_STATEMENT").ok();
    let (_, names) = of_the_daemon();
    let mut cases = Vec::new();
    for (n, statement) in names.iter().enumerate() {
        if LEFT_OUT.iter().any(|(left, _)| left == statement) || wanted.as_ref().is_some_and(|w| w != statement) {
            continue;
        }
        for side in [Side::Before, Side::After] {
            for (way, strike) in WAYS.into_iter().enumerate() {
                let turn = (n + if side == Side::After { 2 } else { 0 }) % WAYS.len();
                if long || wanted.is_some() || way == turn {
                    let first = AFTER_ANOTHER.iter().find(|(name, _)| name == statement);
                    let first = first.map(|(_, other)| Plan {
                        statement: (*other).to_owned(),
                        side: Side::After,
                        strike: Strike::Loss,
                    });
                    cases.push(Case { plan: Plan { statement: statement.clone(), side, strike }, first });
                }
            }
        }
    }
    cases
}

#[test]
fn every_statement_may_fail_before_and_after_its_commit() {
    let (known, names) = of_the_daemon();
    let (began, cases) = (Instant::now(), cases());
    let (next, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // A thread for each that is played at once: what waits for one case's processes keeps no other waiting.
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(case, known.clone()))));
                    wrong.fetch_add(usize::from(played.is_err()), Ordering::SeqCst);
                }
            });
        }
    });
    let (n, wrong) = (cases.len(), wrong.into_inner());
    eprintln!("{} statements, {n} faults in {:?}", names.len() - LEFT_OUT.len(), began.elapsed());
    assert_eq!(wrong, 0, "of {n} faults so many were not survived; what they were stands above");
}

#[test]
fn no_statement_is_left_out_without_being_the_daemons() {
    let (_, names) = of_the_daemon();
    for (name, why) in LEFT_OUT {
        assert!(names.contains(name), "{name} is left out ({why}), and is no statement of the daemon");
    }
    assert!(names.len() > 30, "{names:?}");
}

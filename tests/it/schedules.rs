//! Schedules: every instant once, whatever the number of workers; pauses, changes, what was missed.

use std::time::{Duration, Instant};

use sqlx::Connection as _;

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

/// A workflow that is started each day, at the hour that is farthest from now: no instant comes by itself while a test runs.
async fn daily(db: &Db, settings: &str, step: &str) -> Files {
    let hour = (db.one::<i32>("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::integer").await + 12) % 24;
    let schedule = format!("{{cron: \"0 {hour} * * *\", {settings}}}");
    Files::new([format!("name: tick\nschedule: {schedule}\nsteps:\n  - id: a\n    {step}\n")])
}

const SAYS: &str = "run: echo \"$AT\" >> @DIR@/fired\n    env: {AT: \"${{ run.scheduled_for }}\"}";

/// As if nobody had looked for so many days; the next look is due after so many milliseconds.
async fn miss(db: &Db, days: u32, due_ms: u32) {
    db.exec(format!(
        "UPDATE stepd_engine.schedules SET seen_at = clock_timestamp() - interval '{days} days', next_at = clock_timestamp() + interval '{due_ms} ms';
         SELECT stepd_engine.wake()"
    ))
    .await;
}

async fn known(db: &Db) {
    let next = "SELECT count(*) FROM stepd.schedules WHERE next_at > now()";
    wait_until("its next instant is known", SOON, async || db.count(next).await == 1).await;
}

#[tokio::test]
async fn an_instant_fires_once_whatever_the_number_of_workers_and_those_that_were_missed_as_the_file_says() {
    for (catch_up, missed) in [("all", 10), ("last", 1), ("none", 0)] {
        let db = Db::new().await;
        let files = daily(&db, &format!("overlap: allow, catch_up: {catch_up}"), SAYS).await;
        let spec = Spec::new(&db, &files);
        let mut worker = spec.ready().await;
        known(&db).await;
        worker.kill9();
        miss(&db, 10, 0).await;
        let _more = [spec.start(), spec.start(), spec.start(), spec.start()];
        wait_until("all are made up for", SOON, async || files.lines("fired").len() >= missed).await;
        known(&db).await;
        holds_for("and each once", Duration::from_millis(1_200), async || files.lines("fired").len() == missed).await;
        assert_eq!(files.counts("fired").len(), missed, "{catch_up}");
        let instants =
            "SELECT count(DISTINCT run_at) FROM stepd.runs WHERE extract(epoch FROM run_at)::bigint % 3600 = 0";
        assert_eq!(db.count(instants).await, i64::try_from(missed).unwrap());
    }
}

#[tokio::test]
async fn four_workers_that_see_an_instant_together_and_are_killed_over_it_start_one_run_each_time() {
    let db = Db::new().await;
    let files = daily(&db, "overlap: allow", SAYS).await;
    let spec = Spec::new(&db, &files);
    let mut workers = [spec.ready().await, spec.ready().await, spec.ready().await, spec.ready().await];
    known(&db).await;
    let mut random = fastrand::Rng::with_seed(7);
    for round in 1..=8 {
        // They all know of it, and wait for it; one dies just before, at, or just after it.
        miss(&db, 1, 150).await;
        let (began, moment) = (Instant::now(), Duration::from_millis(random.u64(100..250)));
        wait_until("it is about that time", SOON, async || began.elapsed() >= moment).await;
        let place = random.usize(..workers.len());
        workers[place].kill9();
        workers[place] = spec.start();
        wait_until("the instant is decided", SOON, async || {
            db.count("SELECT count(*) FROM stepd.schedules WHERE next_at > now() + interval '1 hour'").await == 1
        })
        .await;
        assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, round, "each time one run, and none is lost");
    }
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(DISTINCT run_at) FROM stepd.runs").await, 1, "it was the same instant each time");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 8);
}

/// Waits for a full minute, so it is one of the long ones: STEPD_TEST_LONG=1. What it shows beside the others is the moment.
#[tokio::test]
async fn the_real_minute_fires_at_the_minute_on_one_of_three_workers() {
    if std::env::var_os("STEPD_TEST_LONG").is_none() {
        return;
    }
    let db = Db::new().await;
    let file =
        format!("name: tick\nschedule: {{cron: \"* * * * *\", catch_up: none}}\nsteps:\n  - id: a\n    {SAYS}\n");
    let files = Files::new([file]);
    let spec = Spec::new(&db, &files);
    let _workers = [spec.ready().await, spec.ready().await, spec.ready().await];
    for minute in 1..=2 {
        wait_until("the minute comes", Duration::from_secs(75), async || files.lines("fired").len() == minute).await;
    }
    let late = "SELECT extract(epoch FROM max(stepd_engine.uuid_time(id) - run_at))::float8 FROM stepd.runs";
    let late: f64 = db.one(late).await;
    assert!((-0.01..1.5).contains(&late), "{late} s late");
    let apart = "SELECT extract(epoch FROM max(run_at) - min(run_at))::bigint FROM stepd.runs";
    assert_eq!(db.count(apart).await, 60);
    holds_for("once", Duration::from_secs(2), async || files.lines("fired").len() == 2).await;
}

#[tokio::test]
async fn while_a_run_is_unfinished_an_instant_is_skipped_or_waits_for_its_turn() {
    for (overlap, runs) in [("skip", 1), ("queue", 3), ("allow", 3)] {
        let db = Db::new().await;
        let catch_up = if overlap == "skip" { "last" } else { "all" };
        let files = daily(&db, &format!("overlap: {overlap}, catch_up: {catch_up}"), "wait: go").await;
        let _worker = Spec::new(&db, &files).ready().await;
        known(&db).await;
        miss(&db, 3, 0).await;
        wait_until("one has started", SOON, async || {
            db.count("SELECT count(*) FROM stepd.runs WHERE state = 'waiting'").await >= 1
        })
        .await;
        let now = if overlap == "allow" { 3 } else { 1 };
        if overlap == "skip" {
            miss(&db, 1, 0).await;
            wait_until("the next is skipped", SOON, async || {
                db.count("SELECT count(*) FROM stepd.schedules WHERE skipped_at IS NOT NULL").await == 1
            })
            .await;
        }
        wait_until("as many as may be at once", SOON, async || {
            db.count("SELECT count(*) FROM stepd.runs").await == now
        })
        .await;
        wait_until("each in its turn", SOON, async || {
            let unfinished = db.count("SELECT count(*) FROM stepd.jobs").await;
            assert!(unfinished <= now, "{unfinished} at once, and the file says {overlap}");
            db.exec("SELECT stepd.signal(id, 'go') FROM stepd.jobs WHERE state = 'waiting'").await;
            db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await == runs
        })
        .await;
        assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, runs, "{overlap}");
    }
}

#[tokio::test]
async fn the_commands_show_a_schedule_pause_it_and_start_a_run_of_it() {
    let db = Db::new().await;
    let files = daily(&db, "overlap: allow", "set: 1").await;
    let _worker = Spec::new(&db, &files).ready().await;
    known(&db).await;
    let stepd = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_stepd"));
        let done = command.args(args).env("DATABASE_URL", &db.url).output().await.unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, listed) = stepd(&["schedule", "ls"]).await;
    assert!(code == Some(0) && listed.contains("tick") && listed.contains("UTC"), "{listed}");
    let (code, said) = stepd(&["schedule", "pause", "tick"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (_, listed) = stepd(&["schedule", "ls"]).await;
    assert!(listed.contains("paused"), "{listed}");
    // While it is paused its instants pass for good; a run by hand starts all the same.
    miss(&db, 1, 0).await;
    let (code, said) = stepd(&["schedule", "run", "tick"]).await;
    assert_eq!(code, Some(0), "{said}");
    db.all_ended(SOON).await;
    let (code, said) = stepd(&["schedule", "unpause", "tick"]).await;
    assert_eq!(code, Some(0), "{said}");
    known(&db).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 1, "the one that was started by hand");
    let (code, said) = stepd(&["schedule", "pause", "tock"]).await;
    assert!(code != Some(0) && said.contains("workflow tock has no schedule"), "{said}");
    assert!(said.contains("did you mean tick?"), "{said}");
}

#[tokio::test]
async fn a_schedule_is_paused_run_by_hand_changed_and_removed() {
    let db = Db::new().await;
    let never = |cron: &str| {
        format!("name: tick\nschedule: {{cron: \"{cron}\", timezone: Europe/Berlin}}\nsteps:\n  - id: a\n    set: 1\n")
    };
    let files = Files::new([never("0 3 1 1 *")]);
    let mut worker = Spec::new(&db, &files).ready().await;
    let known = "SELECT count(*) FROM stepd.schedules WHERE next_at > now() AND active";
    wait_until("its next instant is known", SOON, async || db.count(known).await == 1).await;
    let next: String =
        db.one("SELECT to_char(next_at AT TIME ZONE 'Europe/Berlin', 'MM-DD HH24:MI') FROM stepd.schedules").await;
    assert_eq!(next, "01-01 03:00");

    db.exec("SELECT stepd.pause_schedule('tick')").await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.schedules WHERE NOT active AND next_at IS NULL").await, 1);
    let run: String = db.one("SELECT stepd.run_schedule('tick')::text").await;
    db.reaches(&run, "completed", SOON).await;
    db.exec("SELECT stepd.unpause_schedule('tick')").await;
    wait_until("it goes on", SOON, async || db.count(known).await == 1).await;

    // A reload of the same file changes nothing; of another, the times.
    let loaded: String = db.one("SELECT loaded_at::text FROM stepd.schedules").await;
    worker.hup();
    worker.logs("\"reloaded\"").await;
    assert_eq!(db.one::<String>("SELECT loaded_at::text FROM stepd.schedules").await, loaded);
    files.write("w0.yaml", &never("30 4 1 1 *"));
    worker.hup();
    wait_until("it follows its file", SOON, async || db.count(format!("{known} AND cron = '30 4 1 1 *'")).await == 1)
        .await;
    files.write("w0.yaml", "name: tick\nsteps:\n  - id: a\n    set: 1\n");
    worker.hup();
    wait_until("it is gone", SOON, async || db.count("SELECT count(*) FROM stepd.schedules").await == 0).await;
    let error = sqlx::raw_sql("SELECT stepd.run_schedule('tick')").execute(&db.pool).await.unwrap_err();
    assert!(error.to_string().contains("SD030"), "{error}");

    files.write("w0.yaml", &never("30 4 1 1 *"));
    worker.hup();
    wait_until("it is back", SOON, async || db.count(known).await == 1).await;
    std::fs::remove_file(files.workflows().join("w0.yaml")).unwrap();
    worker.hup();
    wait_until("it goes with its file", SOON, async || db.count("SELECT count(*) FROM stepd.schedules").await == 0)
        .await;
}

#[tokio::test]
async fn more_instants_than_may_wait_leave_the_latest_hundred_and_the_schedule_goes_on() {
    let db = Db::new().await;
    let files = daily(&db, "overlap: queue, catch_up: all", "wait: go").await;
    let _worker = Spec::new(&db, &files).ready().await;
    known(&db).await;
    miss(&db, 80, 0).await;
    let waiting = "SELECT coalesce(cardinality(pending), 0) FROM stepd_engine.schedules";
    wait_until("one runs, and the others wait", SOON, async || db.one::<i32>(waiting).await == 79).await;
    known(&db).await;
    miss(&db, 60, 0).await;
    wait_until("a hundred wait", SOON, async || db.one::<i32>(waiting).await == 100).await;
    known(&db).await;
    db.exec("SELECT stepd.signal(id, 'go') FROM stepd.jobs WHERE state = 'waiting'").await;
    wait_until("the next has its turn", SOON, async || db.one::<i32>(waiting).await == 99).await;
}

#[tokio::test]
async fn a_schedule_that_somebody_has_locked_keeps_no_other_from_firing() {
    let db = Db::new().await;
    let files = daily(&db, "overlap: allow", "set: 1").await;
    let second =
        std::fs::read_to_string(files.workflows().join("w0.yaml")).unwrap().replace("name: tick", "name: tock");
    files.write("w1.yaml", &second);
    let _worker = Spec::new(&db, &files).ready().await;
    let next = "SELECT count(*) FROM stepd.schedules WHERE next_at > now()";
    wait_until("their next instants are known", SOON, async || db.count(next).await == 2).await;
    let mut somebody = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let lock = "BEGIN; SELECT FROM stepd_engine.schedules WHERE workflow = 'tick' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut somebody).await.unwrap();
    db.exec(
        "UPDATE stepd_engine.schedules SET seen_at = clock_timestamp() - interval '1 day', next_at = clock_timestamp() WHERE workflow = 'tock';
         SELECT stepd_engine.wake()",
    )
    .await;
    wait_until("the other fires", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'tock' AND state = 'completed'").await == 1
    })
    .await;
}

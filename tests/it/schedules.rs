//! Schedules: every instant once, whatever the number of workers; pauses, changes, what was missed.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

fn file(schedule: &str, step: &str) -> String {
    format!("name: tick\nschedule: {{cron: \"* * * * *\", {schedule}}}\nsteps:\n  - id: a\n    {step}\n")
}

const SAYS: &str = "run: echo \"$AT\" >> @DIR@/fired\n    env: {AT: \"${{ run.scheduled_for }}\"}";

/// As if all workers had been away for so long.
async fn miss(db: &Db, span: &str) {
    db.exec(format!(
        "UPDATE stepd_engine.schedules SET seen_at = date_trunc('minute', now()) - interval '{span}', next_at = date_trunc('minute', now()) - interval '{span}'"
    ))
    .await;
}

/// Not within so many seconds of a full minute, which would fire by itself.
async fn mid_minute(db: &Db) {
    wait_until("no full minute is near", Duration::from_secs(60), async || {
        db.one::<bool>("SELECT extract(second FROM clock_timestamp()) BETWEEN 1 AND 40").await
    })
    .await;
}

#[tokio::test]
async fn an_instant_fires_once_whatever_the_number_of_workers_and_those_that_were_missed_as_the_file_says() {
    let db = Db::new().await;
    let files = Files::new([file("overlap: allow, catch_up: all", SAYS)]);
    let spec = Spec::new(&db, &files);
    let mut workers = [spec.ready().await];
    wait_until("its next instant is known", SOON, async || {
        db.count("SELECT count(*) FROM stepd.schedules WHERE next_at > now()").await == 1
    })
    .await;
    workers[0].kill9();
    mid_minute(&db).await;
    miss(&db, "10 minutes").await;
    let more = [spec.start(), spec.start(), spec.start(), spec.start()];
    wait_until("all are made up for", SOON, async || files.lines("fired").len() >= 10).await;
    holds_for("and each once", Duration::from_secs(2), async || files.lines("fired").len() == 10).await;
    let fired = files.counts("fired");
    assert_eq!(fired.len(), 10, "{fired:?}");
    assert_eq!(
        db.count("SELECT count(DISTINCT run_at) FROM stepd.runs WHERE extract(second FROM run_at) = 0").await,
        10
    );
    drop(more);
}

#[tokio::test]
async fn the_real_minute_fires_at_the_minute_on_one_of_three_workers() {
    let db = Db::new().await;
    let files = Files::new([file("catch_up: none", SAYS)]);
    let spec = Spec::new(&db, &files);
    let _workers = [spec.ready().await, spec.ready().await, spec.ready().await];
    wait_until("the minute comes", Duration::from_secs(75), async || files.lines("fired").len() == 1).await;
    let late: f64 = db
        .one("SELECT extract(epoch FROM stepd_engine.uuid_time(id) - run_at)::float8 FROM stepd.runs WHERE workflow = 'tick'")
        .await;
    assert!((-0.01..1.5).contains(&late), "{late} s late");
    holds_for("once", Duration::from_secs(2), async || files.lines("fired").len() == 1).await;
}

#[tokio::test]
async fn while_a_run_is_unfinished_an_instant_is_skipped_or_waits_for_its_turn() {
    for (overlap, runs) in [("skip", 1), ("queue", 3), ("allow", 3)] {
        let db = Db::new().await;
        let catch_up = if overlap == "skip" { "last" } else { "all" };
        let files = Files::new([file(&format!("overlap: {overlap}, catch_up: {catch_up}"), "wait: go")]);
        let _worker = Spec::new(&db, &files).ready().await;
        wait_until("it is known", SOON, async || {
            db.count("SELECT count(*) FROM stepd.schedules WHERE next_at IS NOT NULL").await == 1
        })
        .await;
        mid_minute(&db).await;
        miss(&db, "3 minutes").await;
        db.exec("SELECT stepd_engine.wake()").await;
        wait_until("one has started", SOON, async || {
            db.count("SELECT count(*) FROM stepd.runs WHERE state = 'waiting'").await >= 1
        })
        .await;
        let now = if overlap == "allow" { 3 } else { 1 };
        if overlap == "skip" {
            miss(&db, "1 minute").await;
            db.exec("SELECT stepd_engine.wake()").await;
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
            db.exec("SELECT stepd.signal(id, 'go') FROM stepd.jobs WHERE state = 'waiting'").await;
            db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await == runs
        })
        .await;
        assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, runs, "{overlap}");
    }
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

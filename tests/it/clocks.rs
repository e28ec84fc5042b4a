//! Clocks that jump and run wrong, of daemons and of Postgres: the time is the database's, and spans are measured.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use crate::support::{Db, Files, SOON, Server, Spec, holds_for, tools, wait_until};

/// A retry a second later, and a long nap.
const PATIENT: &str = "
name: patient
resume: never
steps:
  - id: again
    run: echo x >> @DIR@/tries; test \"$STEPD_ATTEMPT\" -ge 2
    retry: {max_attempts: 2, backoff: constant, initial: 2s, jitter: 0}
  - {id: nap, sleep: 2s}
";

#[tokio::test]
async fn clocks_that_jump_an_hour_or_run_half_as_fast_again_lose_no_lease_and_start_each_instant_once() {
    let Some(library) = tools::faketime().map(|l| l.display().to_string()) else { return };
    let db = Db::new().await;
    // The hour that is farthest from now: no instant comes by itself.
    let hour = (db.one::<i32>("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::integer").await + 12) % 24;
    let tick = format!(
        "name: tick\nschedule: {{cron: \"0 {hour} * * *\", overlap: allow, catch_up: all}}\nsteps:\n  - id: a\n    run: echo \"$AT\" >> @DIR@/fired\n    env: {{AT: \"${{{{ run.scheduled_for }}}}\"}}\n"
    );
    let files = Files::new([PATIENT.to_owned(), tick]);
    let clock = files.path("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let wrong = Spec::new(&db, &files).lease(6).env("LD_PRELOAD", &library).env("FAKETIME_NO_CACHE", 1);
    let jumping = wrong.clone().env("FAKETIME_TIMESTAMP_FILE", clock.display()).env("FAKETIME_DONT_FAKE_MONOTONIC", 1);
    // What measures spans runs too fast, too.
    let fast = wrong.env("FAKETIME", "+0 x1.5");
    let right = Spec::new(&db, &files).lease(6);
    let mut workers = [jumping.ready().await, fast.ready().await, right.ready().await];
    wait_until("its next instant is known", SOON, async || {
        db.count("SELECT count(*) FROM stepd.schedules WHERE next_at > now()").await == 1
    })
    .await;
    let mut patient = Vec::new();
    let mut missed = 0;
    // An hour on and back, into a leap day, over a change of the clocks, and half as fast again.
    for says in ["+3600", "-3600", "@2028-02-28 23:59:59", "@2026-03-29 00:59:59", "+0 x1.5", "+0"] {
        std::fs::write(&clock, format!("{says}\n")).unwrap();
        patient.push(db.enqueue("patient", "{}").await);
        db.exec(
            "UPDATE stepd_engine.schedules SET seen_at = clock_timestamp() - interval '3 days', next_at = clock_timestamp();
             SELECT stepd_engine.wake()",
        )
        .await;
        missed += 3;
        wait_until("all are made up for", SOON, async || files.lines("fired").len() >= missed).await;
    }
    for run in &patient {
        db.reaches(run, "completed", SOON).await;
    }
    holds_for("nobody is taken over, and nothing fires again", Duration::from_secs(2), async || {
        files.lines("fired").len() == missed && db.count("SELECT count(*) FROM stepd_engine.workers").await == 3
    })
    .await;
    assert_eq!(db.events("crashed").await + db.events("taken_over").await, 0);
    assert_eq!(files.counts("fired").values().copied().max(), Some(6), "three instants, each made up for once a round");
    assert_eq!(files.lines("tries").len(), 2 * patient.len());
    // Not early by any wall clock: only what measures spans half as fast again may come after two thirds of the time; and what it says of
    // a start may be half a second late, for it carries the server's time on in its own way until it hears of it again.
    let early = "SELECT count(*) FROM stepd.steps WHERE key = 'nap' AND ended_at - started_at NOT BETWEEN interval '0.7 s' AND interval '30 s'";
    assert_eq!(db.count(early).await, 0);
    for worker in &mut workers {
        assert_eq!(worker.logged("\"WARN\"") + worker.logged("\"ERROR\""), 0, "{}", worker.log());
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

const HELD: &str = "name: held\nsteps:\n  - {id: hold, run: 'until [ -e @DIR@/go ]; do sleep 0.05; done'}\n";

#[tokio::test]
async fn when_the_clock_of_postgres_jumps_nobody_is_taken_over_and_new_runs_are_found() {
    let Some(library) = tools::faketime() else { return };
    // The server may be another user, who reads nothing of ours.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (clock, readable) = (folder.path().join("clock"), folder.path().join("faketime.so"));
    std::fs::write(&clock, "+0\n").unwrap();
    std::fs::copy(library, &readable).unwrap();
    let server = Server::under(&[
        ("LD_PRELOAD", readable.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ])
    .await;
    let (db, files) = (server.db().await, Files::new([PATIENT, HELD]));
    let spec = Spec::new(&db, &files).lease(3);
    let mut workers = [spec.ready().await, spec.ready().await];
    let held = db.enqueue("held", "{}").await;
    db.step_reaches(&held, "hold", "running", SOON).await;
    for ahead in [7200, -7200, 0] {
        std::fs::write(&clock, format!("{ahead:+}\n")).unwrap();
        wait_until("its clock has jumped", SOON, async || {
            let theirs = db.one::<f64>("SELECT extract(epoch FROM clock_timestamp())::float8").await;
            let ours = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
            (theirs - ours - f64::from(ahead)).abs() < 60.0
        })
        .await;
        let run = db.enqueue("patient", "{}").await;
        holds_for("nobody is taken over", Duration::from_secs(5), async || {
            db.count("SELECT count(*) FROM stepd_engine.workers").await == 2
        })
        .await;
        db.reaches(&run, "completed", SOON).await;
    }
    assert_eq!(files.lines("tries").len(), 6, "each was tried twice");
    assert_eq!(db.count("SELECT count(*) FROM stepd.history WHERE event IN ('crashed', 'taken_over')").await, 0);
    // Who dies is found as ever.
    workers[0].kill9();
    wait_until("the dead one is taken over", SOON, async || {
        db.count("SELECT count(*) FROM stepd_engine.workers").await == 1
    })
    .await;
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&held, "completed", SOON).await;
    assert_eq!(workers[1].drain(SOON).await, Some(0));
}

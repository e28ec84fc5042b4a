//! The daemon in production: how it starts, reloads, reports and ends.

use std::time::{Duration, Instant};

use stepd::postgres::StopMode;

use crate::support::{Db, Files, Manager, SOON, Server, Spec, holds_for, wait_until};

const QUICK: &str = "name: quick\nsteps:\n  - id: say\n    run: echo \"$STEPD_RUN_ID\" >> @DIR@/effects\n";

const LONG: &str = r#"
name: long
resume: never
steps:
  - id: long
    run: echo "$STEPD_EPOCH" >> @DIR@/long; if [ "$STEPD_EPOCH" = 1 ]; then sleep 60; fi
"#;

const BRIEF: &str = r#"
name: brief
steps:
  - id: brief
    run: echo begun >> @DIR@/brief; sleep 1.5; echo ended >> @DIR@/brief
"#;

#[tokio::test]
async fn the_manager_hears_every_state_in_order() {
    let (db, files, manager) = (Db::new().await, Files::new([QUICK]), Manager::new());
    let mut worker = manager.spec(Spec::new(&db, &files), None).start();
    manager.hears("READY=1").await;
    let id: String = db.one("SELECT id::text FROM stepd_engine.workers").await;
    manager.hears(&format!("STATUS=0 running, worker {id}")).await;
    worker.hup();
    manager.hears("RELOADING=1\nMONOTONIC_USEC=").await;
    wait_until("it is ready again", SOON, async || manager.count("READY=1") == 2).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let said = manager.said();
    let place = |text: &str| said.iter().position(|m| m.contains(text)).unwrap_or_else(|| panic!("{text}: {said:?}"));
    let last_ready = said.iter().rposition(|m| m.contains("READY=1")).unwrap();
    assert!(place("READY=1") < place("RELOADING=1"), "{said:?}");
    assert!(place("RELOADING=1") < last_ready && last_ready < place("STOPPING=1"), "{said:?}");
    assert!(!said.iter().any(|m| m.contains("FDSTORE")));
}

#[tokio::test]
async fn a_reload_takes_up_what_is_new_as_a_whole_and_names_what_needs_a_restart() {
    let (db, files, manager) = (Db::new().await, Files::new([QUICK]), Manager::new());
    let config = files.path("stepd.toml");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    write("concurrency = 5\n[secrets]\nword = 'before'\n");
    files.write("word.yaml", "name: word\nsteps:\n  - id: a\n    run: printf %s \"$W\" | rev\n    env: {W: \"${{ secrets.word }}\"}\noutput: steps.a.output\n");
    let spec = manager.spec(Spec::new(&db, &files), None).env("STEPD_CONFIG", config.display());
    let mut worker = spec.ready().await;
    let word = async |expected: &str| {
        let run = db.enqueue("word", "{}").await;
        db.reaches(&run, "completed", SOON).await;
        assert_eq!(db.output(&run).await, format!("\"{expected}\""));
    };
    word("erofeb").await;
    // Wrong in three places: nothing of it is taken up, and all of it is said.
    write("concurrency = 6\nlog_levle = 'x'\n[secrets]\nword = 'after'\n");
    files.write("new.yaml", "name: new\nsteps: [{id: a, run: 'true'}]\n");
    worker.hup();
    worker.logs("reload failed").await;
    assert_eq!(worker.logged("did you mean `log_level`?"), 1, "{}", worker.log());
    manager.hears("reload failed").await;
    word("erofeb").await;
    let unknown = db.ask::<String>("INSERT INTO stepd.jobs (workflow) VALUES ('new') RETURNING id::text").await;
    assert!(unknown.unwrap_err().to_string().contains("unknown workflow"));
    // A wrong workflow file: the right configuration beside it is not taken up either.
    write("concurrency = 6\nlog_level = 'info,stepd=debug'\ngrace_seconds = 3\n[secrets]\nword = 'after'\n");
    files.write("wrong.yaml", "name: wrong\nsteps: [{id: a, rn: 'true'}]\n");
    worker.hup();
    worker.logs("did you mean `run`?").await;
    word("erofeb").await;
    std::fs::remove_file(files.workflows().join("wrong.yaml")).unwrap();
    assert_eq!(worker.logged("\"DEBUG\""), 0);
    worker.hup();
    worker.logs("\"reloaded\"").await;
    assert_eq!(worker.logged("\"keys\":\"grace_seconds, log_level, secrets\""), 1, "{}", worker.log());
    assert_eq!(worker.logged("\"keys\":\"concurrency\""), 1, "{}", worker.log());
    manager.hears("a restart is needed for concurrency").await;
    word("retfa").await;
    let run = db.enqueue("new", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    worker.logs("\"DEBUG\"").await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn reloads_under_load_lose_and_double_nothing() {
    // STEPD_TEST_LONG=1: a thousand.
    let reloads = if std::env::var_os("STEPD_TEST_LONG").is_some() { 1_000 } else { 50 };
    let (db, files, manager) = (Db::new().await, Files::new([QUICK]), Manager::new());
    let mut worker = manager.spec(Spec::new(&db, &files).concurrency(4), None).ready().await;
    let mut inserted = 0;
    for n in 1..=reloads {
        files.write("w0.yaml", &QUICK.replace("say", &format!("say_{n}")));
        db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 5)").await;
        inserted += 5;
        worker.hup();
        wait_until("it is ready again", SOON, async || manager.count("READY=1") > n).await;
    }
    db.all_ended(Duration::from_secs(120)).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND crashes = 0").await, inserted);
    let effects = files.counts("effects");
    assert_eq!(i64::try_from(effects.len()).unwrap(), inserted);
    assert!(effects.values().all(|n| *n == 1));
    assert_eq!(worker.logged("\"reloaded\""), reloads);
    assert_eq!(worker.logged("\"ERROR\"") + worker.logged("\"WARN\""), 0, "{}", worker.log());
    // Each run's step is of one definition, whichever it was.
    assert_eq!(db.count("SELECT count(*) FROM stepd.steps").await, inserted);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn five_daemons_that_start_at_once_on_an_empty_database_make_one_schema() {
    let server = Server::own().await;
    server.pg.create_database("empty", None).await.unwrap();
    let (db, files) = (server.at("empty"), Files::new([QUICK]));
    let mut workers: Vec<_> = (0..5).map(|_| Spec::new(&db, &files).start()).collect();
    for worker in &mut workers {
        worker.logs("\"ready\"").await;
        assert_eq!(worker.logged("\"ERROR\"") + worker.logged("\"WARN\""), 0, "{}", worker.log());
    }
    let migrated: usize = workers.iter().map(|w| w.logged("schema migrated")).sum();
    assert_eq!(migrated, 1, "one of them has done it");
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 50)").await;
    db.all_ended(SOON).await;
    assert_eq!(files.lines("effects").len(), 50);
    for worker in &mut workers {
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

#[tokio::test]
async fn a_daemon_that_starts_before_its_postgres_waits_for_it() {
    // STEPD_TEST_LONG=1: twenty seconds.
    let span = Duration::from_secs(if std::env::var_os("STEPD_TEST_LONG").is_some() { 20 } else { 3 });
    let mut server = Server::own().await;
    let (db, files, manager) = (server.db().await, Files::new([QUICK]), Manager::new());
    server.pg.stop(StopMode::Fast);
    let mut worker = manager.spec(Spec::new(&db, &files), None).start();
    worker.logs("postgres cannot be used yet").await;
    // A reload meanwhile changes nothing; it does not end the daemon either.
    worker.hup();
    holds_for("it waits", span, async || worker.is_running() && manager.count("READY=1") == 0).await;
    // The manager hears that it goes on, and gives it more time.
    assert!(manager.count("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=waiting: ") > 2);
    server.pg.start_again().unwrap();
    worker.logs("\"ready\"").await;
    assert_eq!(worker.logged("postgres cannot be used yet"), 1, "said once");
    let run = db.enqueue("quick", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_daemon_that_is_told_to_end_while_it_waits_for_postgres_ends_at_once() {
    let mut server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([QUICK]));
    server.pg.stop(StopMode::Fast);
    let mut worker = Spec::new(&db, &files).start();
    worker.logs("postgres cannot be used yet").await;
    worker.term();
    assert_eq!(worker.ends(Duration::from_secs(3)).await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_without_postgres_ends_within_the_grace_time_and_names_what_is_left() {
    let mut server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([LONG, QUICK]));
    let grace = Duration::from_secs(3);
    let mut worker = Spec::new(&db, &files).grace(3).lease(3).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    server.pg.stop(StopMode::Immediate);
    worker.logs("postgres is away").await;
    let began = Instant::now();
    assert_eq!(worker.drain(SOON).await, Some(1), "something was left behind");
    let took = began.elapsed();
    // A sleeping program dies of its TERM at once.
    assert!(took >= grace && took < grace + Duration::from_secs(3), "{took:?}");
    assert_eq!(worker.logged(&format!("\"runs\":\"{run}\"")), 1, "{}", worker.log());
    server.pg.start_again().unwrap();
    let _heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(files.lines("long").len(), 2, "begun here, begun anew there");
}

#[tokio::test]
async fn a_drain_without_postgres_and_without_work_ends_at_once() {
    let mut server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([QUICK]));
    let mut worker = Spec::new(&db, &files).ready().await;
    server.pg.stop(StopMode::Immediate);
    worker.logs("postgres is away").await;
    let began = Instant::now();
    worker.drain(SOON).await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(worker.logged("are left as they are"), 0);
}

#[tokio::test]
async fn a_result_that_waits_for_postgres_is_recorded_when_it_comes_back_within_the_grace_time() {
    let mut server = Server::own().await;
    let (db, files) = (server.db().await, Files::new([BRIEF]));
    let mut worker = Spec::new(&db, &files).grace(20).ready().await;
    let run = db.enqueue("brief", "{}").await;
    db.step_reaches(&run, "brief", "running", SOON).await;
    server.pg.stop(StopMode::Fast);
    worker.term();
    worker.logs("\"stopping").await;
    wait_until("the step has ended", SOON, async || files.lines("brief").len() == 2).await;
    server.pg.start_again().unwrap();
    assert_eq!(worker.ends(SOON).await.code(), Some(0), "{}", worker.log());
    assert_eq!(db.state(&run).await, "completed");
    assert_eq!(files.lines("brief"), ["begun", "ended"]);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn the_watchdog_hears_nothing_more_when_a_loop_hangs_though_postgres_answers() {
    let (db, files, manager) = (Db::new().await, Files::new([QUICK]), Manager::new());
    let spec = manager.spec(Spec::new(&db, &files), Some(3_000)).failpoints("claimer.before_claim=2:hang");
    let mut worker = spec.ready().await;
    wait_until("it is alive", SOON, async || manager.count("WATCHDOG=1") >= 3).await;
    let run = db.enqueue("quick", "{}").await;
    let limit = Duration::from_secs(60);
    wait_until("it no longer says that all is well", limit, async || {
        manager.said();
        worker.logged("makes no progress") == 1
    })
    .await;
    assert_eq!(worker.logged("\"stuck\":\"claimer\""), 1, "{}", worker.log());
    let pings = manager.count("WATCHDOG=1");
    assert!(pings >= 25, "until then it did: {pings}");
    holds_for("no ping", Duration::from_secs(4), async || manager.count("WATCHDOG=1") == pings && worker.is_running())
        .await;
    worker.kill9();
    let _heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn the_watchdog_goes_on_hearing_of_a_daemon_whose_postgres_is_away() {
    // STEPD_TEST_LONG=1: longer than any loop may stand still.
    let span = Duration::from_secs(if std::env::var_os("STEPD_TEST_LONG").is_some() { 150 } else { 35 });
    let mut server = Server::own().await;
    let (db, files, manager) = (server.db().await, Files::new([LONG]), Manager::new());
    let mut worker = manager.spec(Spec::new(&db, &files), Some(6_000)).ready().await;
    let run = db.enqueue("long", "{}").await;
    db.step_reaches(&run, "long", "running", SOON).await;
    server.pg.stop(StopMode::Immediate);
    manager.hears("postgres is away").await;
    let (mut pings, mut since) = (manager.count("WATCHDOG=1"), Instant::now());
    holds_for("systemd would let it live", span, async || {
        let now = manager.count("WATCHDOG=1");
        if now > pings {
            (pings, since) = (now, Instant::now());
        }
        since.elapsed() < Duration::from_secs(6) && worker.is_running()
    })
    .await;
    assert_eq!(worker.logged("makes no progress"), 0);
    worker.kill9();
}

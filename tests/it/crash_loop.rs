//! A step that kills its worker every time.

use crate::support::{Db, Files, SOON, Spec, Worker, wait_until};

const POISON: &str = r#"
name: poison
resume: never
steps:
  - id: fine
    run: echo fine >> @DIR@/effects
  - id: deadly
    run: echo deadly >> @DIR@/effects; kill -9 $PPID; sleep 5
"#;

const HARMLESS: &str = r#"
name: harmless
resume: never
steps:
  - id: one
    run: sleep 0.2
  - id: two
    run: echo "$STEPD_RUN_ID" >> @DIR@/harmless
"#;

/// Keeps the workers running, as systemd does.
async fn until(workers: &mut [Worker], spec: &Spec, what: &str, mut holds: impl AsyncFnMut() -> bool) -> usize {
    let mut deaths = 0;
    wait_until(what, SOON * 2, async || {
        for worker in workers.iter_mut() {
            if !worker.is_running() {
                deaths += 1;
                *worker = spec.start();
            }
        }
        holds().await
    })
    .await;
    deaths
}

#[tokio::test]
async fn a_run_that_kills_its_workers_is_quarantined_and_others_are_neither_harmed_nor_counted() {
    let (db, files) = (Db::new().await, Files::new([POISON, HARMLESS]));
    let spec = Spec::new(&db, &files);
    let mut workers = vec![spec.ready().await, spec.ready().await];
    let poison = db.enqueue("poison", "{}").await;
    let streak = format!("SELECT count(*) FROM stepd.jobs WHERE id = '{poison}' AND streak >= 4");
    let early = until(&mut workers, &spec, "it must be run alone", async || db.count(&*streak).await == 1).await;
    // From now on it is run alone: nothing that is enqueued now may ever be dragged along.
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(db.enqueue("harmless", "{}").await);
    }
    let late = until(&mut workers, &spec, "it is quarantined", async || db.state(&poison).await == "failed").await;
    let rest = until(&mut workers, &spec, "the others are through", async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'harmless' AND state = 'completed'").await == 20
    })
    .await;
    assert_eq!(early + late + rest, 5, "two deaths in company, three alone");
    assert_eq!(db.count("SELECT coalesce(sum(crashes), 0) FROM stepd.runs WHERE workflow = 'harmless'").await, 0);
    assert!(files.counts("harmless").values().all(|n| *n == 1) && files.counts("harmless").len() == 20);
    assert_eq!((files.counts("effects")["fine"], files.counts("effects")["deadly"]), (1, 5));

    let failure: String = db.one(format!("SELECT error::text FROM stepd.runs WHERE id = '{poison}'")).await;
    let failure: serde_json::Value = serde_json::from_str(&failure).unwrap();
    assert_eq!(
        (failure["code"].as_str(), failure["class"].as_str()),
        (Some("crash_loop"), Some("permanent")),
        "{failure}"
    );
    let deaths = failure["details"]["deaths"].as_array().unwrap();
    assert_eq!(deaths.len(), 5, "{failure}");
    // The first death may be faster than the note of the step's start; after it, starts are durable.
    assert!(deaths.iter().skip(1).all(|d| d["steps"][0] == "deadly" && d["worker"].is_string()), "{failure}");
    // Found by another worker on this machine, or by the next one, each time.
    let told = |d: &serde_json::Value| {
        d["facts"]["rss_bytes"].is_u64()
            && ["gone", "ended"].contains(&d["facts"]["seen"]["process"].as_str().unwrap_or_default())
    };
    assert!(deaths.iter().all(told), "{failure}");
    assert_eq!(db.count(format!("SELECT crashes::int8 FROM stepd.runs WHERE id = '{poison}'")).await, 5);
}

#[tokio::test]
async fn a_busy_worker_empties_itself_for_a_solo_run_and_claims_again_afterwards() {
    // One worker, always busy: the poison is run alone all the same, and the others go on between.
    let (db, files) = (Db::new().await, Files::new([POISON, HARMLESS]));
    let spec = Spec::new(&db, &files);
    let mut workers = vec![spec.ready().await];
    let poison = db.enqueue("poison", "{}").await;
    let mut enqueued = 0;
    until(&mut workers, &spec, "it is quarantined", async || {
        if db.count("SELECT count(*) FROM stepd.jobs WHERE workflow = 'harmless'").await < 5 {
            db.enqueue("harmless", "{}").await;
            enqueued += 1;
        }
        db.state(&poison).await == "failed"
    })
    .await;
    until(&mut workers, &spec, "the others are through", async || {
        db.count("SELECT count(*) FROM stepd.jobs").await == 0
    })
    .await;
    assert_eq!(
        db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'harmless' AND state = 'completed'").await,
        enqueued
    );
    // Company in the first four deaths counts, but condemns nobody.
    assert!(db.count("SELECT coalesce(max(crashes), 0)::int8 FROM stepd.runs WHERE workflow = 'harmless'").await <= 4);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_run_whose_records_kill_the_worker_that_loads_them_is_counted_and_quarantined() {
    let (db, files) = (Db::new().await, Files::new([HARMLESS.replace("sleep 0.2", "sleep 60")]));
    let spec = Spec::new(&db, &files).failpoints("records.before_load=1:kill");
    let mut workers = vec![spec.ready().await];
    let run = db.enqueue("harmless", "{}").await;
    db.step_reaches(&run, "one", "running", SOON).await;
    workers[0].kill9();
    until(&mut workers, &spec, "it is quarantined", async || db.state(&run).await == "failed").await;
    let code = db.one::<String>(format!("SELECT error_code FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(code, "crash_loop");
    // The first death interrupted its step, four met it while it was loaded.
    assert_eq!(db.count(format!("SELECT crashes::int8 FROM stepd.runs WHERE id = '{run}'")).await, 5);
}

#[tokio::test]
async fn an_answer_to_a_waiting_run_is_progress_crashes_before_it_and_after_it_are_not_in_a_row() {
    let (db, files) =
        (Db::new().await, Files::new(["name: asks\nsteps: [{id: go, wait: go}, {id: end, run: sleep 60}]"]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("asks", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    db.exec(format!("UPDATE stepd.jobs SET streak = 3, crashes = 3 WHERE id = '{run}'")).await;
    db.exec("SELECT stepd.emit('go')").await;
    db.step_reaches(&run, "end", "running", SOON).await;
    assert_eq!(db.count(format!("SELECT streak::int8 FROM stepd.jobs WHERE id = '{run}'")).await, 0);
}

/// Two runs that must be run alone, and two workers: one of them goes on with everything else.
#[tokio::test]
async fn however_many_runs_must_be_run_alone_half_of_the_workers_go_on_with_the_rest() {
    const LONG: &str = "
name: long
steps:
  - id: only
    run: until test -e @DIR@/enough; do sleep 0.05; done
";
    let (db, files) = (Db::new().await, Files::new([LONG, HARMLESS]));
    let spec = Spec::new(&db, &files);
    let mut first = spec.ready().await;
    assert_eq!(first.drain(SOON).await, Some(0));
    let mut suspects = Vec::new();
    for _ in 0..2 {
        suspects.push(db.enqueue("long", "{}").await);
    }
    db.exec("UPDATE stepd.jobs SET streak = 4, lane = 1, crashes = 4").await;
    let mut workers = vec![spec.ready().await, spec.ready().await];
    let alone = "SELECT count(*) FROM stepd.jobs WHERE workflow = 'long' AND state = 'running'";
    wait_until("one of them runs", SOON, async || db.count(alone).await == 1).await;
    for _ in 0..5 {
        let run = db.enqueue("harmless", "{}").await;
        db.reaches(&run, "completed", SOON).await;
        assert_eq!(db.count(alone).await, 1, "the other one waits");
    }
    std::fs::write(files.path("enough"), "").unwrap();
    for run in &suspects {
        db.reaches(run, "completed", SOON).await;
    }
    for worker in &mut workers {
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

//! The network between a worker and Postgres loses an answer, delivers late, or falls silent: nothing is recorded twice, nothing
//! is taken back, nobody waits for long.

use std::time::Duration;

use crate::support::{Db, Files, Proxy, SOON, Spec, Worker, wait_until};

const WRITER: &str = "stepd writer";

/// A worker behind the proxy, whose two writers have their connections, with their statements prepared.
async fn writing(proxy: &Proxy, files: &Files) -> Worker {
    files.write("warm.yaml", "name: warm\nsteps: [{id: a, set: 1}, {id: b, sleep: 150ms}]\n");
    let worker = Spec::new(&proxy.db, files).ready().await;
    wait_until("both writers have written", SOON, async || {
        proxy.db.enqueue("warm", "{}").await;
        proxy.db.all_ended(SOON).await;
        let writers = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stepd writer' AND datname = current_database()";
        proxy.db.count(writers).await == 2
    })
    .await;
    worker
}

/// A person is asked while another branch works, so that the run stays in memory.
const ASKS: &str = "
name: asks
resume: never
steps:
  - id: hold
    needs: []
    run: until test -e @DIR@/go; do sleep 0.05; done
  - id: question
    needs: []
    approve: Shall I?
    on_error: continue
output: steps.question.error.code
";

#[tokio::test]
async fn an_answer_is_not_taken_back_when_the_commit_of_its_wait_was_not_heard_of() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    let proxy = Proxy::new(&db).await;
    let _worker = writing(&proxy, &files).await;
    proxy.deafen(WRITER);
    let run = db.enqueue("asks", "{}").await;
    db.step_reaches(&run, "question", "waiting", SOON).await;
    db.exec(format!("SELECT stepd.reject('{run}')")).await;
    // The writer asks what became of its commit, and sends again what it cannot see.
    proxy.cut();
    db.step_reaches(&run, "hold", "running", SOON).await;
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"rejected\"");
}

const LAST: &str = "
name: last
steps: [{id: only, run: 'until test -e @DIR@/go; do sleep 0.02; done'}]
";

#[tokio::test]
async fn a_writer_whose_last_commit_turns_out_to_be_recorded_leaves_nobody_believing_that_postgres_is_away() {
    let (db, files) = (Db::new().await, Files::new([LAST]));
    let proxy = Proxy::new(&db).await;
    let mut worker = writing(&proxy, &files).await;
    let run = db.enqueue("last", "{}").await;
    db.step_reaches(&run, "only", "running", SOON).await;
    // A writer that still waits for the answer to the beginning would never send the end.
    let heard =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stepd writer' AND datname = current_database()
        AND state = 'idle' AND state_change < clock_timestamp() - interval '1 s'";
    wait_until("nothing has been on its way for a second", SOON, async || db.count(heard).await == 2).await;
    proxy.deafen(WRITER);
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    proxy.leads_nowhere();
    proxy.hang_up(WRITER);
    worker.logs("postgres is away").await;
    proxy.leads_to(&db);
    // There is no other work: the look at what became of the commit is all that this writer does.
    worker.logs("postgres is back").await;
}

#[tokio::test]
async fn a_worker_whose_places_are_all_taken_finds_that_postgres_is_back_too() {
    let (db, files) = (Db::new().await, Files::new([LAST]));
    let proxy = Proxy::new(&db).await;
    let mut worker = Spec::new(&proxy.db, &files).concurrency(1).ready().await;
    let run = db.enqueue("last", "{}").await;
    db.step_reaches(&run, "only", "running", SOON).await;
    proxy.leads_nowhere();
    proxy.hang_up("stepd claimer");
    worker.logs("postgres is away").await;
    proxy.leads_to(&db);
    worker.logs("postgres is back").await;
    assert_eq!(db.state(&run).await, "running");
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
}

/// The second step fails once, waits a little, and then works until it is told to end.
const FLAKY: &str = "
name: flaky
resume: never
steps:
  - id: tool
    run: |
      until test -e @DIR@/go$STEPD_ATTEMPT; do sleep 0.05; done
      test $STEPD_ATTEMPT = 2
    retry: {max_attempts: 2, initial: 50ms, jitter: 0}
";

#[tokio::test]
async fn what_arrives_late_after_it_was_sent_again_writes_no_line_twice_and_takes_no_step_back() {
    let (db, files) = (Db::new().await, Files::new([FLAKY]));
    let proxy = Proxy::new(&db).await;
    let _worker = writing(&proxy, &files).await;
    let run = db.enqueue("flaky", "{}").await;
    db.step_reaches(&run, "tool", "running", SOON).await;
    proxy.mute(WRITER);
    let failed = files.path("go1");
    std::fs::write(failed, "").unwrap();
    // Its failure is on its way when the connection is lost; it is sent again, and the run goes on.
    wait_until("it is on its way", SOON, async || proxy.held_back() > 0).await;
    let then: String = db.one("SELECT clock_timestamp()::text").await;
    proxy.hang_up(WRITER);
    let second = format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND state = 'running' AND attempts = 2");
    wait_until("the second attempt is at work", SOON, async || db.count(&*second).await == 1).await;
    proxy.deliver();
    let late = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{WRITER}' AND datname = current_database() AND backend_start < '{then}'"
    );
    wait_until("what was late has arrived", SOON, async || db.count(&*late).await == 0).await;
    assert_eq!(db.count(&*second).await, 1, "the step is where it was");
    assert_eq!(db.events("attempt_failed").await, 1);
    std::fs::write(files.path("go2"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(
        db.count(format!("SELECT count(*) FROM stepd.history WHERE run = '{run}' AND event = 'attempt failed'")).await,
        1
    );
}

const HELD: &str = "
name: held
resume: never
steps:
  - id: first
    run: echo first >> @DIR@/effects; until test -e @DIR@/go; do sleep 0.05; done
  - id: second
    run: echo second >> @DIR@/effects
";

#[tokio::test]
async fn connections_that_fall_silent_are_given_up_within_seconds_and_the_worker_is_not_taken_over() {
    let (db, files) = (Db::new().await, Files::new([HELD]));
    let proxy = Proxy::new(&db).await;
    let worker = writing(&proxy, &files).await;
    let run = db.enqueue("held", "{}").await;
    db.step_reaches(&run, "first", "running", SOON).await;
    // It looks every second whether a lock is free, by a network of its own.
    let _observer = Spec::new(&db, &files).arg("--queue").arg("none").ready().await;
    proxy.silence();
    std::fs::write(files.path("go"), "").unwrap();
    let new = db.enqueue("held", "{}").await;
    db.reaches(&run, "completed", Duration::from_secs(45)).await;
    db.reaches(&new, "completed", Duration::from_secs(45)).await;
    assert_eq!(db.events("crashed").await + db.events("taken_over").await, 0);
    assert_eq!(worker.logged("\"registered\""), 1, "it kept its registration");
    assert_eq!((files.counts("effects")["first"], files.counts("effects")["second"]), (2, 2));
}

#[tokio::test]
async fn a_worker_that_is_cut_off_starts_no_further_step_and_comes_back_by_itself() {
    let (db, files) = (Db::new().await, Files::new([HELD]));
    let proxy = Proxy::new(&db).await;
    let mut worker = writing(&proxy, &files).await;
    let run = db.enqueue("held", "{}").await;
    db.step_reaches(&run, "first", "running", SOON).await;
    proxy.freeze();
    let holder = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = 'stepd_engine.workers'::regclass::oid
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("its lock is free", SOON, async || db.count(holder).await == 0).await;
    std::fs::write(files.path("go"), "").unwrap();
    worker.logs("postgres is away").await;
    let heir = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!((files.counts("effects")["first"], files.counts("effects")["second"]), (2, 1), "the heir's");
    proxy.cut();
    worker.logs("postgres is back").await;
    drop(heir);
    let new = db.enqueue("held", "{}").await;
    db.reaches(&new, "completed", SOON).await;
    assert_eq!(files.counts("effects")["second"], 2);
}

/// Ended by the server in the middle of its transaction, as where the answers to a step are lost on the way; once.
const SILENT: &str = "
name: silent
resume: never
steps:
  - id: once
    sql: SELECT falls_silent_once() AS n
    retry: {max_attempts: 1}
";

#[tokio::test]
async fn a_sql_step_whose_transaction_was_ended_for_its_silence_is_sent_again_and_uses_up_no_attempt() {
    let (db, files) = (Db::new().await, Files::new([SILENT]));
    db.exec(
        "CREATE SEQUENCE sent;
         CREATE FUNCTION falls_silent_once() RETURNS bigint LANGUAGE plpgsql AS $$
         DECLARE n bigint := nextval('sent'); BEGIN
             IF n = 1 THEN RAISE EXCEPTION 'terminating connection due to idle-in-transaction timeout' USING ERRCODE = '25P03'; END IF;
             RETURN n;
         END $$",
    )
    .await;
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("silent", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.one::<i64>("SELECT last_value FROM sent").await, 2);
    assert_eq!(db.count("SELECT count(*) FROM stepd.attempts").await, 1);
}

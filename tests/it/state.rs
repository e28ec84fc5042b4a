//! The model equals SQL: for every kind of row and every event, the statement that production uses does to the row
//! what `rules::state::next` says, and nothing where it says no.
//!
//! Each pair runs in a transaction of its own that is rolled back: the statement runs, the row is read. The row was put there by
//! another session whose triggers are off: one that switched them off and on would plan everything anew for each pair.

mod act;
mod row;

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stepd::model::{Job, RunState};
use stepd::rules::state::{IllegalTransition, Next, first, next};

use crate::support::Db;
use act::{Act, QUEUES, Queue, acts};
use row::{Found, Row, every_kind_of_row, ground, read};

/// A session for the statements, and what every pair needs beside its row: the workflow and two workers.
async fn scene(db: &Db) -> PgConnection {
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    let text = format!(
        "SET plan_cache_mode = force_generic_plan; -- As the claimer and the writer do.
         INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('h', 'w');
         INSERT INTO stepd_engine.workflows (name, definition, queue) SELECT 'w', id, 'q' FROM stepd_engine.definitions;
         INSERT INTO stepd_engine.workers (id, host, pid, version, slots) VALUES ('{}', 'a', 1, 'v', 1), ('{}', 'b', 2, 'v', 1);",
        row::A.0,
        row::B.0,
    );
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    conn
}

/// What the row should become.
fn expected(job: &Job, act: &Act, queue: Queue) -> Result<Next, IllegalTransition> {
    let illegal = IllegalTransition { state: job.state, event: "nothing" };
    act.event(job, queue).map_or(Err(illegal), |event| next(job, &event))
}

/// One pair; says how SQL and the model differ.
async fn pair(conn: &mut PgConnection, before: &Found, job: &Job, act: &Act, queue: Queue) -> Result<bool, String> {
    sqlx::raw_sql("BEGIN").execute(&mut *conn).await.unwrap();
    let has_lease = act.run(conn).await;
    let after = read(conn).await;
    sqlx::raw_sql("ROLLBACK").execute(conn).await.unwrap();

    let want = expected(job, act, queue);
    let kept = before.kept == after.kept;
    let same = match &want {
        Ok(Next::Live(to)) => {
            after.row == Row::Live(*to) && kept && place_is_right(job, to, &before.ready, &after.ready)
        }
        Ok(Next::Ended(to)) => after.row == Row::of_ended(to) && kept,
        Ok(Next::Asked) => before.whole == after.whole && after.asked,
        Err(_) => before.whole == after.whole && !after.asked,
    };
    if same && has_lease.is_none_or(|has| has == want.is_ok()) {
        return Ok(want.is_ok());
    }
    Err(format!(
        "{act:?} in a queue that is {queue:?}\n  on    {job:?}\n  model {want:?}\n  sql   {:?}\n  was   {}\n  is    {}\n",
        after.row, before.whole, after.whole
    ))
}

/// A row takes its place in the queue when it first becomes ready, and keeps it ever after.
fn place_is_right(from: &Job, to: &Job, before: &str, after: &str) -> bool {
    use stepd::model::Lane::Fresh;
    let comes_in = to.state == RunState::Queued && to.lane == Fresh;
    let waits_for_admission = from.state == RunState::Scheduled && to.state == RunState::Held;
    (before != after) == (comes_in || waits_for_admission)
}

/// How often an act had an effect, and how often none.
type Counts = BTreeMap<String, (usize, usize)>;

/// Every act on some kinds of rows. Where the queue cannot make a difference, two kinds of it are enough.
async fn every_pair(jobs: Vec<Job>) -> (Counts, Vec<String>) {
    let db = Db::new().await;
    let mut conn = scene(&db).await;
    let mut maker = PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("SET session_replication_role = replica").execute(&mut maker).await.unwrap();
    let (mut counts, mut differences) = (Counts::new(), Vec::new());
    for job in jobs {
        let mut grounds: BTreeMap<String, Vec<(Act, Queue)>> = BTreeMap::new();
        for act in acts(&job) {
            let matters = act.heeds_the_queue() && QUEUES.iter().any(|queue| expected(&job, &act, *queue).is_ok());
            let queues = if matters { &QUEUES[..] } else { &[Queue::Free, Queue::Closing] };
            for queue in queues {
                grounds.entry(ground(&job, &act, *queue)).or_default().push((act.clone(), *queue));
            }
        }
        for (ground, pairs) in grounds {
            sqlx::raw_sql(AssertSqlSafe(ground)).execute(&mut maker).await.unwrap();
            let before = read(&mut conn).await;
            for (act, queue) in pairs {
                let count = counts.entry(act.name()).or_default();
                match pair(&mut conn, &before, &job, &act, queue).await {
                    Ok(true) => count.0 += 1,
                    Ok(false) => count.1 += 1,
                    Err(difference) => differences.push(difference),
                }
            }
        }
    }
    (counts, differences)
}

#[tokio::test]
async fn every_statement_does_what_the_model_says() {
    // Three databases: the pairs of one run one after another, all on the same run.
    let mut shares: [Vec<Job>; 3] = Default::default();
    for (n, job) in every_kind_of_row().into_iter().enumerate() {
        shares[n % 3].push(job);
    }
    let tasks: Vec<_> = shares.into_iter().map(|jobs| tokio::spawn(every_pair(jobs))).collect();
    let (mut counts, mut differences) = (Counts::new(), Vec::new());
    for task in tasks {
        let (some, differ) = task.await.unwrap();
        differences.extend(differ);
        for (act, (did, did_not)) in some {
            let count = counts.entry(act).or_default();
            *count = (count.0 + did, count.1 + did_not);
        }
    }
    let n = differences.len();
    differences.truncate(8);
    assert!(n == 0, "{n} pairs differ, such as\n{}", differences.concat());
    for (act, (did, did_not)) in &counts {
        assert!((*did > 0 || act == "StageEarly") && *did_not > 0, "{act}: {did} times with effect, {did_not} without");
    }
    println!("{} pairs; with effect, without: {counts:?}", counts.values().map(|c| c.0 + c.1).sum::<usize>());
}

#[tokio::test]
async fn an_insert_begins_as_the_model_says() {
    let mut conn = scene(&Db::new().await).await;
    for queue in QUEUES {
        for (ahead, run_at) in
            [(false, "NULL"), (false, "now() - interval '1 hour'"), (true, "now() + interval '1 hour'")]
        {
            // What only the engine may write is ignored.
            let insert = format!(
                "BEGIN; SET LOCAL session_replication_role = replica; {} SET LOCAL session_replication_role = origin;
                 INSERT INTO stepd.jobs (workflow, queue, run_at, epoch, state, lane, crashes)
                    VALUES ('w', 'q', {run_at}, 7, 'paused', 3, 9)",
                queue.setting()
            );
            sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut conn).await.unwrap();
            let seen = read(&mut conn).await.row;
            sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.unwrap();
            assert_eq!(seen, Row::Live(first(ahead, queue.limited())), "run_at {run_at} in a queue that is {queue:?}");
        }
    }
}

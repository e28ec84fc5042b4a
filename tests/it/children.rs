//! Child runs: waited for, fanned out to, detached; whoever dies on the way.

use std::time::Duration;

use sqlx::Connection as _;

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const PARENT: &str = r#"
name: parent
resume: never
steps:
  - id: child
    workflow: child
    input: {n: "${{ input.n }}", fail: "${{ input.fail | default(false) }}", hold: "${{ input.hold | default(false) }}"}
  - {id: after, set: "${{ steps.child.output + 1 }}"}
output: steps.after.output
"#;

const CHILD: &str = r#"
name: child
resume: never
steps:
  - {id: hold, if: input.hold, wait: go}
  - id: work
    run: echo "$STEPD_RUN_ID" >> @DIR@/effects; echo $((N * 10)); test "$FAIL" = false
    env: {N: "${{ input.n }}", FAIL: "${{ input.fail }}"}
    retry: {max_attempts: 1}
output: steps.work.output
"#;

async fn child_of(db: &Db, run: &str) -> String {
    let child = format!(
        "SELECT coalesce((SELECT child::text FROM stepd.steps WHERE run = '{run}' AND child IS NOT NULL LIMIT 1), '')"
    );
    wait_until("the child is there", SOON, async || !db.one::<String>(&*child).await.is_empty()).await;
    db.one(child).await
}

async fn ground() -> (Db, Files) {
    (Db::new().await, Files::new([PARENT, CHILD]))
}

#[tokio::test]
async fn a_parent_waits_for_its_child_holding_nothing_and_takes_its_output() {
    let (db, files) = ground().await;
    let _worker = Spec::new(&db, &files).concurrency(1).ready().await;
    let run = db.enqueue("parent", r#"{"n": 4, "hold": true}"#).await;
    let child = child_of(&db, &run).await;
    db.reaches(&run, "waiting", SOON).await;
    db.reaches(&child, "waiting", SOON).await;
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    assert!(why.contains(&format!("child run {child} of workflow child at child")), "{why}");
    assert_eq!(db.one::<String>(format!("SELECT parent::text FROM stepd.runs WHERE id = '{child}'")).await, run);
    assert!(stepd(&db, &["show", &child]).await.is(0).out.contains(&run));
    assert!(stepd(&db, &["show", &run]).await.is(0).out.contains(&child));
    db.exec("SELECT stepd.emit('go')").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "41");
}

#[tokio::test]
async fn a_child_that_fails_fails_the_step_and_both_can_be_taken_up_again() {
    let (db, files) = ground().await;
    files.write("w1.yaml", &CHILD.replace("test \"$FAIL\" = false", "test -e @DIR@/there"));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("parent", r#"{"n": 1}"#).await;
    db.reaches(&run, "failed", SOON).await;
    let child = child_of(&db, &run).await;
    let message: String =
        db.one(format!("SELECT error_code || ' ' || error_message FROM stepd.runs WHERE id = '{run}'")).await;
    assert!(
        message.starts_with(&format!("child_failed child run {child} of workflow child failed: exit_1")),
        "{message}"
    );
    // The step alone: another child.
    db.exec(format!("SELECT stepd.retry('{run}')")).await;
    wait_until("another child has failed", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'child' AND state = 'failed'").await == 2
    })
    .await;
    db.reaches(&run, "failed", SOON).await;
    // The child first: its result counts.
    std::fs::write(files.path("there"), "").unwrap();
    let second = child_of(&db, &run).await;
    assert_ne!(second, child);
    db.exec(format!("SELECT stepd.retry('{second}')")).await;
    db.reaches(&second, "completed", SOON).await;
    db.exec(format!("SELECT stepd.retry('{run}')")).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "11");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'child'").await, 2);
}

#[tokio::test]
async fn a_cancel_of_the_parent_reaches_its_children_and_theirs() {
    let (db, files) = (Db::new().await, Files::new([PARENT, CHILD]));
    files.write(
        "grand.yaml",
        "name: grand\nresume: never\nsteps: [{id: p, workflow: parent, input: {n: 1, hold: true}}]\n",
    );
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("grand", "{}").await;
    let parent = child_of(&db, &run).await;
    let child = child_of(&db, &parent).await;
    for run in [&run, &parent, &child] {
        db.reaches(run, "waiting", SOON).await;
    }
    assert_eq!(db.one::<String>(format!("SELECT stepd.cancel('{run}')")).await, "cancelled");
    for run in [&parent, &child] {
        db.reaches(run, "cancelled", SOON).await;
    }
    // A child that somebody cancels by itself fails the step that waits for it.
    let run = db.enqueue("parent", r#"{"n": 1, "hold": true}"#).await;
    let child = child_of(&db, &run).await;
    db.reaches(&child, "waiting", SOON).await;
    db.exec(format!("SELECT stepd.cancel('{child}')")).await;
    db.reaches(&run, "failed", SOON).await;
    let message: String = db.one(format!("SELECT error_message FROM stepd.runs WHERE id = '{run}'")).await;
    assert!(message.ends_with("was cancelled"), "{message}");
}

#[tokio::test]
async fn a_running_child_is_cancelled_with_a_parent_that_ends_without_it() {
    let slow = CHILD.replace("test \"$FAIL\" = false", "sleep 600");
    let (db, files) =
        (Db::new().await, Files::new([PARENT.replace("workflow: child", "workflow: child\n    timeout: 1s"), slow]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("parent", r#"{"n": 1}"#).await;
    let child = child_of(&db, &run).await;
    db.reaches(&run, "failed", SOON).await;
    db.reaches(&child, "cancelled", SOON).await;
    assert_eq!(db.one::<String>(format!("SELECT error_code FROM stepd.runs WHERE id = '{run}'")).await, "timeout");
    // Cancelled while it is at work elsewhere.
    let run = db.enqueue("parent", r#"{"n": 1, "hold": true}"#).await;
    let child = child_of(&db, &run).await;
    db.reaches(&child, "waiting", SOON).await;
    db.exec(format!("SELECT stepd.signal('{child}', 'go')")).await;
    db.step_reaches(&child, "work", "running", SOON).await;
    if db.state(&run).await == "waiting" {
        db.exec(format!("SELECT stepd.cancel('{run}')")).await;
    }
    db.reaches(&child, "cancelled", SOON).await;
}

#[tokio::test]
async fn a_map_fans_out_to_children_and_a_detached_one_goes_its_own_way() {
    let fan = r#"
name: fan
resume: never
steps:
  - id: all
    map: ${{ range(30) | list }}
    max_parallel: 10
    steps: [{id: one, workflow: child, input: {n: "${{ item }}", fail: false, hold: false}}]
  - {id: apart, workflow: child, input: {n: 1, fail: false, hold: true}, detached: true}
output: "[steps.all.output | sum, steps.apart.output.run]"
"#;
    let (db, files) = (Db::new().await, Files::new([fan, CHILD]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("fan", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.one::<String>(format!("SELECT output ->> 0 FROM stepd.runs WHERE id = '{run}'")).await, "4350");
    let apart: String = db.one(format!("SELECT output ->> 1 FROM stepd.runs WHERE id = '{run}'")).await;
    db.reaches(&apart, "waiting", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'child'").await, 31);
    assert_eq!(db.one::<String>(format!("SELECT parent::text FROM stepd.runs WHERE id = '{apart}'")).await, run);
}

#[tokio::test]
async fn a_child_that_is_not_known_or_stands_too_deep_fails_the_step_for_good() {
    let (db, files) =
        (Db::new().await, Files::new([PARENT.replace("workflow: child", "workflow: childs"), CHILD.to_owned()]));
    files.write("self.yaml", "name: self\nresume: never\nsteps: [{id: again, workflow: self}]\n");
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("parent", r#"{"n": 1}"#).await;
    db.reaches(&run, "failed", SOON).await;
    let message: String =
        db.one(format!("SELECT error_code || ': ' || error_message FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(message, "unknown_workflow: there is no workflow `childs` to be the child; did you mean \"child\"?");
    let run = db.enqueue("self", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'self'").await, 21);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE error_code = 'too_deep'").await, 1);
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs").await, 0);
}

#[tokio::test]
async fn a_child_that_cannot_be_keeps_none_of_those_that_are_started_with_it() {
    let step = |n: u32| {
        let workflow = if n == 7 { "nobody" } else { "leaf" };
        format!("  - {{id: s{n}, needs: [], workflow: {workflow}, on_error: continue}}\n")
    };
    let all = format!("name: all\nsteps:\n{}", (0..12).map(step).collect::<String>());
    let (db, files) = (Db::new().await, Files::new([&*all, "name: leaf\nsteps: [{id: a, set: 1}]\n"]));
    let _worker = Spec::new(&db, &files).ready().await;
    // Which of them go together is left to chance.
    for _ in 0..8 {
        let run = db.enqueue("all", "{}").await;
        db.reaches(&run, "completed", SOON).await;
        let failed = format!("SELECT string_agg(key, ' ') FROM stepd.steps WHERE run = '{run}' AND state = 'failed'");
        assert_eq!(db.one::<String>(failed).await, "s7");
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn killed_anywhere_between_a_child_and_its_parent_there_is_one_child_and_its_end_is_heard_of() {
    let (db, files) = ground().await;
    for point in
        ["children.after_spawn", "children.before_tell", "settle.before", "writer.before_commit", "writer.after_commit"]
    {
        for n in 1..=6 {
            let mut doomed = Spec::new(&db, &files).failpoints(&format!("{point}={n}:kill")).start();
            doomed.logs("\"ready\"").await;
            let run = db.enqueue("parent", r#"{"n": 7}"#).await;
            wait_until("it dies, or the run ends", SOON, async || {
                !doomed.is_running() || db.state(&run).await == "completed"
            })
            .await;
            let died = !doomed.is_running();
            if died {
                let mut heir = Spec::new(&db, &files).ready().await;
                db.reaches(&run, "completed", SOON).await;
                assert_eq!(heir.drain(SOON).await, Some(0));
            } else {
                doomed.kill9();
            }
            let at = format!("killed at {point} number {n}");
            assert_eq!(db.output(&run).await, "71", "{at}");
            let children = format!("SELECT count(*) FROM stepd.runs WHERE parent = '{run}'");
            assert_eq!(db.count(children).await, 1, "{at}");
            if !died {
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_a_waiting_parent_has_not_heard_of_yet_is_not_pruned_and_the_sweep_tells_it() {
    let (db, files) = ground().await;
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("parent", r#"{"n": 7, "hold": true}"#).await;
    let child = child_of(&db, &run).await;
    db.reaches(&run, "waiting", SOON).await;
    db.reaches(&child, "waiting", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    // The child has ended, long ago, and nobody has told its parent.
    db.exec(format!(
        "WITH gone AS (DELETE FROM stepd.jobs WHERE id = '{child}' RETURNING *)
         INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, output)
             SELECT id, 'completed', epoch, priority, resumes, crashes, ready_at, started_at, now() - interval '1 year', workflow, queue, input, labels, '70' FROM gone"
    ))
    .await;
    let pruned = stepd(&db, &["prune", "--older-than", "1ms", "--yes"]).await;
    assert_eq!(db.state(&child).await, "completed", "{}{}", pruned.out, pruned.err);
    let mut worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "71");
    worker.logs("mended lost wake-ups").await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn children_that_nobody_waits_for_are_cancelled_though_the_worker_died_before_it_could_say_so() {
    let (db, files) = (
        Db::new().await,
        Files::new([PARENT.replace("resume: never", "resume: never\ntimeout: 1s"), CHILD.to_owned()]),
    );
    let mut doomed = Spec::new(&db, &files).failpoints("children.before_abandon=1:kill").ready().await;
    let run = db.enqueue("parent", r#"{"n": 7, "hold": true}"#).await;
    let child = child_of(&db, &run).await;
    doomed.ends(SOON).await;
    assert_eq!((db.state(&run).await.as_str(), db.state(&child).await.as_str()), ("failed", "waiting"));
    let _heir = Spec::new(&db, &files).ready().await;
    db.reaches(&child, "cancelled", SOON).await;
}

#[tokio::test]
async fn a_child_in_one_branch_ends_while_another_branch_works() {
    let text = r#"
name: both
resume: never
steps:
  - {id: busy, run: 'while ! test -e @DIR@/go; do sleep 0.05; done', needs: []}
  - {id: child, workflow: child, input: {n: 2, fail: false, hold: false}, needs: []}
  - {id: then, run: 'touch @DIR@/go', needs: [child]}
"#;
    let (db, files) = (Db::new().await, Files::new([text, CHILD]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("both", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    holds_for("one child", std::time::Duration::from_millis(100), async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'child'").await == 1
    })
    .await;
}

#[tokio::test]
async fn a_parent_of_many_children_is_not_woken_for_each_of_them() {
    let fan = r#"
name: fan
steps:
  - id: all
    map: ${{ range(150) | list }}
    max_parallel: 150
    steps: [{id: one, workflow: leaf, input: {n: "${{ item }}"}}]
output: steps.all.output | sum
"#;
    let leaf = "name: leaf\nsteps: [{id: w, sleep: 1s}, {id: a, set: \"${{ input.n }}\"}]\noutput: steps.a.output\n";
    let (db, files) = (Db::new().await, Files::new([fan, leaf]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("fan", "{}").await;
    db.reaches(&run, "completed", SOON * 2).await;
    assert_eq!(db.output(&run).await, "11175");
    // With each claim its whole journal is loaded.
    let claims = db.count(format!("SELECT epoch::bigint FROM stepd.runs WHERE id = '{run}'")).await;
    assert!(claims < 75, "{claims} claims of a run with 150 children");
}

#[tokio::test]
async fn a_child_whose_unique_key_is_taken_says_so_and_is_tried_again_until_it_is_free() {
    let child = format!("unique: {{key: input.n, while: active}}\n{}", CHILD.trim_start());
    let patient = PARENT.replace("resume: never", "resume: {max_attempts: 100, initial: 200ms, max: 200ms}");
    let (db, files) = (Db::new().await, Files::new([&*patient, &child]));
    let _worker = Spec::new(&db, &files).ready().await;
    let holder = db.enqueue("child", r#"{"n": 7, "fail": false, "hold": true}"#).await;
    db.reaches(&holder, "waiting", SOON).await;
    let run = db.enqueue("parent", r#"{"n": 7}"#).await;
    let failed = format!("SELECT count(*) FROM stepd.attempts WHERE run = '{run}' AND error_code = 'key_taken'");
    wait_until("it is told", SOON, async || db.count(&*failed).await > 0).await;
    let message: String = db
        .one(format!(
            "SELECT error_message FROM stepd.attempts WHERE run = '{run}' AND error_code = 'key_taken' LIMIT 1"
        ))
        .await;
    assert!(message.contains("(child, 7)"), "{message}");
    db.exec("SELECT stepd.emit('go')").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "71");
}

#[tokio::test]
async fn a_child_that_leaves_its_unique_key_behind_is_heard_of_like_any_other() {
    let child = format!("unique: {{key: input.n, while: forever}}\n{}", CHILD.trim_start());
    let (db, files) = (Db::new().await, Files::new([PARENT, &child]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("parent", r#"{"n": 7}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "71");
}

#[tokio::test]
async fn children_whose_unique_keys_are_in_somebody_s_open_transaction_keep_one_connection_at_most() {
    let child = format!("unique: {{key: input.n, while: active}}\n{}", CHILD.trim_start());
    let (db, files) = (Db::new().await, Files::new([PARENT, &child]));
    let _worker = Spec::new(&db, &files).ready().await;
    let mut somebody = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let take = "BEGIN; INSERT INTO stepd.jobs (workflow, input) SELECT 'child', jsonb_build_object('n', n, 'fail', false, 'hold', false) FROM generate_series(1, 12) n";
    sqlx::raw_sql(take).execute(&mut somebody).await.unwrap();
    db.exec("INSERT INTO stepd.jobs (workflow, input) SELECT 'parent', jsonb_build_object('n', n) FROM generate_series(1, 12) n").await;
    let behind =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_until("a child waits for its key", SOON, async || db.count(behind).await > 0).await;
    holds_for("the others wait without a connection", Duration::from_secs(3), async || db.count(behind).await <= 1)
        .await;
    sqlx::raw_sql("ROLLBACK").execute(&mut somebody).await.unwrap();
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'parent' AND state = 'completed'").await, 12);
}

#[tokio::test]
async fn what_a_run_does_at_its_end_keeps_its_children_however_late_the_others_are_let_go() {
    let saga = r#"
name: saga
resume: never
steps:
  - {id: first, needs: [], workflow: child, input: {n: 1, fail: false, hold: true}}
  - {id: until, needs: [], wait: fail}
  - {id: broken, needs: [until], run: "false", retry: {max_attempts: 1}}
on_failure:
  - {id: mended, workflow: child, input: {n: 2, fail: false, hold: true}}
"#;
    let (db, files) = (Db::new().await, Files::new([saga, CHILD]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("saga", "{}").await;
    let first = child_of(&db, &run).await;
    db.reaches(&first, "waiting", SOON).await;
    let mut somebody = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let hold = format!("BEGIN; SELECT FROM stepd_engine.children WHERE child = '{first}' FOR UPDATE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut somebody).await.unwrap();
    db.exec("SELECT stepd.emit('fail')").await;
    let second = format!("SELECT count(*) FROM stepd.runs WHERE parent = '{run}' AND id <> '{first}'");
    wait_until("what is done at the end has a child", SOON, async || db.count(&*second).await == 1).await;
    let behind =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_until("the other is about to be let go", SOON, async || db.count(behind).await > 0).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut somebody).await.unwrap();
    db.reaches(&first, "cancelled", SOON).await;
    let second: String =
        db.one(format!("SELECT id::text FROM stepd.runs WHERE parent = '{run}' AND id <> '{first}'")).await;
    db.reaches(&second, "waiting", SOON).await;
    db.exec("SELECT stepd.emit('go')").await;
    db.reaches(&second, "completed", SOON).await;
    db.reaches(&run, "failed", SOON).await;
}

//! The daemon is killed at every point at which something becomes durable, just before and just after.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, wait_until};

/// Twenty steps, each one more than the one before: `set`, a process with an effect, `sql` with an effect, in turn.
fn twenty() -> String {
    let mut text = "name: twenty\nresume: never\nsteps:\n".to_owned();
    for n in 1..=20 {
        let before = if n == 1 { "input.n".to_owned() } else { format!("steps.s{}.output.n", n - 1) };
        let _ = match n % 4 {
            1 => writeln!(text, "  - id: s{n}\n    set: {{n: \"${{{{ {before} + 1 }}}}\"}}"),
            3 => writeln!(
                text,
                "  - id: s{n}\n    sql: INSERT INTO effects (run, step) VALUES ($1, $2) RETURNING $3::int + 1 AS n\n    \
                 params: [\"${{{{ run.id }}}}\", \"${{{{ step.key }}}}\", \"${{{{ {before} }}}}\"]\n    output: rows[0]"
            ),
            _ => writeln!(
                text,
                "  - id: s{n}\n    run: echo \"$STEPD_RUN_ID $STEPD_STEP_KEY $STEPD_EPOCH\" >> @DIR@/effects; \
                 echo \"{{\\\"n\\\": $((N + 1))}}\"\n    env: {{N: \"${{{{ {before} }}}}\"}}"
            ),
        };
    }
    text.push_str("output: steps.s20.output.n\n");
    text.replace("run: echo", "run: |\n      echo")
}

async fn ground() -> (Db, Files) {
    let (db, files) = (Db::new().await, Files::new([twenty()]));
    db.exec("CREATE TABLE effects (run text, step text)").await;
    (db, files)
}

/// Kills a worker at the n-th pass of the point while it runs a fresh run, and has another finish the run. False when the run
/// ended without passing the point that often.
async fn killed_at(db: &Db, files: &Files, point: &str, n: usize) -> bool {
    let mut doomed = Spec::new(db, files).failpoints(&format!("{point}={n}:kill")).start();
    doomed.logs("\"ready\"").await;
    let run = db.enqueue("twenty", r#"{"n": 0}"#).await;
    wait_until("the worker dies, or the run ends", SOON, async || {
        !doomed.is_running() || db.state(&run).await == "completed"
    })
    .await;
    let died = !doomed.is_running();
    if died {
        let mut heir = Spec::new(db, files).ready().await;
        db.reaches(&run, "completed", SOON).await;
        assert_eq!(heir.drain(SOON).await, Some(0));
    } else {
        doomed.kill9();
    }
    let at = format!("killed at {point} number {n}");
    check(db, files, &run, &at).await;
    died
}

/// What must hold of a finished run, wherever its worker died.
async fn check(db: &Db, files: &Files, run: &str, at: &str) {
    assert_eq!(db.output(run).await, "20", "{at}");
    let doubled: Vec<String> =
        db.all(format!("SELECT step FROM effects WHERE run = '{run}' GROUP BY step HAVING count(*) <> 1")).await;
    assert!(doubled.is_empty(), "{at}: sql effects not exactly once: {doubled:?}");
    assert_eq!(db.count(format!("SELECT count(*) FROM effects WHERE run = '{run}'")).await, 5, "{at}: sql effects");
    let checkpoints: BTreeMap<String, i32> = db
        .all::<String>(format!("SELECT key || ' ' || epoch FROM stepd.steps WHERE run = '{run}' AND checkpoint"))
        .await
        .into_iter()
        .map(|line| line.split_once(' ').map(|(key, epoch)| (key.to_owned(), epoch.parse().unwrap())).unwrap())
        .collect();
    assert_eq!(checkpoints.len(), 20, "{at}: {checkpoints:?}");
    let mut repeated = 0;
    let mut seen = BTreeMap::<String, usize>::new();
    for line in files.lines("effects").iter().filter(|l| l.starts_with(run)) {
        let words: Vec<&str> = line.split(' ').collect();
        let (step, epoch) = (words[1], words[2].parse::<i32>().unwrap());
        assert!(epoch <= checkpoints[step], "{at}: {step} ran again under epoch {epoch}, though it was finished");
        let times = seen.entry(step.to_owned()).or_default();
        *times += 1;
        repeated += usize::from(*times > 1);
    }
    assert_eq!(seen.len(), 10, "{at}: {seen:?}");
    assert!(repeated <= 1, "{at}: more than the one step in flight was repeated: {seen:?}");
}

async fn at_every(point: &str, at_least: usize) {
    let (db, files) = ground().await;
    let mut n = 0;
    while killed_at(&db, &files, point, n + 1).await {
        n += 1;
    }
    assert!(n >= at_least, "{point} was passed only {n} times");
    eprintln!("{point}: killed at each of {n} passes");
    assert_eq!(db.events("crash_loop").await, 0);
}

#[tokio::test]
async fn killed_before_any_commit_of_the_writer_a_run_ends_the_same() {
    at_every("writer.before_commit", 15).await;
}

#[tokio::test]
async fn killed_after_any_commit_of_the_writer_a_run_ends_the_same() {
    at_every("writer.after_commit", 15).await;
}

#[tokio::test]
async fn killed_before_or_after_the_commit_of_a_sql_step_its_effect_is_there_once() {
    at_every("sql.before_commit", 5).await;
    at_every("sql.after_commit", 5).await;
}

#[tokio::test]
async fn killed_around_a_claim_the_run_is_claimed_again_and_no_crash_is_counted() {
    let (db, files) = ground().await;
    assert!(killed_at(&db, &files, "claimer.before_claim", 1).await);
    assert!(killed_at(&db, &files, "claimer.after_claim", 1).await);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE crashes > 0").await, 0);
    assert_eq!(db.events("crashed").await, 0);
}

#[tokio::test]
async fn killed_around_a_take_over_another_sweeper_finishes_it() {
    let (db, files) = ground().await;
    for point in ["sweeper.before_take_over", "sweeper.after_take_over"] {
        let mut first = Spec::new(&db, &files).failpoints("writer.after_commit=6:kill").ready().await;
        let run = db.enqueue("twenty", r#"{"n": 0}"#).await;
        first.ends(SOON).await;
        let mut sweeper = Spec::new(&db, &files).failpoints(&format!("{point}=1:kill")).start();
        sweeper.ends(SOON).await;
        let mut third = Spec::new(&db, &files).ready().await;
        db.reaches(&run, "completed", SOON).await;
        check(&db, &files, &run, point).await;
        assert_eq!(third.drain(Duration::from_secs(10)).await, Some(0));
    }
}

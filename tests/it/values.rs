//! Values go through unharmed: what an application puts in comes out, whatever JSON it is.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::support::{Db, Files, SOON, Spec};

const ECHO: &str = "
name: echo
steps:
  - id: same
    set: ${{ input }}
  - id: again
    set: {a: [\"${{ steps.same.output }}\"]}
output: steps.again.output.a[0]
";

/// A NUL in the output of a program: no jsonb can hold it, the checkpoint can.
const NUL: &str = r#"
name: nul
steps:
  - id: bytes
    run: printf 'a\000b'
  - id: rest
    set: {text: "${{ steps.bytes.output }}"}
"#;

fn any_json() -> impl Strategy<Value = Value> {
    let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::sample::select(vec![
            "123456789012345678901234567890.5",
            "-0.000000000000000000000000000001",
            "1e300",
            "98765432109876543210"
        ])
        .prop_map(number),
        // Any text but NUL, which jsonb refuses.
        "[^\\x00]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[^\\x00]{0,6}", inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

#[tokio::test]
async fn any_json_comes_out_as_it_went_in() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let mut runner = TestRunner::deterministic();
    let values: Vec<String> =
        (0..300).map(|_| any_json().new_tree(&mut runner).unwrap().current().to_string()).collect();
    sqlx::query("INSERT INTO stepd.jobs (workflow, input) SELECT 'echo', i::jsonb FROM unnest($1::text[]) i")
        .bind(&values)
        .execute(&db.pool)
        .await
        .unwrap();
    super::support::wait_until("all have ended", SOON, async || db.count("SELECT count(*) FROM stepd.jobs").await == 0)
        .await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 300);
    let changed: Vec<String> =
        db.all("SELECT input::text || ' became ' || output::text FROM stepd.runs WHERE output::jsonb IS DISTINCT FROM input").await;
    assert!(changed.is_empty(), "{changed:#?}");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn numbers_that_no_double_holds_fail_nothing() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("echo", r#"{"huge": 1e400, "tiny": 1e-400, "long": 123456789012345678901234567890.5}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert!(db.one::<bool>(format!("SELECT output::jsonb = input FROM stepd.runs WHERE id = '{run}'")).await);
    drop(worker);
}

#[tokio::test]
async fn a_nul_byte_survives_in_outputs_and_is_refused_in_inputs_by_postgres() {
    let (db, files) = (Db::new().await, Files::new([NUL]));
    let worker = Spec::new(&db, &files).ready().await;
    let refused = sqlx::query(r#"INSERT INTO stepd.jobs (workflow, input) VALUES ('nul', '{"a": "\u0000"}')"#)
        .execute(&db.pool)
        .await;
    assert!(refused.unwrap_err().to_string().contains("unsupported Unicode escape sequence"));
    let run = db.enqueue("nul", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, r#"{"bytes":"a\u0000b","rest":{"text":"a\u0000b"}}"#);
    // And everything that people look at still works.
    assert_eq!(db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}'")).await, 2);
    assert!(db.count(format!("SELECT count(*) FROM stepd.history WHERE run = '{run}'")).await > 4);
    drop(worker);
}

#[tokio::test]
async fn a_value_nested_too_deep_fails_its_own_job_alone() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let worker = Spec::new(&db, &files).ready().await;
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let bad = db.enqueue("echo", &deep).await;
    let good = db.enqueue("echo", "[1]").await;
    db.reaches(&good, "completed", SOON).await;
    db.reaches(&bad, "failed", SOON).await;
    assert!(
        db.one::<String>(format!("SELECT error_message FROM stepd.runs WHERE id = '{bad}'"))
            .await
            .contains("nested deeper than 127 levels")
    );
    drop(worker);
}

const LARGE: &str = r#"
name: large
steps:
  - {id: size, set: "${{ input.s | length }}"}
  - {id: hold, run: 'echo >> @DIR@/held; until test -e @DIR@/go; do sleep 0.05; done'}
  - {id: same, set: "${{ input }}"}
output: steps.same.output
"#;

#[tokio::test]
async fn a_large_input_does_not_come_with_its_claim_and_reaches_its_run_also_after_a_kill() {
    let (db, files) = (Db::new().await, Files::new([LARGE]));
    let mut first = Spec::new(&db, &files).ready().await;
    // What compression makes no smaller: five megabytes, and what is just small enough, and just too large, to come along.
    for bytes in [4_000, 5_000, 5_000_000] {
        db.exec(format!(
            "INSERT INTO stepd.jobs (workflow, input) SELECT 'large', jsonb_build_object('s', left(string_agg(md5(i::text), ''), {bytes}))
             FROM generate_series(1, {bytes} / 32 + 1) i"
        ))
        .await;
    }
    super::support::wait_until("all three are at work", SOON, async || files.lines("held").len() == 3).await;
    let apart = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stepd records' AND datname = current_database()";
    assert!(
        db.count(apart).await > 0,
        "the large ones were read by their runs, on another connection than the claimer's"
    );
    let _second = Spec::new(&db, &files).ready().await;
    first.kill9();
    super::support::wait_until("all three are at work again", SOON, async || files.lines("held").len() == 6).await;
    std::fs::write(files.path("go"), "").unwrap();
    db.all_ended(SOON).await;
    let same = "SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND output::jsonb = input AND crashes = 1";
    assert_eq!(db.count(same).await, 3);
}

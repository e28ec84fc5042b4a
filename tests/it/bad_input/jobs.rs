//! Jobs that cannot be right: refused where they are written, or failed at their first claim.

use std::time::Duration;

use super::{ECHO, Transcript};
use crate::support::{Db, Files, SOON, Spec, holds_for};

const ORDER: &str = "
name: fulfil_order
input:
  required: [order]
  properties:
    order: {type: integer}
    lines: {type: array, items: {properties: {qty: {type: integer}}}}
steps:
  - id: note
    run: echo \"$STEPD_RUN_ID\" >> @DIR@/effects
";

#[tokio::test]
async fn an_unknown_workflow_is_refused_with_the_nearest_name_in_sql_and_by_the_commands() {
    let (db, files) = (Db::new().await, Files::new([ORDER]));
    let mut seen = Transcript::default();
    seen.line("Before any workflow has been loaded:");
    seen.sql(&db, "INSERT INTO stepd.jobs (workflow) VALUES ('fulfil_order')").await;
    let _worker = Spec::new(&db, &files).ready().await;
    seen.line("Then:");
    seen.sql(&db, "INSERT INTO stepd.jobs (workflow) VALUES ('fullfil_order')").await;
    seen.sql(&db, "SELECT stepd.enqueue('nothing like it')").await;
    seen.sql(&db, "INSERT INTO stepd.jobs (workflow) VALUES (NULL)").await;
    seen.stepd(&db, &["enqueue", "fullfil_order"]).await;
    seen.stepd(&db, &["run", "fullfil_order"]).await;
    let dir = files.workflows().display().to_string();
    seen.stepd(&db, &["run", &format!("{dir}/w1.yaml")]).await;
    insta::assert_snapshot!(seen.read(&[(&dir, "DIR")]));
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 0);
}

#[tokio::test]
async fn an_input_that_breaks_the_schema_fails_at_its_first_claim_for_good_and_is_refused_by_the_commands() {
    let (db, files) = (Db::new().await, Files::new([ORDER]));
    let _worker = Spec::new(&db, &files).ready().await;
    let wrong = r#"{"order": "seven", "lines": [{"qty": 1}, {"qty": "two"}]}"#;
    let run = db.enqueue("fulfil_order", wrong).await;
    db.reaches(&run, "failed", SOON).await;
    holds_for("it stays failed", Duration::from_secs(1), async || db.state(&run).await == "failed").await;
    assert_eq!(db.count("SELECT (resumes + epoch)::bigint FROM stepd.runs").await, 1, "one claim, no resume");
    assert!(files.lines("effects").is_empty());
    let mut seen = Transcript::default();
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    seen.line(why.split_once(" ago").map_or("", |(_, rest)| rest));
    seen.stepd(&db, &["enqueue", "fulfil_order", "--input", wrong]).await;
    seen.stepd(&db, &["enqueue", "fulfil_order"]).await;
    seen.stepd(&db, &["run", "fulfil_order", "--input", wrong]).await;
    insta::assert_snapshot!(seen.read(&[]));
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 1);
}

#[tokio::test]
async fn a_column_that_cannot_be_right_is_refused_by_a_constraint_whose_name_says_what_is() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let _worker = Spec::new(&db, &files).ready().await;
    let mut seen = Transcript::default();
    for values in [
        "run_at) VALUES ('echo', 'infinity')",
        "run_at) VALUES ('echo', '-infinity')",
        "run_at) VALUES ('echo', '294276-12-31')",
        "run_at) VALUES ('echo', '262143-12-31')",
        "run_at) VALUES ('echo', '1969-12-31')",
        "queue) VALUES ('echo', '')",
        "queue) VALUES ('echo', repeat('q', 201))",
        "priority) VALUES ('echo', 10)",
        "labels) VALUES ('echo', '[1]')",
        "labels) VALUES ('echo', jsonb_build_object('l', repeat('x', 9000)))",
        "unique_key) VALUES ('echo', repeat('k', 1001))",
        "concurrency_key) VALUES ('echo', repeat('k', 1001))",
        "traceparent) VALUES ('echo', repeat('t', 201))",
        "session_id) VALUES ('echo', repeat('s', 201))",
        "session_id) VALUES ('echo', '')",
    ] {
        seen.sql(&db, &format!("INSERT INTO stepd.jobs (workflow, {values}")).await;
    }
    seen.sql(&db, "SELECT stepd.enqueue('echo', run_at => 'infinity')").await;
    seen.stepd(&db, &["enqueue", "echo", "--run-at", "9999-01-01"]).await;
    seen.stepd(&db, &["enqueue", "echo", "--run-at", "infinity"]).await;
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    seen.sql(&db, "INSERT INTO stepd.jobs (workflow) VALUES (repeat('w', 201))").await;
    insta::assert_snapshot!(seen.read(&[]));
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 0);
}

#[tokio::test]
async fn hostile_names_are_names_and_run() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let names = [r#"'"`$(x);--"#, "a\nb\rc\t", "../../etc/passwd", "😀\u{202e}\u{1b}[2J", " ", "\\", "%s%n", "{}"];
    for name in names {
        let sql = "INSERT INTO stepd.jobs (workflow, queue, unique_key, concurrency_key, labels)
            VALUES ('echo', $1, $1, $1, jsonb_build_object($1, $1))";
        sqlx::query(sql).bind(name).execute(&db.pool).await.unwrap();
    }
    let long =
        "INSERT INTO stepd.jobs (workflow, queue, unique_key) VALUES ('echo', repeat('é', 200), repeat('😀', 1000))";
    db.exec(long).await;
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 9);
    for name in names {
        let found = crate::cli::stepd(&db, &["ls", "--queue", name, "-o", "id"]).await.is(0);
        assert_eq!(found.out.lines().count(), 1, "{name:?}");
        db.one::<String>(format!("SELECT stepd.why('{}')", found.line())).await;
    }
    // A pause of such a queue names it, and the statement that ends the pause can be run as it stands.
    sqlx::query("SELECT stepd.pause_queue($1)").bind(names[0]).execute(&db.pool).await.unwrap();
    let held = "INSERT INTO stepd.jobs (workflow, queue) VALUES ('echo', $1) RETURNING id::text";
    let run: String = sqlx::query_scalar(held).bind(names[0]).fetch_one(&db.pool).await.unwrap();
    let why: String = db.one(format!("SELECT stepd.why('{run}')")).await;
    let statement = why.split_once("; ").and_then(|(_, rest)| rest.strip_suffix(" lets it go on")).unwrap();
    db.exec(statement).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn numbers_and_nesting_at_the_edge_run_and_beyond_it_fail_alone() {
    let (db, files) = (Db::new().await, Files::new([ECHO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let numbers = ["1e400", "-1e400", "1e-400", "1e100000", "123456789012345678901234567890", "0.10", "1e131071"];
    let mut good = vec![nested(126), nested(127)];
    good.extend(numbers.iter().map(|n| format!(r#"{{"n": [{n}]}}"#)));
    let mut runs = Vec::new();
    for input in &good {
        runs.push(db.enqueue("echo", input).await);
    }
    for depth in [128, 129, 10_000] {
        let run = db.enqueue("echo", &nested(depth)).await;
        db.reaches(&run, "failed", SOON).await;
        let error = "SELECT error_code || ': ' || error_message FROM stepd.runs WHERE id = ";
        let told: String = db.one(format!("{error}'{run}'")).await;
        assert_eq!(told, "invalid_json: the JSON cannot be read: it is nested deeper than 127 levels");
    }
    for run in &runs {
        db.reaches(run, "completed", SOON).await;
    }
    let same = "SELECT count(*) FROM stepd.runs WHERE state = 'completed' AND output::jsonb = input";
    assert_eq!(db.count(same).await, i64::try_from(good.len()).unwrap());
    assert!(db.output(&runs[6]).await.contains("123456789012345678901234567890"), "digit for digit");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn an_input_is_refused_from_one_byte_beyond_sixteen_mebibytes_of_text_on() {
    let (db, files) = (Db::new().await, Files::new(["name: small\nsteps: [{id: s, set: 1}]\n"]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let most = 16 << 20;
    // {"s": "…"} is eleven bytes and a text.
    let of = |bytes: usize| {
        format!(
            "INSERT INTO stepd.jobs (workflow, input) VALUES ('small', jsonb_build_object('s', repeat('x', {})))",
            bytes - 9
        )
    };
    db.exec(of(most)).await;
    let mut seen = Transcript::default();
    seen.sql(&db, &of(most + 1)).await;
    // A million keys; and few bytes that become gigabytes of text for whoever reads them.
    let keys = "(SELECT jsonb_object_agg('key ' || g, g) FROM generate_series(1, 1000000) g)";
    seen.sql(&db, &format!("INSERT INTO stepd.jobs (workflow, input) VALUES ('small', {keys})")).await;
    let bomb = "(SELECT jsonb_agg('1e100000'::jsonb) FROM generate_series(1, 20000))";
    seen.sql(&db, &format!("INSERT INTO stepd.jobs (workflow, input) VALUES ('small', {bomb})")).await;
    // Compressed by the table that it comes from, it is smaller than it is.
    db.exec("CREATE TABLE app (input jsonb); INSERT INTO app SELECT jsonb_build_object('s', repeat('x', 20000000))")
        .await;
    seen.sql(&db, "INSERT INTO stepd.jobs (workflow, input) SELECT 'small', input FROM app").await;
    let waits = db.enqueue("small", "{}").await;
    db.reaches(&waits, "completed", SOON).await;
    seen.sql(&db, &format!("SELECT stepd.emit('paid', {bomb})")).await;
    seen.stepd(&db, &["enqueue", "small", "--input", "{}", "--label", &format!("l={}", "x".repeat(9_000))]).await;
    insta::assert_snapshot!(seen.read(&[(&"x".repeat(9_000), "…")]));
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, 2);
    db.exec("UPDATE stepd_engine.settings SET max_input_bytes = 2000").await;
    let refused = sqlx::query(
        "INSERT INTO stepd.jobs (workflow, input) VALUES ('small', jsonb_build_object('s', repeat('x', 2000)))",
    );
    assert!(refused.execute(&db.pool).await.unwrap_err().to_string().contains("at most 2000 are allowed"));
    assert_eq!(worker.drain(SOON).await, Some(0));
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Database;
use crate::model::{Class, Failure, SqlRequest, SqlResult};
use crate::postgres::{Options, PrivatePostgres};

fn request(sql: &str, params: Value) -> SqlRequest {
    SqlRequest { sql: sql.into(), params: params.as_array().unwrap().clone(), timeout: None }
}

fn server() -> (PrivatePostgres, Arc<Database>) {
    let server = PrivatePostgres::start(&Options { durable: false, ..Options::default() }).unwrap();
    let database = Database::new(server.options("postgres"), 4);
    (server, database)
}

async fn run(database: &Arc<Database>, sql: &str, params: Value) -> Result<SqlResult, Failure> {
    database.run_alone(request(sql, params), std::future::pending()).await
}

async fn one(database: &Arc<Database>, sql: &str, params: Value) -> Value {
    let result = run(database, sql, params).await.unwrap();
    assert_eq!(result.row_count, 1);
    Value::Object(result.rows.into_iter().next().unwrap())
}

#[tokio::test]
async fn values_go_in_by_the_parameters_types_and_rows_come_out_as_json() {
    let (_server, db) = server();
    let row = one(
        &db,
        "SELECT $1::int AS i, $2::numeric AS n, $3::bool AS b, $4::timestamptz AS t, $5::uuid AS u, $6::jsonb AS j,
                $7::text AS x, $8::int[] AS a, $9::text[] AS w, $10::jsonb[] AS ja, $11::date AS d, $12::bytea AS y, $13::float8 AS f",
        json!([7, "12345678901234567890.123456789", true, "2026-01-02T03:04:05+01:00", "0190f0c0-0000-7000-8000-000000000001",
            {"a": [1, null]}, "it's \\ \"q\"", [1, null, 3], ["a,b", "c\"d\\", null], [{"k": "v"}, "s", [1]], "2026-02-03", "\\x00ff", 0.1]),
    )
    .await;
    assert_eq!(
        row,
        json!({"i": 7, "n": serde_json::from_str::<Value>("12345678901234567890.123456789").unwrap(), "b": true, "t": "2026-01-02T02:04:05Z",
            "u": "0190f0c0-0000-7000-8000-000000000001", "j": {"a": [1, null]}, "x": "it's \\ \"q\"", "a": [1, null, 3],
            "w": ["a,b", "c\"d\\", null], "ja": [{"k": "v"}, "s", [1]], "d": "2026-02-03", "y": "\\x00ff", "f": 0.1})
    );
    let row = one(
        &db,
        "SELECT $1::jsonb AS s, $2::numeric AS n, $3::text AS t, 'NaN'::float8 AS nan",
        json!(["plain", 1.50, 7]),
    )
    .await;
    assert_eq!(row, json!({"s": "plain", "n": 1.5, "t": "7", "nan": "NaN"}));
    assert_eq!(
        one(&db, "SELECT $1::int AS i, ARRAY[[1,2],[3,4]] AS a", json!([null])).await,
        json!({"i": null, "a": [[1, 2], [3, 4]]})
    );
}

#[tokio::test]
async fn a_value_cannot_become_a_statement() {
    let (_server, db) = server();
    run(&db, "CREATE TABLE t (x text)", json!([])).await.unwrap();
    for evil in ["'); DROP TABLE t; --", "\\'); DROP TABLE t; --", "$$; DROP TABLE t; $$", "a'||(SELECT 'b')||'c"] {
        assert_eq!(one(&db, "INSERT INTO t VALUES ($1) RETURNING x", json!([evil])).await, json!({"x": evil}));
    }
    for two in ["SELECT 1; DROP TABLE t", "SELECT 1; SELECT 2"] {
        assert_eq!(run(&db, two, json!([])).await.unwrap_err().code, "sql_42601");
    }
    for end in ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT a", "-- x\nEND"] {
        assert_eq!(run(&db, end, json!([])).await.unwrap_err().code, "sql_42601", "{end}");
    }
    assert_eq!(one(&db, "SELECT count(*) FROM t", json!([])).await, json!({"count": 4}));
}

#[tokio::test]
async fn mistakes_are_named_by_the_server_and_nothing_of_them_is_kept() {
    let (_server, db) = server();
    run(&db, "CREATE TABLE t (x int PRIMARY KEY)", json!([])).await.unwrap();
    assert_eq!(run(&db, "INSERT INTO t SELECT generate_series(1, 3)", json!([])).await.unwrap().row_count, 3);
    for (sql, params, code) in [
        ("INSERT INTO t VALUES ($1)", json!([1]), "sql_23505"),
        ("INSERT INTO t VALUES ($1)", json!(["many"]), "sql_22P02"),
        ("SELECT * FROM nowhere", json!([]), "sql_42P01"),
        ("SELECT $1::int", json!([]), "invalid_params"),
        ("SELECT 1", json!([1]), "invalid_params"),
        ("SELECT $1::text", json!(["a\u{0}b"]), "not_storable"),
        ("SELECT 1 AS a, 2 AS a", json!([]), "invalid_params"),
        ("SELECT repeat('x', 1000000) FROM generate_series(1, 20)", json!([]), "too_large"),
        ("INSERT INTO t VALUES (9) RETURNING x AS a, x AS a", json!([]), "invalid_params"),
    ] {
        let failure = run(&db, sql, params).await.unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.class), (code, Class::Permanent), "{sql}: {failure}");
    }
    let failure = run(&db, "INSERT INTO t VALUES (1)", json!([])).await.unwrap_err();
    assert!(failure.message.contains("duplicate key") && failure.message.contains("detail: Key (x)=(1)"), "{failure}");
    assert_eq!(one(&db, "SELECT count(*) FROM t", json!([])).await, json!({"count": 3}));
    assert!(
        run(&db, "UPDATE t SET x = x WHERE x > $1", json!([1])).await.unwrap()
            == SqlResult { rows: vec![], row_count: 2 }
    );
}

#[tokio::test]
async fn a_failed_commit_hook_takes_the_effect_back() {
    let (_server, db) = server();
    run(&db, "CREATE TABLE t (x int)", json!([])).await.unwrap();
    let insert = request("INSERT INTO t VALUES ($1)", json!([1]));
    let refuse: super::Commit<()> =
        Box::new(|_, _| Box::pin(std::future::ready(Err(Failure::permanent("lease", "lost")))));
    assert_eq!(db.run(insert.clone(), std::future::pending(), refuse).await.unwrap_err().code, "lease");
    assert_eq!(one(&db, "SELECT count(*) FROM t", json!([])).await, json!({"count": 0}));
    let record: super::Commit<u64> = Box::new(|connection, result| {
        Box::pin(async move {
            sqlx::raw_sql("INSERT INTO t VALUES (2)").execute(connection).await.unwrap();
            Ok(result.row_count)
        })
    });
    assert_eq!(db.run(insert, std::future::pending(), record).await.unwrap(), 1);
    assert_eq!(one(&db, "SELECT sum(x) FROM t", json!([])).await, json!({"sum": 3}));
}

#[tokio::test]
async fn a_statement_ends_by_its_limit_by_a_stop_and_by_a_server_that_goes() {
    let (mut server, db) = server();
    let limited = SqlRequest { timeout: Some(Duration::from_millis(50)), ..request("SELECT pg_sleep(60)", json!([])) };
    let started = Instant::now();
    let failure = db.run_alone(limited, std::future::pending()).await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("timeout", Class::Transient));
    for micros in (0..3000).step_by(150) {
        let stop = tokio::time::sleep(Duration::from_micros(micros));
        let failure = db.run_alone(request("SELECT pg_sleep(60)", json!([])), stop).await.unwrap_err();
        assert_eq!(failure.code, "timeout");
    }
    assert!(started.elapsed() < Duration::from_secs(50));
    assert!(run(&db, "SELECT 1", json!([])).await.is_ok());
    let pid = one(&db, "SELECT pg_backend_pid() AS pid", json!([])).await["pid"].as_i64().unwrap();
    server.stop(crate::postgres::StopMode::Immediate);
    let failure = run(&db, "SELECT 1", json!([])).await.unwrap_err();
    assert_eq!(failure.class, Class::Transient, "{failure}");
    server.start_again().unwrap();
    assert_ne!(one(&db, "SELECT pg_backend_pid() AS pid", json!([])).await["pid"], json!(pid));
}

#[tokio::test]
async fn a_dropped_caller_leaves_no_transaction_half_done() {
    let (_server, db) = server();
    run(&db, "CREATE TABLE t (x int)", json!([])).await.unwrap();
    for n in 0..50 {
        let slow = run(&db, "INSERT INTO t SELECT $1 FROM pg_sleep(0.001)", json!([n]));
        let _ = tokio::time::timeout(Duration::from_micros(40 * n), slow).await;
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    while one(&db, "SELECT count(*) FROM t", json!([])).await["count"].as_i64().unwrap() < 50 {
        // A caller dropped before its first poll has started nothing.
        if Instant::now() > deadline {
            break;
        }
        tokio::task::yield_now().await;
    }
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    assert_eq!(one(&db, open, json!([])).await, json!({"count": 0}));
}

#[tokio::test]
async fn statements_that_cannot_be_prepared_run_too() {
    let (_server, db) = server();
    for sql in [
        "/* made */ CREATE TABLE t AS SELECT 1 AS x",
        "CREATE MATERIALIZED VIEW v AS SELECT * FROM t",
        "REFRESH MATERIALIZED VIEW v",
        "CREATE PROCEDURE p() LANGUAGE sql AS 'INSERT INTO t VALUES (2)'",
        "CALL p()",
        "DO $$ BEGIN INSERT INTO t VALUES (3); END $$",
    ] {
        run(&db, sql, json!([])).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    assert!(run(&db, "DO $$ BEGIN COMMIT; END $$", json!([])).await.unwrap_err().code.starts_with("sql_2D"));
    assert_eq!(
        one(&db, "SELECT sum(x), array_agg(x) FROM t", json!([])).await,
        json!({"sum": 6, "array_agg": [1, 2, 3]})
    );
}

#[tokio::test]
async fn a_statement_leaves_nothing_in_the_session_for_the_next() {
    let (_server, db) = server();
    let pid = one(&db, "SELECT pg_backend_pid() AS pid", json!([])).await;
    for sql in [
        "SELECT set_config('datestyle', 'German', false), set_config('standard_conforming_strings', 'off', false) AS s",
        "SELECT set_config('role', 'pg_monitor', false)",
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMPORARY TABLE mine (x int)",
    ] {
        run(&db, sql, json!([])).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let row = one(
        &db,
        "SELECT pg_backend_pid() AS pid, current_user::text AS u, to_regclass('mine')::text AS t, $1::text AS x,
                now()::date::text ~ '^[0-9]{4}-' AS iso, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS l",
        json!(["\\'"]),
    )
    .await;
    assert_eq!(row, json!({"pid": pid["pid"], "u": "postgres", "t": null, "x": "\\'", "iso": true, "l": 0}));
}

//! What a lost wake-up leaves behind is mended by the sweep.

use sqlx::Connection as _;

use crate::support::{Db, Files, SOON, Spec, wait_until};

const WAITING: &str = "
name: waiting
resume: never
steps:
  - id: paid
    wait: paid
  - id: result
    set: {got: \"${{ steps.paid.output }}\"}
output: steps.result.output
";

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_waiting_run_whose_step_has_been_answered_is_brought_back_by_the_sweep() {
    let (db, files) = (Db::new().await, Files::new([WAITING]));
    // Dead before its own look after the suspend, which would find the answer.
    let mut worker = Spec::new(&db, &files).failpoints("settle.before=1:kill").ready().await;
    let run = db.enqueue("waiting", "{}").await;
    worker.ends(SOON).await;
    assert_eq!(db.state(&run).await, "waiting");
    // The answer of which nobody was told.
    db.exec(format!(
        "UPDATE stepd_engine.checkpoints SET state = 'completed', checkpoint = true, output = '{{\"n\": 9}}', ended_at = now() WHERE run = '{run}'"
    ))
    .await;
    let mut worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert!(db.output(&run).await.contains('9'));
    worker.logs("mended lost wake-ups").await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_event_older_than_its_wait_is_received_though_the_worker_died_before_it_could_look() {
    let (db, files) = (Db::new().await, Files::new([WAITING]));
    let mut worker = Spec::new(&db, &files).failpoints("settle.before=1:kill").ready().await;
    db.exec(r#"SELECT stepd.emit('paid', '{"n": 3}')"#).await;
    let run = db.enqueue("waiting", "{}").await;
    worker.ends(SOON).await;
    assert_eq!(db.state(&run).await, "waiting");
    let _worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert!(db.output(&run).await.contains('3'));
    assert_eq!(db.events("event_received").await, 1);
}

#[tokio::test]
async fn a_pass_over_very_many_waiting_runs_is_bounded_and_gets_round() {
    let (db, files) = (Db::new().await, Files::new([WAITING]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("waiting", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    // Twenty thousand others, with kept events of the same name that fit none of them; the one that is stuck is the oldest.
    db.exec(format!(
        "SET session_replication_role = replica;
         INSERT INTO stepd.jobs (id, workflow, queue, priority, state, lane)
             SELECT stepd_engine.uuid7(), 'waiting', 'default', 5, 'waiting', 3 FROM generate_series(1, 20000);
         INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, attempts, checkpoint, state, key, kind, event, match)
             SELECT id, 1, 1, now(), 1, false, 'waiting', 'paid', 'wait', 'paid', '{{\"order\": 1}}' FROM stepd.jobs WHERE id <> '{run}';
         INSERT INTO stepd_engine.signals (kind, name, expires_at, payload)
             SELECT 'event', 'paid', now() + interval '1 hour', '{{\"order\": 2}}' FROM generate_series(1, 20);
         INSERT INTO stepd_engine.signals (run, kind, name, at) SELECT id, 'signal', 'note', now() - interval '1 hour' FROM stepd.jobs;
         UPDATE stepd_engine.checkpoints SET state = 'completed', checkpoint = true, output = '1', ended_at = now() WHERE run = '{run}';
         SET session_replication_role = origin; ANALYZE"
    ))
    .await;
    let mut after = "NULL".to_owned();
    let mut passes = 0;
    loop {
        let began = std::time::Instant::now();
        let last: String = db
            .one(format!("SELECT coalesce(quote_literal(last), 'NULL') FROM stepd_engine.repair(5000, {after}::uuid)"))
            .await;
        passes += 1;
        eprintln!("pass {passes}: {:?}", began.elapsed());
        if last == "NULL" {
            break;
        }
        after = last;
    }
    assert_eq!(passes, 5);
    wait_until("the stuck one is ready", SOON, async || db.state(&run).await == "queued").await;
}

/// The pages that a statement reads, the second time.
async fn pages(conn: &mut sqlx::PgConnection, statement: &str) -> u64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}");
    let mut hit = 0;
    for _ in 0..2 {
        let plan: serde_json::Value =
            sqlx::query_scalar(sqlx::AssertSqlSafe(explain.clone())).fetch_one(&mut *conn).await.unwrap();
        let read = |what: &str| plan[0]["Plan"][what].as_u64().unwrap();
        hit = read("Shared Hit Blocks") + read("Shared Read Blocks");
    }
    hit
}

#[tokio::test]
async fn an_emit_finds_the_wait_that_it_matches_among_very_many_without_a_look_at_the_others() {
    let db = Db::new().await;
    db.exec(
        r#"INSERT INTO stepd_engine.checkpoints (run, key, seq, kind, state, event, match, epoch, started_at, attempts, checkpoint)
             SELECT gen_random_uuid(), 'w', 1, 'event', 'waiting', 'paid', jsonb_build_object('order', jsonb_build_object('id', n)), 1, now(), 1, false FROM generate_series(1, 20000) n;
         ANALYZE stepd_engine.checkpoints"#,
    )
    .await;
    let mut conn = sqlx::PgConnection::connect(&db.url).await.unwrap();
    for (payload, found) in [(r#"{"n": 1, "order": {"id": 19000.0}}"#, 1), (r#"{"order": {"id": 0}}"#, 0), ("null", 0)]
    {
        let asked = format!("SELECT count(*) FROM stepd_engine.waits_for('paid', '{payload}')");
        assert_eq!(db.count(asked.clone()).await, found, "{payload}");
        let n = pages(&mut conn, &asked).await;
        assert!(n < 40, "{payload}: {n} pages");
    }
}

/// Every match against every payload, of all kinds and depths: whom an emit looks up, and who fits, are the same.
#[tokio::test]
async fn an_emit_reaches_exactly_the_waits_that_its_payload_fits() {
    const DOCUMENTS: &str = r#"null | true | 1 | "a" | [] | {} | [1] | [{"a": 1}] | ["a"] | {"a": 1} | {"a": 1.0} | {"a": 1e0} | {"a": 100} | {"a": 1e2}
        | {"a": "1"} | {"a": true} | {"a": "true"} | {"a": null} | {"a": "null"} | {"a": [1]} | {"a": [1, 2]} | {"a": {}} | {"a": {"b": 1}} | {"a": {"b": 1, "c": 2}}
        | {"a/b": 1} | {"a": {"b/": 1}} | {"a/": {"b": 1}} | {"b": 2} | {"a": 1, "b": 2} | {"B": 2, "a": 1} | {"": 1} | {"": {"": ""}} | {"ä": "ö"} | {"Z": 1, "ä": "ö"}
        | {"a": {"b": {"c": {"d": [1, {"e": 2}]}}}} | {"a": {"b": {"c": {"d": [{"e": 2}]}}}} | {"a": {"b": {"c": {}}}} | {"a": 0} | {"a": -0.0} | {"a": 123456789012345678901234567890.50}
        | {"a": 123456789012345678901234567890.5} | {"a": "x\"y"} | @deep | @deeper | @wide"#;
    let nested = |n: usize| format!("{}1{}", r#"{"a": "#.repeat(n), "}".repeat(n));
    let wide: Vec<String> = (0..1500).map(|n| format!(r#""k{n}": {n}"#)).collect();
    let documents: Vec<String> = DOCUMENTS
        .split('|')
        .map(|d| match d.trim() {
            "@deep" => nested(15),
            "@deeper" => nested(20),
            "@wide" => format!(r#"{{{}, "a": 1}}"#, wide.join(", ")),
            d => d.to_owned(),
        })
        .collect();
    let db = Db::new().await;
    for (n, document) in documents.iter().enumerate() {
        sqlx::query(
            "INSERT INTO stepd_engine.checkpoints (run, key, seq, kind, state, event, match, epoch, started_at, attempts, checkpoint)
                VALUES (gen_random_uuid(), 'w' || $1, 1, 'event', 'waiting', 'e', $2::jsonb, 1, now(), 1, false)",
        )
        .bind(i32::try_from(n).unwrap())
        .bind(document)
        .execute(&db.pool)
        .await
        .unwrap();
    }
    db.exec(
        "INSERT INTO stepd_engine.checkpoints (run, key, seq, kind, state, event, match, epoch, started_at, attempts, checkpoint) VALUES
            (gen_random_uuid(), 'any', 1, 'event', 'waiting', 'e', NULL, 1, now(), 1, false), (gen_random_uuid(), 'other', 1, 'event', 'waiting', 'f', NULL, 1, now(), 1, false)",
    )
    .await;
    let (mut reached, mut out) = (0, String::new());
    for payload in &documents {
        let sql = "SELECT (SELECT coalesce(array_agg(w.key ORDER BY w.key), '{}') FROM stepd_engine.waits_for('e', $1::jsonb) w),
            (SELECT array_agg(c.key ORDER BY c.key) FROM stepd_engine.checkpoints c WHERE c.event = 'e' AND stepd_engine.fits($1::jsonb, c.match))";
        let (found, fit): (Vec<String>, Vec<String>) =
            sqlx::query_as(sql).bind(payload).fetch_one(&db.pool).await.unwrap();
        reached += found.len();
        if found != fit {
            out += &format!("{payload}: {found:?}, not {fit:?}\n");
        }
    }
    assert!(out.is_empty(), "{out}");
    assert!(reached > 3 * documents.len(), "{reached} of {}", documents.len());
}

#[tokio::test]
async fn a_kept_event_is_found_by_its_match_among_very_many_without_a_look_at_them() {
    let db = Db::new().await;
    db.exec(
        r#"INSERT INTO stepd_engine.signals (kind, name, expires_at, payload)
             SELECT 'event', 'paid', now() + interval '1 hour', jsonb_build_object('order', jsonb_build_object('id', n), 'n', n) FROM generate_series(1, 20000) n;
         INSERT INTO stepd_engine.signals (kind, name, expires_at, payload) VALUES
             ('event', 'sent', now() + interval '1 hour', '{"order": {"id": 7}}'), ('event', 'list', now() + interval '1 hour', '[1]'),
             ('event', 'paid', now() + interval '1 hour', '{"order": {"id": 7}, "again": true}'), ('event', 'late', now() - interval '1 s', '{"n": 1}');
         ANALYZE stepd_engine.signals"#,
    )
    .await;
    let mut conn = sqlx::PgConnection::connect(&db.url).await.unwrap();
    let run = uuid::Uuid::now_v7();
    let found = async |conn: &mut sqlx::PgConnection, name: &str, by: Option<&str>| -> Option<String> {
        sqlx::query_scalar("SELECT (SELECT g.payload::text FROM stepd_engine.signals g WHERE g.id = stepd_engine.kept_event($1, $2, $3::jsonb))")
            .bind(run).bind(name).bind(by).fetch_one(conn).await.unwrap()
    };
    for (name, by, expected) in [
        ("paid", Some(r#"{"order": {"id": 15000}}"#), Some(r#"{"n": 15000, "order": {"id": 15000}}"#)),
        ("paid", Some(r#"{"order": {"id": 7}}"#), Some(r#"{"n": 7, "order": {"id": 7}}"#)),
        ("paid", Some(r#"{"again": true}"#), Some(r#"{"again": true, "order": {"id": 7}}"#)),
        ("paid", Some(r#"{"order": {"id": 0}}"#), None),
        ("paid", Some("{}"), Some(r#"{"n": 1, "order": {"id": 1}}"#)),
        ("paid", None, Some(r#"{"n": 1, "order": {"id": 1}}"#)),
        ("sent", Some(r#"{"order": {"id": 7}}"#), Some(r#"{"order": {"id": 7}}"#)),
        ("list", Some("{}"), Some("[1]")),
        ("list", Some(r#"{"order": 1}"#), None),
        ("late", None, None),
        ("late", Some(r#"{"n": 1}"#), None),
        ("none", None, None),
    ] {
        assert_eq!(found(&mut conn, name, by).await.as_deref(), expected, "{name} {by:?}");
    }
    // Once for each run.
    db.exec(format!(
        "INSERT INTO stepd_engine.events (run, kind, data) SELECT '{run}', 'event_received', id::text FROM stepd_engine.signals WHERE payload ->> 'n' = '7'"
    ))
    .await;
    let again = found(&mut conn, "paid", Some(r#"{"order": {"id": 7}}"#)).await;
    assert_eq!(again.as_deref(), Some(r#"{"again": true, "order": {"id": 7}}"#));
    for by in [r#"'{"order": {"id": 19000}}'"#, r#"'{"order": {"id": 0}}'"#, "NULL"] {
        let n = pages(&mut conn, &format!("SELECT stepd_engine.kept_event('{run}', 'paid', {by})")).await;
        assert!(n < 40, "{by}: {n} pages");
    }
}

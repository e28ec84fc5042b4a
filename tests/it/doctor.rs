//! `stepd doctor` on things that are really broken.

use std::sync::Arc;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::cli::{Done, HELLO, stepd, stepd_at};
use crate::http::client;
use crate::support::{Db, Files, PgBouncer, SOON, Server, Spec, TRANSACTION, wait_until};
use reqwest::header::HeaderMap;

/// The findings by check: level, what it says, what to do.
struct Findings {
    list: Vec<Value>,
    code: Option<i32>,
}

impl Findings {
    fn of(done: Done) -> Self {
        let list: Vec<Value> =
            serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {}{}", done.out, done.err));
        let wrong = list.iter().any(|f| f["level"] == "wrong");
        assert_eq!(done.code == Some(0), !wrong, "the exit code says whether something is wrong: {list:#?}");
        assert!(list.iter().all(|f| f["level"] == "ok" || f["advice"].is_string()), "each says what to do: {list:#?}");
        Self { list, code: done.code }
    }

    fn get(&self, check: &str) -> &Value {
        self.list.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("no {check} in {:#?}", self.list))
    }

    #[track_caller]
    fn finds(&self, check: &str, level: &str, text: &str) {
        let f = self.get(check);
        assert!(f["level"] == level && f.to_string().contains(text), "{check} {level} `{text}`: {f:#}");
    }
}

async fn doctor(db: &Db, args: &[&str]) -> Findings {
    Findings::of(stepd(db, &[&["doctor", "-o", "json"], args].concat()).await)
}

#[tokio::test]
async fn nothing_is_wrong_where_nothing_is_wrong() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let _worker = Spec::new(&db, &files).ready().await;
    let found = doctor(&db, &[]).await;
    let names: Vec<_> = found.list.iter().map(|f| f["check"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "server",
            "role",
            "other sessions",
            "schema version",
            "pooler",
            "notifications",
            "clock",
            "connections",
            "oldest transaction",
            "dead rows",
            "autovacuum",
            "statistics",
            "workers",
            "queue lag",
            "runs without a worker",
            "disk",
            "tool servers"
        ]
    );
    // How full this machine's disk is, is not for this test to say. And it is a superuser: that is noted, and no more.
    let apart = ["disk", "role"];
    let not_ok: Vec<_> =
        found.list.iter().filter(|f| f["level"] != "ok" && !apart.iter().any(|check| f["check"] == *check)).collect();
    let role = found.list.iter().find(|f| f["check"] == "role").unwrap();
    assert!(role["level"] == "note" && role["advice"].as_str().unwrap().contains("stepd migrate --roles"), "{role}");
    assert!(not_ok.is_empty(), "{not_ok:#?}");
    let told = stepd(&db, &["doctor"]).await;
    assert!(told.out.contains("ok       workers "), "{}", told.out);
}

#[tokio::test]
async fn an_old_transaction_is_found_with_its_pid() {
    let db = Db::new().await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut other).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM stepd.jobs").execute(&mut other).await.unwrap();
    doctor(&db, &[]).await.finds("oldest transaction", "ok", "idle in transaction");
    let found = doctor(&db, &["--transaction-age", "1ms"]).await;
    found.finds("oldest transaction", "wrong", &format!("SELECT pg_terminate_backend({pid})"));
    assert_eq!(found.code, Some(1));
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    doctor(&db, &["--transaction-age", "1ms"]).await.finds("oldest transaction", "ok", "");
}

#[tokio::test]
async fn what_others_do_is_said_to_be_hidden_where_it_is_and_their_connections_count() {
    let server = Server::own().await;
    let db = server.db().await;
    db.exec("CREATE ROLE ops LOGIN; GRANT USAGE ON SCHEMA stepd TO ops; GRANT SELECT ON stepd.versions TO ops").await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM stepd.jobs").execute(&mut other).await.unwrap();
    let ops = Db { url: db.url.replacen("postgres://postgres@", "postgres://ops@", 1), ..db.clone() };
    let used = |found: &Findings| {
        let says = found.get("connections")["says"].as_str().unwrap().to_owned();
        says.split(' ').next().unwrap().parse::<i64>().unwrap()
    };
    let found = doctor(&ops, &["--transaction-age", "1ms"]).await;
    found.finds("other sessions", "note", "hide from ops what they do");
    found.finds("other sessions", "note", "GRANT pg_read_all_stats TO ops");
    assert!(used(&found) >= 2, "{:#}", found.get("connections"));
    db.exec("GRANT pg_monitor TO ops").await;
    let found = doctor(&ops, &["--transaction-age", "1ms"]).await;
    found.finds("other sessions", "ok", "");
    found.finds("oldest transaction", "wrong", "by postgres");
}

/// A real standby, once without a slot and once with one, in which somebody looks at what was; then nobody reads the slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_and_a_slot_that_hold_dead_rows_back_are_named_and_counted() {
    let server = Arc::new(Server::own().await);
    let db = server.db().await;
    db.exec("SELECT pg_create_physical_replication_slot('left_behind')").await;
    let files = Files::new([HELLO]);
    let mut worker = Spec::new(&db, &files).http().ready().await;
    let site = worker.site().await;
    for (slot, who) in [("", "standby standby holds"), ("left_behind", "replication slot left_behind holds")] {
        let standby = tokio::task::spawn_blocking({
            let server = server.clone();
            move || {
                let mut options = Server::options();
                let settings = [
                    ("hot_standby_feedback", "on"),
                    ("wal_receiver_status_interval", "1"),
                    ("primary_slot_name", slot),
                ];
                options.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
                server.pg.standby(&options).unwrap()
            }
        })
        .await
        .unwrap();
        let mut reader = PgConnection::connect(&standby.url(&db.name)).await.unwrap();
        let reads = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM stepd.jobs";
        sqlx::raw_sql(reads).execute(&mut reader).await.unwrap();
        wait_until("the standby has told", SOON, async || {
            db.exec("DO $$ BEGIN FOR n IN 1..200 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$").await;
            doctor(&db, &[]).await.get("dead rows").to_string().contains(who)
        })
        .await;
        wait_until("it is counted", SOON, async || {
            db.exec("DO $$ BEGIN FOR n IN 1..200 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$").await;
            let page =
                client(HeaderMap::new()).get(format!("{site}/metrics")).send().await.unwrap().text().await.unwrap();
            let line = page.lines().find(|l| l.starts_with("stepd_dead_rows_held_back_transactions")).unwrap();
            line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() >= 200.0
        })
        .await;
        drop(reader);
        tokio::task::spawn_blocking(move || drop(standby)).await.unwrap();
    }
    wait_until("nobody reads the slot", SOON, async || {
        doctor(&db, &[]).await.get("dead rows").to_string().contains("left_behind, which nobody reads, holds")
    })
    .await;
}

#[tokio::test]
async fn autovacuum_that_is_switched_off_and_statistics_that_are_stale_are_found() {
    let db = Db::new().await;
    db.exec("ALTER TABLE stepd_engine.events SET (autovacuum_enabled = false)").await;
    doctor(&db, &[]).await.finds("autovacuum", "wrong", "ALTER TABLE stepd_engine.events RESET (autovacuum_enabled)");
    db.exec("INSERT INTO stepd_engine.events (run, kind) SELECT gen_random_uuid(), 'x' FROM generate_series(1, 60000)")
        .await;
    wait_until("the server has counted them", SOON, async || {
        doctor(&db, &[]).await.get("statistics")["level"] == "wrong"
    })
    .await;
    doctor(&db, &[]).await.finds("statistics", "wrong", "ANALYZE stepd_engine.events");
    db.exec("ALTER TABLE stepd_engine.events RESET (autovacuum_enabled)").await;
    db.exec("DELETE FROM stepd_engine.events; INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('h', 'w')")
        .await;
    db.exec("ANALYZE stepd_engine.events").await;
    wait_until("the statistics are fresh", SOON, async || doctor(&db, &[]).await.get("statistics")["level"] == "ok")
        .await;
}

#[tokio::test]
async fn a_limit_on_connections_that_is_nearly_reached_is_found() {
    let db = Db::new().await;
    db.exec(format!("ALTER DATABASE {} CONNECTION LIMIT 5", db.name)).await;
    let found = doctor(&db, &[]).await;
    found.finds("connections", "wrong", "ALTER DATABASE … CONNECTION LIMIT -1");
    found.finds("connections", "wrong", "a worker needs 6");
}

#[tokio::test]
async fn runs_that_no_worker_takes_are_found() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    doctor(&db, &[]).await.finds("workers", "note", "start stepd serve");
    db.enqueue("hello", r#"{"who":"me"}"#).await;
    db.exec("UPDATE stepd.jobs SET ready_at = now() - interval '2 min'").await;
    let found = doctor(&db, &[]).await;
    found.finds("runs without a worker", "wrong", "1 run waits in queue default");
    found.finds("queue lag", "note", "the oldest ready run has waited for 2 min");
    let _other = Spec::new(&db, &files).arg("--queue=gpu").ready().await;
    let found = doctor(&db, &[]).await;
    found.finds("workers", "ok", "1 worker");
    found.finds("runs without a worker", "wrong", "stepd serve --queue default");
    let _right = Spec::new(&db, &files).ready().await;
    db.all_ended(SOON).await;
    doctor(&db, &[]).await.finds("runs without a worker", "ok", "none");
    db.exec("UPDATE stepd_engine.settings SET on_unknown_workflow = 'park'").await;
    db.enqueue("nova", "{}").await;
    doctor(&db, &[]).await.finds("runs without a worker", "wrong", "for workflow nova");
}

#[tokio::test]
async fn a_dead_worker_that_nobody_takes_over_is_found() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let mut worker = Spec::new(&db, &files).lease(3).ready().await;
    let pid = worker.pid();
    worker.kill9();
    wait_until("its lease is over", SOON, async || doctor(&db, &[]).await.get("workers")["level"] == "wrong").await;
    let found = doctor(&db, &[]).await;
    found.finds("workers", "wrong", &format!(":{pid} is "));
    found.finds("workers", "wrong", "no other worker lives to take over: start stepd serve");
}

#[tokio::test]
async fn a_schema_that_is_missing_or_old_is_found() {
    let server = Server::own().await;
    server.pg.create_database("empty", None).await.unwrap();
    let db = server.at("empty");
    doctor(&db, &[]).await.finds("schema version", "wrong", "stepd migrate");
    let db = server.db().await;
    db.exec("DELETE FROM stepd_engine.migrations WHERE version = (SELECT max(version) FROM stepd_engine.migrations)")
        .await;
    doctor(&db, &[]).await.finds("schema version", "wrong", "stepd migrate");
    db.exec("INSERT INTO stepd_engine.migrations (version, name, serves, fingerprint) VALUES (99, 'later', 99, 'of a later one')").await;
    doctor(&db, &[]).await.finds("schema version", "wrong", "install the stepd that the schema was made for");
    let db = server.db().await;
    db.exec("UPDATE stepd_engine.migrations SET fingerprint = 'of another build' WHERE version = 2").await;
    doctor(&db, &[]).await.finds(
        "schema version",
        "wrong",
        "its version 2 (engine) is not the one that this program knows",
    );
}

#[tokio::test]
async fn notifications_that_are_switched_off_are_told() {
    let db = Db::new().await;
    db.exec("UPDATE stepd_engine.settings SET notify = false").await;
    doctor(&db, &[]).await.finds("notifications", "note", "SET notify = true");
}

#[test]
fn a_database_that_is_away_is_a_finding_too() {
    let done = stepd_at(Some("postgres://nobody@127.0.0.1:1/nothing"), &["doctor", "-o", "json"]);
    let done = done.is(69);
    let list: Vec<Value> = serde_json::from_str(&done.out).unwrap();
    assert_eq!((list.len(), &list[0]["check"], &list[0]["level"]), (1, &"server".into(), &"wrong".into()));
}

#[tokio::test]
async fn a_pooler_is_found_and_what_it_costs_is_said_with_the_next_step() {
    let db = Db::new().await;
    let Some(pooler) = PgBouncer::before(&db, TRANSACTION).await else { return };
    let found = doctor(&pooler.db, &[]).await;
    found.finds("pooler", "note", "database_direct_url");
    found.finds("pooler", "note", "after its lease (15 s)");
    found.finds("notifications", "note", "by looking, up to 2 s late");
    doctor(&db, &[]).await.finds("pooler", "ok", "none");
    let files = Files::new::<&str>([]);
    for (direct, level, text) in [
        (&db.url, "ok", "database_direct_url leads past it"),
        (&pooler.db.url, "wrong", "leads to a connection pooler, too"),
    ] {
        let config = files.path("stepd.toml");
        let both = format!("database_url = {:?}\ndatabase_direct_url = {direct:?}\n", pooler.db.url);
        std::fs::write(&config, both).unwrap();
        let config = config.display().to_string();
        let asked = move || stepd_at(None, &["--config", &config, "doctor", "-o", "json"]);
        let found = Findings::of(tokio::task::spawn_blocking(asked).await.unwrap());
        found.finds("pooler", level, text);
        found.finds("notifications", if level == "ok" { "ok" } else { "note" }, "");
    }
}

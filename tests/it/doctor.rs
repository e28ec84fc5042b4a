//! `stepd doctor` on things that are really broken.

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::cli::{Done, HELLO, stepd, stepd_at};
use crate::support::{Db, Files, PgBouncer, SOON, Server, Spec, TRANSACTION, wait_until};

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
            "schema version",
            "pooler",
            "notifications",
            "clock",
            "connections",
            "oldest transaction",
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
    db.exec("INSERT INTO stepd_engine.migrations (version, name, serves) VALUES (99, 'later', 99)").await;
    doctor(&db, &[]).await.finds("schema version", "wrong", "install the stepd that the schema was made for");
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

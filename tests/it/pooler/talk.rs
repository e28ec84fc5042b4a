//! What sqlx asks through a pooler is what it is answered.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnectOptions;
use stepd::db::Database;

use crate::support::{Db, PgBouncer, TRANSACTION};

fn behind(bouncer: &PgBouncer, connections: u32) -> Database {
    let options: PgConnectOptions = bouncer.db.url.parse().unwrap();
    Database::new(options, connections, Duration::from_secs(5))
}

#[tokio::test]
async fn twelve_hundred_statements_at_once_through_few_servers_each_get_their_own_answer() {
    let db = Db::new().await;
    let Some(bouncer) = PgBouncer::before(&db, &format!("{TRANSACTION}\ndefault_pool_size = 4")).await else { return };
    let database = behind(&bouncer, 12);
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..1_200_i64 {
        let database = database.clone();
        asked.spawn(async move {
            // Texts of the same shape and other types: a statement in the wrong place would answer, and answer wrongly.
            let (text, wanted) = match n % 3 {
                0 => ("SELECT $1::int8 * 2 AS v", n * 2),
                1 => ("SELECT $1::int8 + 5 AS v", n + 5),
                _ => ("SELECT -$1::int8 AS v", -n),
            };
            let got = database.ask(async |conn| Ok(sqlx::query(text).bind(n).fetch_one(conn).await?.get::<i64, _>(0)));
            i64::from(got.await.unwrap() != wanted)
        });
    }
    let wrong: i64 = asked.join_all().await.into_iter().sum();
    assert_eq!(wrong, 0);
    assert!(database.hosts().are_pooled());
}

#[tokio::test]
async fn settings_hold_in_every_transaction_and_errors_are_told_once() {
    let db = Db::new().await;
    let Some(bouncer) = PgBouncer::before(&db, &format!("{TRANSACTION}\ndefault_pool_size = 2")).await else { return };
    let database = behind(&bouncer, 2);
    let mut own = database.connect("test", &[("statement_timeout", "7s"), ("lock_timeout", "3s")]).await.unwrap();
    let asked = "SELECT current_setting('statement_timeout') || current_setting('lock_timeout')";
    for _ in 0..3 {
        assert_eq!(sqlx::query_scalar::<_, String>(asked).fetch_one(&mut own).await.unwrap(), "7s3s");
        let refused = sqlx::query("SELECT 1 / $1::int").bind(0).execute(&mut own).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "22012");
        let refused = sqlx::query("SELECT FROM nowhere WHERE $1").bind(true).execute(&mut own).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42P01");
    }
    // A transaction of one's own: in it, the same session all the time, and nothing of it before its end.
    db.exec("CREATE TABLE t (n int8 PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)").await;
    let mut tx = sqlx::Connection::begin(&mut own).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    for n in 0..5_i64 {
        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut *tx).await.unwrap();
        assert_eq!(sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap(), pid);
    }
    assert_eq!(sqlx::query_scalar::<_, String>(asked).fetch_one(&mut *tx).await.unwrap(), "7s3s");
    assert_eq!(db.count("SELECT count(*) FROM t").await, 0);
    drop(tx);
    assert_eq!(sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t").fetch_one(&mut own).await.unwrap(), 0);
    sqlx::query("INSERT INTO t VALUES ($1)").bind(1_i64).execute(&mut own).await.unwrap();
    // What is refused at the commit alone is refused, and not acknowledged.
    let doubled = sqlx::query("INSERT INTO t VALUES ($1)").bind(1_i64).execute(&mut own).await.unwrap_err();
    assert_eq!(doubled.as_database_error().unwrap().code().unwrap(), "23505");
    assert_eq!(db.count("SELECT count(*) FROM t").await, 1);
    // Rows as long as a book, both ways.
    let long = "x".repeat(3 << 20);
    let back: String = sqlx::query_scalar("SELECT $1::text").bind(&long).fetch_one(&mut own).await.unwrap();
    assert!(back == long);
}

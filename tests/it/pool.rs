//! The pool that the services share.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use stepd::db::Database;

use crate::support::Db;

async fn session(database: &Database) -> i32 {
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()");
    database.ask(async |conn| Ok(pid.fetch_one(conn).await?)).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_comes_back_inside_a_transaction_is_not() {
    let db = Db::new().await;
    let options: PgConnectOptions = db.url.parse().unwrap();
    // One connection: whoever asks next waits until it is back.
    let database = Database::new(options, 1, Duration::from_secs(5));
    let first = session(&database).await;
    for n in 1..20 {
        assert_eq!(session(&database).await, first, "use {n}");
    }
    database.ask(async |conn| Ok(sqlx::raw_sql("BEGIN").execute(conn).await?)).await.unwrap();
    let other = session(&database).await;
    assert_ne!(other, first, "what it writes would be acknowledged and never committed");
    assert_eq!(session(&database).await, other);
}

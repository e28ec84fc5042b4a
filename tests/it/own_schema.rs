//! In the application's own database, beside whatever it has there, and under the names that it prefers.

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Server, Spec};

const DOCUMENT: &str = include_str!("../../docs/sql.md");

/// What an application may have had there long before.
const THEIRS: &str = "
    CREATE TABLE jobs (id int PRIMARY KEY); CREATE TABLE runs (id int); CREATE TABLE steps (id int); CREATE TABLE workers (id int);
    CREATE TABLE checkpoints (id int); CREATE TABLE migrations (id int); CREATE FUNCTION enqueue(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE TYPE run_state AS ENUM ('ours'); INSERT INTO jobs VALUES (1)";

/// Every relation, function and type outside of Postgres' own schemas and stepd's two.
const OUTSIDE: &str = "
    SELECT string_agg(what, ' ' ORDER BY what) FROM (
        SELECT relnamespace::regnamespace || '.' || relname AS what FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT pronamespace::regnamespace || '.' || proname FROM pg_proc WHERE pronamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT typnamespace::regnamespace || '.' || typname FROM pg_type WHERE typnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE oid NOT IN (SELECT oid FROM own)) all_";

fn outside() -> String {
    let own = "SELECT oid FROM pg_namespace WHERE nspname ~ '^(pg_|information_schema$|stepd$|stepd_engine$)'";
    format!("WITH own AS ({own}) {OUTSIDE}")
}

/// The statements of the handbook's section.
fn of_the_handbook() -> &'static str {
    let section = DOCUMENT.split("## Under a schema of your own").nth(1).expect("the section");
    section.split("```text\n").nth(1).unwrap().split("```").next().unwrap()
}

#[tokio::test]
async fn stepd_stands_in_the_applications_database_beside_tables_of_the_same_names_and_is_used_under_a_schema_of_its_own()
 {
    let server = Server::own().await;
    server.pg.create_database("app", None).await.unwrap();
    let db = server.at("app");
    db.exec(THEIRS).await;
    let theirs: String = db.one(outside()).await;
    stepd(&db, &["migrate"]).await.is(0);
    let files = Files::new(["name: order\nsteps: [{id: a, set: '${{ input.n }}'}]\noutput: steps.a.output\n"]);
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("order", r#"{"n": 7}"#).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.one::<String>(outside()).await, theirs, "all that stepd has is in its own two schemas");

    // Under the name that the application prefers, by a login that may do nothing else.
    db.exec("CREATE ROLE shop LOGIN").await;
    db.exec(of_the_handbook()).await;
    let shop = Db { url: db.url.replace("postgres@", "shop@"), ..db.clone() };
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&shop.url).await.unwrap();
    let insert = "INSERT INTO ctl.jobs (workflow, input) VALUES ('order', '{\"n\": 8}') RETURNING id::text";
    let run: String = sqlx::query_scalar(insert).fetch_one(&mut conn).await.unwrap();
    db.reaches(&run, "completed", SOON).await;
    let look = "SELECT output || ' ' || created_by FROM ctl.runs WHERE id = $1::uuid";
    let seen: String = sqlx::query_scalar(look).bind(&run).fetch_one(&mut conn).await.unwrap();
    assert_eq!(seen, "8 shop");
    let again =
        "INSERT INTO ctl.jobs (workflow, unique_key) VALUES ('order', 'k'), ('order', 'k') ON CONFLICT DO NOTHING";
    assert_eq!(sqlx::query(again).execute(&mut conn).await.unwrap().rows_affected(), 1);
    let unknown = sqlx::query("INSERT INTO ctl.jobs (workflow) VALUES ('ordr')").execute(&mut conn).await.unwrap_err();
    assert!(unknown.to_string().contains("SD001"), "{unknown}");
    for beyond in ["SELECT count(*) FROM stepd.runs", "UPDATE ctl.jobs SET state = 'completed'", "DELETE FROM ctl.jobs"]
    {
        assert!(sqlx::query(beyond).execute(&mut conn).await.is_err(), "{beyond}");
    }
    assert_eq!(worker.drain(SOON).await, Some(0));
}

//! `stepd migrate --uninstall`: nothing of stepd stays, and nothing else goes.

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Server, Spec};

const QUICK: &str = "name: quick\nsteps: [{id: s, set: 1}]\n";

/// Everything that the database has, but for what belongs to Postgres itself.
const ALL: &str = "
    SELECT coalesce(string_agg(x.what, E'\\n' ORDER BY x.what), '') FROM (
        SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS what FROM pg_depend d WHERE d.deptype NOT IN ('p', 'i')
            AND (pg_identify_object(d.classid, d.objid, d.objsubid)).schema IS DISTINCT FROM 'pg_catalog'
            AND d.objid >= 16384
        UNION SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
        UNION SELECT 'table ' || c.oid::regclass::text || ' ' || coalesce(c.relacl::text, '') FROM pg_class c WHERE c.oid >= 16384
            AND c.relnamespace::regnamespace::text NOT LIKE 'pg\\_%'
        UNION SELECT 'role ' || rolname FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%'
        UNION SELECT 'schema of ' || nspname || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname = 'public'
    ) x";

async fn own() -> (Server, Db) {
    let server = Server::own().await;
    server.pg.create_database("app", None).await.unwrap();
    let db = server.at("app");
    (server, db)
}

#[tokio::test]
async fn after_an_uninstall_nothing_of_stepd_is_left_and_all_else_is_as_it_was() {
    let (_server, db) = own().await;
    db.exec(
        "CREATE ROLE app_role; CREATE SCHEMA app; CREATE TABLE app.orders (id serial PRIMARY KEY, note text NOT NULL DEFAULT 'x');
         CREATE VIEW app.all_orders AS SELECT * FROM app.orders; INSERT INTO app.orders DEFAULT VALUES; GRANT SELECT ON app.orders TO app_role",
    )
    .await;
    let before: String = db.one(ALL).await;
    assert!(before.contains("app.orders") && !before.contains("stepd"), "{before}");
    stepd(&db, &["migrate", "--roles", "--compat", "tables"]).await.is(0);
    db.exec("GRANT stepd_enqueue TO app_role").await;
    let files = Files::new([QUICK]);
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("quick", "{}").await;
    db.reaches(&run, "completed", SOON).await;

    stepd(&db, &["migrate", "--uninstall", "--yes"]).await.is(4).says("1 daemon is at work on this database");
    assert_eq!(worker.drain(SOON).await, Some(0));
    db.enqueue("quick", "{}").await;
    let told = stepd(&db, &["migrate", "--uninstall"]).await.is(2).err;
    for part in
        ["this removes for good: the schemas stepd, stepd_afu9", "with 1 unfinished", "stepd_daemon", "--yes does it"]
    {
        assert!(told.contains(part), "`{part}` is not in {told}");
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs").await, 1, "nothing was changed");

    stepd(&db, &["migrate", "--uninstall", "--yes"]).await.is(0);
    let after: String = db.one(ALL).await;
    assert_eq!(before, after);
    assert_eq!(db.count("SELECT count(*) FROM app.all_orders").await, 1);
    stepd(&db, &["migrate", "--uninstall", "--yes"]).await.is(0).says("there is nothing of stepd in this database");
    // And it may come back.
    stepd(&db, &["migrate", "--roles"]).await.is(0);
}

#[tokio::test]
async fn an_uninstall_takes_nothing_away_that_is_yours() {
    let (_server, db) = own().await;
    stepd(&db, &["migrate", "--roles"]).await.is(0);
    db.exec(
        "CREATE SCHEMA app; CREATE VIEW app.mine AS SELECT id, state FROM stepd.runs;
         CREATE TABLE app.orders (id int, run uuid, seen stepd.run_state DEFAULT 'queued')",
    )
    .await;
    let told = stepd(&db, &["migrate", "--uninstall", "--yes"]).await.is(4).err;
    assert!(told.contains("nothing was removed") && told.contains("view app.mine"), "{told}");
    assert!(told.contains("column seen of table app.orders") && !told.contains("column id of table"), "{told}");
    assert_eq!(db.count("SELECT count(*) FROM app.mine").await, 0, "all is there");
    db.exec("DROP VIEW app.mine; ALTER TABLE app.orders DROP COLUMN seen").await;
    stepd(&db, &["migrate", "--uninstall", "--yes"]).await.is(0);
    assert_eq!(db.count("SELECT count(*) FROM app.orders").await, 0);
}

/// Roles belong to the cluster; so do their rights on what is yours.
#[tokio::test]
async fn a_role_that_something_else_needs_stays_and_is_named() {
    let (server, db) = own().await;
    server.pg.create_database("other", None).await.unwrap();
    let other = server.at("other");
    for db in [&db, &other] {
        stepd(db, &["migrate", "--roles"]).await.is(0);
    }
    let told = stepd(&db, &["migrate", "--uninstall", "--yes"]).await.is(0).err;
    assert!(told.contains("the role stepd_daemon stays: ") && told.contains("database other"), "{told}");
    assert_eq!(db.count("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'stepd\\_%'").await, 5);
    let files = Files::new([QUICK]);
    let _worker = Spec::new(&other, &files).ready().await;
    let run = other.enqueue("quick", "{}").await;
    other.reaches(&run, "completed", SOON).await;
}

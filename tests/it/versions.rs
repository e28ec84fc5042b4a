//! Daemons and schemas of different versions: what works together does, what does not says so.

use sqlx::{Connection as _, PgConnection};
use stepd::db::migrate::{MIGRATIONS, Migration, latest, migrate_to};

use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const QUICK: &str = "name: quick\nsteps: [{id: s, set: 1}]\n";

/// The schema of a stepd that is `ahead` versions newer than this one; each serves the version before it.
async fn newer(db: &Db, ahead: i32) -> Result<Vec<i32>, String> {
    let more = (1..=ahead).map(|n| Migration {
        version: latest() + n,
        name: "newer",
        serves: latest() + n - 1,
        text: "COMMENT ON SCHEMA stepd IS 'a newer one'",
    });
    let all: Vec<Migration> = MIGRATIONS.iter().copied().chain(more).collect();
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    migrate_to(&mut conn, &all).await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_daemon_works_with_a_schema_that_is_one_version_newer() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    assert_eq!(newer(&db, 1).await.unwrap(), [latest() + 1]);
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("quick", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_daemon_refuses_a_schema_that_does_not_serve_it_any_more() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    newer(&db, 2).await.unwrap();
    let told = format!(
        "the schema of this database is version {} and serves daemons from version {} on, and this stepd knows version {}: install",
        latest() + 2,
        latest() + 1,
        latest()
    );
    for args in [&[][..], &["--no-migrate"]] {
        let mut worker = args.iter().fold(Spec::new(&db, &files), |spec, arg| spec.arg(arg)).start();
        assert_eq!(worker.ends(SOON).await.code(), Some(1));
        assert_eq!(worker.logged(&told), 1, "{}", worker.log());
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.definitions").await, 0, "it has touched nothing");
}

#[tokio::test]
async fn without_migrating_a_daemon_refuses_an_older_schema_and_none() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    let spec = Spec::new(&db, &files).arg("--no-migrate");
    db.exec(format!("DELETE FROM stepd_engine.migrations WHERE version = {}", latest())).await;
    let mut worker = spec.start();
    assert_eq!(worker.ends(SOON).await.code(), Some(1));
    let told = format!("version {}, and this stepd needs version {}: run stepd migrate", latest() - 1, latest());
    assert_eq!(worker.logged(&told), 1, "{}", worker.log());
    db.exec("DROP SCHEMA stepd CASCADE; DROP SCHEMA stepd_engine CASCADE").await;
    let mut worker = spec.start();
    assert_eq!(worker.ends(SOON).await.code(), Some(1));
    assert_eq!(worker.logged("this database has no stepd schema"), 1, "{}", worker.log());
}

#[tokio::test]
async fn a_schema_that_was_made_without_a_record_of_its_version_is_refused_with_the_way_to_make_it() {
    let db = Db::new().await;
    db.exec("DELETE FROM stepd_engine.migrations").await;
    let told = newer(&db, 0).await.unwrap_err();
    assert!(told.contains("no version of them is recorded: stepd migrate makes them, or the whole script"), "{told}");
}

/// As between two builds that both call their schema by one number.
#[tokio::test]
async fn a_schema_of_the_same_version_that_another_build_has_made_is_refused_and_left_alone() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    let made: Vec<String> = sqlx::query_scalar("SELECT fingerprint FROM stepd.versions ORDER BY version")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    assert_eq!(made, stepd::db::migrate::MIGRATIONS.iter().map(|m| m.fingerprint()).collect::<Vec<_>>());
    for (how, told) in [
        (
            "UPDATE stepd_engine.migrations SET fingerprint = 'of another' WHERE version = 2",
            "its version 2 (engine) is not",
        ),
        // As before there were fingerprints.
        (
            "DROP VIEW stepd.versions; ALTER TABLE stepd_engine.migrations DROP COLUMN fingerprint;
             CREATE VIEW stepd.versions AS SELECT version, name, serves FROM stepd_engine.migrations",
            "its version 1 (tables) is not",
        ),
    ] {
        db.exec(how).await;
        for args in [&[][..], &["--no-migrate"]] {
            let mut worker = args.iter().fold(Spec::new(&db, &files), |spec, arg| spec.arg(arg)).start();
            assert_eq!(worker.ends(SOON).await.code(), Some(1));
            assert_eq!(worker.logged(told), 1, "{}", worker.log());
        }
        assert!(newer(&db, 1).await.unwrap_err().contains(told), "nothing is put upon it");
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.definitions").await, 0, "it has touched nothing");
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.migrations").await, i64::from(latest()));
}

#[tokio::test]
async fn a_contraction_is_refused_while_a_daemon_is_at_work_that_it_does_not_serve() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    let mut worker = Spec::new(&db, &files).ready().await;
    assert_eq!(newer(&db, 1).await.unwrap(), [latest() + 1], "an expansion is not");
    let told = newer(&db, 2).await.unwrap_err();
    let version = format!("schema version {} no longer serves worker ", latest() + 2);
    let knows =
        format!(":{} (stepd {}), which knows only version {}", worker.pid(), env!("CARGO_PKG_VERSION"), latest());
    assert!(told.contains(&version) && told.contains(&knows), "{told}");
    let run = db.enqueue("quick", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    assert_eq!(newer(&db, 2).await.unwrap(), [latest() + 2]);
}

#[tokio::test]
async fn a_daemon_that_must_register_anew_under_a_schema_that_does_not_serve_it_claims_nothing_more() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    let mut worker = Spec::new(&db, &files).ready().await;
    // As when it was cut off: taken over, and gone from the table when the migration looked.
    db.exec(format!(
        "INSERT INTO stepd_engine.migrations (version, name, serves, fingerprint) VALUES ({0}, 'contracts', {0}, 'of a later one'); DELETE FROM stepd_engine.workers",
        latest() + 1
    ))
    .await;
    worker.logs(&format!("serves daemons from version {} on", latest() + 1)).await;
    assert_eq!(worker.logged("postgres is away"), 0, "it is there: {}", worker.log());
    let run = db.enqueue("quick", "{}").await;
    holds_for("the run is not claimed", std::time::Duration::from_secs(3), async || db.state(&run).await == "queued")
        .await;
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.workers").await, 0);
    // When the schema serves it again, it goes on by itself.
    db.exec(format!("DELETE FROM stepd_engine.migrations WHERE version > {}", latest())).await;
    db.reaches(&run, "completed", SOON).await;
    wait_until("it is registered", SOON, async || db.count("SELECT count(*) FROM stepd_engine.workers").await == 1)
        .await;
}

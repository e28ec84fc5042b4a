//! Migrations beside enqueuers and daemons: nobody waits for one, and a trial says who would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use stepd::db::Database;
use stepd::db::migrate::{
    ENQUEUING, MIGRATIONS, Migration, Stops, applied, dry_run, latest, migrate_beside, migrate_to,
};
use tokio::task::JoinSet;

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, wait_until};

const QUICK: &str = "name: quick\nsteps: [{id: s, set: 1}]\n";

/// As much as a migration should do at once: a column, a table, an index, a function, a trigger.
const EXPANSION: &str = "
    ALTER TABLE stepd.jobs ADD COLUMN note text;
    CREATE TABLE stepd_engine.notes (job uuid PRIMARY KEY, said text NOT NULL);
    CREATE INDEX notes_said ON stepd_engine.notes (said);
    CREATE FUNCTION stepd_engine.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER jobs_noted AFTER UPDATE OF note ON stepd.jobs FOR EACH ROW EXECUTE FUNCTION stepd_engine.noted();
    COMMENT ON COLUMN stepd.jobs.note IS 'A note; with a semicolon.'";

/// All migrations, and one more.
fn and(text: &'static str) -> Vec<Migration> {
    let next = Migration { version: latest() + 1, name: "next", serves: latest(), text };
    MIGRATIONS.iter().copied().chain([next]).collect()
}

fn database(db: &Db) -> Database {
    Database::new(db.url.parse::<sqlx::postgres::PgConnectOptions>().unwrap(), 2, Duration::from_secs(30))
}

/// Applications that insert one job after the other, as fast as they can.
struct Enqueuers {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Enqueuers {
    fn start(db: &Db) -> Self {
        let (stop, longest, done) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            let (url, stop, longest, done) = (db.url.clone(), stop.clone(), longest.clone(), done.clone());
            tasks.spawn(async move {
                let mut conn = PgConnection::connect(&url).await.unwrap();
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    sqlx::raw_sql("INSERT INTO stepd.jobs (workflow) VALUES ('quick')")
                        .execute(&mut conn)
                        .await
                        .unwrap();
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap();
                    longest.fetch_max(took, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { stop, longest, done, tasks }
    }

    /// Some more jobs are there.
    async fn go_on(&self) {
        let before = self.done.load(Ordering::SeqCst);
        wait_until("jobs are inserted", SOON, async || self.done.load(Ordering::SeqCst) > before + 30).await;
    }

    async fn end(mut self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        Duration::from_micros(self.longest.load(Ordering::SeqCst))
    }
}

/// An insert that does not end keeps the migration waiting for seconds; nobody waits behind it.
#[tokio::test]
async fn no_enqueuer_waits_for_a_migration_that_waits_for_somebody_elses_transaction() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let enqueuers = Enqueuers::start(&db);
    enqueuers.go_on().await;
    let mut open = PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("BEGIN; INSERT INTO stepd.jobs (workflow) VALUES ('quick')").execute(&mut open).await.unwrap();
    let span = Duration::from_secs(2);
    let ends = async {
        tokio::time::sleep(span).await;
        sqlx::raw_sql("COMMIT").execute(&mut open).await.unwrap();
    };
    let (here, steps) = (database(&db), and(EXPANSION));
    let (done, ()) = tokio::join!(migrate_beside(&here, &steps), ends);
    assert_eq!(done.unwrap(), [latest() + 1]);
    enqueuers.go_on().await;
    let longest = enqueuers.end().await;
    eprintln!("the longest wait of an insert: {longest:?}");
    assert!(longest < span / 2, "an insert waited for {longest:?} behind the migration");
    assert_eq!(db.count("SELECT count(note) FROM stepd.jobs").await, 0, "the column is there");
    db.all_ended(SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state <> 'completed'").await, 0);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_migration_that_keeps_enqueuers_waiting_is_broken_off_refused_and_leaves_nothing() {
    const LONG: &str = "CREATE TABLE stepd_engine.left (); LOCK TABLE stepd.jobs IN SHARE MODE; SELECT pg_sleep(1.5)";
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    drop(Spec::new(&db, &files).ready().await);
    let enqueuers = Enqueuers::start(&db);
    enqueuers.go_on().await;
    let told = migrate_beside(&database(&db), &and(LONG)).await.unwrap_err().to_string();
    let version = latest() + 1;
    assert!(told.contains(&format!("schema version {version} keeps others waiting")), "{told}");
    assert!(told.contains("stepd migrate --may-block"), "{told}");
    let longest = enqueuers.end().await;
    eprintln!("the longest wait of an insert: {longest:?}");
    assert!(longest < Duration::from_secs(1), "an insert waited for {longest:?}");
    assert!(db.one::<bool>("SELECT to_regclass('stepd_engine.left') IS NULL").await);
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    assert_eq!(applied(&mut conn).await.unwrap().0, latest());
    // When nobody enqueues, it is done.
    assert_eq!(migrate_to(&mut conn, &and(LONG)).await.unwrap(), [version]);
}

#[tokio::test]
async fn a_trial_shows_each_statement_with_its_locks_and_takes_it_back() {
    let db = Db::new().await;
    let (here, enqueuers) = (
        database(&db),
        Enqueuers::start(&{
            let files = Files::new([QUICK]);
            drop(Spec::new(&db, &files).ready().await);
            db.clone()
        }),
    );
    let tried = dry_run(&here, &and(EXPANSION)).await.unwrap();
    enqueuers.go_on().await;
    let longest = enqueuers.end().await;
    assert!(longest < Duration::from_secs(1), "an insert waited for {longest:?}");
    let [one] = &tried[..] else { panic!("{tried:?}") };
    assert_eq!((one.version, one.serves, one.statements.len()), (latest() + 1, latest(), 6));
    let of = |n: usize| {
        let locks = &one.statements[n].locks;
        locks.iter().map(|l| (l.table.as_str(), l.mode.as_str(), l.stops)).collect::<Vec<_>>()
    };
    assert_eq!(of(0), [("stepd.jobs", "AccessExclusiveLock", Stops::Enqueuers)]);
    assert!(of(1).is_empty() && of(2).is_empty() && of(3).is_empty(), "what is new is in nobody's way: {one:?}");
    assert!(one.statements[5].text.ends_with("with a semicolon.'"));
    assert!(db.one::<bool>("SELECT to_regclass('stepd_engine.notes') IS NULL").await, "taken back");
}

#[tokio::test]
async fn a_dry_run_of_the_command_shows_what_is_missing_with_its_locks() {
    let db = Db::new().await;
    stepd(&db, &["migrate", "--dry-run"]).await.is(0).says("the schema is up to date");
    db.exec("DROP SCHEMA stepd CASCADE; DROP SCHEMA stepd_engine CASCADE").await;
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    migrate_to(&mut conn, &MIGRATIONS[..6]).await.unwrap();
    let done = stepd(&db, &["migrate", "--dry-run"]).await.is(0).says("No enqueuer waits for any of it");
    let text = done.out;
    assert!(text.starts_with("version 7: traces (daemons from version 7 on work with it)"), "{text}");
    let trigger = text.find("  CREATE TRIGGER ended_traced").unwrap();
    let lock = text.find("      stepd_engine.ended ShareRowExclusiveLock: who writes there waits: daemons").unwrap();
    assert!(lock > trigger, "{text}");
    let done = stepd(&db, &["migrate", "--dry-run", "-o", "json"]).await.is(0);
    let document: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(document[0]["version"], 7);
    assert!(document[0]["statements"].as_array().unwrap().iter().any(|s| s["locks"][0]["blocks_enqueuers"] == false));
    assert_eq!(applied(&mut conn).await.unwrap().0, 6, "nothing was changed");
    stepd(&db, &["migrate"]).await.is(0);
    assert_eq!(applied(&mut conn).await.unwrap().0, 7);
    db.exec("DROP SCHEMA stepd CASCADE; DROP SCHEMA stepd_engine CASCADE").await;
    let text = stepd(&db, &["migrate", "--dry-run"]).await.is(0).out;
    assert_eq!(text.matches("\nversion ").count() + 1, MIGRATIONS.len());
    assert!(!text.contains("Lock:"), "nothing is there that could be locked: {text}");
    assert!(db.one::<bool>("SELECT to_regclass('stepd.jobs') IS NULL").await);
}

#[tokio::test]
async fn what_an_insert_locks_is_what_a_trial_thinks_that_it_locks() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    drop(Spec::new(&db, &files).ready().await);
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::raw_sql("INSERT INTO stepd.jobs (workflow, unique_key, concurrency_key, run_at) VALUES ('quick', NULL, NULL, NULL), ('quick', 'a', 'b', now() + interval '1 h')")
        .execute(&mut *tx)
        .await
        .unwrap();
    let locks: Vec<(String, String)> = sqlx::query_as(
        "SELECT l.relation::regclass::text, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
         WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relnamespace::regnamespace::text LIKE 'stepd%' ORDER BY 1, 2",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    let thought: Vec<(String, String)> = ENQUEUING.iter().map(|(t, m)| ((*t).to_owned(), (*m).to_owned())).collect();
    for lock in &locks {
        assert!(thought.contains(lock), "{lock:?} is not in {thought:?}; all: {locks:?}");
    }
}

//! A release beside the one before it: a migration in the midst of the chaos, and how long inserts wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use stepd::db::Database;
use stepd::db::migrate::{MIGRATIONS, Migration, latest, migrate_beside};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, DATABASE};

/// As a new release brings it: a column, a table, an index, triggers on two tables.
const EXPANSION: &str = "
    ALTER TABLE stepd.jobs ADD COLUMN note text;
    CREATE TABLE stepd_engine.notes (job uuid PRIMARY KEY, said text NOT NULL);
    CREATE INDEX notes_said ON stepd_engine.notes (said);
    CREATE FUNCTION stepd_engine.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER jobs_noted AFTER UPDATE OF note ON stepd.jobs FOR EACH ROW EXECUTE FUNCTION stepd_engine.noted();
    CREATE TRIGGER ended_noted AFTER UPDATE ON stepd_engine.ended FOR EACH ROW EXECUTE FUNCTION stepd_engine.noted()";

/// Sessions that insert all the time while it is migrated.
const SESSIONS: usize = 3;

/// Outages end a try.
const TRIES: u32 = 200;

/// Migrates in the middle of the span. How it went: in words, or why not.
pub async fn migrate_in_the_middle(cluster: Arc<Cluster>, span: Duration) -> Result<String, String> {
    tokio::time::sleep(span / 2).await;
    let next = Migration { version: latest() + 1, name: "next", serves: latest(), text: EXPANSION };
    let all: Vec<Migration> = MIGRATIONS.iter().copied().chain([next]).collect();
    let (over, longest, inserts) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        sessions.spawn(insert(cluster.clone(), over.clone(), longest.clone(), inserts.clone()));
    }
    let began = Instant::now();
    let mut tries = 0;
    let done = loop {
        tries += 1;
        let options = cluster.primary(|pg| pg.options(DATABASE));
        match migrate_beside(&Database::new(options, 1, Duration::from_secs(10)), &all).await {
            Ok(_) => break Ok(()),
            Err(error) if tries >= TRIES => break Err(error.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let took = began.elapsed();
    over.store(true, Ordering::SeqCst);
    while sessions.join_next().await.is_some() {}
    let (longest, inserts) = (longest.load(Ordering::SeqCst), inserts.load(Ordering::SeqCst));
    done.map(|()| {
        let longest = Duration::from_micros(longest);
        format!("migrated under load in {took:.2?}, {tries} tries; the longest of {inserts} inserts meanwhile took {longest:.1?}")
    })
}

/// Inserts and takes it back, again and again: it waits for the same locks, and leaves nothing. What an outage ends does not count.
async fn insert(cluster: Arc<Cluster>, over: Arc<AtomicBool>, longest: Arc<AtomicU64>, inserts: Arc<AtomicU64>) {
    while !over.load(Ordering::SeqCst) {
        let options = cluster.primary(|pg| pg.options(DATABASE));
        let Ok(mut conn) = options.application_name("chaos enqueuer").connect().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !over.load(Ordering::SeqCst) {
            let began = Instant::now();
            let statement = "BEGIN; INSERT INTO stepd.jobs (workflow) VALUES ('quick'); ROLLBACK";
            if sqlx::raw_sql(statement).execute(&mut conn).await.is_err() {
                break;
            }
            longest.fetch_max(u64::try_from(began.elapsed().as_micros()).unwrap(), Ordering::SeqCst);
            inserts.fetch_add(1, Ordering::SeqCst);
        }
    }
}

//! A trial of what is to be migrated: every statement is run, its locks are read, and all is taken back.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::beside::{Stage, Tries, watched};
use super::{Migration, pending, split};
use crate::db::connect::Database;
use crate::db::error::DbError;

/// Tries of a trial: whoever waits for it wants an answer.
const TRIES: u32 = 60;

/// What a trial has shown of one migration.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The schema's version from then on.
    pub version: i32,
    /// What it brings.
    pub name: &'static str,
    /// The oldest version whose daemons can go on working with it.
    pub serves: i32,
    /// Its statements, in order.
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its text.
    pub text: String,
    /// What it has locked of what was there before the trial. Held until the migration commits.
    pub locks: Vec<Lock>,
}

/// A lock on a table, a view, or a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The table.
    pub table: String,
    /// As Postgres names it: `AccessExclusiveLock`.
    pub mode: String,
    /// Who waits for its end.
    pub stops: Stops,
}

/// Who waits for the end of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// Nobody but other migrations, and VACUUM.
    Nobody,
    /// Who writes to that table: daemons.
    Writers,
    /// Who reads it or writes to it: daemons, and people who look.
    All,
    /// Who inserts into `stepd.jobs`, and the others.
    Enqueuers,
}

/// What an INSERT into `stepd.jobs` locks, its triggers included.
pub const ENQUEUING: [(&str, &str); 5] = [
    ("stepd.jobs", "RowExclusiveLock"),
    ("stepd_engine.workflows", "AccessShareLock"),
    ("stepd_engine.queues", "AccessShareLock"),
    ("stepd_engine.settings", "AccessShareLock"),
    ("stepd_engine.definitions", "AccessShareLock"),
];

/// Postgres' modes by their numbers; each conflicts with those of which it has the bit.
const MODES: [(&str, u8); 8] = [
    ("AccessShareLock", 0b1000_0000),
    ("RowShareLock", 0b1100_0000),
    ("RowExclusiveLock", 0b1111_0000),
    ("ShareUpdateExclusiveLock", 0b1111_1000),
    ("ShareLock", 0b1110_1100),
    ("ShareRowExclusiveLock", 0b1111_1100),
    ("ExclusiveLock", 0b1111_1110),
    ("AccessExclusiveLock", 0b1111_1111),
];

impl Stops {
    fn of(table: &str, mode: &str) -> Self {
        let conflicts = MODES.iter().find(|(name, _)| *name == mode).map_or(u8::MAX, |(_, bits)| *bits);
        let stops =
            |mode: &str| MODES.iter().position(|(name, _)| *name == mode).is_none_or(|n| conflicts & (1 << n) != 0);
        if ENQUEUING.iter().any(|(name, mode)| *name == table && stops(mode)) {
            return Self::Enqueuers;
        }
        match (stops("AccessShareLock"), stops("RowExclusiveLock")) {
            (true, _) => Self::All,
            (false, true) => Self::Writers,
            (false, false) => Self::Nobody,
        }
    }

    /// In words.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::Nobody => "nobody waits",
            Self::Writers => "who writes there waits: daemons",
            Self::All => "who reads or writes there waits: daemons",
            Self::Enqueuers => "enqueuers wait",
        }
    }
}

/// Tries what is missing, in one transaction that is taken back. As careful as the migration itself: nobody waits for it for longer
/// than a moment.
///
/// # Errors
/// Whatever the database says, as the migration would; or somebody is in the way all the time.
pub async fn dry_run(db: &Database, migrations: &[Migration]) -> Result<Vec<Tried>, DbError> {
    let mut conn = db.connect_past_pooler("migrate", &[]).await?;
    let mut watch = db.connect_past_pooler("migrate watch", &[]).await?;
    let pending = pending(&mut conn, migrations).await?;
    let Some(first) = pending.first() else { return Ok(Vec::new()) };
    let mut tries = Tries::new(first.version, Some(TRIES));
    let stage = Stage::default();
    loop {
        let (done, in_the_way) = watched(Some(&mut watch), &stage, all(&mut conn, &pending, &stage)).await;
        match done {
            Ok(tried) => return Ok(tried),
            Err(error) => tries.make_way(error, in_the_way).await?,
        }
    }
}

async fn all(conn: &mut PgConnection, pending: &[Migration], stage: &Stage) -> Result<Vec<Tried>, DbError> {
    let mut tx = conn.begin().await?;
    stage.begins(&mut tx).await?;
    let known: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'",
    )
    .fetch_all(&mut *tx)
    .await?;
    let known: HashSet<String> = known.into_iter().collect();
    let mut held = HashSet::new();
    let mut tried = Vec::new();
    for m in pending {
        let mut statements = Vec::new();
        for text in split::statements(m.text) {
            sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut *tx).await?;
            let locks = locks(&mut tx, &known, &mut held).await?;
            statements.push(Statement { text: text.to_owned(), locks });
        }
        tried.push(Tried { version: m.version, name: m.name, serves: m.serves, statements });
    }
    stage.is_over();
    tx.rollback().await?;
    Ok(tried)
}

/// The locks that were not held before.
async fn locks(
    conn: &mut PgConnection,
    known: &HashSet<String>,
    held: &mut HashSet<(String, String)>,
) -> Result<Vec<Lock>, DbError> {
    let sql = "SELECT l.relation::text, l.relation::regclass::text, l.mode FROM pg_locks l
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        ORDER BY 2, 3";
    let rows: Vec<(String, String, String)> = sqlx::query_as(sql).fetch_all(conn).await?;
    let rows = rows.into_iter().filter(|(oid, ..)| known.contains(oid));
    let fresh = rows.filter(|(oid, _, mode)| held.insert((oid.clone(), mode.clone())));
    Ok(fresh.map(|(_, table, mode)| Lock { stops: Stops::of(&table, &mode), table, mode }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_conflict_as_postgres_says() {
        for (n, (_, bits)) in MODES.iter().enumerate() {
            for (m, (_, other)) in MODES.iter().enumerate() {
                assert_eq!(bits & (1 << m) != 0, other & (1 << n) != 0, "a conflict is one for both: {n} {m}");
            }
        }
        assert_eq!(Stops::of("stepd.jobs", "ShareLock"), Stops::Enqueuers);
        assert_eq!(Stops::of("stepd.jobs", "ShareUpdateExclusiveLock"), Stops::Nobody);
        assert_eq!(Stops::of("stepd_engine.ended", "ShareRowExclusiveLock"), Stops::Writers);
        assert_eq!(Stops::of("stepd_engine.ended", "AccessExclusiveLock"), Stops::All);
        assert_eq!(Stops::of("stepd_engine.workflows", "ShareLock"), Stops::Writers);
    }
}

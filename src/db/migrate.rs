//! Migrations: embedded, forward only, in a table of stepd's own, safe to start from many daemons at once, and beside them.

mod beside;
mod split;
mod trial;

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::{Connection, Executor, PgConnection, Postgres};

use super::compat;
use super::connect::Database;
use super::error::DbError;
use super::roles;

use beside::{Stage, Tries, watched};

pub use trial::{ENQUEUING, Lock, Statement, Stops, Tried, dry_run};

/// One step of the schema.
///
/// Expand, then contract. A migration that only adds what older daemons do not look at *expands*: it still serves the daemons of
/// the version before. One that takes away or changes what they use *contracts*, and serves only those that know the expansion. So
/// while every expansion keeps `serves`, and its contraction comes one version later at the earliest, an old daemon works beside
/// a new schema for one version. A contraction is refused while a daemon that it does not serve is at work.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The schema's version from then on.
    pub version: i32,
    /// What it brings, in a word.
    pub name: &'static str,
    /// The oldest schema version whose daemons can work with this one.
    pub serves: i32,
    /// Its statements.
    pub text: &'static str,
}

impl Migration {
    /// SHA-256 of its text in hexadecimal digits, as `sha256sum` tells it of its file.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::digest(self.text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// All migrations, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "tables", serves: 1, text: include_str!("../../migrations/0001_tables.sql") },
    Migration { version: 2, name: "engine", serves: 2, text: include_str!("../../migrations/0002_engine.sql") },
    Migration { version: 3, name: "functions", serves: 3, text: include_str!("../../migrations/0003_functions.sql") },
    Migration { version: 4, name: "views", serves: 4, text: include_str!("../../migrations/0004_views.sql") },
    Migration { version: 5, name: "daily", serves: 5, text: include_str!("../../migrations/0005_daily.sql") },
    Migration { version: 6, name: "logs", serves: 6, text: include_str!("../../migrations/0006_logs.sql") },
    Migration { version: 7, name: "traces", serves: 7, text: include_str!("../../migrations/0007_traces.sql") },
];

/// The schema version that this binary is made for.
#[must_use]
pub fn latest() -> i32 {
    known(MIGRATIONS)
}

fn known(migrations: &[Migration]) -> i32 {
    migrations.last().map_or(0, |m| m.version)
}

/// Why a daemon cannot work with a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Unfit {
    #[error("this database has no stepd schema, and this stepd needs version {known}: run stepd migrate")]
    Missing { known: i32 },
    #[error("the schema of this database is version {schema}, and this stepd needs version {known}: run stepd migrate")]
    Older { schema: i32, known: i32 },
    #[error(
        "the schema of this database is version {schema} and serves daemons from version {serves} on, and this stepd knows version {known}: install a newer stepd"
    )]
    Newer { schema: i32, serves: i32, known: i32 },
    #[error(
        "this database has stepd's tables, but no version of them is recorded: stepd migrate makes them, or the whole script of stepd migrate --dump-sql"
    )]
    Unrecorded,
    #[error(
        "the schema of this database is version {schema}, this stepd needs version {known}, and {role} may not change it: run stepd migrate as {owner}"
    )]
    NotOwner { schema: i32, known: i32, role: String, owner: String },
    #[error(
        "schema version {version} no longer serves {worker}, which knows only version {known}: stop or upgrade it, then migrate"
    )]
    AtWork { version: i32, worker: String, known: i32 },
    #[error(
        "the schema of this database is not whole ({missing} is missing): a restore is under way, or was broken off; nothing is written \
         before it has ended"
    )]
    NotWhole { missing: String },
    #[error(
        "this database's schema was made by another build of stepd: its version {version} ({name}) is not the one that this program \
         knows; work with the stepd that made it, or give this one a database of its own"
    )]
    Differs { version: i32, name: &'static str },
    #[error(
        "schema version {version} keeps others waiting for longer than a moment each time that it is tried: apply it when nobody \
         enqueues, with stepd migrate --may-block"
    )]
    Long { version: i32 },
    #[error("schema version {version} cannot be tried: {who} is in the way; try again later")]
    InTheWay { version: i32, who: String },
}

/// Can a daemon that knows version `known` work with a schema of version `schema`, which serves daemons from `serves` on?
///
/// # Errors
/// The reason why it cannot.
pub fn fits(schema: i32, serves: i32, known: i32) -> Result<(), Unfit> {
    match schema {
        0 => Err(Unfit::Missing { known }),
        schema if schema < known => Err(Unfit::Older { schema, known }),
        schema if serves > known => Err(Unfit::Newer { schema, serves, known }),
        _ => Ok(()),
    }
}

/// Can this program work with this database's schema?
///
/// # Errors
/// It cannot, or whatever the database says.
pub async fn check(conn: &mut PgConnection) -> Result<(), DbError> {
    let (schema, serves) = applied(conn).await?;
    fits(schema, serves, latest())?;
    ours(conn, MIGRATIONS).await??;
    whole(conn).await
}

/// Has each version that is applied here, and that these migrations know, the text that they have for it? (The inner answer.)
///
/// # Errors
/// Whatever the database says.
pub async fn ours(conn: &mut PgConnection, migrations: &[Migration]) -> Result<Result<(), Unfit>, DbError> {
    // The column may not be there: before anything was released, schemas were made without it.
    let sql = "SELECT v.version, to_jsonb(v) ->> 'fingerprint' FROM stepd.versions v ORDER BY v.version";
    let applied: Vec<(i32, Option<String>)> = sqlx::query_as(sql).fetch_all(conn).await?;
    let differs = |m: &&Migration| applied.iter().any(|(v, f)| *v == m.version && f.as_ref() != Some(&m.fingerprint()));
    Ok(match migrations.iter().find(differs) {
        Some(m) => Err(Unfit::Differs { version: m.version, name: m.name }),
        None => Ok(()),
    })
}

/// Is the schema whole? A restore makes indexes and triggers last. Who writes before they are there breaks it, and is broken by it. (By the
/// catalogue alone: who may not look into `stepd_engine` asks, too.)
///
/// # Errors
/// It is not, or whatever the database says.
pub async fn whole<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<(), DbError> {
    let sql = "SELECT t.name FROM unnest('{jobs_before_insert,jobs_after_insert,ended_after_insert,ended_traced}'::text[]) t(name)
        WHERE NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE g.tgname = t.name AND n.nspname IN ('stepd', 'stepd_engine') AND c.relname IN ('jobs', 'ended')) LIMIT 1";
    match sqlx::query_scalar(sql).fetch_optional(db).await? {
        None => Ok(()),
        Some(missing) => Err(Unfit::NotWhole { missing }.into()),
    }
}

/// Serialises migrations of one database; any number that nobody else uses (\"stepd\" in ASCII).
const LOCK: i64 = 0x73_7465_7064;

/// While another process migrates.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The applied version, and the oldest one whose daemons it serves; zeros where stepd has never been.
///
/// # Errors
/// Whatever the database says.
pub async fn applied(conn: &mut PgConnection) -> Result<(i32, i32), DbError> {
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass('stepd.versions') IS NOT NULL").fetch_one(&mut *conn).await?;
    if !there {
        return Ok((0, 0));
    }
    let sql = "SELECT coalesce(max(version), 0), coalesce(max(serves), 0) FROM stepd.versions";
    Ok(sqlx::query_as(sql).fetch_one(conn).await?)
}

/// As [`migrate_beside`], as this program does it.
///
/// # Errors
/// As there.
pub async fn migrate_under_load(db: &Database) -> Result<Vec<i32>, DbError> {
    migrate_beside(db, MIGRATIONS).await
}

/// As [`migrate_to`], beside applications and daemons at work: a second session sees to it that none of them waits for a migration for
/// longer than a moment.
///
/// # Errors
/// As there; and [`Unfit::Long`] for a migration that cannot be done in a moment.
pub async fn migrate_beside(db: &Database, migrations: &[Migration]) -> Result<Vec<i32>, DbError> {
    let mut conn = db.connect_past_pooler("migrate", &[]).await?;
    let mut watch = db.connect_past_pooler("migrate watch", &[]).await?;
    let done = with(&mut conn, Some(&mut watch), migrations).await;
    let _ = watch.close().await;
    let _ = conn.close().await;
    done
}

/// Applies what is missing, each migration in a transaction of its own (of a bare database all in one), and makes sure that this program can work with the
/// result. Returns the versions applied now. Whoever comes meanwhile may have to wait until it is done.
///
/// # Errors
/// Whatever the database says, or that the schema is too new; what was applied before stays.
pub async fn migrate(conn: &mut PgConnection) -> Result<Vec<i32>, DbError> {
    migrate_to(conn, MIGRATIONS).await
}

/// As [`migrate`], as a program with these migrations would do it.
///
/// # Errors
/// As for [`migrate`].
pub async fn migrate_to(conn: &mut PgConnection, migrations: &[Migration]) -> Result<Vec<i32>, DbError> {
    with(conn, None, migrations).await
}

async fn with(
    conn: &mut PgConnection,
    mut watch: Option<&mut PgConnection>,
    migrations: &[Migration],
) -> Result<Vec<i32>, DbError> {
    // Where nothing was there, nobody can be at work.
    let fresh = applied(conn).await?.0 == 0;
    let pending = pending(conn, migrations).await?;
    let mut done = Vec::new();
    // It gets all or nothing.
    let at_once = if fresh { pending.len().max(1) } else { 1 };
    for together in pending.chunks(at_once) {
        done.extend(in_a_moment(conn, watch.as_deref_mut(), together, fresh).await?);
    }
    if !done.is_empty() {
        in_a_moment(conn, watch, &[], fresh).await?;
    }
    let (schema, serves) = applied(conn).await?;
    fits(schema, serves, known(migrations))?;
    ours(conn, migrations).await??;
    Ok(done)
}

/// What of them is missing here, where this session's role may apply it.
async fn pending(conn: &mut PgConnection, migrations: &[Migration]) -> Result<Vec<Migration>, DbError> {
    let (before, _) = applied(conn).await?;
    if before == 0 && sqlx::query_scalar("SELECT to_regclass('stepd.jobs') IS NOT NULL").fetch_one(&mut *conn).await? {
        return Err(Unfit::Unrecorded.into());
    }
    // Nothing is put upon what this program does not know.
    if before > 0 {
        ours(conn, migrations).await??;
    }
    if before > 0 && before < known(migrations) {
        refuse_to_others(conn, before, known(migrations)).await?;
    }
    Ok(migrations.iter().filter(|m| m.version > before).copied().collect())
}

/// Tries migrations until they find their moment; none: what comes after the last. Returns the versions that no other process has applied
/// meanwhile.
async fn in_a_moment(
    conn: &mut PgConnection,
    mut watch: Option<&mut PgConnection>,
    together: &[Migration],
    fresh: bool,
) -> Result<Vec<i32>, DbError> {
    let version = together.first().map_or(latest(), |m| m.version);
    let (stage, mut tries) = (Stage::default(), Tries::new(version, None));
    loop {
        match watched(watch.as_deref_mut(), &stage, in_turn(conn, &stage, together, fresh)).await {
            (Ok(done), _) => return Ok(done),
            (Err(error), in_the_way) => tries.make_way(error, in_the_way).await?,
        }
    }
}

/// A transaction in which no other process migrates. Its lock is the transaction's: a session's does not hold behind a pooler.
async fn in_turn(
    conn: &mut PgConnection,
    stage: &Stage,
    together: &[Migration],
    fresh: bool,
) -> Result<Vec<i32>, DbError> {
    // Asked for again and again, for a lock_timeout would end a wait; a migration may take long.
    let mut told = false;
    loop {
        let mut tx = conn.begin().await?;
        stage.begins(&mut tx).await?;
        if sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(LOCK).fetch_one(&mut *tx).await? {
            let mut done = Vec::new();
            for migration in together {
                if apply(&mut tx, migration, fresh).await? {
                    done.push(migration.version);
                }
            }
            if together.is_empty() {
                afterwards(&mut tx).await?;
            }
            // A commit is not broken off.
            stage.is_over();
            tx.commit().await?;
            return Ok(done);
        }
        tx.rollback().await?;
        if !std::mem::replace(&mut told, true) {
            tracing::info!("another process is migrating this database; waiting until it has ended");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Applies one migration. False: another process has, meanwhile.
async fn apply(tx: &mut PgConnection, m: &Migration, fresh: bool) -> Result<bool, DbError> {
    let (before, served) = applied(tx).await?;
    if before >= m.version {
        return Ok(false);
    }
    let contracts = !fresh && m.serves > served;
    if contracts {
        refuse_under_the_old(tx, m).await?;
    }
    sqlx::raw_sql(m.text).execute(&mut *tx).await?;
    sqlx::query("INSERT INTO stepd_engine.migrations (version, name, serves, fingerprint) VALUES ($1, $2, $3, $4)")
        .bind(m.version)
        .bind(m.name)
        .bind(m.serves)
        .bind(m.fingerprint())
        .execute(&mut *tx)
        .await?;
    if contracts {
        // Who has registered meanwhile has not seen this version. From here to the commit nobody registers.
        sqlx::raw_sql("LOCK TABLE stepd_engine.workers IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
        refuse_under_the_old(tx, m).await?;
    }
    Ok(true)
}

/// What hangs on the schema, made anew. What is new in it is nobody's yet.
async fn afterwards(tx: &mut PgConnection) -> Result<(), DbError> {
    if let Some(compat) = compat::installed(tx).await? {
        compat::install(tx, compat).await?;
    }
    if roles::are_granted(tx).await? {
        roles::install(tx).await?;
    }
    Ok(())
}

/// Whoever may only work with the schema is told who may change it.
async fn refuse_to_others(conn: &mut PgConnection, schema: i32, known: i32) -> Result<(), DbError> {
    let sql = "SELECT current_user::text, n.nspowner::regrole::text FROM pg_namespace n
        WHERE n.nspname = 'stepd' AND NOT pg_has_role(n.nspowner, 'USAGE')";
    match sqlx::query_as(sql).fetch_optional(conn).await? {
        None => Ok(()),
        Some((role, owner)) => Err(Unfit::NotOwner { schema, known, role, owner }.into()),
    }
}

/// A contraction is not for a database where daemons are at work that it does not serve.
async fn refuse_under_the_old(conn: &mut PgConnection, migration: &Migration) -> Result<(), DbError> {
    let sql = "SELECT format('worker %s:%s (stepd %s)', w.host, w.pid, w.version), w.schema FROM stepd_engine.workers w
        WHERE w.schema < $1 AND stepd_engine.worker_alive(w.beat_at, w.lease_ms) ORDER BY w.schema, w.started_at LIMIT 1";
    let found: Option<(String, i32)> = sqlx::query_as(sql).bind(migration.serves).fetch_optional(conn).await?;
    match found {
        None => Ok(()),
        Some((worker, known)) => Err(Unfit::AtWork { version: migration.version, worker, known }.into()),
    }
}

/// The whole schema as one script for `psql -1`, for those who review before they apply.
#[must_use]
pub fn dump() -> String {
    let mut out = String::from("-- stepd's schema. Apply with: psql -1 -v ON_ERROR_STOP=1 -f FILE\n\n");
    for m in MIGRATIONS {
        let Migration { version, name, serves, text } = m;
        let fingerprint = m.fingerprint();
        out.push_str(&format!(
            "\n-- version {version}: {name}\n{text}\n\
             INSERT INTO stepd_engine.migrations (version, name, serves, fingerprint) VALUES ({version}, '{name}', {serves}, '{fingerprint}');\n"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_works_with_its_own_schema_and_with_a_newer_one_that_still_serves_it() {
        assert_eq!(fits(7, 7, 7), Ok(()));
        assert_eq!(fits(8, 7, 7), Ok(()));
        assert_eq!(fits(9, 8, 7), Err(Unfit::Newer { schema: 9, serves: 8, known: 7 }));
        assert_eq!(fits(6, 6, 7), Err(Unfit::Older { schema: 6, known: 7 }));
        assert_eq!(fits(0, 0, 7), Err(Unfit::Missing { known: 7 }));
    }

    #[test]
    fn versions_grow_by_one_and_serve_no_daemon_of_the_future() {
        for (n, m) in (1..).zip(MIGRATIONS) {
            assert!(m.version == n && (1..=m.version).contains(&m.serves), "{} {}", m.version, m.name);
        }
    }
}

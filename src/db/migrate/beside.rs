//! Migrations beside applications and daemons at work: nobody waits for one for longer than a moment.
//!
//! A migration that waits for a lock keeps everybody waiting who comes after it; one that holds it, everybody who wants the table.
//! So it waits for milliseconds only, and it is broken off as soon as somebody has waited for it that long. Then it makes way, and
//! tries again: a short migration finds its moment, a long one is refused with its name.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use futures_util::future::join;
use sqlx::PgConnection;

use super::Unfit;
use crate::db::error::{DbError, Trouble};

/// So long a migration waits for a lock, and everybody behind it.
const WAITS: &str = "40ms";

/// Who has waited so long for what it holds, waits no longer.
const HOLDS: &str = "30 milliseconds";

/// Between two looks at who waits.
const LOOK: Duration = Duration::from_millis(5);

/// Between two tries everybody who has waited has his turn.
const MAKES_WAY: Duration = Duration::from_millis(100);

/// … and ever longer, up to this.
const LONGEST: Duration = Duration::from_secs(2);

/// What is broken off again and again cannot be done in a moment.
const BROKEN_OFF: u32 = 10;

/// Where a try stands.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Who tries; 0: nobody yet.
    backend: AtomicI32,
    over: AtomicBool,
}

impl Stage {
    /// At the beginning of its transaction: with settings of its own, whatever the role's are.
    pub(super) async fn begins(&self, tx: &mut PgConnection) -> Result<(), DbError> {
        let settings = format!("SET LOCAL lock_timeout = '{WAITS}'; SET LOCAL statement_timeout = 0");
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut *tx).await?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(tx).await?;
        self.backend.store(backend, Ordering::Relaxed);
        Ok(())
    }

    /// From here on it is not broken off.
    pub(super) fn is_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The tries of one migration.
#[derive(Debug)]
pub(super) struct Tries {
    version: i32,
    /// Where it is only a trial, it does not wait for ever.
    most: Option<u32>,
    made: u32,
    broken_off: u32,
}

impl Tries {
    pub(super) fn new(version: i32, most: Option<u32>) -> Self {
        Self { version, most, made: 0, broken_off: 0 }
    }

    /// Makes way after a try that was in somebody's way, or in whose way somebody was.
    ///
    /// # Errors
    /// There is no use in another one.
    pub(super) async fn make_way(&mut self, error: DbError, in_the_way: Option<String>) -> Result<(), DbError> {
        if error.trouble != Trouble::Busy {
            return Err(error);
        }
        self.made += 1;
        self.broken_off += u32::from(error.sqlstate().as_deref() == Some("57014"));
        if self.broken_off >= BROKEN_OFF {
            return Err(Unfit::Long { version: self.version }.into());
        }
        let who = in_the_way.unwrap_or_else(|| "short transactions, one after the other".to_owned());
        if self.most.is_some_and(|most| self.made >= most) {
            return Err(Unfit::InTheWay { version: self.version, who }.into());
        }
        if self.made == 5 {
            let version = self.version;
            tracing::warn!(
                version,
                in_the_way = who,
                "a table that the migration changes is in use; trying again and again"
            );
        }
        let pause = MAKES_WAY.saturating_mul(1 << (self.made / 4).min(5)).min(LONGEST);
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        Ok(())
    }
}

/// Does it while a second session looks who waits for the first one, and breaks it off before they have waited for long. Says who was in
/// the way. `work` says itself when it has done all but the commit.
pub(super) async fn watched<T>(
    watch: Option<&mut PgConnection>,
    stage: &Stage,
    work: impl Future<Output = Result<T, DbError>>,
) -> (Result<T, DbError>, Option<String>) {
    stage.over.store(false, Ordering::Relaxed);
    let work = async {
        let done = work.await;
        stage.is_over();
        done
    };
    match watch {
        Some(watch) => join(work, look(watch, stage)).await,
        None => (work.await, None),
    }
}

/// Who waits for somebody who waits for the migration waits for the latter, too: `pg_blocking_pids` names the first in line.
async fn look(watch: &mut PgConnection, stage: &Stage) -> Option<String> {
    let sql = format!(
        "SELECT (SELECT pg_cancel_backend($1) FROM pg_locks l WHERE NOT l.granted AND l.pid <> $1
                AND l.waitstart < clock_timestamp() - interval '{HOLDS}' AND $1 = ANY (pg_blocking_pids(l.pid)) LIMIT 1),
            (SELECT format('session %s of %s (%s), %s for %s', a.pid, a.usename, a.application_name, a.state,
                    date_trunc('second', clock_timestamp() - coalesce(a.xact_start, a.query_start)))
                FROM unnest(pg_blocking_pids($1)) b JOIN pg_stat_activity a ON a.pid = b ORDER BY a.xact_start LIMIT 1)"
    );
    let mut in_the_way = None;
    while !stage.over.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
        let backend = stage.backend.load(Ordering::Relaxed);
        if backend == 0 || stage.over.load(Ordering::Relaxed) {
            continue;
        }
        let seen = sqlx::query_as::<_, (Option<bool>, Option<String>)>(sqlx::AssertSqlSafe(sql.clone())).bind(backend);
        match seen.fetch_one(&mut *watch).await {
            Ok((_, who)) => in_the_way = who.or(in_the_way),
            // The lock timeout is a wall of its own.
            Err(error) => tracing::debug!(%error, "nobody watches the migration"),
        }
    }
    in_the_way
}

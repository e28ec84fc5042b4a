//! Claiming.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::model::{Claimed, Lane, Lease, Payload, RunId, StepRecord, StepState, WorkerId};
use crate::rules::horizon::{Pair, Place};

use super::error::DbError;

/// What a claim needs to know.
pub struct ClaimRequest<'a> {
    /// Who claims.
    pub worker: WorkerId,
    /// At most this many …
    pub want: i64,
    /// … of them so many places for new runs, whatever came back.
    pub new: i64,
    /// The definitions that this worker pins: `{workflow: id}`.
    pub definitions: &'a serde_json::Value,
    /// The queues served; `None`: all that are not exclusive.
    pub serves: Option<&'a [String]>,
    /// Where to look, and from where on.
    pub pairs: &'a [(Pair, Place)],
}

/// A claimed run, and where in the ready lane it stood (`None`: it came back).
pub struct ClaimedRow {
    /// The run.
    pub claimed: Claimed,
    /// Its pair and place in the ready lane.
    pub place: Option<(Pair, Place)>,
    order: (bool, i16, DateTime<Utc>, Uuid),
}

macro_rules! claimed_row {
    ($row:expr, $worker:expr) => {{
        let r = $row;
        let queue: Arc<str> = r.queue.into();
        let fresh = Lane::from_number(r.lane) == Some(Lane::Fresh);
        let place = fresh.then(|| ((queue.clone(), r.priority), (r.ready_at, r.id)));
        ClaimedRow {
            order: (fresh, r.priority, r.ready_at, r.id),
            place,
            claimed: Claimed {
                lease: Lease::new(RunId(r.id), $worker, r.epoch),
                workflow: r.workflow.into(),
                definition: r.definition,
                input: r.input.map(Payload::from_database),
                queue,
                scheduled_for: r.run_at.unwrap_or_else(|| uuid_time(r.id).unwrap_or(r.ready_at)),
                started_at: r.started_at,
                resumes: r.resumes,
                crashes: r.crashes,
                streak: r.streak,
                taken: r.taken,
                after_failure: r.after_failure,
                traceparent: r.traceparent,
                session_id: r.session_id.map(Arc::from),
                is_child: r.is_child,
                keeps_key: r.keeps_key,
            },
        }
    }};
}

/// The time inside a UUIDv7.
fn uuid_time(id: Uuid) -> Option<DateTime<Utc>> {
    let (secs, nanos) = id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(secs).ok()?, nanos)
}

/// Claims a batch, in the order in which it should be run.
///
/// # Errors
/// Whatever the database says; then nothing is known of the outcome, and what was claimed is found by the sweep of this worker.
pub async fn claim(conn: &mut PgConnection, req: &ClaimRequest<'_>) -> Result<Vec<ClaimedRow>, DbError> {
    let queues: Vec<&str> = req.pairs.iter().map(|p| &*p.0.0).collect();
    let priorities: Vec<i16> = req.pairs.iter().map(|p| p.0.1).collect();
    let ready: Vec<DateTime<Utc>> = req.pairs.iter().map(|p| p.1.0).collect();
    let ids: Vec<Uuid> = req.pairs.iter().map(|p| p.1.1).collect();
    let rows = sqlx::query_file!(
        "src/db/sql/claim.sql",
        req.worker.0,
        req.want,
        req.definitions,
        &queues as &[&str],
        &priorities,
        &ready,
        &ids,
        req.serves as Option<&[String]>,
        req.new,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut rows: Vec<ClaimedRow> = rows.into_iter().map(|r| claimed_row!(r, req.worker)).collect();
    rows.sort_unstable_by_key(|r| r.order);
    Ok(rows)
}

/// Claims one run that must be run alone.
///
/// # Errors
/// As [`claim`].
pub async fn claim_solo(conn: &mut PgConnection, req: &ClaimRequest<'_>) -> Result<Option<ClaimedRow>, DbError> {
    let row =
        sqlx::query_file!("src/db/sql/claim_solo.sql", req.worker.0, req.definitions, req.serves as Option<&[String]>,)
            .fetch_optional(&mut *conn)
            .await?;
    Ok(row.map(|r| claimed_row!(r, req.worker)))
}

/// The journal of a run. Row by row: however long it is, each must come within `patience`.
///
/// # Errors
/// Whatever the database says; `Trouble::Lost` when nothing more comes.
pub async fn load_records(conn: &mut PgConnection, run: RunId, patience: Duration) -> Result<Vec<StepRecord>, DbError> {
    let mut rows = sqlx::query_file!("src/db/sql/load_records.sql", run.0).fetch(conn);
    let mut records = Vec::new();
    loop {
        let next = tokio::time::timeout(patience, rows.try_next()).await;
        let Some(r) = next.map_err(|_| DbError::unanswered(patience))?? else { return Ok(records) };
        records.push(StepRecord {
            key: r.key.into(),
            kind: r.kind,
            state: StepState::from_word(&r.state).unwrap_or(StepState::Running),
            checkpoint: r.checkpoint,
            attempts: u32::try_from(r.attempts).unwrap_or(1),
            seq: r.seq,
            epoch: r.epoch,
            started_at: r.started_at,
            ended_at: r.ended_at,
            output: r.output.map(Payload::from_database),
            error: r.error.and_then(|e| serde_json::from_str(&e).ok()),
            decision: r.decision.map(Payload::from_database),
            due_in_ms: r.due_in_ms,
            usage: r.usage.and_then(|u| serde_json::from_str(&u).ok()),
            label: None,
        });
    }
}

/// The input of a run that was claimed without it; `None` when the run is not there any more.
///
/// # Errors
/// Whatever the database says; `Trouble::Lost` when nothing comes.
pub async fn load_input(conn: &mut PgConnection, run: RunId, patience: Duration) -> Result<Option<Payload>, DbError> {
    let asked = sqlx::query_file!("src/db/sql/load_input.sql", run.0).fetch_optional(conn);
    let row = tokio::time::timeout(patience, asked).await.map_err(|_| DbError::unanswered(patience))??;
    Ok(row.map(|r| Payload::from_database(r.input)))
}

/// The runs, with their epochs, that the database gives to a worker.
///
/// # Errors
/// Whatever the database says.
pub async fn held_by(conn: &mut PgConnection, worker: WorkerId) -> Result<Vec<(RunId, i32)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/orphans.sql", worker.0).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|r| (RunId(r.id), r.epoch)).collect())
}

/// What a look sees.
pub struct Look {
    /// When it began, by the database's clock.
    pub at: DateTime<Utc>,
    /// The transactions that were writing to the jobs, by their virtual ids.
    pub writers: Vec<String>,
    /// The (queue, priority) pairs that have runs to be claimed, each with the place of the first.
    pub pairs: Vec<(Pair, Place)>,
    /// Those among them that are open, and served by who asks.
    pub mine: Vec<(Pair, Place)>,
    /// Has a run come back?
    pub back: bool,
    /// Does a run wait to be run alone?
    pub solo: bool,
    /// Is a run due that waited for time?
    pub due: bool,
    /// Is a run held, or a queue closed?
    pub held: bool,
}

/// A look, which reads the pairs of `floors` from those places on, and all others whole.
///
/// # Errors
/// Whatever the database says.
pub async fn look(
    conn: &mut PgConnection,
    serves: Option<&[String]>,
    floors: &[(Pair, Place)],
) -> Result<Look, DbError> {
    let queues: Vec<&str> = floors.iter().map(|f| &*f.0.0).collect();
    let priorities: Vec<i16> = floors.iter().map(|f| f.0.1).collect();
    let ready: Vec<DateTime<Utc>> = floors.iter().map(|f| f.1.0).collect();
    let ids: Vec<Uuid> = floors.iter().map(|f| f.1.1).collect();
    let serves = serves as Option<&[String]>;
    let rows = sqlx::query_file!("src/db/sql/look.sql", serves, &queues as &[&str], &priorities, &ready, &ids)
        .fetch_all(conn)
        .await?;
    let mut look = Look {
        at: DateTime::<Utc>::MIN_UTC,
        writers: Vec::new(),
        pairs: Vec::new(),
        mine: Vec::new(),
        back: rows.iter().any(|r| r.back && !r.solo),
        solo: rows.iter().any(|r| r.solo),
        due: rows.iter().any(|r| r.due),
        held: rows.iter().any(|r| r.held),
    };
    for r in rows {
        look.at = look.at.max(r.at.unwrap_or(look.at));
        look.writers.extend(r.inserter);
        if let (Some(ready_at), Some(id)) = (r.ready_at, r.id) {
            let found = ((r.queue.into(), r.priority), (ready_at, id));
            if r.mine {
                look.mine.push(found.clone());
            }
            look.pairs.push(found);
        }
    }
    Ok(look)
}

/// The pairs of the newest jobs, from a time of the database's clock on.
///
/// # Errors
/// Whatever the database says.
pub async fn newest(
    conn: &mut PgConnection,
    from: DateTime<Utc>,
    serves: Option<&[String]>,
) -> Result<Vec<(Pair, Place)>, DbError> {
    let rows = sqlx::query_file!("src/db/sql/newest.sql", from, serves as Option<&[String]>).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|r| ((r.queue.into(), r.priority), (r.ready_at, r.id))).collect())
}

/// Puts this worker's name on a run that must be run alone. True when it is this worker that empties itself.
///
/// # Errors
/// Whatever the database says.
pub async fn reserve_solo(
    conn: &mut PgConnection,
    worker: WorkerId,
    serves: Option<&[String]>,
) -> Result<bool, DbError> {
    let done =
        sqlx::query_file!("src/db/sql/reserve_solo.sql", worker.0, serves as Option<&[String]>).execute(conn).await?;
    Ok(done.rows_affected() > 0)
}

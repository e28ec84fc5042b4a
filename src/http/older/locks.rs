//! Who has which execution.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::locks::{self, LockLine};

use super::super::Site;
use super::super::access::Scope;
use super::super::problem::Problem;
use super::refused::{Refused, Who};
use super::shapes::Time;

/// Locks that are listed, at the most.
const MOST: i64 = 1_000;

/// The locks of executions.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderLocks)]
pub(super) struct Locks {
    locks: Vec<Lock>,
    /// How many are held, listed or not.
    total: i64,
}

/// A lock: a worker has the execution, and no second one can have it.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderLock)]
struct Lock {
    execution_id: Uuid,
    workflow_id: String,
    /// The worker: `host:pid`; null: it is gone, and another takes the execution over.
    locked_by: Option<String>,
    created_at: Option<Time>,
    /// When it would end without another heartbeat.
    expires_at: Option<Time>,
}

impl From<LockLine> for Lock {
    fn from(line: LockLine) -> Self {
        Self {
            execution_id: line.run,
            workflow_id: line.workflow,
            locked_by: line.holder,
            created_at: line.since.map(Time),
            expires_at: line.expires_at.map(Time),
        }
    }
}

/// Which executions are locked, by whom, and for how long: the leases of running runs, a thousand at the most.
#[utoipa::path(get, path = "/locks", tag = "older",
    responses((status = 200, body = Locks), (status = "4XX", content((Refused = "application/json"), (Problem = "application/problem+json"))), (status = 503, body = Refused)))]
pub(super) async fn all(State(site): State<Arc<Site>>, Who(caller): Who) -> Result<Json<Locks>, Refused> {
    caller.needs(Scope::Read)?;
    let lines = locks::list(&site.readers, Some("lease"), MOST).await?;
    let total = lines.first().map_or(0, |line| line.total);
    Ok(Json(Locks { locks: lines.into_iter().map(Lock::from).collect(), total }))
}

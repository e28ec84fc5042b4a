//! `sql` steps: in stepd's own database the effect and the checkpoint are one transaction.

use std::sync::Arc;

use sqlx::{PgConnection, Row};

use crate::db::sql_step::{Commit, Database as Connections, failure};
use crate::model::{Failure, Payload, SqlRequest, SqlResult, code};
use crate::steps::{BoxFuture, Flow, SqlEffect, StepCx, StepOutput};
use crate::testing::Failpoints;

/// stepd's own database: exactly once.
pub struct OwnDatabase {
    /// Its connections.
    pub connections: Arc<Connections>,
    /// For tests.
    pub failpoints: Failpoints,
}

/// Another database: its effect is committed before the checkpoint, at least once.
pub struct NamedDatabase(pub Arc<Connections>);

impl SqlEffect for OwnDatabase {
    fn run<'a>(&'a self, cx: &'a StepCx, request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let own = cx.clone();
            let stop = cx.stop.clone();
            let failpoints = self.failpoints.clone();
            let commit: Commit<Payload> = Box::new(move |conn, result| {
                Box::pin(async move {
                    let output = checkpoint(conn, &own, result).await?;
                    failpoints.hit("sql.before_commit").await;
                    Ok(output)
                })
            });
            let stopped = async move {
                stop.stopped().await;
            };
            let done = self.connections.run(request, stopped, commit).await;
            self.failpoints.hit("sql.after_commit").await;
            done.map(Flow::Committed)
        })
    }
}

/// Shapes the result and commits it under the lease, inside the statement's transaction.
async fn checkpoint(conn: &mut PgConnection, cx: &StepCx, result: SqlResult) -> Result<Payload, Failure> {
    let output = (cx.shape)(StepOutput::from(result))?;
    let row = sqlx::query("SELECT stepd_engine.commit_step($1, $2, $3, $4, 'sql', $5, $6, $7, $8)")
        .bind(cx.run.0)
        .bind(cx.worker.0)
        .bind(cx.epoch)
        .bind(cx.key.as_str())
        .bind(cx.seq)
        .bind(i32::try_from(cx.attempt).unwrap_or(i32::MAX))
        .bind(cx.started_at)
        .bind(output.as_str())
        .fetch_one(conn)
        .await
        .map_err(|error| failure(&error))?;
    match row.try_get::<bool, _>(0) {
        Ok(true) => Ok(output),
        // Rolled back: the effect is not there, and whoever has the run now will make it.
        _ => Err(Failure::transient(
            code::LEASE_LOST,
            "the lease was lost while the statement ran; nothing of it was kept",
        )),
    }
}

impl SqlEffect for NamedDatabase {
    fn run<'a>(&'a self, cx: &'a StepCx, request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let stop = cx.stop.clone();
            let stopped = async move {
                stop.stopped().await;
            };
            let result = self.0.run_alone(request, stopped).await?;
            Ok(Flow::Done(result.into()))
        })
    }
}

//! What the metrics read of a process when somebody scrapes. It keeps nothing of a daemon alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::db::{Database, migrate};
use crate::services::presence::Presence;
use crate::services::progress::Progress;
use crate::services::runs::Runs;
use crate::services::tracer::AllFigures;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::about::{self, About};

use super::build::Outside;

/// The metrics of a process that has this database.
#[must_use]
pub fn of_process(db: &Database) -> Arc<Metrics> {
    let (metrics, db) = (Arc::new(Metrics::default()), db.clone());
    let schema = migrate::latest().to_string();
    metrics.shelf().reads(move |page| {
        page.flag(&about::BUILD, &[env!("CARGO_PKG_VERSION"), &schema], true);
        for pool in db.pools() {
            page.count(&about::POOL, &[&pool.name, "used"], pool.open.saturating_sub(pool.idle));
            page.count(&about::POOL, &[&pool.name, "idle"], pool.idle);
            page.count(&about::POOL_MOST, &[&pool.name], pool.most);
        }
    });
    metrics
}

/// What only a worker has.
pub(super) fn of_worker(
    metrics: &Metrics,
    runs: &Arc<Runs>,
    presence: &Presence,
    progress: &Arc<Progress>,
    slots: usize,
) {
    let (runs, presence, progress) = (Arc::downgrade(runs), presence.clone(), progress.clone());
    metrics.shelf().reads(move |page| {
        page.count(&about::SLOTS, &[], slots);
        page.flag(&about::REGISTERED, &[], presence.worker().is_some());
        if let Some(runs) = runs.upgrade() {
            let (used, buffered) = runs.counts();
            page.count(&about::SLOTS_USED, &[], used);
            page.count(&about::BUFFERED, &[], buffered);
            page.count(&about::AT_WORK, &[], runs.at_work());
        }
        for pass in progress.passes() {
            page.set(&about::PASS_AGE, &[pass.name], pass.age.as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "passes of one process")]
            for (outcome, n) in [("ok", pass.ok), ("failed", pass.failed)] {
                page.set(&about::PASSES, &[pass.name, outcome], n as f64);
            }
        }
    });
}

/// The export of traces.
pub(super) fn of_traces(metrics: &Metrics, traced: &AllFigures) {
    let traced = traced.clone();
    metrics.shelf().reads(move |page| {
        for (target, figures) in traced.iter() {
            let mut tell = |about: &'static About, figure: &AtomicU64, unit: f64| {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                page.set(about, &[target], figure.load(Ordering::Relaxed) as f64 * unit);
            };
            tell(&about::TRACE_SPANS, &figures.spans, 1.0);
            tell(&about::TRACE_BYTES, &figures.bytes, 1.0);
            tell(&about::TRACE_FAILED, &figures.failed, 1.0);
            tell(&about::TRACE_REFUSED, &figures.refused, 1.0);
            tell(&about::TRACE_DROPPED, &figures.dropped, 1.0);
            tell(&about::TRACE_BACKLOG, &figures.backlog, 1.0);
            tell(&about::TRACE_LAG, &figures.age_ms, 0.001);
        }
    });
}

/// What steps talk to.
pub(super) fn of_outside(metrics: &Metrics, outside: &Outside) {
    let outside = outside.clone();
    metrics.shelf().reads(move |page| {
        for (kind, breakers) in [("mcp", outside.servers.breakers()), ("model", outside.models.breakers())] {
            for (name, circuit) in breakers {
                page.set(&about::BREAKER, &[kind, &name], circuit.openness());
            }
        }
    });
}

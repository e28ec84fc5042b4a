//! One run of chaos: load and faults for a time, then peace until every run has ended, then the check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arguments::Options;
use crate::cluster::Cluster;
use crate::load::Load;
use crate::net;
use crate::plan::{self, Fault, Step, What};
use crate::record::Record;
use crate::report::Report;
use crate::sampler::Sampler;
use crate::support::tools;
use crate::upgrade;

/// Beside two leases: so long may it take after the last fault until every run has ended. What operators and limits have kept back
/// is worked off in it, on a machine that does other things, too; after a long form, a sixth of its time.
const PEACE: Duration = Duration::from_secs(50);

/// What has not ended, or is still to be retried by somebody.
const LEFT: &str = "SELECT count(*) FROM stepd.runs
    WHERE ended_at IS NULL OR state = 'failed' AND (workflow = 'doomed' OR error_code = 'crash_loop' AND workflow NOT IN ('saga', 'keyed'))";

/// Runs it all.
pub async fn run(options: &Options) -> Report {
    let (options, networks) = possible(options);
    let options = &options;
    let cluster = Arc::new(Cluster::start(options, networks).await);
    let (load, sampler) = (Load::new(&cluster, options), Sampler::new(&cluster));
    let enqueuer = tokio::spawn(load.clone().enqueue());
    let operators = tokio::spawn(load.clone().operate(plan::operators(options.seed, options.span)));
    let ticking = tokio::spawn(load.clone().miss_minutes());
    let upgrade = options.migrate.then(|| tokio::spawn(upgrade::migrate_in_the_middle(cluster.clone(), options.span)));
    let (tender, sampling) = (tokio::spawn(load.clone().tend()), tokio::spawn(sampler.clone().run()));

    inject(&cluster, options).await;
    enqueuer.await.unwrap();
    operators.await.unwrap();
    ticking.await.unwrap();
    let migrated = match upgrade {
        Some(task) => Some(task.await.unwrap()),
        None => None,
    };
    cluster.heal().await;
    load.heal();
    let began = Instant::now();
    let limit = Duration::from_secs(2 * u64::from(options.lease)) + PEACE.max(options.span / 6);
    let mut left = -1;
    while left != 0 && began.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = cluster.db.ask::<i64>(LEFT).await.unwrap_or(-1);
    }
    let drained = began.elapsed().as_secs_f64();
    load.end();
    sampler.end();
    tender.await.unwrap();
    sampling.await.unwrap();
    cluster.stop().await;

    let samples = std::mem::take(&mut *sampler.samples.lock().unwrap());
    let mut record = Record::read(&cluster, samples, options).await;
    record.surprises.extend(load.surprises.lock().unwrap().iter().map(|s| format!("an operator was told: {s}")));
    let migrated = migrated.transpose().unwrap_or_else(|why| {
        record.surprises.push(format!("it could not be migrated: {why}"));
        None
    });
    let mut report = Report::new(options, &record, drained);
    report.complaints = cluster.complaints();
    report.migrated = migrated;
    report.actions =
        load.actions.lock().unwrap().iter().map(|((name, said), n)| (format!("{name}: {said}"), *n)).collect();
    if let Some(folder) = &options.keep {
        let _ = std::fs::create_dir_all(folder);
        let copied = std::process::Command::new("cp").arg("-r").arg(cluster.files.path(".")).arg(folder).status();
        assert!(copied.unwrap().success(), "what was to be kept in {} could not be copied", folder.display());
    }
    report
}

/// What of it can be done here; the rest is said aloud, and left out.
fn possible(options: &Options) -> (Options, Option<net::Tools>) {
    let mut options = options.clone();
    let asked = |options: &Options, which: fn(Fault) -> bool| options.faults.iter().any(|(fault, _)| which(*fault));
    let networks = if asked(&options, Fault::is_of_a_line) { net::Tools::found() } else { None };
    if networks.is_none() {
        options.faults.retain(|(fault, _)| !fault.is_of_a_line());
    }
    if asked(&options, |fault| fault == Fault::Clock) && tools::faketime().is_none() {
        options.faults.retain(|(fault, _)| *fault != Fault::Clock);
    }
    if options.pooler {
        options.faults.retain(|(fault, _)| *fault != Fault::Promote);
    }
    (options, networks)
}

/// Does what the plan says. What takes longer than planned, a restart of Postgres, puts off the rest.
async fn inject(cluster: &Arc<Cluster>, options: &Options) {
    let plan = plan::plan(options.seed, options.span, options.workers, &options.faults, options.pace);
    let (began, mut late) = (Instant::now(), Duration::ZERO);
    for Step { at, what } in plan {
        // What was put off beyond the end is not waited for: nothing begins any more.
        let wait = (at + late).min(options.span).saturating_sub(began.elapsed());
        if wait.is_zero() {
            late = began.elapsed().saturating_sub(at);
        }
        tokio::time::sleep(wait).await;
        cluster.restart_the_ended().await;
        match what {
            What::End { fault, slot } => cluster.end(fault, slot),
            What::Begin { .. } if began.elapsed() > options.span => {}
            What::Begin { fault, slot, lasts, draw } => match fault {
                Fault::Sigkill => cluster.sigkill(slot).await,
                Fault::Sigterm => cluster.sigterm(slot),
                Fault::PgFast | Fault::PgImmediate => cluster.postgres(fault, lasts).await,
                Fault::Promote => cluster.promote().await,
                Fault::BackendKill => cluster.backend_kill(draw).await,
                Fault::Terminate => cluster.terminate(draw).await,
                fault if fault.is_scarcity() => cluster.runs_out(fault, slot, lasts).await,
                Fault::Clock => cluster.clock(slot, draw),
                _ => cluster.begin(fault, slot),
            },
        }
    }
    tokio::time::sleep(options.span.saturating_sub(began.elapsed())).await;
}

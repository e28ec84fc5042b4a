//! Targets of traces that are away, slow, or refuse; daemons that die with a delivery under way; runs that live longer than a trace.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use crate::cli::stepd;
use crate::support::collector::{Collector, Mood};
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const QUICK: &str = "name: quick\nsteps: [{id: a, set: 1}, {id: b, set: 2}]\n";

fn target(name: &str, place: &str) -> (String, String) {
    (format!("STEPD_TRACES__{}__URL", name.to_uppercase()), format!("{place}/v1/traces"))
}

fn with(spec: Spec, targets: &[(&str, &str)]) -> Spec {
    targets.iter().fold(spec, |spec, (name, place)| {
        let (key, value) = target(name, place);
        spec.env(&key, value)
    })
}

async fn enqueue(db: &Db, n: usize) -> BTreeSet<String> {
    let mut runs = BTreeSet::new();
    for _ in 0..n {
        runs.insert(db.enqueue("quick", "{}").await);
    }
    runs
}

async fn has(collector: &Collector, runs: &BTreeSet<String>) {
    wait_until("every trace is there", SOON, async || runs.is_subset(&collector.runs().into_iter().collect())).await;
}

async fn nothing_is_left(db: &Db) {
    wait_until("no note is left", SOON, async || db.count("SELECT count(*) FROM stepd_engine.trace_notes").await == 0)
        .await;
}

#[tokio::test]
async fn a_target_that_hangs_or_refuses_slows_no_run_and_gets_everything_when_it_is_back() {
    for mood in [Mood::Hangs, Mood::Answers(500), Mood::Answers(429), Mood::Answers(401)] {
        let (db, files, sick, well) =
            (Db::new().await, Files::new([QUICK]), Collector::start().await, Collector::start().await);
        sick.is(mood);
        let targets = [("sick", &*sick.place()), ("well", &*well.place())];
        let mut worker = with(Spec::new(&db, &files), &targets).ready().await;
        let runs = enqueue(&db, 20).await;
        db.all_ended(SOON).await;
        // The other one has them meanwhile.
        has(&well, &runs).await;
        wait_until("the sick one was asked", SOON, async || !sick.heard().is_empty()).await;
        assert!(
            sick.runs().is_empty()
                && db.count("SELECT count(*) FROM stepd_engine.trace_notes WHERE target = 'sick'").await > 0
        );
        if mood == Mood::Hangs {
            // It is not waited for to the end of its patience.
            assert_eq!(worker.drain(SOON).await, Some(0), "a drain does not wait for it");
            sick.is(Mood::Takes);
            worker = with(Spec::new(&db, &files), &targets).ready().await;
        } else {
            worker.logs("traces cannot be delivered").await;
            sick.is(Mood::Takes);
        }
        has(&sick, &runs).await;
        nothing_is_left(&db).await;
        assert!(worker.is_running());
    }
}

#[tokio::test]
async fn what_ended_while_the_collector_was_not_there_and_the_daemon_died_is_delivered_all_the_same() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let spec = with(Spec::new(&db, &files), &[("c", &place)]);
    let mut first = spec.ready().await;
    let runs = enqueue(&db, 20).await;
    db.all_ended(SOON).await;
    first.logs("traces cannot be delivered").await;
    first.kill9();
    let collector = Collector::on(TcpListener::bind(place.trim_start_matches("http://")).unwrap()).await;
    // As if the time had passed for which the dead one held its notes.
    db.exec("UPDATE stepd_engine.trace_notes SET due_at = '-infinity'").await;
    let _second = spec.ready().await;
    has(&collector, &runs).await;
    nothing_is_left(&db).await;
}

#[tokio::test]
async fn several_daemons_share_the_work_and_each_run_is_told_with_the_same_ids_however_often() {
    let (db, files, collector) = (Db::new().await, Files::new([QUICK]), Collector::start().await);
    let spec = with(Spec::new(&db, &files), &[("c", &collector.place())]);
    let (_a, _b) = (spec.ready().await, spec.ready().await);
    let runs = enqueue(&db, 60).await;
    db.all_ended(SOON).await;
    has(&collector, &runs).await;
    nothing_is_left(&db).await;
    let spans = collector.spans();
    let ids: BTreeSet<_> = spans.iter().map(|s| (s.trace_id.clone(), s.span_id.clone())).collect();
    assert_eq!(ids.len(), 60 * 5, "a root, two steps, two attempts of each run");
    assert_eq!(spans.len(), ids.len(), "no daemon has died: nothing is told twice");
}

#[tokio::test]
async fn a_run_that_waits_for_long_is_told_in_parts_and_so_is_one_that_is_retried_after_its_end() {
    let waits = "name: waits\nresume: never\nsteps:\n  - {id: a, set: 1}\n  - {id: w, wait: go}\n  - {id: b, run: 'test -e @DIR@/ok', retry: {max_attempts: 1}}\n";
    let (db, files, collector) = (Db::new().await, Files::new([waits]), Collector::start().await);
    let spec = with(Spec::new(&db, &files), &[("c", &collector.place())]);
    let _worker = spec.env("STEPD_TRACE_WAIT_SECONDS", "1").ready().await;
    let run = db.enqueue("waits", "{}").await;
    let parts = async |n: usize| {
        wait_until(&format!("part {n} is there"), SOON, async || {
            collector.runs().iter().filter(|r| **r == run).count() >= n
        })
        .await;
    };
    parts(1).await;
    assert_eq!(db.state(&run).await, "waiting");
    holds_for("it is told once", Duration::from_millis(1500), async || collector.runs().len() == 1).await;
    stepd(&db, &["signal", &run, "go"]).await.is(0);
    db.reaches(&run, "failed", SOON).await;
    parts(2).await;
    std::fs::write(files.path("ok"), "").unwrap();
    stepd(&db, &["retry", &run]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    parts(3).await;
    let spans = collector.spans();
    let mut roots: Vec<_> = spans.iter().filter(|s| s.parent_span_id.is_empty()).collect();
    roots.sort_by_key(|s| s.start_time_unix_nano);
    assert_eq!(roots.len(), 3);
    for pair in roots.windows(2) {
        assert_eq!(pair[1].links[0].span_id, pair[0].span_id, "each links to the one before");
        assert!(pair[0].end_time_unix_nano <= pair[1].start_time_unix_nano);
    }
    let named = |root: &stepd::telemetry::traces::otlp::Span| -> BTreeSet<String> {
        spans.iter().filter(|s| s.parent_span_id == root.span_id).map(|s| s.name.clone()).collect()
    };
    let names = |all: &[&str]| -> BTreeSet<String> { all.iter().map(|s| (*s).to_owned()).collect() };
    assert_eq!(named(roots[0]), names(&["a", "w"]));
    assert_eq!(named(roots[1]), names(&["w", "b"]));
    assert_eq!(named(roots[2]), names(&["b"]));
    let failed: Vec<bool> = roots.iter().map(|r| r.status.is_some()).collect();
    assert_eq!(failed, [false, true, false]);
    let ids: BTreeSet<_> = spans.iter().map(|s| s.span_id.clone()).collect();
    assert!(spans.iter().all(|s| s.parent_span_id.is_empty() || ids.contains(&s.parent_span_id)), "none is an orphan");
}

#[tokio::test]
async fn history_is_not_removed_before_its_trace_is_sent_and_what_is_too_much_is_dropped_aloud() {
    let (db, files, collector) = (Db::new().await, Files::new([QUICK]), Collector::start().await);
    collector.is(Mood::Answers(503));
    let spec = with(Spec::new(&db, &files), &[("c", &collector.place())]);
    let mut worker = spec.ready().await;
    enqueue(&db, 5).await;
    db.all_ended(SOON).await;
    let prune = ["prune", "--older-than", "0s", "--yes"];
    stepd(&db, &prune).await.is(0).says("0 runs removed");
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 5);
    worker.logs("traces cannot be delivered").await;
    worker.kill9();
    // The bound is less than what is there.
    let mut worker = spec.env("STEPD_TRACE_BACKLOG_RUNS", "1").start();
    worker.logs("the traces of these runs were dropped").await;
    wait_until("the bound holds", SOON, async || {
        db.count("SELECT coalesce(sum(cardinality(runs)), 0)::bigint FROM stepd_engine.trace_notes").await <= 1
    })
    .await;
    collector.is(Mood::Takes);
    nothing_is_left_after(&db, &mut worker, &spec_again(&db, &files, &collector)).await;
    stepd(&db, &prune).await.is(0).says("5 runs removed");
}

fn spec_again(db: &Db, files: &Files, collector: &Collector) -> Spec {
    with(Spec::new(db, files), &[("c", &collector.place())])
}

/// The notes of a worker that was killed are held for some minutes: as if they had passed.
async fn nothing_is_left_after(db: &Db, worker: &mut crate::support::Worker, spec: &Spec) {
    worker.kill9();
    db.exec("UPDATE stepd_engine.trace_notes SET due_at = '-infinity'").await;
    let _again = spec.ready().await;
    nothing_is_left(db).await;
}

#[tokio::test]
async fn a_target_that_is_no_longer_named_holds_nothing_back() {
    let (db, files) = (Db::new().await, Files::new([QUICK]));
    db.exec("INSERT INTO stepd_engine.trace_targets (name, seen_at, keep, most) VALUES ('old', now() - interval '2 days', '1 day', 10)").await;
    db.exec("INSERT INTO stepd_engine.trace_notes (target, from_at, to_at, runs) VALUES ('old', '2000-01-01', '2000-01-01', '{00000000-0000-0000-0000-000000000001}')").await;
    let mut worker = Spec::new(&db, &files).ready().await;
    let runs = enqueue(&db, 3).await;
    db.all_ended(SOON).await;
    worker.logs("were dropped").await;
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.trace_notes").await, 0, "and nothing new is noted for it");
    let removed = format!("{} runs removed", runs.len());
    stepd(&db, &["prune", "--older-than", "0s", "--yes"]).await.is(0).says(&removed);
}

//! The promises, each a function: what it finds broken, in words. They know only [`Record`].
//!
//! I1 to I12 are the invariants of the design; P4 is the promise that a killed worker is found by its lock and not by its lease.

#[path = "shared.rs"]
mod shared;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::cluster::Hit;
use crate::plan::Fault;
use crate::record::{Record, Run};

/// A promise: its name, what it says, and the function that finds what breaks it.
pub struct Promise {
    pub name: &'static str,
    pub says: &'static str,
    pub broken: fn(&Record) -> Vec<String>,
}

pub const PROMISES: [Promise; 17] = [
    Promise { name: "I1", says: "every acknowledged enqueue exists exactly once", broken: every_enqueue_is_there_once },
    Promise { name: "I2", says: "every run ends, and none stands deserted", broken: every_run_ends },
    Promise {
        name: "I3",
        says: "every step is committed once, effects in its transaction once",
        broken: every_step_is_committed_once,
    },
    Promise {
        name: "I4",
        says: "no step starts after its commit, none more often than faults explain",
        broken: no_finished_step_starts,
    },
    Promise {
        name: "I5",
        says: "epochs rise, and no commit comes under an epoch that was lost",
        broken: no_commit_is_stale,
    },
    Promise {
        name: "I6",
        says: "no worker that lives and is connected is taken over",
        broken: no_living_worker_is_taken_over,
    },
    Promise { name: "I7", says: "of a unique key one run at a time", broken: unique_keys_hold },
    Promise { name: "I8", says: "final states never change", broken: final_states_stay },
    Promise { name: "I9", says: "no child outlives its daemon", broken: no_child_outlives_its_daemon },
    Promise { name: "I10", says: "no fault uses up an attempt", broken: no_fault_uses_up_an_attempt },
    Promise { name: "I11", says: "memory and sessions are bounded", broken: the_daemons_cost_little },
    Promise { name: "I12", says: "after an acknowledged cancel no step starts", broken: no_step_starts_after_a_cancel },
    Promise { name: "I13", says: "no limit of a key or a rate is ever exceeded", broken: shared::limits_hold },
    Promise { name: "I14", says: "each instant of a schedule starts one run", broken: shared::instants_fire_once },
    Promise {
        name: "I15",
        says: "what has begun is taken back, newest first, and every end is marked",
        broken: shared::what_has_begun_is_taken_back,
    },
    Promise { name: "P4", says: "a killed worker is found by its lock", broken: a_killed_worker_is_found_by_its_lock },
    Promise {
        name: "no panic",
        says: "no daemon panics, and none does what nobody asked for",
        broken: no_daemon_panics,
    },
];

/// A daemon that rests takes some 30 MiB; what a debug build holds of a thousand runs is far below this.
const MEMORY: u64 = 300 << 20;

/// Sessions of one daemon, with those of the one that it replaces and that Postgres has not noticed yet.
const SESSIONS: usize = 40;

/// Of so many ended sessions one may be locked again too late, on a machine where other things take all processors.
const BUSY: usize = 20;

/// What a statement is told whose session is lost under it.
const SESSION_LOST: [&str; 2] = ["connection", "sql_57P"];

/// A run may stand as running under a worker that is gone while somebody holds its row; then the sweep's second look brings it.
const DESERTED: f64 = 5.0;

fn every_enqueue_is_there_once(r: &Record) -> Vec<String> {
    let mut by_n: HashMap<u64, Vec<&str>> = HashMap::new();
    for (id, run) in r.runs.iter().filter(|(_, run)| run.role.is_none()) {
        run.n.into_iter().for_each(|n| by_n.entry(n).or_default().push(id));
    }
    let mut broken: Vec<String> = by_n
        .iter()
        .filter(|(_, ids)| ids.len() > 1)
        .map(|(n, ids)| format!("job {n} was inserted once and exists as {ids:?}"))
        .collect();
    for (n, id) in &r.acknowledged {
        if by_n.get(n).is_none_or(|ids| !ids.contains(&id.as_str())) {
            broken.push(format!("run {id} (job {n}) was acknowledged and is not there"));
        }
    }
    broken.extend(
        r.conflicts.iter().filter(|n| by_n.contains_key(n)).map(|n| format!("job {n} was refused and is there")),
    );
    broken.extend(shared::children(r));
    broken
}

fn every_run_ends(r: &Record) -> Vec<String> {
    let stuck = r.stuck.iter().map(|(run, why)| format!("run {run} has not ended: {why}"));
    let deserted = r.samples.deserted.iter().filter(|(_, since)| **since > DESERTED);
    // The net catches what somebody had locked when its worker was taken over by a sweeper that died of it. Nothing else gets there.
    let caught = r.losses.iter().filter(|l| l.found_by.as_deref() == Some("repair"));
    let caught = caught.filter(|l| {
        let near = |h: &Hit| h.from <= l.at && h.to >= l.at - NET;
        !r.hits.iter().any(|h| near(h) && !matches!(h.fault, Fault::Delay | Fault::Isolate | Fault::Clock))
    });
    stuck
        .chain(deserted.map(|(run, since)| format!("run {run} stood {since:.1} s under a worker that is gone")))
        .chain(caught.map(|l| format!("run {} was claimed by a worker that was gone", l.run)))
        .collect()
}

/// Seconds within which the repair has seen every run, with room.
const NET: f64 = 60.0;

/// How many checkpoints a completed run of this workflow has.
fn checkpoints(run: &Run) -> usize {
    match run.workflow.as_str() {
        // Of an agent: what tools there are, two turns, a call, and the whole.
        "mixed" | "answers" | "agents" => 6,
        "quick" | "slow" | "resumed" | "doomed" => 3,
        "nap" | "keyed" => 5,
        "flaky" | "child" | "awhile" => 2,
        "family" | "asks" => 3,
        "paced" | "tick_a" | "tick_b" | "tick_c" => 1,
        "saga" => 7,
        "shapes" => 11,
        "spread" => 4 + 2 * run.items,
        other => panic!("there is no workflow {other}"),
    }
}

fn every_step_is_committed_once(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let mut count: HashMap<&str, usize> = HashMap::new();
    let done: HashSet<(&str, &str)> =
        r.starts.iter().filter(|s| s.done.is_some()).map(|s| (s.run.as_str(), s.key.as_str())).collect();
    for ((run, key), rows) in &r.steps {
        let effects = r.effects.get(&(run.clone(), key.clone())).map_or(0, Vec::len);
        let completed = rows.iter().any(|s| s.checkpoint && s.state == "completed");
        *count.entry(run).or_default() += usize::from(rows.iter().any(|s| s.checkpoint));
        if rows.len() != 1 {
            broken.push(format!("{run} {key} is recorded {} times", rows.len()));
        }
        if rows[0].kind == "sql" && effects != usize::from(completed) {
            broken.push(format!("{run} {key} is {}, and its effect is there {effects} times", rows[0].state));
        }
        if rows[0].kind == "run" && completed && !done.contains(&(run, key)) {
            broken.push(format!("{run} {key} is completed, and its work was never done"));
        }
    }
    broken.extend(
        r.effects
            .keys()
            .filter(|who| !r.steps.contains_key(who))
            .map(|(run, key)| format!("{run} {key} has an effect and no record")),
    );
    for (id, run) in r.runs.iter().filter(|(_, run)| run.state == "completed") {
        let (there, want) = (count.get(id.as_str()).copied().unwrap_or(0), checkpoints(run));
        if there != want {
            let rows = r.steps.iter().filter(|((run, _), _)| run == id).flat_map(|((_, key), rows)| {
                rows.iter().map(move |s| format!("{key} {} {}", s.state, if s.checkpoint { "kept" } else { "open" }))
            });
            let rows = rows.collect::<Vec<_>>().join(", ");
            broken.push(format!("{id} ({}) is completed with {there} checkpoints of {want}: {rows}", run.workflow));
        }
        if run.n.is_some() && run.output.as_ref().and_then(|o| o.parse().ok()) != run.n {
            broken.push(format!("{id} ({}) was given {:?} and gave {:?}", run.workflow, run.n, run.output));
        }
    }
    broken
}

fn no_finished_step_starts(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let mut losses: HashMap<&str, usize> = HashMap::new();
    for loss in &r.losses {
        *losses.entry(&loss.run).or_default() += 1;
    }
    let mut starts: BTreeMap<(&str, &str), Vec<(i32, i32)>> = BTreeMap::new();
    for s in &r.starts {
        let who = (s.run.clone(), s.key.clone());
        starts.entry((&s.run, &s.key)).or_default().push((s.epoch, s.attempt));
        let finished = r.steps.get(&who).and_then(|rows| rows.iter().find(|row| row.checkpoint));
        if let Some(step) = finished.filter(|step| s.epoch > step.epoch) {
            broken.push(format!(
                "{} {} started under claim {} though claim {} had finished it",
                s.run, s.key, s.epoch, step.epoch
            ));
        }
    }
    for ((run, key), mut times) in starts {
        let failed = r.failed_attempts.get(&(run.to_owned(), key.to_owned())).map_or(0, Vec::len);
        let lost = losses.get(run).copied().unwrap_or(0) + usize::from(r.was_forgotten(run));
        if times.len() > 1 + failed + lost {
            broken.push(format!(
                "{run} {key} started {} times, with {failed} failed attempts and {lost} claims lost",
                times.len()
            ));
        }
        times.sort_unstable();
        let retried = r.retried.contains_key(run);
        if let Some(twice) = times.windows(2).find(|w| w[0] == w[1]).filter(|_| !retried) {
            broken.push(format!("{run} {key} started twice under claim {} as attempt {}", twice[0].0, twice[0].1));
        }
    }
    broken
}

fn no_commit_is_stale(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    // When each claim was taken away.
    let mut lost: HashMap<(&str, i32), f64> = HashMap::new();
    let mut last: HashMap<&str, i32> = HashMap::new();
    for loss in &r.losses {
        let before = last.insert(&loss.run, loss.epoch).unwrap_or(0);
        if loss.epoch < before {
            broken.push(format!("{}: claim {} was lost after claim {before}", loss.run, loss.epoch));
        }
        if loss.is_take_over() && lost.insert((&loss.run, loss.epoch), loss.at).is_some() {
            broken.push(format!("{}: claim {} was taken over twice", loss.run, loss.epoch));
        }
    }
    for ((run, key), rows) in &r.steps {
        let step = &rows[0];
        if r.runs.get(run).is_some_and(|x| step.epoch > x.epoch) {
            broken.push(format!("{run} {key} was recorded under claim {}, which the run has not come to", step.epoch));
        }
        if !step.checkpoint {
            continue;
        }
        let mut stale = |epoch: i32, at: f64, what: &str| {
            if let Some(taken) = lost.get(&(run.as_str(), epoch)).filter(|taken| at > **taken) {
                let late = at - taken;
                broken
                    .push(format!("{run} {key}: {what} under claim {epoch}, {late:.3} s after it had been taken over"));
            }
        };
        if let Some((epoch, at)) = step.said {
            stale(epoch, at, "what ended was recorded");
        }
        for at in r.effects.get(&(run.clone(), key.clone())).into_iter().flatten() {
            stale(step.epoch, *at, "an effect was committed");
        }
    }
    broken
}

fn no_living_worker_is_taken_over(r: &Record) -> Vec<String> {
    let mut broken = no_run_is_taken_twice(r);
    let ended: HashSet<&str> = r
        .losses
        .iter()
        .filter(|l| l.is_take_over() && r.cause(l).is_some_and(Hit::is_end_of_presence))
        .filter_map(|l| l.worker.as_deref())
        .collect();
    let times = r.hits.iter().filter(|h| h.is_end_of_presence()).count();
    if ended.len() > 1 + times / BUSY {
        broken.push(format!("{} workers were taken over after sessions had been ended {times} times", ended.len()));
    }
    let mut told: HashSet<&str> = HashSet::new();
    for loss in r.losses.iter().filter(|l| l.is_take_over() && r.cause(l).is_none()) {
        let worker = loss.worker.as_deref().unwrap_or("?");
        if told.insert(worker) {
            let who = r
                .instance(loss)
                .map_or("an unknown daemon".to_owned(), |i| format!("daemon {} (pid {})", i.slot, i.pid));
            let by = loss.found_by.as_deref().unwrap_or("?");
            let around = r.hits.iter().filter(|h| h.from < loss.at && h.to > loss.at - 8.0);
            let around: Vec<String> = around
                .map(|h| format!("{}{:?} {:.1} to {:.1}", h.fault.name(), h.slot, h.from - loss.at, h.to - loss.at))
                .collect();
            broken.push(format!(
                "{who}, worker {worker}, was taken over by its {by} at {:.3}; around it, in s: {around:?}",
                loss.at
            ));
        }
    }
    broken
}

/// A registration ends with its take-over: no worker loses a run twice.
fn no_run_is_taken_twice(r: &Record) -> Vec<String> {
    let mut times: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for loss in r.losses.iter().filter(|l| l.is_take_over()) {
        *times.entry((&loss.run, loss.worker.as_deref().unwrap_or("?"))).or_default() += 1;
    }
    let twice = times.into_iter().filter(|(_, n)| *n > 1);
    twice.map(|((run, worker), n)| format!("{run} was taken {n} times from worker {worker}")).collect()
}

fn unique_keys_hold(r: &Record) -> Vec<String> {
    type Span<'a> = (f64, f64, &'a str);
    let mut spans: BTreeMap<(&str, &str), Vec<Span<'_>>> = BTreeMap::new();
    for (id, run) in &r.runs {
        if let Some(key) = &run.unique_key {
            let kept = if run.workflow == "awhile" { 2.0 } else { 0.0 };
            let span = (run.created, run.ended.unwrap_or(f64::INFINITY) + kept, id.as_str());
            spans.entry((&run.workflow, key)).or_default().push(span);
        }
    }
    let mut broken = Vec::new();
    for ((_, key), mut spans) in spans {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        // The time in an id is whole milliseconds.
        for pair in spans.windows(2).filter(|p| p[1].0 < p[0].1 - 0.002) {
            broken.push(format!("{} was enqueued with {key} while {} was there", pair[1].2, pair[0].2));
        }
    }
    broken
}

fn final_states_stay(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, (state, at)) in &r.samples.ends {
        let Some(run) = r.runs.get(id) else {
            broken.push(format!("{id} was seen {state} and is gone"));
            continue;
        };
        let same = run.state == *state && run.ended_text.as_ref() == Some(at);
        let taken_up_again = state == "failed" && r.retried.contains_key(id);
        if !same && !taken_up_again && !r.was_forgotten(id) {
            broken.push(format!("{id} ended {state} at {at} and is now {} at {:?}", run.state, run.ended_text));
        }
    }
    broken
}

fn no_child_outlives_its_daemon(r: &Record) -> Vec<String> {
    r.orphans.clone()
}

fn no_fault_uses_up_an_attempt(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let meant = |run: &Run| run.bad && run.error.as_ref().is_some_and(|e| e.starts_with("exit_64"));
    for (id, run) in r.runs.iter().filter(|(_, run)| run.state == "failed" && !meant(run)) {
        broken.push(format!("{id} ({}) failed: {}", run.workflow, run.error.as_deref().unwrap_or("?")));
    }
    for ((run, key), steps) in &r.steps {
        let Some(of) = r.runs.get(run) else { continue };
        let mut failed = r.failed_attempts.get(&(run.clone(), key.clone())).cloned().unwrap_or_default();
        // Not a try of the step, but the word of its run, which an operator has taken up again.
        failed.retain(|(_, why)| !why.starts_with("crash_loop"));
        // The daemon's limit is that of its steps' programs, too: it is the program itself that could not start another.
        failed.retain(|(_, why)| !(why.contains("Cannot fork") && r.met(of, Fault::Processes)));
        failed.sort_unstable();
        if failed.len() == 1 && SESSION_LOST.iter().any(|code| failed[0].1.starts_with(code)) && r.storm(of) {
            continue;
        }
        let fine = match (of.workflow.as_str(), key.as_str()) {
            ("flaky", "third") => {
                steps[0].state != "completed" || failed.iter().map(|(n, _)| *n).eq(1..3) && steps[0].attempts == 3
            }
            ("resumed" | "doomed", "once") | ("saga", "bad") => failed.len() <= 1,
            _ => failed.is_empty(),
        };
        if !fine {
            broken.push(format!(
                "{run} {key} ({}): failed attempts {failed:?}, attempts {}",
                of.workflow, steps[0].attempts
            ));
        }
    }
    broken
}

fn the_daemons_cost_little(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    if r.samples.most_memory > MEMORY {
        broken.push(format!("a daemon took {} MiB", r.samples.most_memory >> 20));
    }
    if usize::try_from(r.samples.most_sessions).unwrap() > SESSIONS * r.workers {
        broken.push(format!("{} sessions at one time", r.samples.most_sessions));
    }
    broken
}

fn no_step_starts_after_a_cancel(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    for s in &r.starts {
        let Some(run) = r.runs.get(&s.run).filter(|run| run.state == "cancelled") else { continue };
        // A claim that was lost before may still start what it was about to: it is stopped, and records nothing.
        if run.ended.is_some_and(|at| s.at > at) && s.epoch == run.epoch {
            broken.push(format!(
                "{} {} started {:.3} s after the cancel",
                s.run,
                s.key,
                s.at - run.ended.unwrap_or(0.0)
            ));
        }
    }
    broken
}

fn a_killed_worker_is_found_by_its_lock(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let mut told: HashSet<&str> = HashSet::new();
    for loss in r.losses.iter().filter(|l| !r.pooler && l.is_take_over() && l.found_by.as_deref() != Some("lock")) {
        let Some(cause) = r.cause(loss).filter(|c| c.fault == Fault::Sigkill) else { continue };
        // Around it Postgres lost every lock, or this session was ended, or the network held its end back.
        let excused = r.hits.iter().any(|h| {
            let near = h.from <= loss.at && h.to >= cause.from - r.lease;
            near && (h.fault.is_of_postgres()
                || h.fault == Fault::Terminate
                || h.slot == cause.slot && !matches!(h.fault, Fault::Sigkill | Fault::Clock))
        });
        let worker = loss.worker.as_deref().unwrap_or("?");
        if !excused && told.insert(worker) {
            let (by, late) = (loss.found_by.as_deref().unwrap_or("?"), loss.at - cause.from);
            broken.push(format!("worker {worker} was found dead by its {by}, {late:.1} s after its kill -9"));
        }
    }
    broken
}

fn no_daemon_panics(r: &Record) -> Vec<String> {
    r.panics.iter().chain(&r.surprises).cloned().collect()
}

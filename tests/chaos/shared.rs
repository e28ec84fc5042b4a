//! Promises about runs taken together, and about their ends.

use std::collections::{BTreeMap, HashMap};

use crate::record::{Record, Run};

/// `paced` says so: two starts in any two seconds.
const RATE: (usize, f64) = (2, 2.0);

/// Two clocks are read for one admission: its row's, and its log's.
const APART: f64 = 0.05;

/// Of a key of `keyed` one run holds a place, and at any time at most two of `paced` start in two seconds.
pub fn limits_hold(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    if r.samples.most_of_a_key > 1 {
        broken.push(format!("{} runs held the one place of a key", r.samples.most_of_a_key));
    }
    broken.extend(overlaps(r));
    // Who is admitted may be claimed from then on; a run that was cancelled before never started.
    let of = |run: &&Run| run.workflow == "paced" && run.started;
    let mut starts: Vec<f64> = r.runs.values().filter(of).map(|run| run.ready).collect();
    starts.sort_by(f64::total_cmp);
    let (most, span) = RATE;
    for w in starts.windows(most + 1).filter(|w| w[most] - w[0] < span - APART) {
        broken.push(format!(
            "{} runs of paced were let go within {:.3} s, from {:.3} on",
            most + 1,
            w[most] - w[0],
            w[0]
        ));
    }
    broken
}

/// The work that a run of a key has recorded, by its own clock: no two at a time. (A claim that was lost may go on for a moment, and
/// records nothing.)
fn overlaps(r: &Record) -> Vec<String> {
    let mut spans: BTreeMap<&str, Vec<(f64, f64, &str)>> = BTreeMap::new();
    for s in &r.starts {
        let Some((run, key)) = r.runs.get(&s.run).and_then(|run| Some((run, run.key.as_deref()?))) else { continue };
        let recorded = r.steps.get(&(s.run.clone(), s.key.clone())).and_then(|rows| rows[0].said);
        if let Some(done) = s.done.filter(|done| run.workflow == "keyed" && recorded == Some((s.epoch, *done))) {
            spans.entry(key).or_default().push((s.at, done, &s.run));
        }
    }
    let mut broken = Vec::new();
    for (key, mut spans) in spans {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in spans.windows(2).filter(|p| p[1].0 < p[0].1) {
            let over = pair[0].1 - pair[1].0;
            broken.push(format!("{} and {} worked at once for key {key}, for {over:.3} s", pair[0].2, pair[1].2));
        }
    }
    broken
}

/// A step has one child, and another only after that has failed.
pub fn children(r: &Record) -> Vec<String> {
    let mut of: BTreeMap<(u64, &str), Vec<(&String, &Run)>> = BTreeMap::new();
    for (id, run) in &r.runs {
        if let (Some(n), Some(role)) = (run.n, run.role.as_deref()) {
            of.entry((n, role)).or_default().push((id, run));
        }
    }
    let mut broken = Vec::new();
    for ((n, role), children) in &of {
        let good = children.iter().filter(|(_, run)| run.state == "completed").count();
        let lost = children.iter().filter(|(_, run)| run.state == "failed").count();
        if children.len() > 1 + lost || good > 1 {
            let ids: Vec<&String> = children.iter().map(|(id, _)| *id).collect();
            broken.push(format!("job {n} has the {role} children {ids:?}"));
        }
    }
    for (id, run) in r.runs.iter().filter(|(_, run)| run.workflow == "family" && run.state == "completed") {
        for role in ["waited", "detached"] {
            let there = run.n.and_then(|n| of.get(&(n, role)));
            let ended = |all: &Vec<(&String, &Run)>| all.iter().any(|(_, child)| child.state == "completed");
            if !there.is_some_and(ended) {
                broken.push(format!("{id} has completed without a {role} child that did"));
            }
        }
    }
    broken
}

/// From the first minute that fired to the last one, each once.
pub fn instants_fire_once(r: &Record) -> Vec<String> {
    let mut fired: BTreeMap<&str, HashMap<i64, usize>> = BTreeMap::new();
    for run in r.runs.values().filter(|run| run.workflow.starts_with("tick_")) {
        #[allow(clippy::cast_possible_truncation)]
        let minute = (run.run_at / 60.0).round() as i64;
        *fired.entry(&run.workflow).or_default().entry(minute).or_default() += 1;
    }
    let mut broken = Vec::new();
    for (name, minutes) in fired {
        let (Some(first), Some(last)) = (minutes.keys().min(), minutes.keys().max()) else { continue };
        for minute in *first..=*last {
            let n = minutes.get(&minute).copied().unwrap_or(0);
            if n != 1 {
                broken.push(format!("{name} fired {n} times for minute {minute}"));
            }
        }
    }
    broken
}

/// What of `saga` had begun when it failed or was cancelled is undone, newest first; and `finally` comes last, whatever the end was.
pub fn what_has_begun_is_taken_back(r: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let of = |run: &Run| ["saga", "keyed"].contains(&run.workflow.as_str()) && run.ended.is_some();
    for (id, run) in r.runs.iter().filter(|(_, run)| of(run)) {
        let step = |key: &str| {
            r.steps.get(&(id.clone(), key.to_owned())).map(|rows| &rows[0]).filter(|s| s.state != "skipped")
        };
        let done = |key: &str| step(key).filter(|s| s.checkpoint && s.state == "completed").map(|s| s.seq);
        let Some(decided) = done("(end)") else {
            let began = r.steps.range((id.clone(), String::new())..).take_while(|((of, _), _)| of == id).count();
            if began > 0 || run.state != "cancelled" {
                broken.push(format!("{id} ({}) ended {} without a word of it", run.workflow, run.state));
            }
            continue;
        };
        let mut last = decided;
        let begun = ["last", "file", "book"].into_iter().filter(|key| run.workflow == "saga" && step(key).is_some());
        for key in begun {
            let undone = done(&format!("{key}.undo"));
            match (run.state.as_str(), undone) {
                ("completed", None) => {}
                ("completed", Some(_)) => broken.push(format!("{id} ended well, and {key} was taken back")),
                (_, Some(seq)) if seq > last => last = seq,
                (_, Some(_)) => broken.push(format!("{id}: {key} was taken back before its time")),
                (state, None) => broken.push(format!("{id} ended {state}, and {key} was not taken back")),
            }
        }
        if done("finally[0]").is_none_or(|seq| seq <= last) {
            broken.push(format!("{id} ({}) ended {} without its finally", run.workflow, run.state));
        }
    }
    broken
}

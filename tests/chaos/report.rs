//! What is told at the end: a table for people, and the same as JSON lines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::arguments::Options;
use crate::checker::PROMISES;
use crate::plan::Fault;
use crate::record::{Loss, Record};

/// Broken promises that are shown of each kind; the rest is counted.
const SHOWN: usize = 8;

pub struct Report {
    pub seed: u64,
    pub span: f64,
    /// From the last fault to the end of the last run.
    pub drained: f64,
    pub faults: BTreeMap<Fault, usize>,
    pub runs: BTreeMap<String, usize>,
    pub counts: BTreeMap<&'static str, usize>,
    /// Repeated effects outside of Postgres, by what took the claim away from the run.
    pub repeated: BTreeMap<String, usize>,
    /// Take-overs of workers, by the fault and how they were found out.
    pub take_overs: BTreeMap<String, usize>,
    /// Seconds from a fault to the next effect, of each fault.
    pub resumed: BTreeMap<Fault, Vec<f64>>,
    pub broken: Vec<(&'static str, Vec<String>)>,
    pub complaints: BTreeMap<String, usize>,
    pub actions: BTreeMap<String, usize>,
    /// What became of a migration in the middle.
    pub migrated: Option<String>,
    pub memory: u64,
    pub sessions: i64,
}

impl Report {
    pub fn new(options: &Options, r: &Record, drained: f64) -> Self {
        let mut report = Self {
            seed: options.seed,
            span: options.span.as_secs_f64(),
            drained,
            faults: BTreeMap::new(),
            runs: BTreeMap::new(),
            counts: BTreeMap::new(),
            repeated: BTreeMap::new(),
            take_overs: BTreeMap::new(),
            resumed: BTreeMap::new(),
            broken: PROMISES.iter().map(|p| (p.name, (p.broken)(r))).collect(),
            complaints: BTreeMap::new(),
            actions: BTreeMap::new(),
            migrated: None,
            memory: r.samples.most_memory,
            sessions: r.samples.most_sessions,
        };
        for hit in &r.hits {
            *report.faults.entry(hit.fault).or_default() += 1;
        }
        for run in r.runs.values() {
            *report.runs.entry(run.state.clone()).or_default() += 1;
        }
        report.count(r);
        report.repeats(r);
        report.take_overs(r);
        report.recovery(r);
        report
    }

    fn count(&mut self, r: &Record) {
        let living = r.losses.iter().filter(|l| l.is_take_over() && r.is_of_a_living_worker(l));
        let living: HashSet<_> = living.filter_map(|l| l.worker.as_deref()).collect();
        let ids: HashSet<&String> = r.runs.keys().collect();
        let effects = r.effects.values();
        self.counts = BTreeMap::from([
            ("tried", usize::try_from(r.tried).unwrap()),
            ("acknowledged", r.acknowledged.len()),
            ("lost", r.acknowledged.values().filter(|id| !ids.contains(id)).count()),
            ("runs", r.runs.len()),
            ("stuck", r.stuck.len()),
            ("checkpoints", r.steps.values().flatten().filter(|s| s.checkpoint).count()),
            ("exactly-once effects", effects.clone().map(Vec::len).sum()),
            ("doubled exactly-once effects", effects.map(|e| e.len() - 1).sum()),
            ("at-least-once effects", r.starts.iter().filter(|s| s.done.is_some()).count()),
            ("claims lost", r.losses.len()),
            ("living workers taken over", living.len()),
            ("samples", r.samples.samples),
        ]);
    }

    /// A step that started again though its attempt had not failed: whatever ended the claim under which it ran is the cause.
    fn repeats(&mut self, r: &Record) {
        let losses: HashMap<(&str, i32), &Loss> = r.losses.iter().map(|l| ((l.run.as_str(), l.epoch), l)).collect();
        let mut times: BTreeMap<(&str, &str, i32), Vec<i32>> = BTreeMap::new();
        for s in &r.starts {
            times.entry((&s.run, &s.key, s.attempt)).or_default().push(s.epoch);
        }
        for ((run, key, attempt), mut epochs) in times {
            let failed = r.failed_attempts.get(&(run.to_owned(), key.to_owned()));
            if failed.is_some_and(|failed| failed.iter().any(|(n, _)| *n == attempt)) && r.retried.contains_key(run) {
                // Not the same again: an operator's retry counts the attempts from one.
                continue;
            }
            epochs.sort_unstable();
            for epoch in &epochs[..epochs.len() - 1] {
                let cause = match losses.get(&(run, *epoch)) {
                    Some(loss) if loss.event == "released" => "sigterm".to_owned(),
                    Some(loss) => r.cause(loss).map_or("unexplained".to_owned(), |h| h.fault.name().to_owned()),
                    None => "unexplained".to_owned(),
                };
                *self.repeated.entry(cause).or_default() += 1;
            }
        }
    }

    fn take_overs(&mut self, r: &Record) {
        let mut workers: BTreeMap<&str, &Loss> = BTreeMap::new();
        for loss in r.losses.iter().filter(|l| l.is_take_over()) {
            workers.entry(loss.worker.as_deref().unwrap_or("?")).or_insert(loss);
        }
        for loss in workers.values() {
            let cause = r.cause(loss).map_or("of a living worker", |h| h.fault.name());
            let by = loss.found_by.as_deref().unwrap_or("?");
            *self.take_overs.entry(format!("{cause}, by {by}")).or_default() += 1;
        }
    }

    fn recovery(&mut self, r: &Record) {
        let mut work: Vec<(f64, &str)> = r.starts.iter().map(|s| (s.at, s.run.as_str())).collect();
        work.extend(r.effects.iter().flat_map(|((run, _), at)| at.iter().map(move |at| (*at, run.as_str()))));
        work.sort_by(|a, b| a.0.total_cmp(&b.0));
        let next = |after: f64, run: Option<&str>| {
            let from = work.partition_point(|(at, _)| *at <= after);
            work[from..].iter().find(|(_, of)| run.is_none_or(|run| *of == run)).map(|(at, _)| *at)
        };
        // What waits for people, for time, for a queue, or for a statement that takes seconds, says nothing of how fast a run is taken
        // up; nor does a run that has lost several workers, and waits to be run alone.
        let ready = |run: &str| r.runs.get(run).is_some_and(|run| matches!(run.workflow.as_str(), "mixed" | "spread"));
        let mut seen = HashSet::new();
        for loss in r.losses.iter().filter(|l| ready(&l.run) && (!l.is_take_over() || seen.insert(&l.run))) {
            if let (true, Some(at)) = (loss.event == "released", next(loss.at, Some(&loss.run))) {
                self.resumed.entry(Fault::Sigterm).or_default().push(at - loss.at);
                continue;
            }
            let cause = if loss.is_take_over() { r.cause(loss) } else { None };
            if let (Some(cause), Some(at)) = (cause, next(loss.at, Some(&loss.run))) {
                self.resumed.entry(cause.fault).or_default().push(at - cause.from);
            }
        }
        // Where Postgres was away: from its return to the first step of anybody.
        for hit in r.hits.iter().filter(|h| h.fault.is_of_postgres()) {
            self.resumed.entry(hit.fault).or_default().extend(next(hit.to, None).map(|at| at - hit.to));
        }
        self.resumed.values_mut().for_each(|times| times.sort_by(f64::total_cmp));
    }

    pub fn is_good(&self) -> bool {
        self.broken.iter().all(|(_, found)| found.is_empty())
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let faults: usize = self.faults.values().sum();
        let _ = writeln!(
            out,
            "\nseed {}   {:.0} s of chaos, {faults} faults; the last run ended {:.1} s after the last fault\n",
            self.seed, self.span, self.drained
        );
        let _ = writeln!(
            out,
            "  {:<14}{:>6}   seconds to the next effect: {:>4}   p50    p99    max",
            "fault", "count", "of"
        );
        for (fault, count) in &self.faults {
            let _ = write!(out, "  {:<14}{count:>6}", fault.name());
            if let Some(times) = self.resumed.get(fault).filter(|t| !t.is_empty()) {
                let [p50, p99, max] = quantiles(times);
                let _ = write!(out, "   {:>31}  {p50:5.2}  {p99:5.2}  {max:5.2}", times.len());
            }
            out.push('\n');
        }
        out.push('\n');
        for (name, count) in &self.counts {
            let _ = writeln!(out, "  {name:<32}{count:>8}");
        }
        let _ = writeln!(out, "  {:<32}{:>8}", "sessions at most", self.sessions);
        let _ = writeln!(out, "  {:<32}{:>8}", "MiB of a daemon at most", self.memory >> 20);
        if let Some(migrated) = &self.migrated {
            let _ = writeln!(out, "  {migrated}");
        }
        for (title, counts) in [
            ("runs that ended", &self.runs),
            ("repeated at-least-once effects", &self.repeated),
            ("take-overs of workers", &self.take_overs),
            ("what operators asked for", &self.actions),
            ("what the daemons complained of", &self.complaints),
        ] {
            let _ = writeln!(out, "\n  {title}: {}", counts.values().sum::<usize>());
            for (name, count) in counts {
                let _ = writeln!(out, "    {name:<60}{count:>8}");
            }
        }
        out.push('\n');
        for ((name, found), promise) in self.broken.iter().zip(&PROMISES) {
            let verdict = if found.is_empty() { "kept".to_owned() } else { format!("BROKEN {} times", found.len()) };
            let _ = writeln!(out, "  {name:<9} {:<72} {verdict}", promise.says);
            for one in found.iter().take(SHOWN) {
                let _ = writeln!(out, "            {one}");
            }
        }
        out
    }

    pub fn json(&self) -> Vec<Value> {
        let head = json!({"kind": "chaos", "seed": self.seed, "seconds": self.span, "drained": self.drained, "counts": self.counts,
            "runs": self.runs, "repeated": self.repeated, "take_overs": self.take_overs, "actions": self.actions,
            "complaints": self.complaints, "migrated": self.migrated, "memory": self.memory, "sessions": self.sessions, "good": self.is_good()});
        let faults = self.faults.iter().map(|(fault, count)| {
            let times = self.resumed.get(fault).filter(|t| !t.is_empty());
            json!({"kind": "fault", "seed": self.seed, "fault": fault.name(), "count": count, "resumed": times})
        });
        let promises = self
            .broken
            .iter()
            .map(|(name, found)| json!({"kind": "promise", "seed": self.seed, "name": name, "broken": found}));
        std::iter::once(head).chain(faults).chain(promises).collect()
    }

    pub fn append(&self, file: &Path) -> std::io::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::File::options().create(true).append(true).open(file)?;
        self.json().iter().try_for_each(|line| writeln!(file, "{line}"))
    }
}

fn quantiles(sorted: &[f64]) -> [f64; 3] {
    let at = |share: usize| sorted[(sorted.len() - 1) * share / 100];
    [at(50), at(99), at(100)]
}

//! Random workflows, as files and as what they must come to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// What a piece of work does, whoever runs it and however often.
#[derive(Clone, Debug)]
pub struct Work {
    /// So many attempts fail before one does not.
    pub fails: u32,
    /// How long an attempt takes.
    pub takes: Duration,
    pub max_attempts: u32,
    pub backoff: &'static str,
    pub initial: u64,
    pub max: u64,
    pub goes_on: bool,
}

impl Work {
    /// The pause after the n-th failure, as the author asked for it.
    pub fn pause(&self, n: u32) -> Duration {
        let grown = match self.backoff {
            "constant" => self.initial,
            "linear" => self.initial * u64::from(n),
            _ => self.initial << (n - 1).min(20),
        };
        Duration::from_millis(grown.min(self.max))
    }

    /// Are the step's own attempts enough?
    pub fn succeeds_alone(&self) -> bool {
        self.fails < self.max_attempts
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// Adds to what a step before gave.
    Set,
    Work(Work),
    Sleep(Duration),
    /// For an event: when it is sent, from the run's start; its payload.
    Wait {
        sent_after: Duration,
        gives: i64,
    },
    Approve {
        says_yes: bool,
    },
    /// Each item goes through a step of work, and a step that waits or sleeps.
    Map {
        items: Vec<i64>,
        at_once: usize,
        work: Work,
        rest: Duration,
    },
}

/// One step of the list.
#[derive(Clone, Debug)]
pub struct Step {
    pub id: String,
    pub kind: Kind,
    /// The steps that it needs, instead of the one before.
    pub needs: Option<Vec<usize>>,
    /// Only where this constant is even.
    pub only_if: Option<i64>,
    /// A step before it that has a number.
    pub from: Option<usize>,
}

/// A workflow, and what it must come to.
#[derive(Clone, Debug)]
pub struct Program {
    pub steps: Vec<Step>,
    pub resumes: u32,
    pub resume_after: u64,
}

/// What must come of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    Completed(Value),
    /// At one of these steps.
    Failed(Vec<String>),
}

fn work(random: &mut fastrand::Rng, hard: bool) -> Work {
    let max_attempts = random.u32(1..=4);
    let initial = random.choice([10, 150, 1_000, 60_000]).unwrap_or(10);
    let goes_on = !hard && random.u32(0..8) == 0;
    Work {
        fails: match (hard, goes_on) {
            (true, _) => max_attempts + random.u32(0..=3),
            (_, true) => random.u32(0..=max_attempts + 1),
            _ => random.u32(0..max_attempts),
        },
        takes: Duration::from_millis(*random.choice(&[0, 0, 3, 20, 700, 4_000]).unwrap_or(&0)),
        max_attempts,
        backoff: random.choice(["constant", "linear", "exponential"]).unwrap_or("constant"),
        initial,
        max: initial * random.choice([1, 5, 300]).unwrap_or(1),
        goes_on,
    }
}

/// Work that gets through by its own attempts.
fn alone(work: Work) -> Work {
    Work { goes_on: false, fails: work.fails.min(work.max_attempts - 1), ..work }
}

impl Program {
    pub fn random(random: &mut fastrand::Rng) -> Self {
        let n = random.usize(1..=7);
        let hard = (random.u32(0..4) == 0).then(|| random.usize(0..n));
        let mut steps: Vec<Step> = Vec::new();
        for i in 0..n {
            let kind = match random.u32(0..12) {
                _ if hard == Some(i) => Kind::Work(work(random, true)),
                0..=1 => Kind::Set,
                2..=5 => Kind::Work(work(random, false)),
                6..=7 => Kind::Sleep(Duration::from_millis(
                    *random.choice(&[0, 40, 99, 101, 5_000, 3_600_000]).unwrap_or(&0),
                )),
                8 => Kind::Wait { sent_after: Duration::from_millis(random.u64(0..20_000)), gives: random.i64(0..100) },
                9 => Kind::Approve { says_yes: random.u32(0..6) > 0 },
                _ => Kind::Map {
                    items: (0..random.i64(0..5)).collect(),
                    at_once: random.usize(1..=3),
                    work: alone(work(random, false)),
                    rest: Duration::from_millis(random.u64(0..400)),
                },
            };
            let needs = (i > 0 && random.bool()).then(|| (0..i).filter(|_| random.u32(0..3) == 0).collect());
            let step = Step { id: format!("s{i}"), kind, needs, only_if: None, from: None };
            steps.push(step);
            let before = Self::before(&steps, i);
            let numbered: Vec<usize> = before.into_iter().filter(|b| steps[*b].has_number()).collect();
            steps[i].from = random.choice(&numbered).copied();
            steps[i].only_if = (random.u32(0..6) == 0).then(|| random.i64(0..2));
        }
        Self { steps, resumes: random.u32(0..=4), resume_after: *random.choice(&[50, 2_000, 30_000]).unwrap_or(&50) }
    }

    /// All that has ended when the step begins.
    fn before(steps: &[Step], i: usize) -> Vec<usize> {
        let direct = match &steps[i].needs {
            Some(needs) => needs.clone(),
            None => i.checked_sub(1).into_iter().collect(),
        };
        let mut all = direct.clone();
        for d in direct {
            all.extend(Self::before(steps, d));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The file.
    pub fn text(&self) -> String {
        let resume = match self.resumes {
            0 => "never".to_owned(),
            n => format!("{{max_attempts: {n}, initial: {}ms, max: 10m}}", self.resume_after),
        };
        let mut text = format!("name: simulated\nresume: {resume}\nsteps:\n");
        for step in &self.steps {
            let _ = writeln!(text, "  - id: {}", step.id);
            if let Some(needs) = &step.needs {
                let ids: Vec<&str> = needs.iter().map(|n| self.steps[*n].id.as_str()).collect();
                let _ = writeln!(text, "    needs: [{}]", ids.join(", "));
            }
            if let Some(n) = step.only_if {
                let _ = writeln!(text, "    if: {n} % 2 == 0");
            }
            let from = step.from.map_or("1".to_owned(), |f| format!("steps.{}.output.n", self.steps[f].id));
            let _ = match &step.kind {
                Kind::Set => writeln!(text, "    set: {{n: \"${{{{ {from} + 1 }}}}\"}}"),
                Kind::Work(work) => writeln!(text, "    exec: [work, \"${{{{ {from} }}}}\"]\n{}", policy(work, "    ")),
                Kind::Sleep(span) => writeln!(text, "    sleep: {}ms", span.as_millis()),
                Kind::Wait { .. } => writeln!(text, "    wait: event_{}", step.id),
                Kind::Approve { .. } => writeln!(text, "    approve: May {} go on?", step.id),
                Kind::Map { items, at_once, work, rest } => writeln!(
                    text,
                    "    map: ${{{{ {items:?} }}}}\n    max_parallel: {at_once}\n    steps:\n      - id: a\n        exec: [work, \"${{{{ item }}}}\"]\n{}\n      \
                     - id: b\n        sleep: {}ms\n      - id: c\n        set: \"${{{{ steps.a.output.n }}}}\"\n",
                    policy(work, "        "),
                    rest.as_millis()
                ),
            };
        }
        text
    }

    /// What the file means, worked out without an engine.
    pub fn fate(&self) -> Fate {
        let mut outputs = serde_json::Map::new();
        let mut numbers = BTreeMap::new();
        let mut fatal = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            let from = step.from.and_then(|f| numbers.get(&f).copied()).unwrap_or(1);
            let (output, number) = match &step.kind {
                _ if step.only_if.is_some_and(|n| n % 2 != 0) => (Value::Null, None),
                Kind::Set => (json!({"n": from + 1}), Some(from + 1)),
                Kind::Work(work) if work.goes_on && !work.succeeds_alone() => (Value::Null, None),
                Kind::Work(work) if work.succeeds_alone() || self.is_saved(work) => {
                    (json!({"n": from + 1}), Some(from + 1))
                }
                Kind::Work(_) | Kind::Approve { says_yes: false } => {
                    fatal.push(step.id.clone());
                    (Value::Null, None)
                }
                Kind::Sleep(_) => (Value::Null, None),
                Kind::Wait { gives, .. } => (json!({"n": gives}), Some(*gives)),
                Kind::Approve { says_yes: true } => (json!({"approved": true}), None),
                Kind::Map { items, .. } => (items.iter().map(|n| json!(n + 1)).collect(), None),
            };
            numbers.extend(number.map(|n| (i, n)));
            outputs.insert(step.id.clone(), output);
        }
        if fatal.is_empty() { Fate::Completed(Value::Object(outputs)) } else { Fate::Failed(fatal) }
    }

    /// Does a step that has used up its attempts get through by the run's resumes?
    fn is_saved(&self, work: &Work) -> bool {
        work.fails < work.max_attempts + self.resumes
    }

    /// The work of a step by its key.
    pub fn work(&self, key: &str) -> Option<&Work> {
        let (id, item) = key.split_once('[').map_or((key, false), |(id, _)| (id, true));
        match &self.steps.iter().find(|s| s.id == id)?.kind {
            Kind::Work(work) if !item => Some(work),
            Kind::Map { work, .. } if item => Some(work),
            _ => None,
        }
    }

    /// How many attempts of a step fail at most.
    pub fn failures(&self, work: &Work) -> u32 {
        work.fails.min(work.max_attempts + if work.goes_on { 0 } else { self.resumes })
    }
}

impl Step {
    /// Has it a number in the end, whatever happens?
    fn has_number(&self) -> bool {
        let numbered = match &self.kind {
            Kind::Work(work) => !work.goes_on,
            kind => matches!(kind, Kind::Set | Kind::Wait { .. }),
        };
        self.only_if.is_none() && numbered
    }
}

fn policy(work: &Work, indent: &str) -> String {
    let Work { max_attempts, backoff, initial, max, goes_on, .. } = work;
    let on_error = if *goes_on { format!("\n{indent}on_error: continue") } else { String::new() };
    format!(
        "{indent}retry: {{max_attempts: {max_attempts}, backoff: {backoff}, initial: {initial}ms, max: {max}ms, jitter: 0}}{on_error}"
    )
}

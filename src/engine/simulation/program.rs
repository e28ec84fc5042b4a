//! Random workflows, as files and as what they must come to.

use std::collections::BTreeMap;
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
    /// Done at the end of a run: when it fails, the others go on, and no resume tries it again.
    pub at_end: bool,
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
    /// A map in each item of a map.
    Nested {
        items: Vec<Vec<i64>>,
        at_once: usize,
        work: Work,
    },
    /// The cases are 0, 1, …; each is a step of work, as is the default.
    Switch {
        value: usize,
        cases: Vec<Work>,
        default: Option<Work>,
    },
    /// Work, until the number of the iteration is this; so often at the most.
    Repeat {
        until: usize,
        max: usize,
        every: Option<u64>,
        work: Work,
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
    /// What takes its work back, or that of the steps inside it.
    pub undo: Option<Work>,
}

/// A workflow, and what it must come to.
#[derive(Clone, Debug)]
pub struct Program {
    pub steps: Vec<Step>,
    pub resumes: u32,
    pub resume_after: u64,
    pub on_failure: Option<Work>,
    /// The work, and how long it sleeps before.
    pub finally: Option<(Work, Duration)>,
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
        at_end: false,
    }
}

/// Work that gets through by its own attempts.
fn alone(work: Work) -> Work {
    Work { goes_on: false, fails: work.fails.min(work.max_attempts - 1), ..work }
}

/// Work of the end of a run: it may fail for good.
fn handler(random: &mut fastrand::Rng) -> Work {
    let hard = random.u32(0..6) == 0;
    Work { goes_on: false, at_end: true, ..work(random, hard) }
}

/// A step that holds steps.
fn holder(random: &mut fastrand::Rng) -> Kind {
    let easy = |random: &mut fastrand::Rng| alone(work(random, false));
    match random.u32(0..3) {
        0 => Kind::Nested {
            items: (0..random.i64(0..4)).map(|n| (n..n + random.i64(0..3)).collect()).collect(),
            at_once: random.usize(1..=2),
            work: easy(random),
        },
        1 => Kind::Switch {
            value: random.usize(0..4),
            cases: (0..random.usize(1..=3)).map(|_| easy(random)).collect(),
            default: random.bool().then(|| easy(random)),
        },
        _ => {
            let max = random.usize(1..=3);
            let until = if random.u32(0..8) == 0 { max } else { random.usize(0..max) };
            let every = random.bool().then(|| *random.choice(&[10, 40, 150, 5_000]).unwrap_or(&10));
            Kind::Repeat { until, max, every, work: easy(random) }
        }
    }
}

impl Program {
    /// With `shapes` also of steps that hold steps, and with something to be done at the end.
    pub fn random(random: &mut fastrand::Rng, shapes: bool) -> Self {
        let n = random.usize(1..=7);
        let hard = (random.u32(0..4) == 0).then(|| random.usize(0..n));
        let mut steps: Vec<Step> = Vec::new();
        for i in 0..n {
            let kind = match random.u32(0..12) {
                _ if hard == Some(i) => Kind::Work(work(random, true)),
                _ if shapes && random.u32(0..3) == 0 => holder(random),
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
            let step = Step { id: format!("s{i}"), kind, needs, only_if: None, from: None, undo: None };
            steps.push(step);
            let before = Self::before(&steps, i);
            let numbered: Vec<usize> = before.into_iter().filter(|b| steps[*b].has_number()).collect();
            steps[i].from = random.choice(&numbered).copied();
            steps[i].only_if = (random.u32(0..6) == 0).then(|| random.i64(0..2));
        }
        let (resumes, resume_after) = (random.u32(0..=4), *random.choice(&[50, 2_000, 30_000]).unwrap_or(&50));
        let mut program = Self { steps, resumes, resume_after, on_failure: None, finally: None };
        if shapes {
            program.give_an_end(random);
        }
        program
    }

    fn give_an_end(&mut self, random: &mut fastrand::Rng) {
        let undoes = random.u32(0..3) > 0;
        for step in self.steps.iter_mut().filter(|s| !s.works().is_empty()) {
            step.undo = (undoes && random.bool()).then(|| handler(random));
        }
        self.on_failure = (random.u32(0..3) == 0).then(|| handler(random));
        let sleep = *random.choice(&[0, 150, 20_000]).unwrap_or(&0);
        self.finally = (random.u32(0..3) == 0).then(|| (handler(random), Duration::from_millis(sleep)));
    }

    /// Is there anything to be done at the end?
    pub fn has_an_end(&self) -> bool {
        self.on_failure.is_some() || self.finally.is_some() || self.steps.iter().any(|s| s.undo.is_some())
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
                Kind::Nested { items, .. } => {
                    let inner = |of: &Vec<i64>| -> Value { of.iter().map(|n| json!({"n": n + 1})).collect() };
                    (items.iter().map(inner).collect(), None)
                }
                Kind::Switch { value, cases, default } if *value < cases.len() || default.is_some() => {
                    (json!({"n": 6}), None)
                }
                Kind::Switch { .. } => (Value::Null, None),
                Kind::Repeat { until, max, .. } if until < max => (json!(until + 1), None),
                Kind::Repeat { .. } => {
                    fatal.push(step.id.clone());
                    (Value::Null, None)
                }
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
        match key {
            "on_failure[0]" => return self.on_failure.as_ref(),
            "finally[1]" => return self.finally.as_ref().map(|(work, _)| work),
            _ => {}
        }
        let step = &self.steps[self.place(key)?];
        if key.ends_with(".undo") {
            return step.undo.as_ref();
        }
        let inside = key.ends_with(".a");
        match &step.kind {
            Kind::Work(work) if key == step.id => Some(work),
            Kind::Map { work, .. } | Kind::Nested { work, .. } | Kind::Repeat { work, .. } if inside => Some(work),
            Kind::Switch { cases, default, .. } => match key.split_once('_')?.1 {
                "default" => default.as_ref(),
                case => cases.get(case.strip_prefix("case")?.parse::<usize>().ok()?),
            },
            _ => None,
        }
    }

    /// The step of the list to which a key belongs.
    pub fn place(&self, key: &str) -> Option<usize> {
        let number: String = key.strip_prefix('s')?.chars().take_while(char::is_ascii_digit).collect();
        number.parse().ok().filter(|n| *n < self.steps.len())
    }

    /// The places of the steps that a step waits for.
    pub fn needs(&self, i: usize) -> Vec<usize> {
        self.steps[i].needs.clone().unwrap_or_else(|| i.checked_sub(1).into_iter().collect())
    }

    /// Is there something that takes the work of this key back?
    pub fn is_undone(&self, key: &str) -> bool {
        let undo = self.place(key).is_some_and(|i| self.steps[i].undo.is_some());
        undo && !key.ends_with(".undo") && self.work(key).is_some()
    }

    /// All the work that there is.
    pub fn works(&self) -> impl Iterator<Item = &Work> {
        self.steps.iter().flat_map(Step::works)
    }

    /// How many attempts of a step fail at most.
    pub fn failures(&self, work: &Work) -> u32 {
        work.fails.min(work.max_attempts + if work.goes_on || work.at_end { 0 } else { self.resumes })
    }
}

impl Step {
    fn works(&self) -> Vec<&Work> {
        match &self.kind {
            Kind::Work(work) | Kind::Map { work, .. } | Kind::Nested { work, .. } | Kind::Repeat { work, .. } => {
                vec![work]
            }
            Kind::Switch { cases, default, .. } => cases.iter().chain(default).collect(),
            Kind::Set | Kind::Sleep(_) | Kind::Wait { .. } | Kind::Approve { .. } => Vec::new(),
        }
    }

    /// Has it a number in the end, whatever happens?
    fn has_number(&self) -> bool {
        let numbered = match &self.kind {
            Kind::Work(work) => !work.goes_on,
            kind => matches!(kind, Kind::Set | Kind::Wait { .. }),
        };
        self.only_if.is_none() && numbered
    }
}

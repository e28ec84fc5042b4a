//! The tries of a step, told by its row and by the lines of the audit trail: those that failed, those that a worker's death ended, and the
//! last one.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::model::{Failure, StepState, TracedEvent, TracedRun, TracedStep, Usage};

use super::parts::time;

/// How a try ended.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// Well.
    Completed,
    /// Badly.
    Failed(Failure),
    /// With its worker: which one, and what is known of its death.
    Crashed(Value),
    /// With its run.
    Cancelled,
}

/// A try.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Attempt {
    pub number: u32,
    /// The claim under which it ended.
    pub epoch: i32,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub how: How,
    pub usage: Option<Usage>,
    /// The claim of the try that died and that this one repeats.
    pub repeats: Option<i32>,
}

/// Of a hundred years: what is longer is no pause of a step.
const LONGEST_PAUSE_MS: i64 = 100 * 366 * 86_400_000;

struct Failed {
    number: u32,
    epoch: i32,
    start: Option<DateTime<Utc>>,
    end: DateTime<Utc>,
    pause: TimeDelta,
    failure: Failure,
    usage: Option<Usage>,
}

struct Crash {
    epoch: i32,
    at: DateTime<Utc>,
    steps: Vec<String>,
    data: Value,
}

/// What the audit trail tells of all steps of a run.
#[derive(Default)]
pub struct Story {
    failed: HashMap<String, Vec<Failed>>,
    crashes: Vec<Crash>,
    /// When a claim took the run up.
    resumed: Vec<(i32, DateTime<Utc>)>,
    workers: HashMap<i32, Uuid>,
}

impl Story {
    /// Reads the lines of one run.
    #[must_use]
    pub fn of(run: &TracedRun, events: Vec<TracedEvent>) -> Self {
        let mut story = Self::default();
        if let Some(worker) = run.worker {
            story.workers.insert(run.epoch, worker);
        }
        for event in events {
            story.add(event);
        }
        story
    }

    fn add(&mut self, event: TracedEvent) {
        let TracedEvent { at, kind, key, attempt, epoch, mut data } = event;
        let epoch = epoch.unwrap_or_default();
        // What is no object says nothing.
        if !data.is_object() {
            data = Value::Null;
        }
        let worker = data["worker"].as_str().and_then(|w| w.parse().ok());
        match (kind.as_str(), key) {
            ("attempt_failed", Some(key)) => {
                let failure = serde_json::from_value(data["failure"].take());
                let unknown = |_| Failure::permanent("unknown", "the failure was too large to be shown here");
                self.failed.entry(key).or_default().push(Failed {
                    number: attempt.unwrap_or(1),
                    epoch,
                    start: time(&data["started_at"]),
                    end: time(&data["ended_at"]).unwrap_or(at),
                    pause: TimeDelta::milliseconds(
                        data["retry_in_ms"].as_i64().unwrap_or(0).clamp(0, LONGEST_PAUSE_MS),
                    ),
                    failure: failure.unwrap_or_else(unknown),
                    usage: serde_json::from_value(data["usage"].take()).ok(),
                });
            }
            ("crashed", _) => {
                self.workers.extend(worker.map(|worker| (epoch, worker)));
                let steps = serde_json::from_value(data["steps"].take()).unwrap_or_default();
                self.crashes.push(Crash { epoch, at, steps, data });
            }
            ("resumed", _) => {
                self.workers.extend(worker.map(|worker| (epoch, worker)));
                self.resumed.push((epoch, at));
            }
            _ => {}
        }
    }

    /// Who had the run under a claim, where that is known.
    #[must_use]
    pub fn worker(&self, epoch: i32) -> Option<Uuid> {
        self.workers.get(&epoch).copied()
    }

    /// The steps of which tries have failed, or died.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.failed
            .keys()
            .map(String::as_str)
            .chain(self.crashes.iter().flat_map(|c| c.steps.iter().map(String::as_str)))
    }

    /// The tries of a step that are over, in order. Without its row those that the trail tells.
    #[must_use]
    pub fn attempts(&self, key: &str, step: Option<&TracedStep>) -> Vec<Attempt> {
        let failed = self.failed.get(key).map(Vec::as_slice).unwrap_or_default();
        let crashes = self.crashes.iter().filter(|c| c.steps.iter().any(|s| s == key));
        // (attempt, when it began where that is known, the pause after it)
        let mut all: Vec<(Attempt, Option<DateTime<Utc>>, TimeDelta)> = failed.iter().map(Failed::told).collect();
        all.extend(crashes.map(Crash::told));
        all.extend(step.and_then(|step| last(step, failed)).map(|last| (last, None, TimeDelta::zero())));
        all.sort_by_key(|(a, _, _)| (a.epoch, a.end));
        let number = step.map_or(1, |s| s.attempts.max(1));
        for n in 0..all.len() {
            let later = all[n + 1..].iter().find(|(a, _, _)| a.number > 0).map_or(number, |(a, _, _)| a.number);
            let before = n.checked_sub(1).map(|before| all[before].clone());
            let (attempt, known, _) = &mut all[n];
            // One that died is repeated under its own number.
            if attempt.number == 0 {
                attempt.number = later;
            }
            let began = match &before {
                None => step.map_or(attempt.end, |s| s.started_at),
                Some((before, _, pause)) => {
                    self.taken_up(before.epoch, attempt.epoch).max(Some(before.end + *pause)).unwrap_or(attempt.end)
                }
            };
            attempt.start = known.unwrap_or(began).min(attempt.end);
            attempt.repeats = before
                .filter(|(b, _, _)| matches!(b.how, How::Crashed(_)) && b.number == attempt.number)
                .map(|(b, _, _)| b.epoch);
        }
        all.into_iter().map(|(attempt, _, _)| attempt).collect()
    }

    /// When the run was last taken up after one claim, and up to another.
    fn taken_up(&self, after: i32, upto: i32) -> Option<DateTime<Utc>> {
        self.resumed.iter().filter(|(epoch, _)| after < *epoch && *epoch <= upto).map(|(_, at)| *at).max()
    }
}

impl Failed {
    fn told(&self) -> (Attempt, Option<DateTime<Utc>>, TimeDelta) {
        let how = How::Failed(self.failure.clone());
        let (number, epoch, end, usage) = (self.number, self.epoch, self.end, self.usage);
        (Attempt { number, epoch, start: end, end, how, usage, repeats: None }, self.start, self.pause)
    }
}

impl Crash {
    /// Its number is not known yet.
    fn told(&self) -> (Attempt, Option<DateTime<Utc>>, TimeDelta) {
        let how = How::Crashed(self.data.clone());
        let attempt =
            Attempt { number: 0, epoch: self.epoch, start: self.at, end: self.at, how, usage: None, repeats: None };
        (attempt, None, TimeDelta::zero())
    }
}

/// The try that the step's row tells.
fn last(step: &TracedStep, failed: &[Failed]) -> Option<Attempt> {
    let how = match (step.state, &step.error) {
        (StepState::Completed, _) => How::Completed,
        (StepState::Failed, Some(failure)) => How::Failed(failure.clone()),
        (StepState::Cancelled, _) => How::Cancelled,
        _ => return None,
    };
    let told = failed.iter().any(|f| (f.number, f.epoch) == (step.attempts, step.epoch)) && how != How::Completed;
    let end = step.ended_at.filter(|_| step.attempts > 0 && !told)?;
    let mut usage = step.usage;
    if let Some(sum) = &mut usage {
        // The row has the sum of all its tries; the failed ones have said theirs.
        for one in failed.iter().filter_map(|f| f.usage) {
            sum.calls = sum.calls.saturating_sub(one.calls);
            sum.tokens_in = sum.tokens_in.saturating_sub(one.tokens_in);
            sum.tokens_out = sum.tokens_out.saturating_sub(one.tokens_out);
            sum.cost = (sum.cost - one.cost).max(0.0);
        }
    }
    Some(Attempt { number: step.attempts, epoch: step.epoch, start: end, end, how, usage, repeats: None })
}

#[cfg(test)]
mod tests {
    use super::super::parts::{PartEnd, parts};
    use super::super::spans_tests::{at, event, run, step};
    use super::*;
    use serde_json::json;

    fn failed(n: u32, epoch: i32, from: i64, to: i64, retry_in_ms: Option<i64>) -> TracedEvent {
        let data = json!({"started_at": at(from), "ended_at": at(to), "retry_in_ms": retry_in_ms,
            "failure": {"class": "transient", "code": "http_503", "message": "busy"}});
        event("attempt_failed", Some(("a", n)), epoch, to, data)
    }

    #[test]
    fn a_death_a_failure_and_a_success_are_three_tries_of_two_numbers() {
        let (dead, alive) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let events = vec![
            event("crashed", None, 1, 5, json!({"worker": dead, "steps": ["a", "b"]})),
            event("resumed", None, 3, 7, json!({"worker": alive})),
            failed(1, 3, 7, 9, Some(1_000)),
        ];
        let story = Story::of(&run(), events);
        let row = TracedStep { attempts: 2, epoch: 3, ended_at: Some(at(12)), ..step("a", "http") };
        let tries = story.attempts("a", Some(&row));
        let told: Vec<_> = tries.iter().map(|a| (a.number, a.epoch, a.start, a.end)).collect();
        assert_eq!(told, [(1, 1, at(1), at(5)), (1, 3, at(7), at(9)), (2, 3, at(10), at(12))]);
        assert!(matches!(tries[0].how, How::Crashed(_)) && tries[2].how == How::Completed);
        assert_eq!((tries[1].repeats, tries[2].repeats), (Some(1), None));
        assert_eq!((story.worker(1), story.worker(3)), (Some(dead), Some(alive)));
    }

    #[test]
    fn a_step_that_failed_for_good_is_told_once() {
        let story = Story::of(&run(), vec![failed(1, 3, 1, 2, None)]);
        let error = Some(Failure::transient("http_503", "busy"));
        let row = TracedStep { state: StepState::Failed, error, ended_at: Some(at(2)), ..step("a", "http") };
        assert_eq!(story.attempts("a", Some(&row)).len(), 1);
        assert_eq!(story.attempts("c", None), []);
    }

    #[test]
    fn a_run_is_told_in_parts_up_to_each_long_wait_and_each_end_that_was_taken_back() {
        let mut run = run();
        run.ended_at = Some(at(9_000));
        let data = json!({"from": "failed", "ended_at": at(50), "failure": {"class": "permanent", "code": "exit_1", "message": "no"}});
        let events = [event("retried", None, 1, 60, data), event("retried", None, 1, 70, json!({"from": "resuming"}))];
        let told = parts(&run, &events, &[at(5_000)]);
        let ends: Vec<_> = told.iter().map(|p| (p.n, p.from, p.to)).collect();
        assert_eq!(ends, [(0, None, at(50)), (1, Some(at(50)), at(5_000)), (2, Some(at(5_000)), at(9_000))]);
        assert!(matches!(told[0].end, PartEnd::Retried(Some(_))) && told[1].end == PartEnd::Waits);
        assert!(told[2].holds(at(9_001)) && !told[1].holds(at(50)) && told[1].touches(at(10), None));
    }
}

//! Proof of progress: each loop stamps its own counter. Whoever watches knows which of them stands still, and for how long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One loop's counter.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    /// A loop that is not at rest turns at least so often.
    bound: Duration,
    beats: AtomicU64,
    resting: AtomicBool,
    passes: Passes,
}

/// What came of a loop's passes.
#[derive(Debug)]
struct Passes {
    born: Instant,
    /// When the last one succeeded, in milliseconds from then on, and 1; 0: none has.
    last: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
}

impl Pulse {
    /// The loop turns.
    pub fn beat(&self) {
        self.resting.store(false, Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The loop waits for something that may take any time; until the next beat nothing is expected of it.
    pub fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
    }

    /// A pass has been made, well or not.
    pub fn passed(&self, well: bool) {
        let passes = &self.passes;
        if well {
            let since = u64::try_from(passes.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
            passes.last.store(since + 1, Ordering::Relaxed);
            passes.ok.fetch_add(1, Ordering::Relaxed);
        } else {
            passes.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The counters of one daemon.
#[derive(Debug, Default)]
pub struct Progress {
    pulses: Mutex<Vec<Arc<Pulse>>>,
}

impl Progress {
    /// A counter for a loop, at rest until its first beat.
    pub fn pulse(&self, name: &'static str, bound: Duration) -> Arc<Pulse> {
        let (beats, resting) = (AtomicU64::new(0), AtomicBool::new(true));
        let (last, ok, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let pulse = Pulse { name, bound, beats, resting, passes: Passes { born: Instant::now(), last, ok, failed } };
        let pulse = Arc::new(pulse);
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        pulse
    }
}

/// What a loop that makes passes has come to.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// Which loop.
    pub name: &'static str,
    /// Passes that were made well.
    pub ok: u64,
    /// … and those that were not.
    pub failed: u64,
    /// How long ago the last one was made well; or the loop began, where none was.
    pub age: Duration,
}

impl Progress {
    /// Every loop that has made a pass.
    #[must_use]
    pub fn passes(&self) -> Vec<Passed> {
        let pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = pulses.iter().map(|pulse| {
            let (name, passes) = (pulse.name, &pulse.passes);
            let last = Duration::from_millis(passes.last.load(Ordering::Relaxed).saturating_sub(1));
            let age = passes.born.elapsed().saturating_sub(last);
            Passed { name, ok: passes.ok.load(Ordering::Relaxed), failed: passes.failed.load(Ordering::Relaxed), age }
        });
        passed.filter(|p| p.ok + p.failed > 0).collect()
    }
}

/// Looks at the counters again and again, by a clock of its own.
#[derive(Debug, Default)]
pub struct Watcher {
    seen: HashMap<&'static str, (u64, Instant)>,
}

impl Watcher {
    /// The loops that have stood still for longer than they may.
    pub fn stuck(&mut self, progress: &Progress, now: Instant) -> Vec<&'static str> {
        let pulses = progress.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stuck = Vec::new();
        for pulse in pulses.iter() {
            let beats = pulse.beats.load(Ordering::Relaxed);
            let seen = self.seen.entry(pulse.name).or_insert((beats, now));
            if seen.0 != beats || pulse.resting.load(Ordering::Relaxed) {
                *seen = (beats, now);
            } else if now.saturating_duration_since(seen.1) > pulse.bound {
                stuck.push(pulse.name);
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_for_longer_than_its_bound_is_stuck_and_one_at_rest_never_is() {
        let (progress, mut watcher, start) = (Progress::default(), Watcher::default(), Instant::now());
        let (a, b) = (progress.pulse("a", Duration::from_secs(10)), progress.pulse("b", Duration::from_secs(99)));
        let mut look = |s| watcher.stuck(&progress, start + Duration::from_secs(s));
        assert!(look(0).is_empty() && look(1_000).is_empty(), "not begun yet");
        a.beat();
        b.beat();
        assert!(look(1_001).is_empty() && look(1_011).is_empty());
        assert_eq!(look(1_012), ["a"]);
        a.beat();
        assert!(look(1_013).is_empty());
        a.rest();
        b.rest();
        assert!(look(9_000).is_empty());
        a.beat();
        assert!(look(9_001).is_empty(), "counted from when it went on");
        assert_eq!(look(9_012), ["a"]);
    }
}

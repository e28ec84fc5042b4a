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
}

/// The counters of one daemon.
#[derive(Debug, Default)]
pub struct Progress {
    pulses: Mutex<Vec<Arc<Pulse>>>,
}

impl Progress {
    /// A counter for a loop, at rest until its first beat.
    pub fn pulse(&self, name: &'static str, bound: Duration) -> Arc<Pulse> {
        let pulse = Pulse { name, bound, beats: AtomicU64::new(0), resting: AtomicBool::new(true) };
        let pulse = Arc::new(pulse);
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        pulse
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

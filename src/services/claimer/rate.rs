//! How fast runs are started, and so how many are worth claiming ahead.

use std::time::{Duration, Instant};

use super::{AHEAD, MAX_AHEAD};

/// Where slots stand empty, the buffer may hold so many times what is started in its time: claims that bring few would otherwise keep the
/// rate low from which they are reckoned. No more than that, for what comes next may be slower than what went before.
const GROWTH: f64 = 4.0;

/// Runs started a second, smoothed, and the share of the slots that they took.
pub(super) struct Rate {
    per_second: f64,
    share: f64,
    /// What the last span had.
    last: f64,
    seen: (u64, f64),
    at: Instant,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { per_second: 0.0, share: 0.0, last: 0.0, seen: (0, 0.0), at: Instant::now() }
    }

    /// Takes up how many have been started in all, and for how many seconds all slots together were taken.
    pub(super) fn update(&mut self, started: u64, taken: f64) {
        let span = self.at.elapsed();
        if span >= Duration::from_millis(20) {
            self.updated(started, taken, span.as_secs_f64());
            self.at = Instant::now();
        }
    }

    fn updated(&mut self, started: u64, taken: f64, seconds: f64) {
        #[allow(clippy::cast_precision_loss)]
        let now = (started - self.seen.0) as f64 / seconds;
        let share = ((taken - self.seen.1) / seconds).clamp(0.0, 1.0);
        self.per_second = 0.5f64.mul_add(self.per_second, 0.5 * now);
        self.last = now;
        self.share = 0.5f64.mul_add(self.share, 0.5 * share);
        self.seen = (started, taken);
    }

    /// What was claimed ahead did not start: the runs have become slower. What was before counts no more, or as many would be claimed again.
    pub(super) fn has_fallen(&mut self) {
        self.per_second = self.per_second.min(self.last);
        self.share = 1.0;
    }

    /// How many the buffer may hold.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn ahead(&self) -> usize {
        let growth = self.share.recip().clamp(1.0, GROWTH);
        ((self.per_second * growth * AHEAD.as_secs_f64()) as usize).min(MAX_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_stand_empty_are_worth_more_ahead_and_full_ones_what_they_start() {
        let ahead = |started: u64, taken: f64| {
            let mut rate = Rate::new();
            (1..50u32).for_each(|n| rate.updated(u64::from(n) * started, f64::from(n) * taken, 0.1));
            rate.ahead()
        };
        // 1,000 a second: 50 in the time of the buffer.
        for (taken, expected) in [(0.1, 50), (0.05, 100), (0.0, 200)] {
            assert!(ahead(100, taken).abs_diff(expected) <= 1, "{taken}: {}", ahead(100, taken));
        }
        assert_eq!((ahead(0, 0.0), ahead(1_000_000, 0.1)), (0, MAX_AHEAD));
    }

    #[test]
    fn runs_that_have_become_slow_are_not_claimed_ahead_as_those_before_them_were() {
        let mut rate = Rate::new();
        (1..50u32).for_each(|n| rate.updated(u64::from(n) * 200, f64::from(n) * 0.02, 0.1));
        assert!(rate.ahead() >= 390, "{}", rate.ahead());
        // None has started since: what is given back now comes not back at once.
        rate.updated(49 * 200, 49.0f64.mul_add(0.02, 0.1), 0.1);
        assert!(rate.ahead() >= 50, "{}", rate.ahead());
        rate.has_fallen();
        assert_eq!(rate.ahead(), 0);
    }
}

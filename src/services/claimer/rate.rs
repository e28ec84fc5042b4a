//! How fast runs are started, and so how many are worth claiming ahead.

use std::time::{Duration, Instant};

use super::{AHEAD, MAX_AHEAD};

/// Runs started a second, smoothed.
pub(super) struct Rate {
    per_second: f64,
    seen: u64,
    at: Instant,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { per_second: 0.0, seen: 0, at: Instant::now() }
    }

    /// Takes up how many have been started in all.
    pub(super) fn update(&mut self, started: u64) {
        let span = self.at.elapsed();
        if span < Duration::from_millis(20) {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let now = (started - self.seen) as f64 / span.as_secs_f64();
        self.per_second = 0.5f64.mul_add(self.per_second, 0.5 * now);
        self.seen = started;
        self.at = Instant::now();
    }

    /// How many the buffer may hold.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn ahead(&self) -> usize {
        ((self.per_second * AHEAD.as_secs_f64()) as usize).min(MAX_AHEAD)
    }
}

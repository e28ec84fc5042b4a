//! The server's clock, carried on between two looks.

use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// A reading that lies no more than this behind is a slow answer; farther behind, the server's clock was set back.
const SLOW: TimeDelta = TimeDelta::seconds(1);

/// So far such a reading is followed: two clocks that run apart by a thousandth meet all the same, at a reading a second.
const STEP: TimeDelta = TimeDelta::milliseconds(1);

/// The last `now()` of the server plus monotonic time since. It dates records; it decides nothing.
#[derive(Debug)]
pub struct ServerClock {
    base: Mutex<(DateTime<Utc>, Instant)>,
}

impl ServerClock {
    /// A clock that starts at a time that the server has just told.
    #[must_use]
    pub fn new(server_now: DateTime<Utc>) -> Self {
        Self { base: Mutex::new((server_now, Instant::now())) }
    }

    /// Takes up a newer reading. One that lies a little behind the carried-on time is an answer that was long on its way: the earlier
    /// one was better, and the times of two workers on a busy machine stay close. A clock that was set back is followed, since the
    /// server's is the one that counts.
    pub fn set(&self, server_now: DateTime<Utc>) {
        let carried = self.now();
        let slow = server_now < carried && carried - server_now < SLOW;
        let now = if slow { server_now.max(carried - STEP) } else { server_now };
        *self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (now, Instant::now());
    }

    /// The server's time, to the microsecond that Postgres keeps.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let (base, at) = *self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let since = TimeDelta::microseconds(i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX));
        base.checked_add_signed(since).unwrap_or(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_moves_the_clock_hardly_and_a_clock_that_was_set_back_is_followed() {
        let start = DateTime::UNIX_EPOCH;
        let clock = ServerClock::new(start);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        clock.set(start + TimeDelta::milliseconds(960));
        assert_eq!(clock.now(), start + TimeDelta::milliseconds(999));
        clock.set(start + TimeDelta::milliseconds(1_005));
        assert_eq!(clock.now(), start + TimeDelta::milliseconds(1_005), "what lies ahead was sooner here");
        clock.set(start - TimeDelta::seconds(60));
        assert_eq!(clock.now(), start - TimeDelta::seconds(60));
    }
}

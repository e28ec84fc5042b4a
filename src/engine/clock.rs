//! The server's clock, carried on between two looks.

use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

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

    /// Takes up a newer reading. A reading that lies behind the carried-on time is a clock set back or a
    /// slow answer; it is followed, since the server's clock is the one that counts.
    pub fn set(&self, server_now: DateTime<Utc>) {
        *self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (server_now, Instant::now());
    }

    /// The server's time, to the microsecond that Postgres keeps.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let (base, at) = *self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let since = TimeDelta::microseconds(i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX));
        base.checked_add_signed(since).unwrap_or(base)
    }
}

//! The integration tests: the real daemon, as child processes, on a private Postgres.
//!
//! `cargo test --all-features` runs them all; those that crash or stop the daemon at a named place need the feature `failpoints`.
//! Test names are claims. Nothing sleeps for a fixed time: waits are on conditions, with a deadline.

mod acceptance;
#[cfg(feature = "failpoints")]
mod crash_points;
mod demo;
mod retries;
mod smoke;
mod sql;
#[cfg(feature = "failpoints")]
mod stopped;
mod support;
mod values;

//! Decisions, pure: no I/O, no clock, no randomness. Whatever decides about a run decides here, once.

pub mod budget;
pub mod compare;
pub mod cron;
pub mod horizon;
pub mod limits;
pub mod policy;
pub mod retention;
pub mod retry;
pub mod sampling;
pub mod state;
pub mod sweep;
pub mod timeline;

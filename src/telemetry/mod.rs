//! What the daemon says of itself.

pub mod context;
pub(crate) mod escape;
pub mod failures;
mod journal;
mod line;
pub mod logs;
pub mod metrics;
pub mod redact;
pub mod step_log;
pub mod traces;

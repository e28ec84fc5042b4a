//! What the daemon says of itself.

pub mod context;
pub(crate) mod escape;
mod journal;
mod line;
pub mod logs;
pub mod redact;
pub mod traces;

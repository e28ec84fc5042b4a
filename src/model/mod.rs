//! Plain data: what the tables hold and what the engine passes around. No I/O, no clocks, no decisions.

mod checkpoint;
pub mod errors;
mod failure;
mod ids;
mod job;
mod lease;
mod payload;
mod statement;
mod trace;
mod usage;

pub use checkpoint::{StepRecord, StepState, Wait};
pub use failure::{Class, Failure, code};
pub use ids::{RunId, StepKey, WorkerId};
pub use job::{Claimed, Job, Lane, RunState};
pub use lease::Lease;
pub use payload::Payload;
pub use statement::{SqlRequest, SqlResult};
pub use trace::{Call, TracedCalls, TracedEvent, TracedRun, TracedStep};
pub use usage::Usage;

//! The library: the same engine in somebody's own binary, and workflows that are Rust code.
//!
//! A workflow file and a Rust function are two implementations of one trait, `engine::Workflow`. What stands here gives that trait
//! types, and the context keys with prefixes; everything else is the engine's.

mod child;
mod client;
mod ctx;
mod daemon;
mod error;
mod flow;
mod map;
mod repeat;
mod step;
mod wait;
mod workflow;

pub use child::ChildCall;
pub use client::{Client, Enqueue, Fork};
pub use ctx::Ctx;
pub use daemon::{Builder, Stepd};
pub use error::Error;
pub use flow::{Concurrency, Overlap, Rate, Schedule, Unique, WhenFull};
pub use map::MapCall;
pub use repeat::RepeatCall;
pub use step::StepCall;
pub use wait::{Approval, WaitCall};
pub use workflow::{Workflow, WorkflowFn, WorkflowMethod};

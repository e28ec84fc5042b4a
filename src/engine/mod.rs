//! Runs one claimed job: it knows its ports (journal, steps, presence), never the database.

mod ctx;
mod halt;
mod interpreter;
mod workflow;

pub use ctx::{Call, Ctx, RunInfo, StepDone};
pub use halt::{Halt, StepFailure};
pub use interpreter::Interpreter;
pub use workflow::Workflow;

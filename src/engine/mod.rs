//! Runs one claimed job: it knows its ports (journal, steps, gate), never the database.
//!
//! ```text
//! Claimed → runner → Workflow::run(&Ctx) → Ctx::resolve(key) → attempt → Journal::submit → ack → … → Outcome
//!              └─ for good? → ending: (end) recorded → Workflow::at_end(&Ctx) → the same line
//! ```

mod attempt;
mod clock;
mod ctx;
mod ending;
mod gate;
mod halt;
mod inbox;
mod interpreter;
mod journal;
mod kept;
mod memory;
mod runner;
#[cfg(test)]
mod simulation;
mod wait;
mod workflow;

pub use clock::ServerClock;
pub use ctx::{Call, Ctx, Ports, RunInfo, StepDone, Tracing, Work, plain_shape};
pub use ending::End;
pub use gate::{Gate, GateKeeper};
pub use halt::{Halt, StepFailure};
pub use inbox::{Answer, Inbox};
pub use interpreter::Interpreter;
pub use journal::{Acks, CommitError, Entry, Journal, Note, NoteKind, StepRow, Ticket, Transition};
pub use memory::MemoryJournal;
pub use runner::{Outcome, run};
pub use workflow::Workflow;

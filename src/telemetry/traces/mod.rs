//! Traces: from the rows of a run to the spans of OpenTelemetry.
//!
//! Nothing here was alive while the run was: a span is made from what is stored, so that a crash loses none, and whoever makes it again
//! makes the same. The trace's id is the run's; a span's is worked out from what it stands for ([`ids`]).
//!
//! ```text
//!  rows ──parts──► invoke_workflow (one for each part of the run's life)
//!                    └─ step ── attempt ── call (HTTP, SQL, program, tool, model)
//!                         └─ step of a map, a repeat, an agent …
//! ```
//!
//! OTLP knows no updates. So a run is exported when it has ended; one that waits for long, or that an operator takes up again after its
//! end, in parts, each with a root of its own that links to the one before ([`parts`]).

pub mod attempts;
mod attributes;
pub mod ids;
pub mod otlp;
pub mod parts;
pub mod spans;
#[cfg(test)]
mod spans_tests;

pub use spans::{Maker, Style, Vendor};

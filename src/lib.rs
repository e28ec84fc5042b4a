//! **stepd is the step daemon: insert a row into Postgres, and a workflow runs to its end, whatever crashes on the way.**
//!
//! This is the library: the same engine inside of your own binary, and workflows that are Rust code. The daemon, `stepd serve`, runs
//! workflow files and needs none of it; both work side by side on one database, and what people look at (`stepd ls`, `stepd show`,
//! the views in SQL) is the same.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use serde::{Deserialize, Serialize};
//! use stepd::{Ctx, Failure, Halt, Stepd};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     id: u64,
//!     cents: u64,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Receipt {
//!     charge: String,
//!     tracking: String,
//! }
//!
//! // A workflow is an async function of its context and its input. It runs from the top at every start; a step that has ended
//! // answers from its checkpoint and is not done again.
//! async fn fulfil(ctx: &Ctx<'_>, order: Order) -> Result<Receipt, Halt> {
//!     let charge = ctx
//!         .step_with("charge", |step| async move {
//!             // The same key on every attempt, also after a crash.
//!             Ok(pay(order.cents, &step.idempotency_key()).await?)
//!         })
//!         .attempts(8)
//!         .timeout(Duration::from_secs(10))
//!         .await?;
//!
//!     if order.cents > 100_000 {
//!         // A person answers: `stepd approve RUN`. Meanwhile the run holds no slot and no memory.
//!         ctx.approve("release", format!("Release order {}?", order.id)).timeout(Duration::from_secs(172_800)).await?;
//!     }
//!
//!     // SELECT stepd.emit('shipment.packed', '{"order": 7, "tracking": "…"}')
//!     let packed: serde_json::Value =
//!         ctx.wait("packed", "shipment.packed").matching(serde_json::json!({"order": order.id})).await?;
//!
//!     ctx.sleep("a_day", Duration::from_secs(86_400)).await?;
//!     ctx.step("thank", || async { Ok(mail(order.id).await?) }).await?;
//!     Ok(Receipt { charge, tracking: packed["tracking"].to_string() })
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let stepd = Stepd::builder()
//!         .database("postgres://app:password@localhost/app")
//!         .queue("orders") // of this binary's own: nobody else has the code
//!         .workflow("fulfil", fulfil)
//!         .start()
//!         .await?;
//!
//!     let run = stepd.enqueue("fulfil", &Order { id: 7, cents: 2_000 }).unique_key("order 7").await?;
//!     let receipt: Receipt = stepd.result(run).await?;
//!     println!("{}", receipt.charge);
//!
//!     tokio::signal::ctrl_c().await?;
//!     stepd.shutdown().await;
//!     Ok(())
//! }
//!
//! // Errors of your own say what they mean for a step.
//! enum PayError {
//!     Declined,
//!     Busy,
//! }
//!
//! impl From<PayError> for Failure {
//!     fn from(error: PayError) -> Self {
//!         match error {
//!             PayError::Declined => Failure::permanent("declined", "the card was declined"),
//!             PayError::Busy => Failure::transient("busy", "the payment service is busy"),
//!         }
//!     }
//! }
//! # async fn pay(_: u64, _: &str) -> Result<String, PayError> { Ok(String::new()) }
//! # async fn mail(_: u64) -> std::io::Result<()> { Ok(()) }
//! ```
//!
//! # What holds
//!
//! - A committed job runs to its end, or visibly waits: `SELECT stepd.why(id)` says for what.
//! - A finished step never runs again: its result is committed before anything else of its run begins. A step that was under way when
//!   its process died runs again, with the same [idempotency key](StepCx::idempotency_key); [`StepCall::on_interrupt`] says otherwise.
//! - Another process that serves the queue has the run again within two seconds of a `kill -9`, and a run that keeps killing its
//!   processes is quarantined.
//!
//! # What the code of a workflow owes
//!
//! Between steps it is a function of its input and of the steps' results: no clock, no randomness, no I/O. Where it asks for another
//! kind of step under a key that is recorded already, the run fails with `fingerprint_mismatch` and says which. The code may change
//! under a run; what a key means should not.
//!
//! # In your own transaction
//!
//! A job is a row, so that it is there exactly when what it belongs to is: [`Client::enqueue_in`], or a plain
//! `INSERT INTO stepd.jobs (workflow, input) VALUES ('fulfil', '{"id": 7, "cents": 2000}')` from any language.
//!
//! # How it works
//!
//! `src/ARCHITECTURE.md` in the repository. `examples/library.rs` crashes on purpose and comes back.

// The parts of the daemon: for its binary, its tests and its benchmarks. They may change with any version. Only `os` has a place with
// `unsafe`, and only one.
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod app;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod cli;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod db;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod definition;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod engine;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod expression;
#[forbid(unsafe_code)]
pub mod http;
#[forbid(unsafe_code)]
mod library;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod model;
#[doc(hidden)]
pub mod os;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod postgres;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod rules;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod services;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod steps;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod telemetry;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod testing;

pub use db::{DbError, Trouble};
pub use engine::{Halt, StepFailure};
pub use library::{
    Approval, Builder, ChildCall, Client, Concurrency, Ctx, Enqueue, Error, Fork, MapCall, Overlap, Rate, RepeatCall,
    Schedule, StepCall, Stepd, Unique, WaitCall, WhenFull, Workflow, WorkflowFn, WorkflowMethod,
};
pub use model::{Class, Failure, Payload, RunId, StepKey, Wait, WorkerId};
pub use rules::cron::CatchUp;
pub use rules::policy::{Backoff, OnInterrupt, ResumePolicy, RetryPolicy};
pub use steps::{
    After, BoxFuture, Flow, LogLevel, Question, Reply, Shape, Step, StepCx, StepLog, StepOutput, StopReason, StopSignal,
};

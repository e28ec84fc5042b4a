//! The loops of the daemon. Each owns one concern and shares nothing with the others but what stands in [`shared`].
//!
//! ```text
//!  presence (own thread) ──gate, hints, suspects──► claimer ──Claimed──► runs ──Entry──► writer (group commit)
//!        └──────────────► sweeper                   stager   requests ──stop, answers──► runs
//!                       repair    scheduler  retention  daily  tables  logs  tracer
//! ```

pub mod acknowledged;
mod afterwards;
pub mod catalog;
pub mod children;
pub mod claimer;
pub mod connectivity;
pub mod daily;
pub mod export;
pub mod known;
pub mod logs;
pub mod periodic;
pub mod presence;
pub mod progress;
pub mod repair;
pub mod requests;
pub mod retention;
pub mod runs;
pub mod scheduler;
pub mod shared;
pub mod sql_effect;
pub mod stager;
pub mod sweeper;
pub mod tables;
pub mod tracer;
pub mod writer;

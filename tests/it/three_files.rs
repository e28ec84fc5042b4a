//! The three workflows of `examples/` that people read first, as they are written, against stand-ins of their services: to their end,
//! undone after a failure of each step, and killed in each step.
//!
//! What is put in their place is only where the services are: of `https://stock.internal` and the like the scheme and the host, and of
//! `/backup` the folder.

mod backup;
mod forced;
mod fulfil;
mod ground;
mod index;
mod killed;
mod killed_commits;

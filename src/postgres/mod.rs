//! A private Postgres: for `demo`, for `dev`, and for the tests.
//!
//! It runs from the machine's own binaries in a temporary folder of its own, listens on a Unix
//! socket in that folder only, and needs nobody: initdb refuses root, so root drops to an ordinary
//! user. Any number run side by side.
//!
//! Nothing stays behind. Dropping a [`PrivatePostgres`] stops the server and removes the folder. When
//! its process is killed, the kernel tells the postmaster (parent-death signal); only the folder then
//! remains, and the next start of any private Postgres sweeps it away: a folder's name holds the id
//! and the start time of the process that owns it.

mod binaries;
mod error;
mod folder;
mod server;
#[cfg(test)]
mod tests;

pub use error::PostgresError;
pub use server::{Options, PrivatePostgres, StopMode};

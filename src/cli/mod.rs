//! The command line: one file a subcommand.

mod check;

pub use check::check;

//! The composition root: configuration in, a running daemon out.

pub mod build;
pub mod config;
pub mod files;
pub mod gauges;
pub mod herald;
mod hooks;
pub mod outside;
pub mod reload;
pub mod retention;
pub mod site;
pub mod supervisor;
pub mod systemd;
pub mod traces;

pub use build::Daemon;
pub use config::Config;

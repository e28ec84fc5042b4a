//! The only SQL. Each statement is a file of `sql/` with its purpose, caller, lock order and index; this module
//! gives them types. Nothing here decides anything.

pub mod actions;
pub mod analytics;
pub mod batch;
pub mod changes;
pub mod children;
pub mod claims;
pub mod compare;
pub mod compat;
pub mod connect;
pub mod costs;
pub mod daily;
pub mod definitions;
pub mod deliveries;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod hosts;
pub mod in_flight;
mod json;
pub mod liveness;
pub mod locks;
pub mod logs;
pub mod maintenance;
pub mod metrics;
pub mod migrate;
pub mod older;
pub mod operate;
pub mod plain;
pub mod retention;
pub mod roles;
pub mod runs;
pub mod schedules;
pub mod server;
pub mod sql_step;
pub mod step;
pub mod timeline;
pub mod traces;
pub mod uninstall;
pub mod waiting;
pub mod waits;

pub use connect::{Database, within};
pub use error::{DbError, Trouble};
pub use hosts::Hosts;

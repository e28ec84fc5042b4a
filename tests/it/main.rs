//! The integration tests: the real daemon, as child processes, on a private Postgres.
//!
//! `cargo test --all-features` runs them all; those that crash or stop the daemon at a named place need the feature `failpoints`.
//! Test names are claims. Nothing sleeps for a fixed time: waits are on conditions, with a deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod acceptance;
mod afu9;
mod agents;
mod authors;
mod bad_input;
mod breaker;
mod children;
mod cli;
mod compat;
mod configuration;
mod costs;
mod crash_loop;
#[cfg(feature = "failpoints")]
mod crash_points;
mod daemon;
mod daily;
mod dashboard;
mod demo;
mod doctor;
mod documented;
mod ends;
mod errors;
mod failover;
mod failures;
mod figures;
mod flow;
mod fork;
mod fuzz;
mod guarantees;
mod hostile;
mod http;
mod http_acts;
mod http_hooks;
mod http_live;
mod http_patience;
mod http_runs;
mod http_told;
mod http_walls;
mod isolation;
mod language;
mod layout;
mod library;
mod library_children;
mod library_flow;
mod logs;
mod mcp;
mod metrics;
mod models;
mod network;
mod older;
mod older_documents;
mod older_steps;
mod operators;
mod own_kinds;
mod pause;
mod pool;
mod postgres_away;
mod prometheus;
mod queues;
mod repair;
mod repeat;
mod requests;
mod resume;
mod retention;
mod retries;
mod roles;
mod roles_http;
mod rows;
mod schedules;
mod secrets;
mod sessions;
mod shutdown;
mod smoke;
mod sql;
mod sql_role;
mod state;
mod statements;
mod step_logs;
#[cfg(feature = "failpoints")]
mod stopped;
mod support;
mod systemd;
mod take_over;
mod talks;
mod three_files;
mod traces;
mod traces_away;
mod traces_where;
mod try_out;
mod values;
mod versions;

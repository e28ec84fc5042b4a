#![doc = include_str!("ARCHITECTURE.md")]

pub mod app;
pub mod cli;
pub mod db;
pub mod definition;
pub mod engine;
pub mod expression;
pub mod model;
pub mod os;
pub mod postgres;
pub mod rules;
pub mod services;
pub mod steps;
pub mod telemetry;
pub mod testing;

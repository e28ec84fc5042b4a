//! db

pub mod sql_step;

//! A statement of a `sql` step and what it gave: what the step's kind and the database say to each other.

use std::time::Duration;

use serde_json::{Map, Value};

/// One statement with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlRequest {
    /// One statement, with `$1`, `$2`, …
    pub sql: String,
    /// The values, in the order of their numbers; bound by the statement's own parameter types.
    pub params: Vec<Value>,
    /// The longest that the server may work on it.
    pub timeout: Option<Duration>,
}

/// What a statement gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SqlResult {
    /// Its rows: column names to values.
    pub rows: Vec<Map<String, Value>>,
    /// Rows returned or changed.
    pub row_count: u64,
}

//! Failures are data: stored as they are, shown as they are, decided upon by one function.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It may pass: a timeout, a refused connection, an exit code.
    Transient,
    /// It will not: a wrong definition, an input that breaks the schema.
    Permanent,
}

/// Why a step or a run failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides retries and resumes.
    pub class: Class,
    /// A stable word, the one that `retry.only` takes: `timeout`, `exit_75`, `http_503`.
    pub code: Cow<'static, str>,
    /// One sentence for people: lower case, names the object, says the next action.
    pub message: String,
    /// What else is known, as JSON (exit status, output tails, response body).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Value>>,
    /// The step's own wish for the earliest next try, in milliseconds (`Retry-After`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure that may pass.
    pub fn transient(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: Class::Transient,
            code: code.into(),
            message: message.into(),
            details: None,
            retry_after_ms: None,
        }
    }

    /// A failure that trying again cannot mend.
    pub fn permanent(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: Class::Permanent,
            code: code.into(),
            message: message.into(),
            details: None,
            retry_after_ms: None,
        }
    }

    /// The same failure with details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Does a word of `retry.only` or `retry.not` mean this failure? A word that ends in `xx`
    /// (`http_5xx`) means the whole hundred.
    #[must_use]
    pub fn matches(&self, word: &str) -> bool {
        match word.strip_suffix("xx") {
            Some(stem) => self
                .code
                .strip_prefix(stem)
                .is_some_and(|rest| rest.len() == 2 && rest.bytes().all(|b| b.is_ascii_digit())),
            None => self.code == word,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

/// The failure codes that stepd itself gives. Step kinds add their own families: `exit_N`,
/// `signal_N`, `http_N`, `sql_SQLSTATE`.
pub mod code {
    /// An attempt, a step or a run took longer than its limit.
    pub const TIMEOUT: &str = "timeout";
    /// A value is not JSON, or JSON that cannot be held.
    pub const INVALID_JSON: &str = "invalid_json";
    /// The input breaks the workflow's `input` schema.
    pub const INVALID_INPUT: &str = "invalid_input";
    /// An output breaks the step's `schema`.
    pub const SCHEMA_MISMATCH: &str = "schema_mismatch";
    /// An expression could not be evaluated.
    pub const EXPRESSION: &str = "expression";
    /// A step's parameters make no sense once evaluated.
    pub const INVALID_PARAMS: &str = "invalid_params";
    /// An input or output is larger than the limit.
    pub const TOO_LARGE: &str = "too_large";
    /// An approval was refused.
    pub const REJECTED: &str = "rejected";
    /// The step was running when its worker died, and says `on_interrupt: fail`.
    pub const INTERRUPTED: &str = "interrupted";
    /// The run killed its workers again and again.
    pub const CRASH_LOOP: &str = "crash_loop";
    /// The programs of a step wanted more than its limits allow.
    pub const LIMIT_EXCEEDED: &str = "limit_exceeded";
    /// A program could not be started.
    pub const SPAWN: &str = "spawn";
    /// A connection was refused, reset, or never came about.
    pub const CONNECTION: &str = "connection";
    /// A request's target is forbidden by the configuration.
    pub const FORBIDDEN_TARGET: &str = "forbidden_target";
    /// The step's code panicked.
    pub const PANIC: &str = "panic";
    /// The definition cannot be had, read, or run on this worker.
    pub const DEFINITION: &str = "definition";
    /// The step's recorded kind differs from the one that the definition now names.
    pub const FINGERPRINT: &str = "fingerprint_mismatch";
    /// One key was used twice in one run.
    pub const DUPLICATE_KEY: &str = "duplicate_key";
    /// Postgres refused to store the value.
    pub const NOT_STORABLE: &str = "not_storable";
    /// More items of a `map` failed than it tolerates.
    pub const MAP_FAILED: &str = "map_failed";
    /// `until` of a `repeat` did not hold after its last iteration.
    pub const REPEAT_EXHAUSTED: &str = "repeat_exhausted";
    /// A child run failed, or was cancelled.
    pub const CHILD_FAILED: &str = "child_failed";
    /// A step names a workflow that is not loaded.
    pub const UNKNOWN_WORKFLOW: &str = "unknown_workflow";
    /// The unique key of a run to be is held by another run.
    pub const KEY_TAKEN: &str = "key_taken";
    /// A child stands below too many runs.
    pub const TOO_DEEP: &str = "too_deep";
    /// A verdict among the variables of an AFU-9 document ended the run.
    pub const VERDICT: &str = "verdict";
    /// A tool of an MCP server said that it failed.
    pub const TOOL_ERROR: &str = "tool_error";
    /// An MCP server has no such tool.
    pub const UNKNOWN_TOOL: &str = "unknown_tool";
    /// An MCP server refused a request, or speaks what stepd does not.
    pub const MCP: &str = "mcp";
    /// A model's provider asked for fewer calls.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// A model's provider withheld the answer.
    pub const CONTENT_FILTERED: &str = "content_filtered";
    /// A prompt is longer than the model takes.
    pub const CONTEXT_TOO_LONG: &str = "context_too_long";
    /// An agent came to no answer within its turns.
    pub const MAX_TURNS: &str = "max_turns";
    /// What the workflow's `budget` allows is used up.
    pub const BUDGET_EXCEEDED: &str = "budget_exceeded";
    /// The lease was lost while the step committed its own effect.
    pub const LEASE_LOST: &str = "lease_lost";
    /// A bug in stepd: never expected, always worth a report.
    pub const INTERNAL: &str = "internal";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_word_matches_its_hundred_only() {
        let f = Failure::transient("http_503", "x");
        assert!(f.matches("http_5xx"));
        assert!(f.matches("http_503"));
        assert!(!f.matches("http_4xx"));
        assert!(!f.matches("http_50"));
        assert!(!Failure::transient("http_5", "x").matches("http_5xx"));
        assert!(!Failure::transient("http_5ab", "x").matches("http_5xx"));
    }
}

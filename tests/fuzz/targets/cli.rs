//! The command line: every command with every option, and what is set in an input.

use serde_json::Value;
use stepd::cli;

use super::{FIELD, Form, Fuzzed, Target, joined};

/// `MAX_ARG_STRLEN` of Linux.
const LONGEST_WORD: usize = 128 << 10;

pub const TARGET: Target = Target {
    name: "cli",
    what: "command lines, and --set in an input",
    weight: 2,
    forms: &[Form::Text, Form::Text, Form::Text, Form::Text, Form::Text, Form::Text],
    words: &[
        "ls",
        "show",
        "run",
        "enqueue",
        "serve",
        "check",
        "watch",
        "logs",
        "why",
        "cancel",
        "retry",
        "fork",
        "diff",
        "pause",
        "unpause",
        "signal",
        "emit",
        "approve",
        "reject",
        "prune",
        "queue",
        "schedule",
        "worker",
        "stats",
        "workflow",
        "db",
        "cost",
        "eval",
        "import",
        "explain",
        "trace",
        "token",
        "--state",
        "--label",
        "--since",
        "--input",
        "--set",
        "-o",
        "json",
        "id",
        "--limit",
        "--queue",
        "--run-at",
        "--older-than",
        "--watch",
        "--follow",
        "--step",
        "--",
        "-",
        "@file",
        "--help",
        "--database-url",
        "--config",
        "2h",
        "2026-07-01",
        "a=b",
        "a.b[0]=1",
        "failed,resuming",
        "0198c2f4-0000-7000-8000-000000000000",
        "=",
    ],
    make: || Box::new(Lines),
};

const SEEDS: &[&[&str]] = &[
    &["ls", "--state", "failed,resuming", "--label", "a=b", "--since=2h"],
    &["show", "0198c2f4-0000-7000-8000-000000000000", "-o", "json"],
    &["run", "w.yaml", "--input", "{}", "--set", "a.b[0]=1"],
    &["enqueue", "w", "--run-at", "2026-07-01T12:00:00Z", "--priority=9"],
    &["serve", "--workflows", "w", "--concurrency", "7", "--queues=a,b"],
    &["queue", "limit", "q", "5"],
    &["cancel", "--workflow", "w", "--yes", "--state=running"],
    &["prune", "--older-than", "30d", "--dry-run"],
    &["fork", "0198c2f4-0000-7000-8000-000000000000", "--from", "a", "--set", "a=1"],
    &["trace", "replay", "--since", "1d"],
    &["stats", "--days", "7", "--workflow", "w"],
    &["approve", "0198c2f4-0000-7000-8000-000000000000", "--answer", "{}"],
    &["set", "items[0].count=3", "{\"items\": [{\"count\": 1}]}"],
    &["set", "a.b=null", "{\"a\": {}}"],
    &["--database-url", "postgres://h/d", "ls", "-o", "id"],
    &["eval", "1 + 1", "--input", "{}"],
];

struct Lines;

impl Fuzzed for Lines {
    fn seeds(&self) -> Vec<Vec<u8>> {
        SEEDS.iter().map(|words| joined(words)).collect()
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(input);
        let words: Vec<&str> = text.split(char::from(FIELD)).collect();
        if let ["set", change, value, ..] = words[..] {
            let mut value: Value = serde_json::from_str(value).unwrap_or_default();
            let _ = cli::set(&mut value, change).map_err(|e| e.to_string());
            return Ok(());
        }
        // No longer word comes through the kernel.
        if words.iter().any(|word| word.len() >= LONGEST_WORD) {
            return Ok(());
        }
        if let Err(error) = cli::read(std::iter::once("stepd").chain(words)) {
            drop(error.to_string());
        }
        Ok(())
    }
}

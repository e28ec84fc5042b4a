//! Workflow files, and documents of AFU-9.

use stepd::definition;

use super::{Form, Fuzzed, Target, fit_for_people};
use crate::seeds;

pub const YAML: Target = Target {
    name: "definition",
    what: "workflow files",
    weight: 4,
    forms: &[Form::Yaml],
    words: &[
        "name:",
        "steps:",
        "- id:",
        "run:",
        "exec:",
        "http:",
        "sql:",
        "set:",
        "sleep:",
        "wait:",
        "approve:",
        "map:",
        "repeat:",
        "switch:",
        "cases:",
        "default:",
        "workflow:",
        "mcp:",
        "llm:",
        "agent:",
        "needs:",
        "if:",
        "retry:",
        "timeout:",
        "on_error: continue",
        "undo:",
        "on_failure:",
        "finally:",
        "schedule:",
        "cron:",
        "timezone:",
        "unique:",
        "concurrency:",
        "rate:",
        "budget:",
        "input:",
        "output:",
        "schema:",
        "env:",
        "resume:",
        "as:",
        "max_parallel:",
        "until:",
        "${{ input }}",
        "steps",
        "id",
        "name",
        "input.x",
        "match:",
        "prompt:",
        "tools:",
        "max_attempts: 3",
        "500ms",
        "7d",
        "{",
        "}",
        "[",
        "]",
        "- ",
    ],
    make: || Box::new(Definitions { file: "w.yaml", seeds: seeds::workflows }),
};

pub const DOCUMENT: Target = Target {
    name: "document",
    what: "documents of AFU-9",
    weight: 3,
    forms: &[Form::Json],
    words: &[
        "name",
        "steps",
        "tool",
        "params",
        "condition",
        "assign",
        "loop",
        "continueOnError",
        "variables",
        "description",
        "repo",
        "${input.a}",
        "${a.b[0]}",
        "${",
        "!a.b",
        "a == 'b'",
        "a.b && c",
        "github.getIssue",
        "kind",
        "version",
        "retry",
        "if",
        "when",
        "timeoutSeconds",
        "maxAttempts",
    ],
    make: || Box::new(Definitions { file: "d.json", seeds: seeds::documents }),
};

struct Definitions {
    file: &'static str,
    seeds: fn() -> Vec<String>,
}

impl Fuzzed for Definitions {
    fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)().into_iter().map(String::into_bytes).collect()
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        match definition::read(self.file, input.to_vec()) {
            Ok((text, definition)) => {
                definition.each(&mut |step| assert!(!step.id.is_empty()));
                definition::as_json(&text).map(drop).ok_or_else(|| "a definition that is no JSON".to_owned())
            }
            Err(wrong) => fit_for_people(&wrong.to_string()),
        }
    }
}

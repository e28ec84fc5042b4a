//! Words that people bring along from elsewhere, and what is written here instead.

/// What to do instead of a key that the language does not know, where that is a word of another system.
pub(super) fn instead_of(key: &str) -> Option<&'static str> {
    let word: String = key.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect::<String>().to_lowercase();
    Some(match word.as_str() {
        "jobs" | "tasks" | "stages" => "there is one list of `steps`; `needs` makes branches of it",
        "on" | "trigger" | "triggers" => {
            "nothing stands here: INSERT INTO stepd.jobs starts a run, and `schedule` does by time"
        }
        "cron" => "write `schedule: {cron: \"15 2 * * *\"}` at the top of the file",
        "description" | "version" | "comment" => "write it as a comment: # …",
        "inputs" | "parameters" => "write `input:`, a JSON Schema of what a run is given",
        "outputs" => "write `output:`, an expression",
        "name" => "a step is named by its `id`, and by `label` for people",
        "uses" | "action" | "plugin" => {
            "there are no actions to use: `run` a program, or call a service by `http` or `mcp`"
        }
        "command" | "cmd" | "script" | "bash" | "sh" => {
            "write `run:` with a shell script, or `exec:` with a list of arguments"
        }
        "workingdirectory" | "workdir" | "dir" => "write `cwd:`",
        "environment" | "envs" => "write `env:`",
        "continueonerror" | "ignoreerrors" | "allowfailure" => "write `on_error: continue`",
        "timeoutminutes" | "timeoutseconds" | "timeoutms" | "deadline" => "write `timeout:` with a unit: 30s, 5m, 2h",
        "dependson" | "depends" | "after" | "requires" => "write `needs:` with a list of ids",
        "when" | "condition" | "onlyif" => "write `if:` with an expression",
        "retries" | "maxretries" | "attempts" | "tries" => "write `retry: {max_attempts: 3}`; the first try counts",
        "delay" | "interval" | "initialinterval" => "write `initial:`, the pause after the first failure",
        "foreach" | "withitems" | "loop" | "each" | "items" | "strategy" | "matrix" => {
            "write `map:` with the items, and `steps:` with what is done for each"
        }
        "parallel" => "write `needs: []` on steps that start together, or `max_parallel` on a `map`",
        "query" | "statement" => "write `sql:`",
        "url" | "request" | "method" | "get" | "post" => {
            "write `http: POST https://…`, the method and the URL together"
        }
        "data" | "payload" => "write `json:`, or `body:` for text",
        _ => return None,
    })
}

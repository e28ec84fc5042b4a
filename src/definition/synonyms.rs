//! Words that people bring along from elsewhere, and what is written here instead.

/// Without what people write between the words, and without capitals.
fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect::<String>().to_lowercase()
}

/// What to do instead of a key that is no misspelt one, however near to one it looks.
pub(super) fn surely_instead_of(key: &str) -> Option<&'static str> {
    Some(match plain(key).as_str() {
        "then" => "what is done stands in `steps`: `switch: [{when: <expression>, steps: […]}]`",
        "else" | "otherwise" => {
            "`if` leaves one step out; `switch` chooses, and what is done otherwise stands in its `default`"
        }
        "ontimeout" => {
            "a time-out fails the step with the code `timeout`: write `on_error: continue`, and ask for `steps.<id>.error.code` behind it"
        }
        _ => return None,
    })
}

/// How a key is written, for whoever gave it a value of another form.
pub(super) fn as_written(key: &str) -> Option<&'static str> {
    Some(match key {
        "schedule" => "write `schedule: {cron: \"15 2 * * *\", timezone: Europe/Berlin}`; a workflow has one",
        "unique" => "write `unique: {key: input.order_id}`",
        "concurrency" => "write `concurrency: {key: input.customer_id, limit: 1}`, without `key` for all runs together",
        "rate" => "write `rate: {key: input.customer_id, limit: 100, per: 1m}`, without `key` for all runs together",
        "budget" => "write `budget: {tokens: 100000}`",
        "retry" => "write `retry: {max_attempts: 5, initial: 1s}`",
        "repeat" => "write `repeat: {steps: […], until: <expression>, max: 100, every: 10s}`",
        "undo" => "write the step that takes this one back: `undo: {http: DELETE https://…}`",
        "cases" => {
            "write the steps for each value: `cases: {a: […], b: […]}`; a list of conditions stands under `switch` itself"
        }
        "match" => "write what the payload must hold: `match: {order_id: \"${{ input.order_id }}\"}`",
        "workflow" => "write the workflow's name; what it is given stands beside it, in `input:`",
        "approve" => "write the question; `timeout:` stands beside it",
        "wait" => "write the name of an event; `match:` and `timeout:` stand beside it",
        "llm" | "agent" => "write the name of a model of the configuration; `prompt:` stands beside it",
        "mcp" => "write `mcp: server.tool`; `args:` stands beside it",
        "http" => "write the method and the URL: `http: POST https://…`; `headers:` and `json:` stand beside it",
        "sql" => "write the statement; `params:` stands beside it",
        "run" => "write the script as text; a list of arguments is `exec`",
        _ => return None,
    })
}

/// What to do instead of a key that the language does not know, where that is a word of another system, or of another place.
pub(super) fn instead_of(key: &str) -> Option<&'static str> {
    Some(match plain(key).as_str() {
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
        "args" | "arguments" | "bindings" => {
            "a tool's arguments stand in `args:`, a statement's in `params:`, a program's in the list of `exec:`"
        }
        "messages" => "write `prompt:`, and `system:` for what the model is told first",
        "model" => "write `llm: <model>` or `agent: <model>`, by its name in the configuration",
        "secrets" => "they stand in the daemon's configuration; steps use them as `${{ secrets.<name> }}`",
        "env" | "vars" | "variables" => {
            "`env:` belongs to `run` and `exec`; what all workflows use stands in the daemon's configuration, as `${{ env.<name> }}`"
        }
        "undo" | "compensate" | "compensation" | "rollback" => "write `undo:` on the step that it takes back",
        "onfailure" | "finally" | "catch" | "ensure" => {
            "`on_failure:` and `finally:` stand at the top of the file, for the whole run; a step has `on_error:` and `undo:`"
        }
        "until" | "every" | "while" | "times" => {
            "write `repeat: {steps: […], until: <expression>, max: 100, every: 10s}`"
        }
        "steps" => {
            "`steps:` belongs to a `map`; those of a `repeat` stand inside of it: `repeat: {steps: […], until: …, max: 100}`"
        }
        "event" | "waitfor" => "write `wait:` with the name of an event",
        "approval" | "human" | "manual" => "write `approve:` with the question",
        "rate" | "concurrency" | "unique" | "priority" | "queue" | "schedule" | "resume" => {
            "it stands at the top of the file, for whole runs; to limit one step, give it a `workflow:` of its own"
        }
        "call" | "child" | "subworkflow" => "write `workflow:` with the name of the workflow",
        _ => return None,
    })
}

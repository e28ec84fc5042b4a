//! What a definition is once it has been read: typed, checked, compiled; nothing is left to parse when it runs.
//!
//! # Parameters of the step kinds
//! What a kind's code is given as `params` (a JSON object; keys that the file leaves out are absent):
//!
//! | kind | params | names in `output:` |
//! |---|---|---|
//! | `run` | `script`, `env?` {name: text}, `stdin?` (any JSON: text as it is, all else as JSON), `cwd?`, `shell?` | `exit_code stdout stderr json` |
//! | `exec` | `argv` [text], `env?`, `stdin?`, `cwd?` | `exit_code stdout stderr json` |
//! | `http` | `method` (upper case), `url`, `headers?` {name: text}, at most one of `json?`, `body?` (text), `form?` {name: text} | `status headers body` |
//! | `sql` | `sql`, `params?` [any JSON], `connection?` (absent: stepd's own database) | `rows row_count` |
//! | `mcp` | `server`, `tool`, `args?` (an object) | `structured content` |
//! | `llm` | `model`, `prompt`, `system?`, `temperature?`, `max_tokens?`, `schema?` (JSON Schema) | `text json usage` |
//! | `agent` | as `llm`, and `tools?` [[server, tool]], `max_turns` | `text json usage` |
//! | `sleep` | `ms` | |
//! | `wait` | `event`, `match` (an object, `{}` by default), `timeout_ms?` | `event` |
//! | `approve` | `prompt`, `timeout_ms?` | `event`: the answer |
//! | `set` | `value` | |
//!
//! `map` and `agent` are no kinds of their own to the engine: the interpreter opens them, runs the steps that they are made of, and
//! closes them. `workflow`, `switch` and `repeat` come later: as variants of [`Kind`], beside [`MapStep`]
//! where they hold steps of their own; `undo` as a field of [`Step`], the handlers as further [`Block`]s.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::expression::{Expression, StepIds, Template, View};
use crate::model::{Failure, code};
use crate::rules::budget::Budget;
use crate::rules::policy::{ResumePolicy, StepPolicy};

use super::afu9::Document;
use super::duration::parse_duration;
use super::flow::Schedule;
use super::plan::Graph;
use super::schema::Schema;

/// A workflow, ready to run. Share it in an `Arc`.
#[derive(Debug)]
pub struct Definition {
    /// Its name.
    pub name: Arc<str>,
    /// SHA-256 of the source text, in hex.
    pub hash: String,
    /// The text it was read from.
    pub source: Arc<str>,
    /// What the input must match.
    pub input: Option<Schema>,
    /// The queue of its jobs, where they name none.
    pub queue: Option<String>,
    /// The priority of its jobs, 0 (first) to 9, where they name none.
    pub priority: Option<u8>,
    /// `unique`, `concurrency` and `rate`, as the database reads them.
    pub flow: Option<Value>,
    /// When runs of it start by themselves.
    pub schedule: Option<Schedule>,
    /// The longest a run may take, from its first claim.
    pub timeout: Option<Duration>,
    /// What the sweep does after a failure.
    pub resume: ResumePolicy,
    /// What a run may use up of models.
    pub budget: Option<Budget>,
    /// The steps.
    pub steps: Block,
    /// The run's output; by default an object of all steps' outputs.
    pub output: Option<Expression>,
    /// A document of another system, which is run in its own way; then there are no `steps`.
    pub document: Option<Arc<Document>>,
}

impl Definition {
    /// All kinds that its steps use, nested ones included, each once, sorted.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        fn add(block: &Block, out: &mut Vec<&'static str>) {
            for step in &block.steps {
                match &step.kind {
                    Kind::Task { kind, .. } => out.push(kind),
                    Kind::Map(map) => add(&map.body, out),
                }
            }
        }
        let mut out = Vec::new();
        add(&self.steps, &mut out);
        out.extend(self.document.iter().filter(|d| !d.steps.is_empty()).map(|_| "mcp"));
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// A list of steps: those of the workflow, or of a `map`.
#[derive(Debug, Default)]
pub struct Block {
    /// In list order.
    pub steps: Vec<Step>,
    /// Which step needs which.
    pub graph: Graph,
    /// Their ids, for expressions.
    pub ids: Arc<StepIds>,
}

/// One step.
#[derive(Debug)]
pub struct Step {
    /// Its id, and outside of a `map` its key.
    pub id: Arc<str>,
    /// The line of the file on which it begins.
    pub line: usize,
    /// What it does.
    pub kind: Kind,
    /// `if`: a false one skips the step.
    pub condition: Option<Expression>,
    /// `label`: what people call the step, or the item of a map.
    pub label: Option<Expression>,
    /// `output`: from the raw result to the recorded output; of a map, each item's result.
    pub output: Option<Arc<Expression>>,
    /// What the output must match.
    pub schema: Option<Arc<Schema>>,
    /// Retries, limits, what failure means.
    pub policy: StepPolicy,
}

impl Step {
    /// Is it a `map`?
    #[must_use]
    pub fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// The word that names the kind.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Task { kind, .. } => kind,
            Kind::Map(_) => "map",
        }
    }
}

/// What a step does.
#[derive(Debug)]
pub enum Kind {
    /// One unit of work, done by a kind of the registry.
    Task {
        /// The kind's name.
        kind: &'static str,
        /// Its parameters.
        params: Params,
    },
    /// The same steps for each item.
    Map(Box<MapStep>),
}

/// The parameters of a task, evaluated anew for each attempt.
#[derive(Clone, Debug)]
pub enum Params {
    /// The object of the table above.
    Object(Template),
    /// The duration of a `sleep`, where it is an expression.
    Sleep(Template),
}

impl Params {
    /// The object that the kind's code is given.
    ///
    /// # Errors
    /// Those of the expressions; `invalid_params` where a duration is none.
    pub fn eval(&self, view: &View) -> Result<Value, Failure> {
        match self {
            Self::Object(template) => template.eval(view),
            Self::Sleep(template) => {
                let value = template.eval(view)?;
                let bad = |message: String| Failure::permanent(code::INVALID_PARAMS, format!("`sleep`: {message}"));
                let text = value.as_str().ok_or_else(|| bad("a duration is text, such as 30s or 5m".into()))?;
                let span = parse_duration(text).map_err(bad)?;
                Ok(json!({"ms": u64::try_from(span.as_millis()).unwrap_or(u64::MAX)}))
            }
        }
    }
}

/// `map`: the same steps for each item of a list.
///
/// Its output is an array in item order: of each item what the step's `output:` gives (it sees the item and the
/// item's steps), by default the output of the item's last step; of a failed item `{"$error": {class, code, message}}`.
#[derive(Debug)]
pub struct MapStep {
    /// The items; must give an array.
    pub items: Template,
    /// What expressions call an item.
    pub name: Arc<str>,
    /// Items at work at the same time. One where the file says nothing: steps run in list order unless somebody asks
    /// for more, and so do items.
    pub max_parallel: usize,
    /// How many items may fail.
    pub tolerate: Tolerate,
    /// The steps.
    pub body: Block,
}

/// `tolerate:` of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerate {
    /// So many items.
    Count(usize),
    /// So many of a hundred items, rounded down.
    Percent(u8),
}

impl Tolerate {
    /// The failures that `items` items may have.
    #[must_use]
    pub fn of(self, items: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => items.saturating_mul(usize::from(percent)) / 100,
        }
    }
}

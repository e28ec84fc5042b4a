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
//! | `agent` | as `llm`, and `tools?` [[server, tool] or {workflow, description, input}], `max_turns` | `text json usage` |
//! | `sleep` | `ms` | |
//! | `wait` | `event`, `match` (an object, `{}` by default), `timeout_ms?` | `event` |
//! | `approve` | `prompt`, `timeout_ms?` | `event`: the answer |
//! | `set` | `value` | |
//! | `workflow` | `workflow`, `input` (any JSON, `{}` by default), `detached?`, `timeout_ms?` | `output`: the child's |
//!
//! # Steps that are made of steps
//! `map`, `agent`, `switch` and `repeat` are no kinds of their own to the engine: the interpreter opens them, runs the steps in them, and
//! closes them. What they decide (the items, the branch, the iterations) is recorded, and never decided anew.
//!
//! ```yaml
//! - id: deliver
//!   switch: input.kind            # its value picks a case: equal to a key as text (404 and true have keys, too)
//!   cases:
//!     digital: [{id: mail, http: POST https://mail.internal/send}]
//!     parcel:
//!       - {id: label, http: POST https://ship.internal/labels}
//!       - {id: pickup, wait: parcel.picked_up}
//!   default: [{id: ask, approve: Deliver how?}]
//!
//! - id: tariff
//!   switch:                       # or: the first condition that holds
//!     - when: input.total > 1000
//!       steps: [{id: free, set: 0}]
//!     - when: input.country == 'DE'
//!       steps: [{id: home, set: 5}]
//!   default: [{id: abroad, set: 20}]
//!
//! - id: poll
//!   repeat:
//!     steps: [{id: check, http: "GET https://jobs.internal/${{ input.job }}"}]
//!     until: steps.check.output.done
//!     max: 60
//!     every: 30s
//! ```
//!
//! * A branch's steps have ids and keys like those beside the `switch` (`mail`, inside an item `docs[3].mail`), and later steps see
//!   them (`steps.mail.output`). The steps of a branch that was not taken are `skipped`, their output is null. The output of a
//!   `switch` is that of its branch's last step (null where no case fits and there is no `default`), or what `output:` says.
//! * An iteration's steps have keys of their own (`poll[3].check`) and know its number as `index`, from 0. The output of a `repeat` is
//!   that of the last iteration's last step, or what `output:` says of that iteration. The pause before iteration 3 has the key `poll[3]`.
//!   When `max` iterations have passed and `until` does not hold, the step fails (`repeat_exhausted`).
//!
//! # What is done at the end
//! `undo:` of a step, `on_failure:` and `finally:` of the workflow; `engine::ending` says when.

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
    /// `on_failure`: run when the run has failed for good.
    pub on_failure: Option<Block>,
    /// `finally`: run at the end, whatever it is.
    pub finally: Option<Block>,
    /// The run's output; by default an object of all steps' outputs.
    pub output: Option<Expression>,
    /// A document of another system, which is run in its own way; then there are no `steps`.
    pub document: Option<Arc<Document>>,
}

impl Definition {
    /// All kinds that its steps use, nested ones included, each once, sorted.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut out = Vec::new();
        self.each(&mut |step| {
            if let Kind::Task { kind, .. } = &step.kind {
                out.push(*kind);
            }
        });
        out.extend(self.document.iter().filter(|d| !d.steps.is_empty()).map(|_| "mcp"));
        out.sort_unstable();
        out.dedup();
        out
    }

    /// All its steps, those inside others and those of its end included.
    pub fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Step)) {
        for block in [Some(&self.steps), self.on_failure.as_ref(), self.finally.as_ref()].into_iter().flatten() {
            block.each(f);
        }
    }

    /// Is there anything to be done at the end of a run: `undo`, `on_failure`, `finally`?
    #[must_use]
    pub fn has_handlers(&self) -> bool {
        self.on_failure.is_some() || self.finally.is_some() || self.steps.has_undo
    }
}

/// A list of steps: those of the workflow, of a `map`, of a branch.
#[derive(Debug, Default)]
pub struct Block {
    /// In list order.
    pub steps: Vec<Step>,
    /// Which step needs which.
    pub graph: Graph,
    /// Their ids, for expressions, with those of the branches among them; a branch shares those of the list that it stands in.
    pub ids: Arc<StepIds>,
    /// Has a step, here or further in, an `undo`?
    pub has_undo: bool,
}

impl Block {
    /// Every step, those inside others and those of `undo` included.
    pub fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Step)) {
        for step in &self.steps {
            step.each(f);
        }
    }
}

/// One step.
#[derive(Debug)]
pub struct Step {
    /// Its id, and outside of a `map` its key.
    pub id: Arc<str>,
    /// Its place among the ids of its list.
    pub place: usize,
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
    /// `undo`: what takes it back when the run fails or is cancelled.
    pub undo: Option<Box<Block>>,
}

impl Step {
    /// Is it a `map`?
    #[must_use]
    pub fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// Is it made of other steps?
    #[must_use]
    pub fn is_compound(&self) -> bool {
        !matches!(self.kind, Kind::Task { .. })
    }

    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Self)) {
        f(self);
        if let Some(undo) = &self.undo {
            undo.each(f);
        }
        match &self.kind {
            Kind::Task { .. } => {}
            Kind::Map(map) => map.body.each(f),
            Kind::Switch(switch) => switch.branches.iter().for_each(|branch| branch.body.each(f)),
            Kind::Repeat(repeat) => repeat.body.each(f),
        }
    }

    /// Has it, or a step inside it, an `undo`?
    #[must_use]
    pub fn has_undo(&self) -> bool {
        self.undo.is_some()
            || match &self.kind {
                Kind::Task { .. } => false,
                Kind::Map(map) => map.body.has_undo,
                Kind::Switch(switch) => switch.branches.iter().any(|branch| branch.body.has_undo),
                Kind::Repeat(repeat) => repeat.body.has_undo,
            }
    }

    /// The word that names the kind.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Task { kind, .. } => kind,
            Kind::Map(_) => "map",
            Kind::Switch(_) => "switch",
            Kind::Repeat(_) => "repeat",
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
    /// One of several lists of steps.
    Switch(Box<SwitchStep>),
    /// The same steps until a condition holds.
    Repeat(Box<RepeatStep>),
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

/// `switch`: the first branch that fits.
#[derive(Debug)]
pub struct SwitchStep {
    /// Whose value picks the branch; `None` where each branch has a condition of its own.
    pub value: Option<Expression>,
    /// In the order of the file, the `default` last.
    pub branches: Vec<Branch>,
}

/// One branch of a `switch`.
#[derive(Debug)]
pub struct Branch {
    /// When it is taken.
    pub case: Case,
    /// What is done then.
    pub body: Block,
}

/// When a branch is taken.
#[derive(Debug)]
pub enum Case {
    /// The value of the `switch` is this, as text.
    Is(Arc<str>),
    /// This holds.
    When(Expression),
    /// No other is.
    Default,
}

impl Case {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Is(text) => text,
            Self::When(condition) => condition.source(),
            Self::Default => "default",
        }
    }
}

/// `repeat`: the same steps again and again.
#[derive(Debug)]
pub struct RepeatStep {
    /// The steps of an iteration.
    pub body: Block,
    /// After which iteration it is enough.
    pub until: Expression,
    /// The most iterations.
    pub max: usize,
    /// The pause between two.
    pub every: Option<Duration>,
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

//! What a workflow in Rust says of its runs taken together, as `docs/flow-control.md` has it for files.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::definition::{self, flow};
use crate::rules::cron::{CatchUp, Cron};

/// Of a key one run: while it is unfinished, for a time after its end, or for ever.
///
/// A key is a path into the input, such as `input.order_id`. Where the input has none of its parts, nothing is unique.
#[derive(Clone, Debug)]
#[must_use = "hand it to Workflow::unique"]
pub struct Unique {
    key: Vec<String>,
    keep: Option<String>,
}

impl Unique {
    /// At most one unfinished run of this key.
    pub fn key(path: impl Into<String>) -> Self {
        Self { key: vec![path.into()], keep: None }
    }

    /// One more part of the key.
    pub fn and(mut self, path: impl Into<String>) -> Self {
        self.key.push(path.into());
        self
    }

    /// The key is kept for so long after the run's end.
    pub fn for_a(mut self, span: Duration) -> Self {
        self.keep = Some(flow::interval(span));
        self
    }

    /// The key is kept for ever.
    pub fn forever(mut self) -> Self {
        self.keep = Some(flow::FOR_EVER.to_owned());
        self
    }
}

/// What becomes of a new run when its key is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits.
    #[default]
    Queue,
    /// It is cancelled, and says why.
    Skip,
    /// It takes the place of the older one, which is cancelled.
    CancelRunning,
}

/// So many runs of a key at once, over all workers. What waits or is paused holds no place.
#[derive(Clone, Debug)]
#[must_use = "hand it to Workflow::concurrency"]
pub struct Concurrency {
    key: Vec<String>,
    limit: u32,
    when_full: WhenFull,
}

impl Concurrency {
    /// So many of all the workflow's runs, until a key is named.
    pub fn limit(runs: u32) -> Self {
        Self { key: Vec::new(), limit: runs, when_full: WhenFull::Queue }
    }

    /// So many of each value of this path, such as `input.customer_id`. Said again: one more part of the key.
    pub fn key(mut self, path: impl Into<String>) -> Self {
        self.key.push(path.into());
        self
    }

    /// What becomes of a new run when the key is full; it waits by default.
    pub fn when_full(mut self, what: WhenFull) -> Self {
        self.when_full = what;
        self
    }
}

/// So many starts of a key in any span of a time.
#[derive(Clone, Debug)]
#[must_use = "hand it to Workflow::rate"]
pub struct Rate {
    key: Vec<String>,
    limit: u32,
    per: Duration,
}

impl Rate {
    /// So many starts of all the workflow's runs in any span of this time, until a key is named.
    pub fn limit(starts: u32, per: Duration) -> Self {
        Self { key: Vec::new(), limit: starts, per }
    }

    /// So many of each value of this path, such as `input.endpoint`. Said again: one more part of the key.
    pub fn key(mut self, path: impl Into<String>) -> Self {
        self.key.push(path.into());
        self
    }
}

/// What becomes of an instant while the schedule's last run is unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It waits for that run to end; at most 100 wait.
    Queue,
    /// Runs may overlap.
    Allow,
}

/// When runs start by themselves: each instant one, whatever the number of processes, with the input `{}`.
#[derive(Clone, Debug)]
#[must_use = "hand it to Workflow::schedule"]
pub struct Schedule {
    cron: String,
    timezone: String,
    overlap: Overlap,
    catch_up: CatchUp,
}

impl Schedule {
    /// Five fields, as in `15 2 * * *`, by the clock of UTC.
    pub fn cron(fields: impl Into<String>) -> Self {
        Self { cron: fields.into(), timezone: "UTC".to_owned(), overlap: Overlap::default(), catch_up: CatchUp::Last }
    }

    /// By the clock of this place, an IANA name such as `Europe/Berlin`.
    pub fn timezone(mut self, name: impl Into<String>) -> Self {
        self.timezone = name.into();
        self
    }

    /// What becomes of an instant while the last run is unfinished; it is left out by default.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// What becomes of the instants that passed while no process was there; the last one fires by default.
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.catch_up = catch_up;
        self
    }
}

/// All of it, as one workflow has it.
#[derive(Clone, Debug, Default)]
pub(super) struct FlowSettings {
    pub(super) unique: Option<Unique>,
    pub(super) concurrency: Option<Concurrency>,
    pub(super) rate: Option<Rate>,
    pub(super) schedule: Option<Schedule>,
}

impl FlowSettings {
    /// As the insert trigger and the admission read it; `None` where there is nothing. An error says what is wrong with which setting.
    pub(super) fn flow(&self) -> Result<Option<String>, String> {
        let mut all = Map::new();
        if let Some(u) = &self.unique {
            all.insert("unique".into(), json!({"key": key("unique", &u.key)?, "keep": u.keep}));
        }
        if let Some(c) = &self.concurrency {
            let when_full = match c.when_full {
                WhenFull::Queue => "queue",
                WhenFull::Skip => "skip",
                WhenFull::CancelRunning => "cancel_running",
            };
            let mut setting = limited("concurrency", &c.key, c.limit)?;
            setting.insert("when_full".into(), when_full.into());
            all.insert("concurrency".into(), setting.into());
        }
        if let Some(r) = &self.rate {
            if r.per.is_zero() || r.per > flow::LONGEST_WINDOW {
                return Err(format!("`rate` per {:?}: give it more than nothing and at most 31 days", r.per));
            }
            let mut setting = limited("rate", &r.key, r.limit)?;
            setting.insert("per".into(), flow::interval(r.per).into());
            all.insert("rate".into(), setting.into());
        }
        Ok((!all.is_empty()).then(|| Value::Object(all).to_string()))
    }

    /// Its times.
    pub(super) fn times(&self) -> Result<Option<definition::Schedule>, String> {
        let Some(Schedule { cron, timezone, overlap, catch_up }) = self.schedule.clone() else { return Ok(None) };
        Cron::parse(&cron, &timezone).map_err(|e| format!("`{cron}` in {timezone} cannot be a schedule: {e}"))?;
        if (overlap, catch_up) == (Overlap::Skip, CatchUp::All) {
            return Err(
                "a schedule with CatchUp::All and Overlap::Skip would skip all that it catches up with but the first; \
                 say Overlap::Queue or Overlap::Allow"
                    .to_owned(),
            );
        }
        let overlap = match overlap {
            Overlap::Skip => "skip",
            Overlap::Queue => "queue",
            Overlap::Allow => "allow",
        };
        Ok(Some(definition::Schedule { cron, timezone, overlap, catch_up }))
    }
}

fn key(setting: &str, paths: &[String]) -> Result<Value, String> {
    let parts = paths.iter().map(|path| {
        flow::key_parts(path)
            .ok_or_else(|| format!("`{path}` of `{setting}` is no path into the input, such as `input.order_id`"))
    });
    parts.collect()
}

fn limited(setting: &str, paths: &[String], limit: u32) -> Result<Map<String, Value>, String> {
    if limit == 0 || u64::from(limit) > flow::MOST {
        return Err(format!("the limit of `{setting}` is {limit}; give it 1 to {}", flow::MOST));
    }
    let mut found = Map::new();
    if !paths.is_empty() {
        found.insert("key".into(), key(setting, paths)?);
    }
    found.insert("limit".into(), limit.into());
    Ok(found)
}

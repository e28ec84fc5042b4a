//! The names that an expression may use, and where their values are.
//!
//! A [`Scope`] is built once per run, and once per item of a `map`; steps' results are filled into its [`Steps`] as
//! they come, each slot once. Nothing is copied and nothing is parsed before an expression looks at it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use serde_json::{Value, json};

use crate::model::{Failure, Payload, RunId, StepKey, StepState};

use super::path::{Found, Path, Segment, keys, walk};

/// JSON text that is parsed when it is first looked at, and then once.
#[derive(Debug)]
pub struct LazyJson {
    text: Payload,
    value: OnceLock<Result<Arc<Value>, Box<Failure>>>,
}

impl LazyJson {
    /// From text.
    #[must_use]
    pub fn new(text: Payload) -> Self {
        Self { text, value: OnceLock::new() }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &Payload {
        &self.text
    }

    /// The parsed value.
    ///
    /// # Errors
    /// A permanent failure `invalid_json`, when serde cannot hold the value.
    pub fn value(&self) -> Result<&Arc<Value>, Failure> {
        self.value.get_or_init(|| self.text.value().map(Arc::new).map_err(Box::new)).as_ref().map_err(|e| (**e).clone())
    }
}

/// What the daemon's configuration gives to every workflow.
#[derive(Default)]
pub struct Host {
    /// `env.*`: an object.
    pub env: Arc<Value>,
    /// `secrets.*`.
    pub secrets: Arc<BTreeMap<String, String>>,
}

impl fmt::Debug for Host {
    /// Names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("env", &keys(&self.env)).field("secrets", &self.secrets.keys()).finish()
    }
}

/// The ids of the steps of one list, with their places. Made at load, shared by all runs.
#[derive(Debug, Default)]
pub struct StepIds {
    places: HashMap<Box<str>, usize>,
    /// Which of them are maps (they alone have `count` and `failed`).
    maps: Vec<bool>,
}

impl StepIds {
    /// From ids in list order, each with whether the step is a `map`.
    pub fn new<'a>(ids: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let (mut places, mut maps) = (HashMap::new(), Vec::new());
        for (place, (id, map)) in ids.into_iter().enumerate() {
            places.insert(id.into(), place);
            maps.push(map);
        }
        Self { places, maps }
    }
}

/// What expressions see of one step. Every run has room for one of each of its steps: it is kept small.
#[derive(Debug)]
pub struct StepView {
    /// `state`.
    pub state: StepState,
    /// `output`.
    pub output: LazyJson,
    /// `error`.
    pub error: Option<Box<Failure>>,
}

/// The steps of one list, filled in as they end.
#[derive(Debug)]
pub struct Steps {
    ids: Arc<StepIds>,
    slots: Box<[OnceLock<StepView>]>,
    outer: Option<Arc<Steps>>,
}

impl Steps {
    /// Empty slots for a list, inside the steps of an outer one.
    #[must_use]
    pub fn new(ids: Arc<StepIds>, outer: Option<Arc<Self>>) -> Self {
        let slots = ids.maps.iter().map(|_| OnceLock::new()).collect();
        Self { ids, slots, outer }
    }

    /// Fills a slot. The first filling stands.
    pub fn fill(&self, place: usize, view: StepView) {
        if let Some(slot) = self.slots.get(place) {
            let _ = slot.set(view);
        }
    }

    /// What is known of the step at a place of this list.
    #[must_use]
    pub fn at(&self, place: usize) -> Option<&StepView> {
        self.slots.get(place)?.get()
    }

    /// The step of an id, here or further out; with whether it is a map.
    pub(super) fn find(&self, id: &str) -> Option<(&StepView, bool)> {
        match self.ids.places.get(id) {
            Some(place) => Some((self.slots.get(*place)?.get()?, self.ids.maps[*place])),
            None => self.outer.as_deref()?.find(id),
        }
    }

    /// The ids that have ended, inner first.
    pub(super) fn known(&self) -> Vec<String> {
        let mut out: Vec<String> =
            self.ids.places.iter().filter(|(_, p)| self.at(**p).is_some()).map(|(id, _)| id.to_string()).collect();
        out.extend(self.outer.iter().flat_map(|o| o.known()));
        out
    }
}

/// The attributes of `steps.<id>`.
pub(super) const STEP_NAMES: [&str; 5] = ["output", "state", "error", "count", "failed"];

/// One attribute of a step; `None` when a step has no such attribute.
pub(super) fn step_attribute(view: &StepView, map: bool, name: &str) -> Option<Result<Cow<'static, Value>, Failure>> {
    let owned = |value: Value| Some(Ok(Cow::Owned(value)));
    match name {
        "state" => owned(view.state.as_str().into()),
        "error" => owned(view.error.as_ref().map_or(Value::Null, |e| serde_json::to_value(e).unwrap_or_default())),
        // A map that failed has no output; its failure tells the numbers.
        "count" | "failed" if map && view.error.is_some() => {
            let details = view.error.as_ref().and_then(|e| e.details.as_deref());
            owned(details.and_then(|d| d.get(name)).cloned().unwrap_or_else(|| 0.into()))
        }
        "count" | "failed" if map => Some(view.output.value().map(|v| {
            let count = match name {
                "count" => v.as_array().map_or(0, Vec::len),
                _ => map_failures(v),
            };
            Cow::Owned(count.into())
        })),
        _ => None,
    }
}

/// How many items of a map's output failed: a failed item stands in it as `{"$error": {…}}`.
#[must_use]
pub fn map_failures(output: &Value) -> usize {
    let failed = |item: &&Value| item.as_object().is_some_and(|o| o.len() == 1 && o.contains_key("$error"));
    output.as_array().map_or(0, |items| items.iter().filter(failed).count())
}

/// The item of a `map` that a scope belongs to, or the iteration of a `repeat`.
#[derive(Debug)]
pub struct Item {
    /// The name after `as:`, or `item`; empty in a `repeat`, which has none.
    pub name: Arc<str>,
    /// All items: a JSON array, shared.
    pub items: Arc<Value>,
    /// This one's place, which the expression knows as `index`.
    pub index: usize,
}

/// What `run` holds: made when an expression first names it, which most never do.
pub type LazyRun = LazyLock<Arc<Value>, Box<dyn FnOnce() -> Arc<Value> + Send>>;

/// The names of a run, or of one item in it.
#[derive(Debug)]
pub struct Scope {
    /// `input`.
    pub input: Arc<LazyJson>,
    /// `run`; at the end of a run with its `state`, and its `error`, which has a name of its own, too.
    pub run: Arc<LazyRun>,
    /// `env` and `secrets`.
    pub host: Arc<Host>,
    /// `steps`.
    pub steps: Arc<Steps>,
    /// `item` (or its other name) and `index`.
    pub item: Option<Item>,
    /// The scope round this one: that of the run, or of the outer item.
    pub outer: Option<Arc<Scope>>,
}

/// `step.*`: what is known of the attempt for which parameters are evaluated.
#[derive(Clone, Debug)]
pub struct StepNames {
    /// The run.
    pub run: RunId,
    /// `step.key`.
    pub key: StepKey,
    /// `step.attempt`, from 1.
    pub attempt: u32,
    /// In an `undo`: the step that is taken back. The idempotency key is that step's.
    pub undoes: Option<StepKey>,
}

impl StepNames {
    fn json(&self) -> Value {
        json!({
            "key": self.key.as_str(),
            "attempt": self.attempt,
            "idempotency_key": format!("{}/{}", self.run, self.undoes.as_ref().unwrap_or(&self.key)),
        })
    }
}

/// A scope, and what one evaluation sees beside it.
#[derive(Clone, Debug)]
pub struct View {
    /// The names of the run or the item.
    pub scope: Arc<Scope>,
    /// `step`, in parameters.
    pub step: Option<StepNames>,
    /// The names of the raw result, in a step's `output`.
    pub raw: Option<Arc<Value>>,
}

/// Where a root name leads.
pub(super) enum Root {
    /// A JSON value: `root`, and the path to it.
    Json(Arc<Value>, Vec<Segment>),
    /// The steps.
    Steps(Arc<Steps>),
    /// The secrets: looked up one by one, never listed.
    Secrets,
}

impl View {
    /// A view of nothing but the scope.
    #[must_use]
    pub fn of(scope: &Arc<Scope>) -> Self {
        Self { scope: scope.clone(), step: None, raw: None }
    }

    /// What a root name means here.
    pub(super) fn root(&self, name: &str) -> Option<Result<Root, Failure>> {
        if let Some(raw) = self.raw.as_ref().filter(|raw| raw.get(name).is_some()) {
            return Some(Ok(Root::Json(raw.clone(), vec![Segment::Key(name.into())])));
        }
        if name == "step"
            && let Some(step) = &self.step
        {
            return Some(Ok(Root::Json(Arc::new(step.json()), Vec::new())));
        }
        if let Some(item) = item(&self.scope, name) {
            return Some(Ok(match name == &*item.name {
                true => Root::Json(item.items.clone(), vec![Segment::Index(item.index)]),
                false => Root::Json(Arc::new(item.index.into()), Vec::new()),
            }));
        }
        Some(Ok(match name {
            "input" => match self.scope.input.value() {
                Ok(value) => Root::Json(value.clone(), Vec::new()),
                Err(e) => return Some(Err(e)),
            },
            "steps" => Root::Steps(self.scope.steps.clone()),
            "run" => Root::Json(Arc::clone(LazyLock::force(&self.scope.run)), Vec::new()),
            "env" => Root::Json(self.scope.host.env.clone(), Vec::new()),
            "secrets" => Root::Secrets,
            "error" if self.scope.run.get("error").is_some() => {
                Root::Json(Arc::clone(LazyLock::force(&self.scope.run)), vec![Segment::Key(name.into())])
            }
            _ => return None,
        }))
    }

    /// The root names that exist here, for a suggestion.
    pub(super) fn roots(&self) -> Vec<String> {
        let mut names: Vec<String> = ["input", "steps", "run", "env", "secrets"].map(Into::into).into();
        names.extend(self.step.iter().map(|_| "step".into()));
        names.extend(self.raw.iter().flat_map(|raw| keys(raw)));
        let mut scope = Some(&self.scope);
        while let Some(s) = scope {
            names.extend(s.item.iter().filter(|i| !i.name.is_empty()).map(|i| i.name.to_string()));
            names.extend(s.item.iter().map(|_| "index".into()));
            scope = s.outer.as_ref();
        }
        names
    }

    /// Looks a plain path up, borrowing where the value stands still.
    pub(super) fn find<'a>(&'a self, path: &Path) -> Result<Found<'a>, Failure> {
        let segments = &path.segments;
        let name = &*path.root;
        if let Some(raw) = self.raw.as_deref().and_then(|raw| raw.get(name)) {
            return Ok(walk(raw, segments, 0));
        }
        if name == "step"
            && let Some(step) = &self.step
        {
            return Ok(own(&step.json(), segments, 0));
        }
        if let Some(item) = item(&self.scope, name) {
            return Ok(match (name == &*item.name).then(|| item.items.get(item.index)).flatten() {
                Some(value) => walk(value, segments, 0),
                None => own(&item.index.into(), segments, 0),
            });
        }
        match name {
            "input" => Ok(walk(self.scope.input.value()?, segments, 0)),
            "run" => Ok(walk(&self.scope.run, segments, 0)),
            "env" => Ok(walk(&self.scope.host.env, segments, 0)),
            "error" if self.scope.run.get("error").is_some() => Ok(walk(&self.scope.run["error"], segments, 0)),
            "steps" => find_step(&self.scope.steps, segments),
            "secrets" => Ok(find_secret(&self.scope.host, segments)),
            // The library may know it (a function); it will say so if not.
            _ => Ok(Found::Odd),
        }
    }
}

fn item<'a>(scope: &'a Scope, name: &str) -> Option<&'a Item> {
    match scope.item.as_ref().filter(|i| *i.name == *name || name == "index") {
        Some(item) => Some(item),
        None => scope.outer.as_deref().and_then(|outer| item(outer, name)),
    }
}

fn own<'a>(value: &Value, segments: &[Segment], done: usize) -> Found<'a> {
    match walk(value, segments, done) {
        Found::Value(v) => Found::Value(Cow::Owned(v.into_owned())),
        Found::Missing(i, names) => Found::Missing(i, names),
        Found::Odd => Found::Odd,
    }
}

fn find_step<'a>(steps: &'a Steps, segments: &[Segment]) -> Result<Found<'a>, Failure> {
    let [Segment::Key(id), Segment::Key(name), rest @ ..] = segments else {
        return Ok(Found::Odd);
    };
    let Some((view, map)) = steps.find(id) else {
        return Ok(Found::Missing(0, steps.known()));
    };
    if &**name == "output" {
        return Ok(walk(view.output.value()?, rest, 2));
    }
    match step_attribute(view, map, name) {
        Some(value) => Ok(own(&*value?, rest, 2)),
        None => Ok(Found::Missing(1, STEP_NAMES.map(Into::into).into())),
    }
}

fn find_secret<'a>(host: &Host, segments: &[Segment]) -> Found<'a> {
    match segments {
        [Segment::Key(name)] => match host.secrets.get(&**name) {
            Some(value) => Found::Value(Cow::Owned(value.clone().into())),
            None => Found::Missing(0, host.secrets.keys().cloned().collect()),
        },
        _ => Found::Odd,
    }
}

//! Between JSON and the library's values: lazy views one way, an exact conversion the other.

use std::fmt;
use std::sync::{Arc, OnceLock};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value as Jinja, ValueKind};
use serde_json::{Map, Number, Value};

use crate::model::Failure;

use super::error::nearest;
use super::limits::{DEPTH, RESULT_BYTES};
use super::path::{Segment, keys, push};
use super::scope::{Root, STEP_NAMES, Steps, View, step_attribute};

/// What one evaluation met on its way that the library would not tell: the first name that does not exist (the library
/// lets many an undefined value pass as empty), and a value that could not be read.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// The missing name, and the one that was probably meant.
    pub(super) missing: OnceLock<(String, Option<String>)>,
    /// A value that serde cannot hold.
    pub(super) unreadable: OnceLock<Failure>,
}

impl Trace {
    fn miss(&self, path: String, name: &str, names: &[String]) {
        let meant = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
        let _ = self.missing.set((path, meant));
    }
}

/// The root of all names.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) view: View,
    pub(super) trace: Arc<Trace>,
}

/// Functions of the library that are no names of ours.
pub(super) const FUNCTIONS: [&str; 2] = ["range", "dict"];

impl Object for Names {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let name = key.as_str()?;
        match self.view.root(name) {
            Some(Ok(Root::Json(root, path))) => {
                let base = path.len();
                json(&Json { root, path, base, name: name.into(), trace: self.trace.clone() })
            }
            Some(Ok(Root::Steps(steps))) => {
                Some(Jinja::from_object(StepsObject { steps, id: None, trace: self.trace.clone() }))
            }
            Some(Ok(Root::Secrets)) => {
                Some(Jinja::from_object(SecretsObject { view: self.view.clone(), trace: self.trace.clone() }))
            }
            Some(Err(failure)) => {
                let _ = self.trace.unreadable.set(failure);
                None
            }
            None => {
                if !FUNCTIONS.contains(&name) {
                    self.trace.miss(name.to_owned(), name, &self.view.roots());
                }
                None
            }
        }
    }
}

/// A place inside a shared JSON value.
#[derive(Clone)]
struct Json {
    root: Arc<Value>,
    path: Vec<Segment>,
    /// Segments of `path` that lead from `root` to `name`.
    base: usize,
    /// How the expression calls the place that `base` leads to.
    name: Arc<str>,
    trace: Arc<Trace>,
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Json {
    fn value(&self) -> Option<&Value> {
        self.path.iter().try_fold(&*self.root, |at, segment| match segment {
            Segment::Key(key) => at.get(&**key),
            Segment::Index(index) => at.get(*index),
        })
    }

    fn child(&self, segment: Segment) -> Option<Jinja> {
        let mut path = Vec::with_capacity(self.path.len() + 1);
        path.extend_from_slice(&self.path);
        path.push(segment);
        json(&Self {
            path,
            root: self.root.clone(),
            base: self.base,
            name: self.name.clone(),
            trace: self.trace.clone(),
        })
    }

    fn miss(&self, segment: &Segment) {
        let mut text = self.name.to_string();
        self.path.iter().skip(self.base).for_each(|s| push(&mut text, s));
        push(&mut text, segment);
        if let (Segment::Key(key), Some(value)) = (segment, self.value()) {
            self.trace.miss(text, key, &keys(value));
        } else {
            self.trace.miss(text, "", &[]);
        }
    }
}

/// A scalar as itself, a container as a view.
fn json(place: &Json) -> Option<Jinja> {
    Some(match place.value()? {
        Value::Null => Jinja::from(()),
        Value::Bool(b) => Jinja::from(*b),
        Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
            (Some(u), ..) => Jinja::from(u),
            (_, Some(i), _) => Jinja::from(i),
            (.., f) => Jinja::from(f?),
        },
        Value::String(s) => Jinja::from(s.as_str()),
        Value::Array(_) | Value::Object(_) => Jinja::from_object(place.clone()),
    })
}

impl Object for Json {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.value() {
            Some(Value::Array(_)) => ObjectRepr::Seq,
            _ => ObjectRepr::Map,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let segment = match (self.value()?, key.as_str(), key.as_usize()) {
            (Value::Array(_), None, Some(index)) => Segment::Index(index),
            (_, Some(key), _) => Segment::Key(key.into()),
            _ => return None,
        };
        let found = self.child(segment.clone());
        // The library asks one past the end when it iterates; that is no name that somebody wrote.
        let past_end = matches!((self.value(), &segment), (Some(Value::Array(a)), Segment::Index(i)) if *i == a.len());
        if found.is_none() && !past_end {
            self.miss(&segment);
        }
        found
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.value() {
            Some(Value::Array(list)) => Enumerator::Seq(list.len()),
            Some(Value::Object(map)) => {
                Enumerator::Values(map.keys().map(|k| Jinja::from(k.as_str())).collect::<Vec<_>>())
            }
            _ => Enumerator::Empty,
        }
    }
}

/// `steps`, or `steps.<id>` where `id` is set.
struct StepsObject {
    steps: Arc<Steps>,
    id: Option<Box<str>>,
    trace: Arc<Trace>,
}

impl fmt::Debug for StepsObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "steps.{}", self.id.as_deref().unwrap_or_default())
    }
}

impl Object for StepsObject {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let key = key.as_str()?;
        let Some(id) = &self.id else {
            if self.steps.find(key).is_none() {
                self.trace.miss(format!("steps.{key}"), key, &self.steps.known());
                return None;
            }
            let inner = Self { steps: self.steps.clone(), id: Some(key.into()), trace: self.trace.clone() };
            return Some(Jinja::from_object(inner));
        };
        let (view, map) = self.steps.find(id)?;
        let value = match key {
            "output" => Some(view.output.value().cloned()),
            _ => step_attribute(view, map, key).map(|v| v.map(|v| Arc::new(v.into_owned()))),
        };
        match value {
            Some(Ok(root)) => {
                let name = format!("steps.{id}.{key}").into();
                json(&Json { root, path: Vec::new(), base: 0, name, trace: self.trace.clone() })
            }
            Some(Err(failure)) => {
                let _ = self.trace.unreadable.set(failure);
                None
            }
            None => {
                self.trace.miss(format!("steps.{id}.{key}"), key, &STEP_NAMES.map(Into::into));
                None
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.id {
            Some(_) => Enumerator::Str(&["output", "state", "error"]),
            None => Enumerator::Values(self.steps.known().into_iter().map(Jinja::from).collect()),
        }
    }
}

/// `secrets`: has names, but neither a list nor a text of them.
struct SecretsObject {
    view: View,
    trace: Arc<Trace>,
}

impl fmt::Debug for SecretsObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secrets")
    }
}

impl Object for SecretsObject {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let name = key.as_str()?;
        let secrets = &self.view.scope.host.secrets;
        if !secrets.contains_key(name) {
            self.trace.miss(format!("secrets.{name}"), name, &secrets.keys().cloned().collect::<Vec<_>>());
        }
        secrets.get(name).map(|s| Jinja::from(s.as_str()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

/// The JSON of a result.
pub(super) struct Export {
    bytes: usize,
}

impl Export {
    /// Converts a result exactly: key order, integers and floats survive.
    pub(super) fn convert(value: &Jinja) -> Result<Value, String> {
        Self { bytes: 0 }.value(value, 0)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > RESULT_BYTES {
            true => Err(format!("the result is larger than {} MiB", RESULT_BYTES / 1024 / 1024)),
            false => Ok(()),
        }
    }

    fn value(&mut self, value: &Jinja, depth: usize) -> Result<Value, String> {
        if depth > DEPTH {
            return Err(format!("the result is nested deeper than {DEPTH}"));
        }
        if let Some(json) = value.downcast_object_ref::<Json>() {
            let json = json.value().cloned().unwrap_or_default();
            self.spend(size(&json))?;
            return Ok(json);
        }
        self.spend(8)?;
        match value.kind() {
            ValueKind::None => Ok(Value::Null),
            ValueKind::Bool => Ok(Value::Bool(value.is_true())),
            ValueKind::Number => number(value),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                self.spend(text.len())?;
                Ok(Value::String(text.to_owned()))
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter().map_err(|_| "the result cannot be listed".to_owned())?;
                items.map(|item| self.value(&item, depth + 1)).collect::<Result<Vec<_>, _>>().map(Value::Array)
            }
            ValueKind::Map => self.map(value, depth),
            ValueKind::Undefined => Err("a part of the result is undefined".to_owned()),
            other => Err(format!("the result is no JSON, but a {other}")),
        }
    }

    fn map(&mut self, value: &Jinja, depth: usize) -> Result<Value, String> {
        if value.downcast_object_ref::<SecretsObject>().is_some() {
            return Err("`secrets` can only be used one by one".to_owned());
        }
        let mut out = Map::new();
        for key in value.try_iter().map_err(|_| "the result cannot be listed".to_owned())? {
            let name = key.as_str().ok_or("an object's keys must be strings")?.to_owned();
            self.spend(name.len())?;
            let item = value.get_item(&key).map_err(|_| "the result cannot be listed".to_owned())?;
            out.insert(name, self.value(&item, depth + 1)?);
        }
        Ok(Value::Object(out))
    }
}

fn number(value: &Jinja) -> Result<Value, String> {
    if value.is_integer() {
        let unsigned = || u64::try_from(value.clone()).ok().map(Number::from);
        let exact = value.as_i64().map(Number::from).or_else(unsigned);
        return exact.map(Value::Number).ok_or("the result is an integer of more than 64 bits".to_owned());
    }
    let float = f64::try_from(value.clone()).map_err(|_| "the result is no JSON number".to_owned())?;
    Number::from_f64(float).map(Value::Number).ok_or("the result is not a finite number".to_owned())
}

/// The bytes of a value's JSON text, roughly, without writing it.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => items.iter().map(|v| size(v) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + size(v) + 4).sum::<usize>() + 2,
    }
}

//! What each key of a workflow file is for: the one table behind the editor's schema (`stepd schema`) and the tables of
//! `docs/language.md`.
//!
//! Which keys there are, the parser's own lists say ([`keys_of`]); a key that has no line in [`FACTS`] is in the schema all the
//! same, open to any value. A test asks for the line: it is the only thing that a new key or kind needs beside the parser's lists.

mod editor;
mod facts;
mod shape;

use crate::rules::limits::Resource;

use super::kinds::KINDS;
use super::{budget, flow, parse, policy, shapes, steps};

pub use editor::editor_schema;
use facts::FACTS;
use shape::Shape;

/// One key, in the mapping that owns it.
struct Fact {
    /// `workflow`, `step`, a kind's word (`workflow_step` for the kind of that name), or the key of an inner mapping (`retry`).
    owner: &'static str,
    key: &'static str,
    shape: Shape,
    /// One sentence, for the editor and the handbook.
    about: &'static str,
}

/// What is known of a key; nothing, where nobody has said it yet.
fn fact(owner: &str, key: &str) -> Option<&'static Fact> {
    FACTS.iter().find(|f| f.owner == owner && f.key == key)
}

/// The mappings that are neither a workflow nor a step, with the keys that the parser takes in them.
const INNER: [(&str, &[&str]); 9] = [
    ("retry", &policy::RETRY),
    ("resume", &policy::RESUME),
    ("unique", &flow::UNIQUE),
    ("concurrency", &flow::CONCURRENCY),
    ("rate", &flow::RATE),
    ("schedule", &flow::SCHEDULE),
    ("budget", &budget::KEYS),
    ("repeat", &shapes::REPEAT),
    ("limits", &LIMITS),
];

/// What the programs of a step may be limited to.
const LIMITS: [&str; 5] = [
    Resource::Memory.name(),
    Resource::Cpu.name(),
    Resource::Processes.name(),
    Resource::FileSize.name(),
    Resource::OpenFiles.name(),
];

/// The keys that the parser takes in a workflow or an inner mapping, in the order of its lists.
fn keys_of(owner: &str) -> Vec<&'static str> {
    match INNER.iter().find(|(name, _)| *name == owner) {
        _ if owner == "workflow" => parse::KEYS.to_vec(),
        Some((_, keys)) => keys.to_vec(),
        None => Vec::new(),
    }
}

/// The keys that the parser takes in a step of a kind.
fn keys_of_step(word: &str) -> Vec<&'static str> {
    let Some(kind) = KINDS.iter().find(|k| k.word == word) else { return Vec::new() };
    let not = shapes::not_of(kind.word);
    let common = steps::COMMON.iter().copied().filter(|key| !not.contains(key));
    common.chain([kind.word]).chain(kind.keys.iter().copied()).collect()
}

/// The kinds of step that the language has, each with what it does, in one sentence.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    KINDS.iter().map(|kind| (kind.word, fact_of_step(kind.word, kind.word).map_or("", |f| f.about)))
}

/// What is known of a key of a step: by its kind, else as of every step.
fn fact_of_step(kind: &str, key: &str) -> Option<&'static Fact> {
    fact(as_owner(kind), key).or_else(|| fact("step", key))
}

/// A workflow has a kind of its own name.
fn as_owner(kind: &str) -> &str {
    if kind == "workflow" { "workflow_step" } else { kind }
}

#[cfg(test)]
mod tests;

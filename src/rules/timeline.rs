//! A run over time, folded: what the picture of a run is made from, whether it has ten steps or two hundred thousand.
//!
//! The keys of steps are a tree: `docs[12].text` stands under `docs[12]`, which stands under `docs`. Of each node at one level of it
//! either all steps are told, or, where they are many, what they come to. [`sums`] says where the time of a run went: its parts add up to the whole.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::StepState;

/// A node with so many steps is told whole …
const FEW: usize = 12;

/// … and one with so many, as long as all that is told whole are not more than [`MOST`].
const MANY: usize = 100;
const MOST: usize = 1_000;

/// Into so many cells the time of a folded node is cut.
const CELLS: usize = 120;

/// What a step does while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// It works.
    Work,
    /// It waits for a time, an event, a person, another run.
    Wait,
    /// It is made of steps, and does nothing itself.
    Frame,
}

impl Does {
    /// What a kind of step does.
    #[must_use]
    pub fn of_kind(kind: &str) -> Self {
        match kind {
            "sleep" | "wait" | "approve" | "workflow" => Self::Wait,
            "map" | "repeat" | "switch" | "end" => Self::Frame,
            _ => Self::Work,
        }
    }
}

/// A step, as far as a picture needs it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Part {
    pub seq: i32,
    pub key: String,
    pub state: StepState,
    pub does: Does,
    pub from: DateTime<Utc>,
    /// `None`: it is under way.
    pub to: Option<DateTime<Utc>>,
}

/// How many steps are in each state.
pub type States = BTreeMap<&'static str, u32>;

/// What the many steps of a node come to.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Fold {
    /// The node: a map, an item of one. Its steps' keys begin with it.
    pub path: String,
    /// The number of the first of them, in the order in which the run's steps started.
    pub seq: i32,
    /// Nodes that stand right under it: the items of a map.
    pub items: usize,
    /// Steps under it, at any depth.
    pub steps: usize,
    /// How many of them are in each state.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub states: States,
    /// The same for each step of an item: of `docs[*].text`.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, u32>>)]
    pub shapes: BTreeMap<String, States>,
    /// Failed attempts of them.
    pub failed_attempts: usize,
    /// When the first of them started.
    pub from: DateTime<Utc>,
    /// When the last of them ended; null: some are under way.
    pub to: Option<DateTime<Utc>>,
    /// How many were under way at a time, on average, in each of 120 equal cells of that time (until now).
    pub at_work: Vec<f64>,
    /// The cells in which an attempt failed.
    pub failed: Vec<usize>,
}

/// A place in the order of a run's steps: the number of a step, and its key.
pub type Place = (i32, String);

/// The nodes of one level, or a part of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    /// Keys of steps that are told one by one.
    pub whole: Vec<String>,
    /// Nodes that are not.
    pub folds: Vec<Fold>,
    /// The place of the last node that was told; `None`: no more come after it.
    pub next: Option<Place>,
    /// How many come after it.
    pub left: usize,
}

/// Which nodes.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Right under this node; empty: at the top.
    pub under: &'a str,
    /// Only those with a step in this state.
    pub state: Option<StepState>,
    /// Only those after this place.
    pub after: Option<Place>,
    /// So many at the most.
    pub limit: usize,
}

/// The node right under `under` that a key belongs to.
fn node_of<'k>(key: &'k str, under: &str) -> Option<&'k str> {
    let rest = key.strip_prefix(under)?;
    let end = match rest.chars().next() {
        None => return None,
        Some('[') => rest.find(']').map_or(rest.len(), |at| at + 1),
        Some('.') if !under.is_empty() => rest[1..].find(['.', '[']).map_or(rest.len(), |at| at + 1),
        // It only begins with the same letters.
        Some(_) if !under.is_empty() => return None,
        Some(first) => {
            let begin = first.len_utf8();
            rest[begin..].find(['.', '[']).map_or(rest.len(), |at| at + begin)
        }
    };
    Some(&key[..under.len() + end])
}

/// `docs[12].text` as `docs[*].text`.
fn shape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut rest = key;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        out.push_str("[*]");
        rest = after.split_once(']').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

struct Node<'a> {
    path: &'a str,
    first: &'a Part,
    parts: Vec<&'a Part>,
}

impl Node<'_> {
    /// The steps under it, without its own.
    fn inside(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().copied().filter(|part| part.key != self.path)
    }
}

/// One level of a run's steps. `parts` are all of them in the order of their places, `tries` the attempts that have failed.
#[must_use]
pub fn level(parts: &[Part], tries: &[(String, DateTime<Utc>)], wanted: &Wanted<'_>, now: DateTime<Utc>) -> Level {
    let mut nodes: Vec<Node<'_>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for part in parts {
        let Some(path) = node_of(&part.key, wanted.under) else { continue };
        let at = *known.entry(path).or_insert_with(|| {
            nodes.push(Node { path, first: part, parts: Vec::new() });
            nodes.len() - 1
        });
        nodes[at].parts.push(part);
    }
    nodes.retain(|node| {
        let later = wanted.after.as_ref().is_none_or(|(seq, key)| (node.first.seq, &node.first.key) > (*seq, key));
        later && wanted.state.is_none_or(|state| node.parts.iter().any(|part| part.state == state))
    });
    let left = nodes.len().saturating_sub(wanted.limit);
    nodes.truncate(wanted.limit);
    let next = nodes.last().filter(|_| left > 0).map(|node| (node.first.seq, node.first.key.clone()));
    let mut level = Level { next, left, ..Level::default() };
    for node in nodes {
        let most = if level.whole.len() < MOST { MANY } else { FEW };
        if node.parts.len() <= most {
            level.whole.extend(node.parts.iter().map(|part| part.key.clone()));
        } else {
            level.whole.extend(node.parts.iter().filter(|part| part.key == node.path).map(|part| part.key.clone()));
            level.folds.push(folded(&node, tries, now));
        }
    }
    level
}

fn folded(node: &Node<'_>, tries: &[(String, DateTime<Utc>)], now: DateTime<Utc>) -> Fold {
    let first = node.inside().map(|part| part.from).min().unwrap_or(node.first.from);
    let ended = node.inside().map(|part| part.to).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
    let until = ended.unwrap_or_else(|| now.max(first));
    let mut load = Load::new(first, until);
    let (mut states, mut shapes, mut failed) = (States::new(), BTreeMap::<String, States>::new(), HashSet::new());
    let (mut items, mut steps) = (HashSet::new(), 0);
    for part in node.inside() {
        steps += 1;
        items.extend(node_of(&part.key, node.path));
        *states.entry(part.state.as_str()).or_default() += 1;
        *shapes.entry(shape(&part.key)).or_default().entry(part.state.as_str()).or_default() += 1;
        if part.does != Does::Frame && part.state != StepState::Skipped {
            load.add(part.from, part.to.unwrap_or(until));
        }
        if part.state == StepState::Failed {
            failed.insert(cell(load.place(part.to.unwrap_or(until))));
        }
    }
    let mine: Vec<DateTime<Utc>> =
        tries.iter().filter(|(key, _)| node_of(key, node.path).is_some()).map(|(_, at)| *at).collect();
    failed.extend(mine.iter().map(|at| cell(load.place(*at))));
    let mut failed: Vec<usize> = failed.into_iter().collect();
    failed.sort_unstable();
    Fold {
        path: node.path.to_owned(),
        seq: node.first.seq,
        items: items.len(),
        steps,
        states,
        shapes,
        failed_attempts: mine.len(),
        from: first,
        to: ended,
        at_work: load.averages(),
        failed,
    }
}

/// How much was under way in each cell of a time: whole cells as changes, so that a long step costs no more than a short one.
struct Load {
    from: DateTime<Utc>,
    /// Microseconds of a cell.
    wide: f64,
    whole: Vec<f64>,
    part: Vec<f64>,
}

impl Load {
    fn new(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let wide = micros(from, to).max(1.0) / CELLS as f64;
        Self { from, wide, whole: vec![0.0; CELLS + 1], part: vec![0.0; CELLS] }
    }

    /// In cells from the first one on.
    fn place(&self, at: DateTime<Utc>) -> f64 {
        (micros(self.from, at) / self.wide).clamp(0.0, CELLS as f64)
    }

    fn add(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) {
        let (a, b) = (self.place(from), self.place(to));
        let (first, last) = (cell(a), cell(b));
        if first == last {
            self.part[first] += b - a;
            return;
        }
        self.part[first] += (first + 1) as f64 - a;
        self.part[last] += b - last as f64;
        self.whole[first + 1] += 1.0;
        self.whole[last] -= 1.0;
    }

    /// Two digits of it say enough.
    fn averages(&self) -> Vec<f64> {
        let mut under_way = 0.0;
        let one = |(whole, part): (&f64, &f64)| {
            under_way += whole;
            ((under_way + part) * 100.0).round() / 100.0
        };
        self.whole.iter().zip(&self.part).map(one).collect()
    }
}

fn micros(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).num_microseconds().unwrap_or(i64::MAX) as f64
}

/// In which cell a place lies; the end lies in the last one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of cells")]
fn cell(place: f64) -> usize {
    (place as usize).min(CELLS - 1)
}

/// Why no step of a run works in a stretch of its time, or that one does. An earlier one hides a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// From the death of its worker until another one had it.
    Lost,
    /// A step is under way, or pauses between two attempts.
    Working,
    /// An operator has paused it.
    Paused,
    /// From a failure until the next resume.
    Resuming,
    /// All that it does is wait.
    Waiting,
}

/// Where the time of a run went, in microseconds: the parts add up to `total_us`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Sums {
    /// From the insert to the end, or until now.
    pub total_us: i64,
    /// Before the first claim.
    pub queued_us: i64,
    /// At least one step was at work, or paused between two attempts.
    pub working_us: i64,
    /// It waited for a time, an event, a person or another run, and did nothing else.
    pub waiting_us: i64,
    /// From the death of a worker until another one had the run.
    pub lost_us: i64,
    /// From a failure until the next resume.
    pub resuming_us: i64,
    /// An operator had paused it.
    pub paused_us: i64,
    /// The rest: between two steps, and in line again after a wait.
    pub between_us: i64,
}

/// Where the time of a run went that was `created`, claimed first at `started`, and goes `until`. `known` are stretches beside its steps.
#[must_use]
pub fn sums(
    parts: &[Part],
    known: &[(Stretch, DateTime<Utc>, DateTime<Utc>)],
    (created, started, until): (DateTime<Utc>, Option<DateTime<Utc>>, DateTime<Utc>),
) -> Sums {
    let until = until.max(created);
    let started = started.unwrap_or(until).clamp(created, until);
    let whole = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).num_microseconds().unwrap_or(i64::MAX);
    let of_steps = parts.iter().filter(|part| part.state != StepState::Skipped).filter_map(|part| {
        let what = match part.does {
            Does::Work => Stretch::Working,
            Does::Wait => Stretch::Waiting,
            Does::Frame => return None,
        };
        Some((what, part.from, part.to.unwrap_or(until)))
    });
    let mut turns: Vec<(DateTime<Utc>, usize, i64)> = Vec::with_capacity(2 * (parts.len() + known.len()));
    for (what, from, to) in of_steps.chain(known.iter().copied()) {
        let (from, to) = (from.clamp(started, until), to.clamp(started, until));
        if from < to {
            turns.extend([(from, what as usize, 1), (to, what as usize, -1)]);
        }
    }
    turns.sort_unstable();
    let mut open = [0_i64; 5];
    let mut sums = Sums { total_us: whole(created, until), queued_us: whole(created, started), ..Sums::default() };
    let mut at = started;
    for (time, what, change) in turns.into_iter().chain([(until, 0, 0)]) {
        let span = whole(at, time);
        let place = match open.iter().position(|n| *n > 0) {
            Some(0) => &mut sums.lost_us,
            Some(1) => &mut sums.working_us,
            Some(2) => &mut sums.paused_us,
            Some(3) => &mut sums.resuming_us,
            Some(_) => &mut sums.waiting_us,
            None => &mut sums.between_us,
        };
        *place += span;
        open[what] += change;
        at = time;
    }
    sums
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;

//! Breadth first through everything that can happen. Each state is kept once, in its canonical form, with the state that it was
//! first found from: so the way to what breaks a promise is a shortest one.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::model::{Action, Kind, Model};
use crate::state::{Broken, State, Worker, fingerprint};

/// What an exploration came to.
pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// Actions on the longest of the shortest ways to a state.
    pub depth: usize,
    /// The first broken promise, and how many actions lead there.
    pub broken: Option<(Broken, Vec<Action>)>,
}

struct Explorer<'a> {
    model: &'a Model,
    states: Vec<State>,
    found_from: Vec<u32>,
    places: HashMap<u64, u32>,
    /// From and to, where something happens by itself sooner or later.
    goes_on: Vec<(u32, u32)>,
}

/// Explores to the end, or to the first broken promise.
pub fn explore(model: &Model) -> Explored {
    let mut e =
        Explorer { model, states: Vec::new(), found_from: Vec::new(), places: HashMap::new(), goes_on: Vec::new() };
    let first = State::first(&model.bounds).canonical(model);
    e.place(&first, 0);
    let (mut transitions, mut at, mut depth, mut level_ends) = (0, 0, 0, 1);
    while at < e.states.len() {
        if at == level_ends {
            depth += 1;
            level_ends = e.states.len();
        }
        let state = e.states[at];
        let from = number(at);
        let abandoned = !state.workers.iter().any(Worker::is_connected);
        for (action, after) in model.next(&state) {
            transitions += 1;
            if let Some(broken) = after.broken {
                let way = e.way_to(from, Some(broken));
                return Explored { states: e.states.len(), transitions, depth, broken: Some((broken, way)) };
            }
            let to = e.place(&after.canonical(e.model), from);
            if to != from && (action.kind == Kind::Progress || abandoned && action.kind == Kind::Return) {
                e.goes_on.push((from, to));
            }
        }
        at += 1;
    }
    let broken = e.stuck().map(|stuck| (Broken::Stuck, e.way_to(stuck, None)));
    Explored { states: e.states.len(), transitions, depth, broken }
}

impl Explorer<'_> {
    fn place(&mut self, state: &State, from: u32) -> u32 {
        let next = number(self.states.len());
        let place = *self.places.entry(fingerprint(state)).or_insert(next);
        if place == next {
            self.states.push(*state);
            self.found_from.push(from);
        }
        place
    }

    /// The first state from which the runs cannot end any more unless somebody comes back, or chance helps.
    fn stuck(&self) -> Option<u32> {
        // The edges backwards, sorted by where they lead.
        let mut ends = vec![0u32; self.states.len() + 1];
        self.goes_on.iter().for_each(|(_, to)| ends[*to as usize + 1] += 1);
        for i in 1..ends.len() {
            ends[i] += ends[i - 1];
        }
        let mut fill = ends.clone();
        let mut sources = vec![0u32; self.goes_on.len()];
        for (from, to) in &self.goes_on {
            sources[fill[*to as usize] as usize] = *from;
            fill[*to as usize] += 1;
        }
        let mut ending: Vec<bool> = self.states.iter().map(State::all_final).collect();
        let mut open: Vec<u32> = (0..number(ending.len())).filter(|i| ending[*i as usize]).collect();
        while let Some(to) = open.pop() {
            for from in &sources[ends[to as usize] as usize..ends[to as usize + 1] as usize] {
                if !std::mem::replace(&mut ending[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        ending.iter().position(|ends| !ends).map(number)
    }

    /// The actions of a shortest way, and the one that breaks a promise there. Canonical states have their workers in an order of their own; so the way is walked again
    /// with the workers in their places.
    fn way_to(&self, goal: u32, broken: Option<Broken>) -> Vec<Action> {
        let mut stations = vec![goal];
        while let Some(last) = stations.last().filter(|last| **last != 0) {
            stations.push(self.found_from[*last as usize]);
        }
        let mut at = State::first(&self.model.bounds);
        let mut way = Vec::new();
        for station in stations.iter().rev().skip(1) {
            let wanted = self.states[*station as usize];
            let step = self.model.next(&at).into_iter().find(|(_, after)| after.canonical(self.model) == wanted);
            let Some((action, after)) = step else { break };
            way.push(action);
            at = after;
        }
        let last = self.model.next(&at).into_iter().find(|(_, after)| broken.is_some() && after.broken == broken);
        way.extend(last.map(|(action, _)| action));
        way
    }
}

/// Four thousand million states would not fit into memory.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// A way in words, a line for each action.
pub fn told(way: &[Action]) -> String {
    let mut text = String::new();
    for (n, Action { what, worker, run, .. }) in way.iter().enumerate() {
        let _ = write!(text, "{:>3}. ", n + 1);
        if let Some(worker) = worker {
            let _ = write!(text, "worker {} ", worker + 1);
        }
        let _ = write!(text, "{what}");
        if let Some(run) = run {
            let _ = write!(text, " (run {})", run + 1);
        }
        text.push('\n');
    }
    text
}

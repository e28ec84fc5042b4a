//! What a claimer knows between its turns: where work is, and what it asks for next.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::db::claims::ClaimedRow;
use crate::rules::horizon::{Horizon, Pair, Place};

use super::rate::Rate;
use super::{BOTTOM, MAX_ASKED, MAX_EMPTY};

/// What a claim has taken.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) all: usize,
    /// What came back took all places that it may: there may be more of it.
    pub(super) full: bool,
}

pub(super) struct Position {
    /// What the last look has shown, and the looks before.
    pub(super) horizon: Horizon,
    /// Pairs that have work, as far as is known; which one comes first is rotated from claim to claim.
    pub(super) pairs: Vec<Pair>,
    /// Pairs that had work, the latest first: the next job is likely to come there.
    pub(super) empty: Vec<Pair>,
    pub(super) marks: HashMap<Pair, Place>,
    pub(super) looked: Option<Instant>,
    pub(super) look_cost: Duration,
    pub(super) claimed_at: Option<Instant>,
    pub(super) rotation: usize,
    pub(super) rate: Rate,
    /// Something came back, or may have: the next claim is worth its statement.
    pub(super) back: bool,
    /// A run must be run alone.
    pub(super) solo: bool,
    pub(super) emptying: bool,
    /// A claim had no answer: what it took is not known.
    pub(super) unsure: bool,
    /// The database could not say in time what this worker holds.
    pub(super) dear: bool,
    /// Quarters of a place that new runs have not had.
    pub(super) owed: usize,
    /// When the database was last asked what this worker holds.
    pub(super) checked: Instant,
    /// How long that took.
    pub(super) check_cost: Duration,
}

impl Position {
    pub(super) fn new() -> Self {
        Self {
            horizon: Horizon::default(),
            pairs: Vec::new(),
            empty: Vec::new(),
            marks: HashMap::new(),
            looked: None,
            look_cost: Duration::ZERO,
            claimed_at: None,
            rotation: 0,
            rate: Rate::new(),
            back: true,
            solo: false,
            emptying: false,
            unsure: false,
            dear: false,
            owed: 0,
            checked: Instant::now(),
            check_cost: Duration::ZERO,
        }
    }

    /// What a claim asks for, by priority; among equals another queue comes first each time, so that none starves the others.
    pub(super) fn in_turn(&mut self) -> Vec<(Pair, Place)> {
        self.rotation = self.rotation.wrapping_add(1);
        let n = self.pairs.len().max(1);
        let mut turns: Vec<(i16, usize, &Pair)> =
            self.pairs.iter().enumerate().map(|(i, pair)| (pair.1, (i + self.rotation) % n, pair)).collect();
        if turns.len() > MAX_ASKED {
            turns.select_nth_unstable(MAX_ASKED);
            turns.truncate(MAX_ASKED);
        }
        turns.extend(self.empty.iter().take(MAX_EMPTY).map(|pair| (pair.1, n, pair)));
        turns.sort_unstable();
        let place = |pair| self.marks.get(pair).copied().unwrap_or(BOTTOM);
        turns.into_iter().map(|(.., pair)| (pair.clone(), place(pair))).collect()
    }

    /// How many of so many places are for new runs: a quarter. Where a claim asks for fewer than four, each fourth place, as long as there
    /// are new runs: a worker of slow ones has one place free at a time, and what comes back would have all of them.
    pub(super) fn places_for_new(&mut self, want: usize) -> usize {
        self.owed = if self.pairs.is_empty() { 0 } else { self.owed + want % 4 };
        let extra = self.owed / 4;
        self.owed %= 4;
        want / 4 + extra
    }

    /// Is there more to be claimed at once? A claim that is full says so, also where it is its share for what comes back that is full
    /// (`claim.sql`); and there may be more pairs than one claim asks for.
    pub(super) fn has_more(&self, taken: Taken, want: usize) -> bool {
        taken.all == want || taken.full || !self.pairs.is_empty()
    }

    /// A claim has taken all that these pairs had.
    pub(super) fn drained(&mut self, asked: &[(Pair, Place)]) {
        let asked: HashSet<&Pair> = asked.iter().map(|(pair, _)| pair).collect();
        let (empty, rest) = self.pairs.drain(..).partition(|pair| asked.contains(pair));
        self.pairs = rest;
        self.forget_until_seen(empty);
    }

    /// The pairs that were known to have work are not any more.
    pub(super) fn now_empty(&mut self) {
        let pairs = std::mem::take(&mut self.pairs);
        self.forget_until_seen(pairs);
    }

    fn forget_until_seen(&mut self, pairs: Vec<Pair>) {
        self.empty.splice(0..0, pairs);
    }

    pub(super) fn advance(&mut self, rows: &[ClaimedRow]) {
        for (pair, place) in rows.iter().filter_map(|r| r.place.as_ref()) {
            let mark = self.marks.entry(pair.clone()).or_insert(BOTTOM);
            *mark = (*mark).max(*place);
        }
    }
}

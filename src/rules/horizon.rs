//! From where on must a look read the ready lane? The pure part of the claimer's look.
//!
//! Below its first live row, a pair of queue and priority has nothing but dead index entries, which nobody can remove while
//! some transaction is held open. A look need not walk them again, if no row can come to life among them. A row's place is
//! the database's clock at its INSERT, and whoever writes to the table holds a lock on it from before that clock is read until
//! after the commit. So a look that sees the locks knows how old a row may be that comes to light later:
//!
//! - its transaction was seen by this look or by the one before: no older than the last look that did not see it;
//! - or by neither: it came after the look before, or had committed before that one looked at the locks, and this one saw its rows.
//!
//! The look before, because a look reads rows and locks at two moments.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A queue and a priority.
pub type Pair = (std::sync::Arc<str>, i16);

/// A place in the ready lane.
pub type Place = (DateTime<Utc>, Uuid);

/// More pairs are not remembered: then a look walks everything, as the first one does.
const MAX_PAIRS: usize = 1_024;

/// What the looks of one session have shown.
#[derive(Debug, Default)]
pub struct Horizon {
    /// The first row of each pair; `None`: it had none.
    first: HashMap<Pair, Option<Place>>,
    /// When the last look and the one before began.
    at: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    /// The transactions that the last look and the one before saw, and how old their rows may be.
    writers: HashMap<String, DateTime<Utc>>,
    writers_before: HashMap<String, DateTime<Utc>>,
}

impl Horizon {
    /// The pairs below whose place no row is alive, and none can come to be.
    #[must_use]
    pub fn floors(&self) -> Vec<(Pair, Place)> {
        let Some(before) = self.before else { return Vec::new() };
        let oldest = self.writers.values().chain(self.writers_before.values()).min().map_or(before, |w| before.min(*w));
        let floor = (oldest, Uuid::nil());
        self.first.iter().map(|(pair, first)| (pair.clone(), first.map_or(floor, |place| place.min(floor)))).collect()
    }

    /// When the last look began, by the database's clock.
    #[must_use]
    pub fn looked_at(&self) -> Option<DateTime<Utc>> {
        self.at
    }

    /// Digests a look that read from `floors` on: it began at `at` by the database's clock, saw these transactions writing, and these
    /// pairs with their first rows.
    pub fn saw(&mut self, at: DateTime<Utc>, writers: Vec<String>, first: &[(Pair, Place)]) {
        if self.at.is_some_and(|last| at < last) {
            // The database's clock went back: rows may come below what was seen.
            *self = Self::default();
        }
        // No row is from before 1970; and Postgres knows no time as early as the earliest here.
        let since = self.at.unwrap_or(DateTime::UNIX_EPOCH);
        let writers = writers.into_iter().map(|w| {
            let since = self.writers.get(&w).or(self.writers_before.get(&w)).copied().unwrap_or(since);
            (w, since)
        });
        let writers = writers.collect();
        self.writers_before = std::mem::replace(&mut self.writers, writers);
        self.before = self.at.replace(at);
        self.first.values_mut().for_each(|first| *first = None);
        self.first.extend(first.iter().map(|(pair, place)| (pair.clone(), Some(*place))));
        if self.first.len() > MAX_PAIRS {
            self.first.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(n).expect("a time")
    }

    fn pair(queue: u64) -> Pair {
        (queue.to_string().into(), 5)
    }

    #[derive(Debug)]
    struct Tx {
        name: String,
        rows: Vec<(Pair, Place)>,
    }

    /// Transactions that insert and commit in any order, rows that are claimed, looks whose rows and locks are read at two
    /// moments: whatever is alive is seen.
    #[test]
    fn no_row_comes_to_life_below_a_floor() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut clock, mut named) = (1, 0);
            let mut open: Vec<Tx> = Vec::new();
            let mut live: Vec<(Pair, Place)> = Vec::new();
            let mut horizon = Horizon::default();
            let mut walked_less = false;
            for _ in 0..120 {
                let act = |open: &mut Vec<Tx>,
                           live: &mut Vec<(Pair, Place)>,
                           random: &mut fastrand::Rng,
                           clock: &mut i64,
                           named: &mut u64| {
                    *clock += random.i64(0..3);
                    match random.u8(0..10) {
                        0..2 => {
                            *named += 1;
                            open.push(Tx { name: named.to_string(), rows: Vec::new() });
                        }
                        2..6 if !open.is_empty() => {
                            let tx = random.usize(0..open.len());
                            open[tx]
                                .rows
                                .push((pair(random.u64(0..3)), (at(*clock), Uuid::from_u128(random.u128(..)))));
                        }
                        // The first of them stays open for long.
                        6..8 if open.len() > 1 => {
                            let tx = random.usize(1..open.len());
                            live.extend(open.swap_remove(tx).rows);
                        }
                        8 if !live.is_empty() => {
                            live.swap_remove(random.usize(0..live.len()));
                        }
                        _ if random.u8(0..40) == 0 && !open.is_empty() => live.extend(open.remove(0).rows),
                        _ => {}
                    }
                };
                for _ in 0..random.u8(0..6) {
                    act(&mut open, &mut live, &mut random, &mut clock, &mut named);
                }
                let began = at(clock);
                let floors: HashMap<Pair, Place> = horizon.floors().into_iter().collect();
                let snapshot = live.clone();
                for (pair, place) in &snapshot {
                    if let Some(floor) = floors.get(pair) {
                        assert!(place >= floor, "seed {seed}: {place:?} is alive below {floor:?}");
                    }
                }
                walked_less |= floors.values().any(|(time, _)| *time > at(20));
                for _ in 0..random.u8(0..3) {
                    act(&mut open, &mut live, &mut random, &mut clock, &mut named);
                }
                let mut first: HashMap<Pair, Place> = HashMap::new();
                for (pair, place) in snapshot {
                    first.entry(pair).and_modify(|p| *p = place.min(*p)).or_insert(place);
                }
                let first: Vec<_> = first.into_iter().collect();
                horizon.saw(began, open.iter().map(|tx| tx.name.clone()).collect(), &first);
            }
            assert!(seed != 7 || walked_less, "no look was ever spared anything");
        }
    }

    #[test]
    fn who_wrote_before_the_first_look_keeps_the_floor_at_the_bottom() {
        let mut horizon = Horizon::default();
        for n in [10, 20, 30] {
            horizon.saw(at(n), vec!["old".to_owned()], &[(pair(1), (at(25), Uuid::nil()))]);
        }
        assert_eq!(horizon.floors(), [(pair(1), (DateTime::UNIX_EPOCH, Uuid::nil()))]);
    }

    #[test]
    fn a_clock_that_goes_back_and_too_many_pairs_lead_to_a_full_look() {
        let mut horizon = Horizon::default();
        for n in [10, 20, 30] {
            horizon.saw(at(n), Vec::new(), &[(pair(1), (at(5), Uuid::nil()))]);
        }
        assert_eq!(horizon.floors(), [(pair(1), (at(5), Uuid::nil()))]);
        horizon.saw(at(29), Vec::new(), &[]);
        assert!(horizon.floors().is_empty());
        for n in [40, 50] {
            let many: Vec<_> = (0..=1_024).map(|q| (pair(q), (at(35), Uuid::nil()))).collect();
            horizon.saw(at(n), Vec::new(), &many);
        }
        assert!(horizon.floors().is_empty());
    }
}

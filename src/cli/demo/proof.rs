//! The proof: what the table of effects, the programs' own file, and the run's records say.

use std::collections::BTreeMap;

use crate::db::demo::{Count, StepSpan};

/// Everything that the proof rests on.
pub(super) struct Proof {
    pub(super) items: i64,
    /// The worker that was killed.
    pub(super) dead: char,
    pub(super) count: Count,
    /// How the run ended.
    pub(super) state: String,
    /// Under way when the worker died.
    pub(super) interrupted: Vec<String>,
    /// Steps that were finished and ran again all the same.
    pub(super) repeated: Vec<String>,
    /// Programs started, and items that have none.
    pub(super) starts: usize,
    pub(super) unpacked: usize,
    pub(super) resume_ms: i64,
}

impl Proof {
    /// Does it hold?
    pub(super) fn holds(&self) -> bool {
        self.state == "completed"
            && self.count == Count { effects: self.items, lost: 0, doubled: 0 }
            && self.repeated.is_empty()
            && self.unpacked == 0
            && !self.interrupted.is_empty()
    }

    /// The proof as a table of two columns.
    pub(super) fn lines(&self) -> Vec<String> {
        let Count { effects, lost, doubled } = self.count;
        let again = if self.interrupted.is_empty() {
            format!("nothing was in flight when worker {} died", self.dead)
        } else {
            format!("{}: in flight when worker {} died", self.interrupted.join(", "), self.dead)
        };
        let finished = match self.repeated.as_slice() {
            [] => "none ran twice".to_owned(),
            keys => format!("RAN TWICE: {}", keys.join(", ")),
        };
        vec![
            format!("effects         items {}   effects {effects}   lost {lost}   doubled {doubled}", self.items),
            format!("ran again       {again}"),
            format!("finished steps  {finished}"),
            format!(
                "programs        {} items packed by {} starts: a program in flight starts again",
                self.items, self.starts
            ),
            format!(
                "resume          {:.2} s from SIGKILL to the first step on the other worker",
                seconds(self.resume_ms)
            ),
            format!("run             {}", self.state),
        ]
    }
}

fn seconds(ms: i64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let ms = ms as f64;
    ms / 1000.0
}

/// One line that a program has written when it started: which item, under which epoch.
pub(super) type Start = (i64, i32);

/// Reads the programs' file: lines `ITEM EPOCH`.
pub(super) fn read_starts(text: &str) -> Vec<Start> {
    text.lines()
        .filter_map(|line| {
            let (item, epoch) = line.split_once(' ')?;
            Some((item.parse().ok()?, epoch.parse().ok()?))
        })
        .collect()
}

/// What ran again: the steps that the take-over found under way, and the programs that started twice. One that began
/// in the last milliseconds before the kill is in no record yet, but has left its line.
pub(super) fn ran_again(interrupted: Vec<String>, map: &str, starts: &[Start]) -> Vec<String> {
    let mut keys = interrupted;
    for (n, (item, _)) in starts.iter().enumerate() {
        let key = format!("{map}[{}].pack", item - 1);
        if starts[..n].iter().any(|(before, _)| before == item) && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.sort_by_key(|key| item_of(key, map));
    keys
}

/// The programs that started again under a later epoch than the one that their checkpoint was made in.
pub(super) fn repeated(steps: &[StepSpan], map: &str, starts: &[Start]) -> Vec<String> {
    let last = starts.iter().fold(BTreeMap::new(), |mut last: BTreeMap<i64, i32>, (item, epoch)| {
        let seen = last.entry(*item).or_default();
        *seen = (*seen).max(*epoch);
        last
    });
    let started = |item: i64| last.get(&item).copied().unwrap_or_default();
    steps
        .iter()
        .filter(|s| s.kind == "run" && s.state == "completed")
        .filter(|s| item_of(&s.key, map).is_some_and(|item| started(item) > s.epoch))
        .map(|s| s.key.clone())
        .collect()
}

/// `orders[3].pack` is of item 4: the items are numbered from 1.
fn item_of(key: &str, map: &str) -> Option<i64> {
    let index: i64 = key.strip_prefix(map)?.strip_prefix('[')?.split_once(']')?.0.parse().ok()?;
    Some(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn packed(key: &str, epoch: i32) -> StepSpan {
        let now = DateTime::UNIX_EPOCH;
        let (kind, state) = ("run".into(), "completed".into());
        StepSpan { key: key.into(), kind, state, epoch, started_at: now, ended_at: Some(now) }
    }

    #[test]
    fn only_a_start_after_the_checkpoint_counts_as_repeated() {
        let starts = read_starts("1 1\n2 1\n2 2\n3 1\n3 2\ngarbage\n");
        assert_eq!(starts.len(), 5);
        let steps = [packed("orders[0].pack", 1), packed("orders[1].pack", 2), packed("orders[2].pack", 1)];
        assert_eq!(repeated(&steps, "orders", &starts), ["orders[2].pack"]);
    }

    #[test]
    fn a_program_that_started_twice_ran_again_though_no_record_says_so() {
        let recorded = vec!["orders[10].charge".to_owned(), "orders[2].pack".to_owned()];
        let again = ran_again(recorded, "orders", &read_starts("2 1\n3 1\n1 1\n3 2\n2 2\n"));
        assert_eq!(again, ["orders[1].pack", "orders[2].pack", "orders[10].charge"]);
    }

    #[test]
    fn every_flaw_breaks_the_proof() {
        let good = || Proof {
            items: 2,
            dead: 'A',
            count: Count { effects: 2, lost: 0, doubled: 0 },
            state: "completed".into(),
            interrupted: vec!["orders[1].pack".into()],
            repeated: vec![],
            starts: 3,
            unpacked: 0,
            resume_ms: 1,
        };
        assert!(good().holds());
        for broken in [
            Proof { count: Count { effects: 3, lost: 0, doubled: 1 }, ..good() },
            Proof { count: Count { effects: 1, lost: 1, doubled: 0 }, ..good() },
            Proof { state: "failed".into(), ..good() },
            Proof { repeated: vec!["orders[0].pack".into()], ..good() },
            Proof { unpacked: 1, ..good() },
            Proof { interrupted: vec![], ..good() },
        ] {
            assert!(!broken.holds(), "{}", broken.lines().join("\n"));
        }
    }
}

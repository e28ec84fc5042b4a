//! What one batch holds of one run: entries folded into a group, later ones behind earlier ones.

use std::collections::HashMap;

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::db::batch::Recorded;
use crate::engine::{CommitError, Entry, Note, StepRow, Ticket, Transition};

use super::MAX_RUNS;

/// A busy writer makes way for the runs this many times at the most before it sends a batch.
const GATHER: usize = 8;

/// What one batch holds of one run.
pub(super) struct Group {
    pub run: Uuid,
    pub worker: Uuid,
    pub epoch: i32,
    pub keeps_key: bool,
    pub steps: Vec<StepRow>,
    pub notes: Vec<Note>,
    pub transition: Option<Transition>,
    pub tickets: Vec<Ticket>,
}

impl Group {
    pub(super) fn new(run: Uuid, worker: Uuid, epoch: i32, keeps_key: bool) -> Self {
        Self {
            run,
            worker,
            epoch,
            keeps_key,
            steps: Vec::new(),
            notes: Vec::new(),
            transition: None,
            tickets: Vec::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        steps: Vec<StepRow>,
        notes: Vec<Note>,
        transition: Option<Transition>,
        tickets: impl IntoIterator<Item = Ticket>,
    ) {
        merge_steps(&mut self.steps, steps);
        self.notes.extend(notes);
        if let Some(transition) = transition {
            // The record that rides along replaces an earlier row of the same step.
            if let Transition::Complete { last: Some(row), .. } = &transition {
                self.steps.retain(|s| s.record.key != row.record.key);
            }
            self.transition = Some(transition);
        }
        self.tickets.extend(tickets);
    }

    /// A later group of the same run joins this one.
    pub(super) fn absorb(&mut self, later: Self) {
        self.add(later.steps, later.notes, later.transition, later.tickets);
    }

    pub(super) fn answer(self, result: &Result<(), CommitError>) {
        for ticket in self.tickets {
            ticket.answer(result.clone());
        }
    }
}

/// A row that these are about to write, and that stays: of the last of them that writes any.
pub(super) fn last_row(groups: &[Group]) -> Option<Recorded> {
    groups.iter().rev().find_map(|group| {
        let ends = group.transition.as_ref().is_some_and(Transition::is_final);
        let (key, done) = match group.steps.last() {
            Some(step) => (step.record.key.to_string(), step.record.ended_at.is_some()),
            None if ends => (String::new(), true),
            None => return None,
        };
        Some(Recorded { run: group.run, epoch: group.epoch, key, done })
    })
}

pub(super) fn size(entry: &Entry) -> usize {
    let last = match &entry.transition {
        Some(Transition::Complete { output, last }) => output.len() + last.as_deref().map_or(0, row_size),
        _ => 0,
    };
    last + entry.steps.iter().map(row_size).sum::<usize>() + entry.notes.iter().map(|n| n.data.len()).sum::<usize>()
}

pub(super) fn row_size(row: &StepRow) -> usize {
    row.record.output.as_ref().map_or(0, crate::model::Payload::len)
        + row.record.decision.as_ref().map_or(0, crate::model::Payload::len)
}

/// Folds entries to one group a run, in batches of one registration. A batch names no run twice: a write under an
/// earlier epoch (a run given back and claimed again at once) goes into a batch of its own, before the later one.
pub(super) fn fold(entries: Vec<Entry>) -> Vec<Vec<Group>> {
    let mut batches: Vec<Vec<Group>> = Vec::with_capacity(1);
    let mut places: HashMap<Uuid, (usize, usize)> = HashMap::with_capacity(entries.len());
    let mut first = 0;
    for entry in entries {
        let (run, worker, epoch) = (entry.run.0, entry.worker.0, entry.epoch);
        let known = places.get(&run).copied();
        if known.is_some_and(|(b, g)| batches[b][g].epoch != epoch) {
            first = batches.len();
        }
        let (b, g) = match known.filter(|place| place.0 >= first) {
            Some(place) => place,
            None => {
                let b = (first..batches.len()).find(|b| batches[*b].first().is_some_and(|g| g.worker == worker));
                let b = b.unwrap_or(batches.len());
                if b == batches.len() {
                    batches.push(Vec::new());
                }
                batches[b].push(Group::new(run, worker, epoch, entry.keeps_key));
                let place = (b, batches[b].len() - 1);
                places.insert(run, place);
                place
            }
        };
        batches[b][g].add(entry.steps, entry.notes, entry.transition, entry.ticket);
    }
    batches
}

/// A later row of a step replaces an earlier one: a step that started and ended within one batch costs one row.
pub(super) fn merge_steps(into: &mut Vec<StepRow>, rows: Vec<StepRow>) {
    if into.is_empty() {
        *into = rows;
        return;
    }
    for row in rows {
        match into.iter_mut().rev().find(|r| r.record.key == row.record.key) {
            Some(earlier) => *earlier = row,
            None => into.push(row),
        }
    }
}

/// The runs that the last batch has answered are about to hand over their next entries: lets them, as long as more
/// come. Without it a shard's runs fall apart into many small batches, each at the price of a commit.
pub(super) async fn gather(rx: &mpsc::UnboundedReceiver<Entry>) {
    let mut seen = rx.len();
    for _ in 0..GATHER {
        tokio::task::yield_now().await;
        let now = rx.len();
        if now == seen || now >= MAX_RUNS {
            break;
        }
        seen = now;
    }
}

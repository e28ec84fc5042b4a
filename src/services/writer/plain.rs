//! The common batch: nothing but finished steps and completed runs. It has statements of its own, which cost Postgres about
//! half of what the general one does. They insert the steps' rows and never update one: only a step without a row is common.

use crate::db::plain::Plain;
use crate::engine::{StepRow, Transition};
use crate::model::{Payload, StepState};

use super::group::Group;

/// The groups as a common batch, if they are one.
pub(super) fn of(groups: &[Group]) -> Option<Plain<'_>> {
    groups.iter().all(is_plain).then(|| columns(groups))
}

/// Below this many groups a batch is not worth splitting: a second commit costs more.
const WORTH_SPLITTING: usize = 32;

/// A large batch as two, the common groups and the others; each run has one group, so the order does not matter.
pub(super) fn split(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let common = groups.iter().filter(|g| is_plain(g)).count();
    if common < WORTH_SPLITTING || common == groups.len() {
        return vec![groups];
    }
    let (common, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_plain);
    vec![common, others]
}

fn is_plain(group: &Group) -> bool {
    let ends_well = match &group.transition {
        None => !group.steps.is_empty(),
        Some(Transition::Complete { last, .. }) => !group.keeps_key && last.as_deref().is_none_or(is_plain_step),
        Some(_) => false,
    };
    ends_well && group.notes.is_empty() && group.steps.iter().all(is_plain_step)
}

fn is_plain_step(row: &StepRow) -> bool {
    let r = &row.record;
    row.fresh
        && r.state == StepState::Completed
        && r.checkpoint
        && r.error.is_none()
        && r.decision.is_none()
        && r.label.is_none()
        && r.usage.is_none()
        && row.wait.is_none()
        && row.due_in.is_none()
}

fn columns(groups: &[Group]) -> Plain<'_> {
    let mut plain = Plain::default();
    for group in groups {
        let s = &mut plain.steps;
        for row in &group.steps {
            let r = &row.record;
            s.run.push(group.run);
            s.epoch.push(group.epoch);
            s.seq.push(r.seq);
            s.started_at.push(r.started_at);
            s.ended_at.push(r.ended_at);
            s.attempts.push(attempts(row));
            s.key.push(r.key.as_str());
            s.kind.push(&r.kind);
            s.output.push(r.output.as_ref().map(Payload::as_str));
        }
        if let Some(Transition::Complete { output, last }) = &group.transition {
            let last = last.as_deref();
            let e = &mut plain.ends;
            e.run.push(group.run);
            e.epoch.push(group.epoch);
            e.output.push(output.as_str());
            e.last_seq.push(last.map(|row| row.record.seq));
            e.last_attempts.push(last.map(attempts));
            e.last_started_at.push(last.map(|row| row.record.started_at));
            e.last_key.push(last.map(|row| row.record.key.as_str()));
            e.last_kind.push(last.map(|row| row.record.kind.as_str()));
            e.last_output.push(last.and_then(|row| row.record.output.as_ref()).map(Payload::as_str));
        }
    }
    plain
}

fn attempts(row: &StepRow) -> i16 {
    i16::try_from(row.record.attempts).unwrap_or(i16::MAX)
}

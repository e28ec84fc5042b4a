//! Groups as the columns that the general statement takes.

use std::time::Duration;

use uuid::Uuid;

use crate::db::batch::Batch;
use crate::engine::{StepRow, Transition};
use crate::model::{RunState, StepKey, Wait};

use super::group::Group;

pub(super) fn ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

pub(super) fn columns(groups: &[Group]) -> Batch<'_> {
    let mut batch = Batch::default();
    for group in groups {
        batch.runs.push(group.run);
        batch.epochs.push(group.epoch);
        for row in &group.steps {
            push_step(&mut batch, group.run, row);
        }
        for note in &group.notes {
            batch.notes.run.push(group.run);
            batch.notes.n.push(note.n);
            batch.notes.attempt.push(note.attempt.and_then(|a| i16::try_from(a).ok()));
            batch.notes.kind.push(note.kind.as_str());
            batch.notes.key.push(note.key.as_ref().map(StepKey::as_str));
            batch.notes.data.push(note.data.as_str());
        }
        push_transition(&mut batch, group);
    }
    batch
}

pub(super) fn push_step<'a>(batch: &mut Batch<'a>, run: Uuid, row: &'a StepRow) {
    let (s, r) = (&mut batch.steps, &row.record);
    s.run.push(run);
    s.seq.push(r.seq);
    s.started_at.push(r.started_at);
    s.ended_at.push(r.ended_at);
    s.due_ms.push(row.due_in.map(ms));
    s.attempts.push(i16::try_from(r.attempts).unwrap_or(i16::MAX));
    s.checkpoint.push(r.checkpoint);
    s.state.push(r.state.as_str());
    s.key.push(r.key.as_str());
    s.kind.push(&r.kind);
    s.output.push(r.output.as_ref().map(crate::model::Payload::as_str));
    s.error.push(r.error.as_ref().map(text));
    s.decision.push(r.decision.as_ref().map(crate::model::Payload::as_str));
    let (event, matches) = match &row.wait {
        Some(Wait::Event { name, matches, .. }) => (Some(name.as_str()), Some(matches.to_string())),
        _ => (None, None),
    };
    s.event.push(event);
    s.matches.push(matches);
    s.label.push(r.label.as_deref());
    s.usage.push(r.usage.as_deref().map(text));
}

pub(super) fn push_transition<'a>(batch: &mut Batch<'a>, group: &'a Group) {
    let mut moved = |state: RunState, due: Option<Duration>, error: Option<String>| {
        batch.moves.run.push(group.run);
        batch.moves.epoch.push(group.epoch);
        batch.moves.state.push(state.as_str());
        batch.moves.due_ms.push(due.map(ms));
        batch.moves.error.push(error);
    };
    match &group.transition {
        None => {}
        Some(Transition::Start) => moved(RunState::Running, None, None),
        Some(Transition::Suspend { due_in }) => moved(RunState::Waiting, *due_in, None),
        Some(Transition::Resume { after, failure }) => moved(RunState::Resuming, Some(*after), Some(text(failure))),
        Some(Transition::Release) => moved(RunState::Queued, None, None),
        Some(Transition::Pause) => moved(RunState::Paused, None, None),
        Some(Transition::Complete { output, last }) => {
            push_end(batch, group.run, RunState::Completed, Some(output.as_str()), None, last.as_deref())
        }
        Some(Transition::Fail { failure }) => {
            push_end(batch, group.run, RunState::Failed, None, Some(text(failure)), None)
        }
        Some(Transition::Cancel { failure }) => {
            push_end(batch, group.run, RunState::Cancelled, None, Some(text(failure)), None)
        }
    }
}

pub(super) fn push_end<'a>(
    batch: &mut Batch<'a>,
    run: Uuid,
    state: RunState,
    output: Option<&'a str>,
    error: Option<String>,
    last: Option<&'a StepRow>,
) {
    let e = &mut batch.ends;
    let last = last.map(|row| &row.record);
    e.run.push(run);
    e.state.push(state.as_str());
    e.output.push(output);
    e.error.push(error);
    e.last_seq.push(last.map(|r| r.seq));
    e.last_attempts.push(last.map(|r| i16::try_from(r.attempts).unwrap_or(i16::MAX)));
    e.last_started_at.push(last.map(|r| r.started_at));
    e.last_key.push(last.map(|r| r.key.as_str()));
    e.last_kind.push(last.map(|r| r.kind.as_str()));
    e.last_output.push(last.and_then(|r| r.output.as_ref()).map(crate::model::Payload::as_str));
}

//! What a worker writes, in columns: the batches of production with one run in them.

use stepd::db::batch::Batch;
use stepd::model::RunState;
use stepd::rules::state::Fence;
use uuid::Uuid;

/// A batch that names one run's lease.
pub fn batch(run: Uuid, by: Fence) -> Batch<'static> {
    Batch { runs: vec![run], epochs: vec![by.epoch], ..Batch::default() }
}

/// The run moves.
pub fn transition(batch: &mut Batch<'_>, state: RunState, due_ms: Option<i64>) {
    batch.moves.run.push(batch.runs[0]);
    batch.moves.epoch.push(batch.epochs[0]);
    batch.moves.state.push(state.as_str());
    batch.moves.due_ms.push(due_ms);
    batch.moves.error.push(None);
}

/// A step's row: completed with an output, or waiting for an event, or for a person.
pub fn step<'a>(batch: &mut Batch<'a>, key: &'a str, output: Option<&'a str>, event: Option<&'a str>) {
    let s = &mut batch.steps;
    s.run.push(batch.runs[0]);
    s.seq.push(1);
    s.started_at.push(chrono::DateTime::UNIX_EPOCH);
    s.ended_at.push(None);
    s.due_ms.push(None);
    s.attempts.push(1);
    s.checkpoint.push(output.is_some());
    s.state.push(if output.is_some() { "completed" } else { "waiting" });
    s.key.push(key);
    s.kind.push(match (output, event) {
        (Some(_), _) => "run",
        (None, Some(_)) => "wait",
        (None, None) => "approve",
    });
    s.output.push(output);
    s.error.push(None);
    s.decision.push(match (output, event) {
        (Some(_), _) => None,
        (None, Some(_)) => Some(r#"{"wait":"event","event":"e"}"#),
        (None, None) => Some(r#"{"wait":"approval","prompt":"?"}"#),
    });
    s.event.push(event);
    s.matches.push(None);
    s.label.push(None);
}

/// The run ends.
pub fn end(batch: &mut Batch<'_>, state: RunState) {
    let e = &mut batch.ends;
    e.run.push(batch.runs[0]);
    e.state.push(state.as_str());
    e.output.push((state == RunState::Completed).then_some("null"));
    e.error.push((state == RunState::Failed).then(|| r#"{"class":"permanent","code":"x","message":"x"}"#.to_owned()));
    e.last_seq.push(None);
    e.last_attempts.push(None);
    e.last_started_at.push(None);
    e.last_key.push(None);
    e.last_kind.push(None);
    e.last_output.push(None);
}

//! How a run's records leave it: deferred, flushed, awaited, and last of all its transition.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::model::{Failure, Payload, StepKey, StepRecord, StepState, code};
use crate::rules::policy::{OnError, StepPolicy};
use crate::steps::{CHILD, StopReason};
use crate::telemetry::redact;

use super::super::halt::Halt;
use super::super::journal::{CommitError, Entry, Note, NoteKind, StepRow, Ticket, Transition};
use super::super::kept::Kept;
use super::super::wait::answerable;
use super::{Ctx, StepDone};

impl Ctx {
    /// A new record, numbered.
    pub(in crate::engine) fn record(
        &self,
        key: StepKey,
        kind: &str,
        state: StepState,
        started_at: DateTime<Utc>,
    ) -> StepRecord {
        let seq = {
            let mut s = self.state();
            s.seq += 1;
            s.seq
        };
        StepRecord {
            key,
            kind: kind.to_owned(),
            state,
            checkpoint: false,
            attempts: 1,
            seq,
            epoch: self.epoch,
            started_at,
            ended_at: None,
            output: None,
            error: None,
            decision: None,
            due_in_ms: None,
            usage: None,
            label: None,
        }
    }

    /// Says what people call a step; every record of it carries that.
    pub(in crate::engine) fn label(&self, key: &StepKey, label: Arc<str>) {
        // What people read, and what is stored.
        let label = match redact::hide(&label) {
            Cow::Owned(hidden) => hidden.into(),
            Cow::Borrowed(_) => label.clone(),
        };
        self.state().labels.insert(key.clone(), label);
    }

    pub(in crate::engine) fn label_of(&self, key: &StepKey) -> Option<Arc<str>> {
        let labels = &self.state().labels;
        if labels.is_empty() { None } else { labels.get(key).cloned() }
    }

    /// Queues a row for the journal.
    pub(in crate::engine) fn defer(&self, row: StepRow) {
        let mut state = self.state();
        let earlier = if matches!(row.record.state, StepState::Running | StepState::Waiting) {
            state.open.insert(row.record.key.clone(), Box::new(row.clone()))
        } else if state.open.is_empty() {
            None
        } else {
            state.open.remove(&row.record.key)
        };
        if earlier.is_some() {
            // One entry may hold one row of a step: the last.
            state.deferred.retain(|other| other.record.key != row.record.key);
        }
        state.deferred.push(row);
    }

    /// Has no row of this step been written before, by this activation or an earlier one?
    fn is_fresh(&self, key: &StepKey) -> bool {
        let open = &self.state().open;
        (open.is_empty() || !open.contains_key(key)) && (self.records.is_empty() || !self.records.contains_key(key))
    }

    /// Queues a line of the audit trail.
    pub(in crate::engine) fn note(&self, kind: NoteKind, key: Option<StepKey>, attempt: Option<u32>, data: Payload) {
        let mut state = self.state();
        state.noted += 1;
        let n = state.noted;
        state.notes.push(Note { n, kind, key, attempt, data });
    }

    /// Queues what an attempt has asked of others, for the run's trace.
    pub(in crate::engine) fn note_calls(&self, record: &StepRecord) {
        let Some(calls) = &self.calls else { return };
        let Some(made) = calls.take(&record.key, || self.ports.clock.now()) else { return };
        let data = Payload::from_serialize(&made).unwrap_or_else(|_| Payload::null());
        self.note(NoteKind::Called, Some(record.key.clone()), Some(record.attempts), data);
    }

    /// Records a step's start at leisure: nothing waits for it.
    pub(in crate::engine) fn note_start(&self, record: &StepRecord) {
        let row = StepRow { record: record.clone(), wait: None, due_in: None, fresh: false };
        self.state().open.insert(record.key.clone(), Box::new(row.clone()));
        let entry = self.entry(vec![row], Vec::new(), None, None);
        self.ports.journal.submit(entry);
    }

    fn entry(
        &self,
        mut steps: Vec<StepRow>,
        notes: Vec<Note>,
        transition: Option<Transition>,
        ticket: Option<Ticket>,
    ) -> Entry {
        for row in &mut steps {
            row.record.label = self.label_of(&row.record.key);
            row.record.decision = row.record.decision.take().map(redact::recorded);
        }
        let (run, worker, epoch, keeps_key) = (self.info.id, self.worker, self.epoch, self.keeps_key);
        Entry { run, worker, epoch, keeps_key, steps, notes, transition, ticket }
    }

    /// Hands what is deferred to the journal. Returns the number to wait for.
    pub(in crate::engine) fn flush(&self) -> u64 {
        let mut state = self.state();
        if state.deferred.is_empty() && state.notes.is_empty() {
            return state.submitted;
        }
        let (steps, notes) = (std::mem::take(&mut state.deferred), std::mem::take(&mut state.notes));
        state.submitted += 1;
        let n = state.submitted;
        drop(state);
        self.ports.journal.submit(self.entry(steps, notes, None, Some(Ticket::new(self.acks.clone(), n))));
        n
    }

    /// Everything recorded so far is durable, the run may go on, and a step may start.
    pub(in crate::engine) async fn settled(&self) -> Result<(), Halt> {
        let n = self.flush();
        if n > 0 {
            self.acks.reached(n).await.map_err(|e| self.commit_failed(e))?;
        }
        if !self.ports.gate.is_open() {
            tokio::select! {
                () = self.ports.gate.opened() => {}
                _ = self.inbox.signal().stopped() => {}
            }
        }
        if self.must_stop() { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Commits the run's next state, with all that is deferred.
    ///
    /// # Errors
    /// What the journal says.
    pub(in crate::engine) async fn transition(&self, transition: Transition) -> Result<(), CommitError> {
        let (steps, notes, n) = {
            let mut state = self.state();
            state.submitted += 1;
            (std::mem::take(&mut state.deferred), std::mem::take(&mut state.notes), state.submitted)
        };
        if matches!(
            transition,
            Transition::Fail { .. } | Transition::Resume { .. } | Transition::Cancel { .. } | Transition::Release
        ) {
            self.acks.forgive_refusal();
        }
        let (steps, transition) = self.ride_along(steps, transition);
        self.ports.journal.submit(self.entry(steps, notes, Some(transition), Some(Ticket::new(self.acks.clone(), n))));
        self.acks.reached(n).await
    }

    /// The steps whose last row says that they wait.
    pub(in crate::engine) fn open_waits(&self) -> Vec<StepKey> {
        let state = self.state();
        let waits = state.open.values().filter(|row| row.record.state == StepState::Waiting);
        waits.map(|row| row.record.key.clone()).collect()
    }

    /// Marks what still runs or waits as cancelled: the run ends without it.
    pub(in crate::engine) fn close_open_steps(&self) {
        let now = self.ports.clock.now();
        let open: Vec<_> = self.state().open.values().cloned().collect();
        for mut row in open {
            self.charge(&mut row);
            row.record.state = StepState::Cancelled;
            row.record.ended_at = Some(now);
            row.wait = None;
            row.due_in = None;
            self.defer(*row);
        }
    }

    /// Records what attempts have used up that are broken off: whoever repeats them pays again.
    pub(in crate::engine) fn keep_usage(&self) {
        let open: Vec<_> = self.state().open.values().cloned().collect();
        for mut row in open {
            if self.charge(&mut row) {
                self.defer(*row);
            }
        }
    }

    /// Adds to a step what its attempt under way has used up; false where that is nothing.
    fn charge(&self, row: &mut StepRow) -> bool {
        let used = self.meter.take(&row.record.key);
        used.map(|used| row.record.usage.get_or_insert_default().add(used)).is_some()
    }

    /// Is one of the steps that have not ended a child run?
    pub(in crate::engine) fn has_child(&self) -> bool {
        self.state().open.values().any(|row| row.record.kind == CHILD)
    }

    fn commit_failed(&self, error: CommitError) -> Halt {
        match error {
            CommitError::LeaseLost => {
                self.inbox.stop(StopReason::LeaseLost);
                Halt::Stopped
            }
            CommitError::Refused(why) => self.failed(None, Failure::permanent(code::NOT_STORABLE, why)),
        }
    }

    /// Counts the end of a step.
    pub(in crate::engine) fn count_end(&self, record: &StepRecord, state: StepState) {
        let ended_at = record.ended_at.unwrap_or_else(|| self.ports.clock.now());
        let took = (ended_at - record.started_at).to_std().unwrap_or_default();
        self.ports.metrics.work.step_ended(&record.kind, state, took);
    }

    /// Ends a step: records the result and says what it means for the run.
    pub(in crate::engine) fn finish(
        &self,
        mut record: StepRecord,
        result: Result<Payload, Failure>,
        policy: &StepPolicy,
    ) -> Result<StepDone, Halt> {
        record.ended_at = Some(self.ports.clock.now());
        record.epoch = self.epoch;
        record.due_in_ms = None;
        self.count_end(&record, if result.is_ok() { StepState::Completed } else { StepState::Failed });
        let kept = record.decision.take_if(|decision| Kept::is_all_of(decision));
        match result {
            Ok(output) => {
                record.state = StepState::Completed;
                record.checkpoint = true;
                record.error = None;
                record.output = Some(output.clone());
                let fresh = self.is_fresh(&record.key);
                self.defer(StepRow { record, wait: None, due_in: None, fresh });
                Ok(StepDone { state: StepState::Completed, output, error: None })
            }
            Err(failure) => {
                let goes_on = policy.on_error != OnError::Fail;
                record.state = StepState::Failed;
                record.checkpoint = policy.on_error == OnError::Continue;
                if answerable(&record) {
                    // A failed row that still says what it waited for is an answer to be worked off; this one is.
                    record.decision = None;
                }
                if record.decision.is_none() && policy.on_error == OnError::Fail {
                    let kept = Kept::of(kept.as_ref()).kept;
                    record.decision = Kept { spent_at: Some(self.resumes.into()), kept, ..Kept::default() }.decision();
                }
                record.error = Some(failure.clone());
                let key = record.key.clone();
                self.defer(StepRow { record, wait: None, due_in: None, fresh: false });
                if goes_on {
                    Ok(StepDone { state: StepState::Failed, output: Payload::null(), error: Some(failure) })
                } else {
                    Err(self.failed(Some(key), failure))
                }
            }
        }
    }

    /// The last checkpoint of a completed run rides along with its end; one with a label, a usage or a decision (a map's items, the
    /// case of a switch) has a row of its own.
    fn ride_along(&self, mut steps: Vec<StepRow>, transition: Transition) -> (Vec<StepRow>, Transition) {
        let rides = |row: &StepRow| {
            let r = &row.record;
            r.state == StepState::Completed
                && r.usage.is_none()
                && r.decision.is_none()
                && self.label_of(&r.key).is_none()
        };
        match transition {
            Transition::Complete { output, last: None } if steps.last().is_some_and(rides) => {
                let last = steps.pop().map(Box::new);
                (steps, Transition::Complete { output, last })
            }
            other => (steps, other),
        }
    }
}

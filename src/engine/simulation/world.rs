//! The database of a simulated run: what the statements of `db/sql` do to it, in memory and in virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::inbox::{Answer, Inbox};
use crate::engine::journal::{CommitError, Entry, Journal, NoteKind, StepRow, Transition};
use crate::model::{Failure, Payload, RunId, StepKey, StepRecord, StepState, Wait, WorkerId};
use crate::steps::{BoxFuture, StopReason};

/// Where the run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Queued,
    Running,
    Waiting,
    Resuming,
    Paused,
    Completed(String),
    Failed(Failure),
    Cancelled,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub record: StepRecord,
    pub wait: Option<Wait>,
    due: Option<Instant>,
}

/// Everything that is durable.
#[derive(Debug)]
pub struct Tables {
    pub state: State,
    pub epoch: i32,
    pub worker: WorkerId,
    pub resumes: i16,
    pub crashes: i16,
    pub taken: bool,
    pub after_failure: bool,
    pub due: Option<Instant>,
    pub rows: BTreeMap<StepKey, Row>,
    pub notes: Vec<(NoteKind, Option<StepKey>, Option<u32>)>,
    /// Kept signals, by name.
    pub kept: Vec<(String, Value)>,
    pub cancel: bool,
    pub pause: bool,
    /// What it was when it was paused, and when it was due.
    paused_from: (State, Option<Instant>),
    /// What must never be.
    pub wrong: Vec<String>,
    began: bool,
    /// Is something to be done at the end?
    handlers: bool,
}

/// The shared world of one schedule.
#[derive(Clone)]
pub struct World {
    tables: Arc<Mutex<Tables>>,
    random: Arc<Mutex<fastrand::Rng>>,
    writer: mpsc::UnboundedSender<Entry>,
}

impl World {
    /// A queued run. The writer lives as long as somebody holds the world.
    pub fn new(seed: u64, handlers: bool) -> Self {
        let (writer, entries) = mpsc::unbounded_channel();
        let tables = Tables {
            state: State::Queued,
            epoch: 0,
            worker: WorkerId(uuid::Uuid::nil()),
            resumes: 0,
            crashes: 0,
            taken: false,
            after_failure: false,
            due: None,
            rows: BTreeMap::new(),
            notes: Vec::new(),
            kept: Vec::new(),
            cancel: false,
            pause: false,
            paused_from: (State::Queued, None),
            wrong: Vec::new(),
            began: false,
            handlers,
        };
        let world = Self {
            tables: Arc::new(Mutex::new(tables)),
            random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            writer,
        };
        tokio::spawn(write(world.tables.clone(), world.random.clone(), entries));
        world
    }

    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// Some time passes, more often little than much.
    pub async fn lag(&self, most: u64) {
        tokio::time::sleep(lag(&self.random, most)).await;
    }

    /// A person or an application answers what waits for a person.
    pub fn answer(&self, key: &StepKey, answer: Answer) -> bool {
        self.tables().answer(key, answer)
    }

    /// A signal: for the step that waits for it, or kept.
    pub fn signal(&self, name: &str, payload: &Value) {
        let mut t = self.tables();
        t.kept.push((name.to_owned(), payload.clone()));
        t.deliver_kept();
    }

    /// What a worker hears of requests and answers, at its next look.
    pub fn tell(&self, inbox: &Inbox) {
        let t = self.tables();
        if t.cancel {
            inbox.stop(StopReason::Cancelled);
        } else if t.pause {
            inbox.pause();
        }
        for key in inbox.waiting() {
            let Some(record) = t.rows.get(&key).map(|r| &r.record) else { continue };
            match record.state {
                StepState::Completed if answerable(record) => {
                    inbox.answer(key, Ok(record.output.clone().unwrap_or_else(Payload::null)));
                }
                StepState::Failed if answerable(record) => {
                    inbox.answer(key, Err(record.error.clone().expect("a failed wait has a failure")));
                }
                _ => {}
            }
        }
    }
}

fn lag(random: &Mutex<fastrand::Rng>, most: u64) -> Duration {
    let mut random = random.lock().unwrap();
    let most = if random.u32(0..4) > 0 { most / 10 } else { most };
    Duration::from_micros(random.u64(0..=most * 1_000))
}

/// The writer: one entry after the other, each after a while. It outlives the worker's death: what had reached it may be committed yet.
async fn write(
    tables: Arc<Mutex<Tables>>,
    random: Arc<Mutex<fastrand::Rng>>,
    mut entries: mpsc::UnboundedReceiver<Entry>,
) {
    while let Some(mut entry) = entries.recv().await {
        let pause = lag(&random, 30);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let ticket = entry.ticket.take();
        let result = tables.lock().unwrap().commit(entry);
        if let Some(ticket) = ticket {
            ticket.answer(result);
        }
    }
}

fn answerable(record: &StepRecord) -> bool {
    crate::engine::wait::answerable(record)
}

impl Tables {
    fn commit(&mut self, entry: Entry) -> Result<(), CommitError> {
        if self.state != State::Running || (self.epoch, self.worker) != (entry.epoch, entry.worker) {
            return Err(CommitError::LeaseLost);
        }
        for row in entry.steps {
            self.step(row);
        }
        self.notes.extend(entry.notes.into_iter().map(|n| (n.kind, n.key, n.attempt)));
        if let Some(transition) = entry.transition {
            self.transit(transition);
        }
        Ok(())
    }

    fn step(&mut self, row: StepRow) {
        let StepRow { record, wait, due_in, .. } = row;
        if let Some(known) = self.rows.get(&record.key) {
            if known.record.checkpoint {
                if record.checkpoint && (known.record.output != record.output || known.record.state != record.state) {
                    self.wrong.push(format!("step {} was committed, and once more as {:?}", record.key, record.state));
                }
                return;
            }
            let order = |r: &StepRecord| (r.epoch, r.attempts, StepState::ALL.iter().position(|s| *s == r.state));
            if order(&known.record) > order(&record) {
                return;
            }
        }
        let due = due_in.map(|d| Instant::now() + d);
        self.rows.insert(record.key.clone(), Row { record, wait, due });
        // What was signalled before the wait was recorded is looked for by `settle`.
    }

    fn transit(&mut self, transition: Transition) {
        self.began = matches!(transition, Transition::Start);
        self.taken &= !self.began;
        match transition {
            Transition::Start => return,
            Transition::Suspend { due_in } => {
                self.state = State::Waiting;
                self.due = due_in.map(|d| Instant::now() + d);
            }
            Transition::Complete { output, last } => {
                if let Some(row) = last {
                    self.step(*row);
                }
                self.state = State::Completed(output.as_str().to_owned());
            }
            Transition::Fail { failure } => self.state = State::Failed(failure),
            Transition::Resume { after, .. } => {
                self.state = State::Resuming;
                self.after_failure = true;
                self.due = Some(Instant::now() + after);
                return;
            }
            Transition::Cancel { .. } => self.state = State::Cancelled,
            Transition::Release => self.state = State::Queued,
            Transition::Pause => {
                self.state = State::Paused;
                self.paused_from = (State::Queued, None);
            }
        }
        self.after_failure = false;
    }

    pub fn claim(&mut self, worker: WorkerId) {
        assert_eq!(self.state, State::Queued);
        (self.state, self.worker, self.began) = (State::Running, worker, false);
        self.epoch += 1;
    }

    /// The worker is dead, or is believed to be.
    pub fn take_over(&mut self) {
        if self.state == State::Running {
            let begun = self.began || self.rows.values().any(|r| r.record.epoch == self.epoch);
            (self.state, self.taken) = (State::Queued, true);
            self.crashes += i16::from(begun);
            self.epoch += 1;
        }
    }

    pub fn stage(&mut self) {
        self.resumes += i16::from(self.state == State::Resuming);
        (self.state, self.due) = (State::Queued, None);
    }

    fn answer(&mut self, key: &StepKey, answer: Answer) -> bool {
        let Some(row) = self.rows.get_mut(key).filter(|r| r.record.state == StepState::Waiting) else { return false };
        let record = &mut row.record;
        record.checkpoint = answer.is_ok();
        record.state = if answer.is_ok() { StepState::Completed } else { StepState::Failed };
        match answer {
            Ok(output) => record.output = Some(output),
            Err(failure) => record.error = Some(failure),
        }
        if self.state == State::Waiting {
            self.stage();
        } else if self.state == State::Paused && self.paused_from.0 == State::Waiting {
            self.paused_from = (State::Queued, None);
        }
        true
    }

    fn deliver_kept(&mut self) {
        let waiting = self.rows.iter().find_map(|(key, row)| match &row.wait {
            Some(Wait::Event { name, .. }) if row.record.state == StepState::Waiting => {
                self.kept.iter().position(|(kept, _)| kept == name).map(|at| (key.clone(), at))
            }
            _ => None,
        });
        if let Some((key, at)) = waiting {
            let (_, payload) = self.kept.remove(at);
            self.answer(&key, Ok(Payload::from_value(&payload)));
        }
    }

    /// What `stepd_engine.settle` does.
    pub fn settle(&mut self, keys: &[StepKey]) {
        self.deliver_kept();
        let answered = |k: &StepKey| self.rows.get(k).is_some_and(|r| r.record.state != StepState::Waiting);
        if self.state == State::Waiting && keys.iter().any(answered) {
            self.stage();
        }
        self.requests();
    }

    /// What the sweep mends of a run whose worker died before it could settle.
    pub fn repair(&mut self) {
        self.deliver_kept();
        let nothing_waits = self.rows.values().all(|r| r.record.state != StepState::Waiting);
        let answered =
            |r: &Row| r.record.epoch == self.epoch && r.record.state != StepState::Waiting && answerable(&r.record);
        if self.state == State::Waiting && (nothing_waits || self.rows.values().any(answered)) {
            self.stage();
        }
        self.requests();
    }

    /// A cancel or a pause meets a run that no worker has.
    pub fn requests(&mut self) {
        let live = matches!(self.state, State::Queued | State::Waiting | State::Resuming | State::Paused);
        if self.cancel && live && !self.rows.contains_key(&StepKey::from("(end)")) {
            self.begin_end();
        } else if self.pause && live && self.state != State::Paused {
            self.paused_from = (std::mem::replace(&mut self.state, State::Paused), self.due.take());
        } else if !self.pause && self.state == State::Paused {
            (self.state, self.due) = self.paused_from.clone();
        }
    }

    /// What `stepd_engine.cancel_now` and `begin_end` do.
    fn begin_end(&mut self) {
        let newest = self.rows.values().map(|r| &r.record).max_by_key(|r| r.seq).cloned();
        let Some(newest) = newest.filter(|_| self.handlers) else {
            self.state = State::Cancelled;
            return;
        };
        let open = |r: &&mut Row| matches!(r.record.state, StepState::Running | StepState::Waiting);
        for row in self.rows.values_mut().filter(open) {
            (row.record.state, row.record.checkpoint, row.due) = (StepState::Cancelled, false, None);
        }
        let error = Failure::permanent("cancelled", "the run was cancelled");
        let decision = serde_json::json!({"state": "cancelled", "error": error});
        let record = StepRecord {
            key: "(end)".into(),
            kind: "end".to_owned(),
            state: StepState::Completed,
            checkpoint: true,
            attempts: 1,
            seq: newest.seq + 1,
            epoch: self.rows.values().map(|r| r.record.epoch).max().unwrap_or(0),
            output: None,
            error: None,
            decision: Some(Payload::from_value(&decision)),
            due_in_ms: None,
            usage: None,
            ..newest
        };
        self.rows.insert(record.key.clone(), Row { record, wait: None, due: None });
        (self.state, self.due, self.pause, self.after_failure) = (State::Queued, None, false, false);
    }

    pub fn records(&self) -> Vec<StepRecord> {
        let now = Instant::now();
        let of = |row: &Row| StepRecord {
            due_in_ms: row.due.map(|d| i64::try_from(d.saturating_duration_since(now).as_millis()).unwrap()),
            ..row.record.clone()
        };
        self.rows.values().map(of).collect()
    }
}

impl Journal for World {
    fn submit(&self, entry: Entry) {
        let _ = self.writer.send(entry);
    }

    fn load(&self, _run: RunId) -> BoxFuture<'static, Result<Vec<StepRecord>, Failure>> {
        let world = self.clone();
        Box::pin(async move {
            world.lag(20).await;
            let records = world.tables().records();
            Ok(records)
        })
    }

    fn settle(&self, _run: RunId, keys: Vec<StepKey>) {
        let world = self.clone();
        tokio::spawn(async move {
            world.lag(50).await;
            world.tables().settle(&keys);
        });
    }

    fn expire(
        &self,
        _run: RunId,
        lease: (WorkerId, i32),
        key: StepKey,
        failure: Failure,
    ) -> BoxFuture<'static, Option<Answer>> {
        let world = self.clone();
        Box::pin(async move {
            world.lag(20).await;
            let mut t = world.tables();
            if t.state != State::Running || (t.worker, t.epoch) != lease || t.answer(&key, Err(failure)) {
                return None;
            }
            let record = &t.rows.get(&key)?.record;
            Some(record.error.clone().map_or_else(|| Ok(record.output.clone().unwrap_or_else(Payload::null)), Err))
        })
    }
}

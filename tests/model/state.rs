//! What the model remembers: the rows and locks of Postgres, the workers' memories, and what only the observer of both knows.

use std::hash::{Hash, Hasher};

use crate::model::Model;

pub const WORKERS: usize = 3;
pub const RUNS: usize = 2;
pub const STEPS: u8 = 2;
/// Of a step, before its run fails.
pub const ATTEMPTS: u8 = 2;
/// Registrations that anything still refers to, at one time.
pub const REGISTRATIONS: usize = 8;

/// A registration's id: a place in [`State::registrations`]. A place is used again when nothing refers to it any more.
pub type Id = u8;
pub const NOBODY: Id = u8::MAX;

/// `stepd_engine.worker_sessions`, as the take-over sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Marker {
    #[default]
    None,
    /// Of an earlier start of Postgres.
    Stale,
    Valid,
}

/// The session lock of a registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lock {
    #[default]
    Free,
    /// By the worker's present session.
    Held,
    /// By a session that the worker has given up, and the server not yet.
    Old,
}

/// A claim on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Claim {
    #[default]
    None,
    Sent,
    /// Its worker does not wait for the answer any more.
    Unheard,
}

/// A row of `stepd_engine.workers`, with its marker and its lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Registration {
    pub row: bool,
    pub beat: u8,
    pub marker: Marker,
    pub lock: Lock,
    pub claim: Claim,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    #[default]
    Running,
    Stopped,
    Dead,
    /// There are fewer workers.
    Absent,
}

/// The presence session, as its worker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    None,
    /// It has its lock and marker, where they could be had, and has not looked yet.
    Locked,
    /// A tick is on its way; did its snapshot show the worker's own row?
    Looking {
        saw: bool,
    },
    Up,
    /// Gone, and the worker has not noticed.
    Lost,
}

/// What a run's activation wants to have recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    Checkpoint(u8),
    AttemptFailed,
    /// With the checkpoint of a last step that rides along.
    Complete(Option<u8>),
    Fail,
    Cancel,
    Release,
    /// The transaction of a sql step: effect and checkpoint.
    Sql(u8),
}

/// Where a run's activation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pc {
    Load,
    /// Before a step, which is behind the gate.
    Before {
        step: u8,
        attempt: u8,
    },
    Working {
        step: u8,
        attempt: u8,
    },
    Write(Item),
    /// The write had no answer.
    Unknown(Item),
    /// The COMMIT of a sql step had no answer.
    SqlUnknown {
        step: u8,
        attempt: u8,
    },
}

/// A run in a worker's memory, under its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Activation {
    pub epoch: u8,
    pub pc: Pc,
}

/// A lock found free once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    pub victim: Id,
    pub beat: u8,
    /// Has its owner locked it again since?
    pub relocked: bool,
}

/// On its way from the presence thread to the sweeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suspect {
    pub victim: Id,
    pub by_lock: bool,
    pub beat: u8,
    /// Its runs at that time; only for a mutant.
    pub runs: u8,
}

/// One daemon process, or the place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub phase: Phase,
    /// Does the network reach Postgres?
    pub linked: bool,
    pub session: Session,
    pub gate: bool,
    /// Observer's knowledge: it was stopped or cut off, and has not beaten since, so that a take-over is right.
    pub doubtful: bool,
    /// Observer's knowledge: it lost its session together with all others, or was away when it did, so nothing bounds the time until
    /// it has another.
    pub slow: bool,
    pub registration: Id,
    pub before: Id,
    pub runs: [Option<Activation>; RUNS],
    pub note: Option<Note>,
    pub suspect: Option<Suspect>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunState {
    #[default]
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl RunState {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// The row of the next step, as far as it is no checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Record {
    #[default]
    None,
    Running(u8),
    Failed(u8),
}

/// A statement whose client has gone or does not listen: it may still be done, at any time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ghost {
    pub by: Id,
    pub epoch: u8,
    pub item: Item,
    /// Its fence was read when it was sent; only for a mutant.
    pub passed: bool,
}

/// A run's row, its checkpoints, and its request for a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub state: RunState,
    pub epoch: u8,
    pub worker: Id,
    pub cancel: bool,
    /// Bits: which steps have their checkpoint.
    pub done: u8,
    pub record: Record,
    pub ghost: Option<Ghost>,
    /// Observer's knowledge, bits: whose checkpoint somebody was told of.
    pub told: u8,
    /// Observer's knowledge: how often each step's own work has failed.
    pub failures: [u8; STEPS as usize],
}

/// A promise of `docs/protocol.md`, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// I2: from here no run of these can end without outside help.
    Stuck,
    /// I2: a run is running under a registration that is gone.
    Stranded,
    /// I3: a step was committed twice.
    CommittedTwice,
    /// I4: a step started although its checkpoint had been acknowledged.
    StartedAgain,
    /// I5: a write went through under a lease that was lost.
    StaleWrite,
    /// I6: a worker that is alive and connected was taken over.
    TakenAlive,
    /// I8: a run left a final state without an operator's retry.
    FinalStateChanged,
    /// I10: a run failed, though its step had not failed as often as it may.
    AttemptUsedUp,
    /// I12: a step started after the cancel was acknowledged.
    StartedAfterCancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub registrations: [Registration; REGISTRATIONS],
    pub workers: [Worker; WORKERS],
    pub runs: [Run; RUNS],
    /// What may still go wrong: infrastructure, people, the steps' own work.
    pub faults: u8,
    pub requests: u8,
    pub failures: u8,
    pub broken: Option<Broken>,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub workers: usize,
    pub runs: usize,
    pub faults: u8,
    pub requests: u8,
    pub failures: u8,
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { workers, runs, faults, requests, failures } = self;
        write!(f, "{workers} workers, {runs} runs, {faults} faults, {requests} requests, {failures} failures")
    }
}

impl State {
    /// All workers registered and present, all runs queued.
    pub fn first(bounds: &Bounds) -> Self {
        let mut registrations = [Registration::default(); REGISTRATIONS];
        let mut workers = [Worker {
            phase: Phase::Absent,
            linked: true,
            session: Session::None,
            gate: false,
            doubtful: false,
            slow: false,
            registration: NOBODY,
            before: NOBODY,
            runs: [None; RUNS],
            note: None,
            suspect: None,
        }; WORKERS];
        for (id, worker) in (0..).zip(workers.iter_mut().take(bounds.workers)) {
            registrations[usize::from(id)] =
                Registration { row: true, beat: 1, marker: Marker::Valid, lock: Lock::Held, claim: Claim::None };
            *worker = Worker { phase: Phase::Running, session: Session::Up, gate: true, registration: id, ..*worker };
        }
        let state = RunState::Queued;
        let (epoch, worker, cancel, done, record) = (0, NOBODY, false, 0, Record::None);
        let mut runs =
            [Run { state, epoch, worker, cancel, done, record, ghost: None, told: 0, failures: [0; STEPS as usize] };
                RUNS];
        runs.iter_mut().skip(bounds.runs).for_each(|run| run.state = RunState::Completed);
        let Bounds { faults, requests, failures, .. } = *bounds;
        Self { registrations, workers, runs, faults, requests, failures, broken: None }
    }

    pub fn registration(&self, id: Id) -> Registration {
        self.registrations.get(usize::from(id)).copied().unwrap_or_default()
    }

    pub fn registration_mut(&mut self, id: Id) -> &mut Registration {
        &mut self.registrations[usize::from(id)]
    }

    /// The first promise that was broken is the one that is told.
    pub fn break_promise(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    pub fn all_final(&self) -> bool {
        self.runs.iter().all(|run| run.state.is_final())
    }

    /// A place that nothing refers to.
    pub fn fresh_id(&self) -> Id {
        let used = self.references();
        (0..).find(|id| !used.contains(id) && !self.registration(*id).row).unwrap_or(NOBODY)
    }

    fn references(&self) -> Vec<Id> {
        let mut ids = Vec::with_capacity(16);
        for w in &self.workers {
            ids.extend([w.registration, w.before]);
        }
        for w in &self.workers {
            ids.extend(w.suspect.map(|s| s.victim));
            ids.extend(w.note.map(|n| n.victim));
        }
        for run in &self.runs {
            ids.push(run.worker);
            ids.extend(run.ghost.map(|g| g.by));
        }
        ids
    }

    /// The same state with the workers in an order of its own and the registrations numbered by who refers to them first: workers
    /// are all alike, and so are the ids.
    pub fn canonical(&self, m: &Model) -> Self {
        let mut state = *self;
        state.forgets_the_inert(m);
        state.workers.sort_by_cached_key(|w| {
            let mut bare = *w;
            bare.registration = 0;
            bare.before = 0;
            bare.note.iter_mut().for_each(|n| n.victim = 0);
            bare.suspect.iter_mut().for_each(|s| s.victim = 0);
            let owns: u8 = (0u8..).zip(&self.runs).map(|(n, r)| u8::from(r.worker == w.registration) << n).sum();
            fingerprint(&(bare, self.registration(w.registration), owns))
        });
        let mut order: Vec<Id> = Vec::with_capacity(REGISTRATIONS);
        let rows = (0u8..).zip(&self.registrations).filter(|(_, r)| r.row).map(|(id, _)| id);
        for id in state.references().into_iter().chain(rows) {
            if id != NOBODY && !order.contains(&id) {
                order.push(id);
            }
        }
        let mut place = [NOBODY; REGISTRATIONS];
        state.registrations = [Registration::default(); REGISTRATIONS];
        for (new, old) in (0u8..).zip(&order) {
            place[usize::from(*old)] = new;
            state.registrations[usize::from(new)] = self.registration(*old);
        }
        state.rename(|id| if id == NOBODY { NOBODY } else { place[usize::from(id)] });
        state
    }

    fn rename(&mut self, new: impl Fn(Id) -> Id) {
        for w in &mut self.workers {
            w.registration = new(w.registration);
            w.before = new(w.before);
            w.note.iter_mut().for_each(|n| n.victim = new(n.victim));
            w.suspect.iter_mut().for_each(|s| s.victim = new(s.victim));
        }
        for run in &mut self.runs {
            run.worker = new(run.worker);
            run.ghost.iter_mut().for_each(|g| g.by = new(g.by));
        }
    }
}

/// A hash of the whole in 64 bits: two of a million states meet once in many millions of explorations.
pub fn fingerprint(of: &impl Hash) -> u64 {
    let mut hasher = Fold(0x243f_6a88_85a3_08d3);
    of.hash(&mut hasher);
    let mixed = (hasher.0 ^ (hasher.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Rotate, add, multiply: the fields are many and small, and a debug build pays for every call.
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

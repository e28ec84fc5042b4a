//! Every action that is possible in a state. Each is one statement of Postgres, or one step of a worker that nobody sees half done;
//! what is two statements in the daemon is two actions here.

use crate::mutants::Mutant;
use crate::state::{Bounds, Broken, Phase, RUNS, Run, RunState, State, WORKERS, Worker};

/// The protocol, or one of its mutants, and how much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub mutant: Option<Mutant>,
    pub bounds: Bounds,
}

/// What an action counts as, when it is asked whether the runs can still end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sooner or later it happens.
    Progress,
    /// A worker comes back that was stopped, cut off, or dead.
    Return,
    /// May happen or not: faults, people, the steps' own failures, statements that nobody listens to.
    Chance,
}

/// An action, for those who read a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub kind: Kind,
    pub what: &'static str,
    pub worker: Option<usize>,
    pub run: Option<usize>,
}

/// Collects what can follow a state.
pub struct Next {
    pub all: Vec<(Action, State)>,
}

impl Next {
    pub fn add(&mut self, kind: Kind, what: &'static str, worker: Option<usize>, run: Option<usize>, state: State) {
        self.all.push((Action { kind, what, worker, run }, state));
    }

    pub fn progress(&mut self, what: &'static str, worker: usize, state: State) {
        self.add(Kind::Progress, what, Some(worker), None, state);
    }

    pub fn progress_of(&mut self, what: &'static str, worker: usize, run: usize, state: State) {
        self.add(Kind::Progress, what, Some(worker), Some(run), state);
    }
}

impl Worker {
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Running && self.linked
    }
}

impl Model {
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Is this step of this run a `sql` step in stepd's own database, whose effect and checkpoint are one transaction? The one run
    /// ends with it, the other begins with it and ends with a step whose checkpoint rides along with the run's end.
    pub fn is_sql(run: usize, step: u8) -> bool {
        (usize::from(step) + run) % 2 == 1
    }

    pub fn next(&self, state: &State) -> Vec<(Action, State)> {
        let mut next = Next { all: Vec::with_capacity(32) };
        for w in 0..WORKERS {
            self.presence(state, w, &mut next);
            self.sweep(state, w, &mut next);
            self.claims(state, w, &mut next);
            for run in 0..RUNS {
                self.activation(state, w, run, &mut next);
            }
        }
        self.faults(state, &mut next);
        self.people(state, &mut next);
        for (_, after) in &mut next.all {
            after.check();
        }
        next.all
    }

    /// What operators ask for.
    fn people(&self, state: &State, next: &mut Next) {
        for (n, run) in state.runs.iter().enumerate() {
            // `stepd_engine.settle_cancels`, part of the repair: the request met the run in the instant in which its worker let it go.
            if run.cancel && run.state == RunState::Queued && state.workers.iter().any(Worker::is_connected) {
                let mut s = *state;
                s.moves(n, RunState::Cancelled);
                next.add(Kind::Progress, "the sweep ends a cancelled run", None, Some(n), s);
            }
            if state.requests == 0 {
                continue;
            }
            let mut s = *state;
            s.requests -= 1;
            if !run.state.is_final() && !run.cancel {
                s.cancel(self, n);
                next.add(Kind::Chance, "an operator cancels", None, Some(n), s);
            } else if run.state == RunState::Failed {
                s.retry(n);
                next.add(Kind::Chance, "an operator retries", None, Some(n), s);
            }
        }
    }
}

impl State {
    /// What must hold in every state.
    fn check(&mut self) {
        let stranded = |run: &Run| run.state == RunState::Running && !self.registration(run.worker).row;
        if self.runs.iter().any(stranded) {
            self.break_promise(Broken::Stranded);
        }
    }
}

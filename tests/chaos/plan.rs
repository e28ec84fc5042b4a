//! The plan: which fault comes when, to whom, for how long, and what operators do. All of it follows from the seed.

use std::time::Duration;

/// What can be done to a daemon, to Postgres, or to the network between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of a daemon, and a new one in its place.
    Sigkill,
    /// A daemon stands still for a while.
    Sigstop,
    /// A daemon is told to end, and a new one takes its place.
    Sigterm,
    /// Postgres is stopped as an administrator does it, and started again.
    PgFast,
    /// Postgres is stopped as a crash does it, and started again.
    PgImmediate,
    /// The primary's host is lost, and a standby that has all it has acknowledged is promoted.
    Promote,
    /// kill -9 of a daemon's backend: Postgres ends every session and recovers.
    BackendKill,
    /// `pg_terminate_backend` of a daemon's session.
    Terminate,
    /// A daemon's connections are ended at both ends.
    Cut,
    /// What passes between a daemon and Postgres arrives late, all of it.
    Delay,
    /// A daemon's connections of now fall silent for ever; new ones pass.
    Silence,
    /// The session that keeps the daemon's lock cannot reach Postgres; its other sessions can.
    Isolate,
    /// Others have taken every connection that Postgres gives.
    Exhaust,
    /// Postgres takes no writes for a while.
    ReadOnly,
    /// Somebody has locked the table of jobs for himself.
    TableLock,
    /// No space is left on the disk of the database.
    DiskFull,
    /// No space is left on the disk of the write-ahead log: Postgres stops.
    WalFull,
    /// A daemon may open no more files.
    Files,
    /// A daemon may start no more processes, nor threads.
    Processes,
    /// The kernel kills a daemon for want of memory, and a new one takes its place.
    Memory,
    /// The line between a daemon and Postgres is down: both ends hear nothing, and are told nothing.
    LinkDown,
    /// What a daemon sends to Postgres is lost; what Postgres sends arrives.
    DropOut,
    /// What Postgres sends to a daemon is lost; what the daemon sends arrives.
    DropIn,
    /// Something between refuses whatever the daemon sends.
    Reset,
    /// Every fifth packet is lost, in both directions.
    Loss,
    /// A daemon's clock jumps an hour ahead or back, or begins to run half as fast again.
    Clock,
}

impl Fault {
    pub const ALL: [Self; 26] = [
        Self::Sigkill,
        Self::Sigstop,
        Self::Sigterm,
        Self::PgFast,
        Self::PgImmediate,
        Self::Promote,
        Self::BackendKill,
        Self::Terminate,
        Self::Cut,
        Self::Delay,
        Self::Silence,
        Self::Isolate,
        Self::Exhaust,
        Self::ReadOnly,
        Self::TableLock,
        Self::DiskFull,
        Self::WalFull,
        Self::Files,
        Self::Processes,
        Self::Memory,
        Self::LinkDown,
        Self::DropOut,
        Self::DropIn,
        Self::Reset,
        Self::Loss,
        Self::Clock,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sigkill => "sigkill",
            Self::Sigstop => "sigstop",
            Self::Sigterm => "sigterm",
            Self::PgFast => "pg-fast",
            Self::PgImmediate => "pg-immediate",
            Self::Promote => "promote",
            Self::BackendKill => "backend-kill",
            Self::Terminate => "terminate",
            Self::Cut => "cut",
            Self::Delay => "delay",
            Self::Silence => "silence",
            Self::Isolate => "isolate",
            Self::Exhaust => "exhaust",
            Self::ReadOnly => "read-only",
            Self::TableLock => "table-lock",
            Self::DiskFull => "disk-full",
            Self::WalFull => "wal-full",
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Memory => "memory",
            Self::LinkDown => "link-down",
            Self::DropOut => "drop-out",
            Self::DropIn => "drop-in",
            Self::Reset => "reset",
            Self::Loss => "loss",
            Self::Clock => "clock",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// How often it comes, beside the others.
    pub const fn usual_weight(self) -> u32 {
        match self {
            Self::Sigkill => 8,
            Self::Sigstop => 4,
            Self::Terminate => 3,
            Self::Sigterm | Self::Cut | Self::Delay | Self::Silence | Self::Isolate => 2,
            Self::PgFast | Self::PgImmediate | Self::Promote | Self::BackendKill => 1,
            Self::Exhaust | Self::ReadOnly | Self::TableLock | Self::Files => 1,
            // These need root, and small file systems or control groups of their own: only where they are named.
            Self::DiskFull | Self::WalFull | Self::Processes | Self::Memory => 0,
            Self::LinkDown | Self::DropOut | Self::DropIn | Self::Reset | Self::Loss | Self::Clock => 1,
        }
    }

    /// Does something run out, at Postgres' or at a daemon's? It lasts for a while.
    pub const fn is_scarcity(self) -> bool {
        matches!(
            self,
            Self::Exhaust
                | Self::ReadOnly
                | Self::TableLock
                | Self::DiskFull
                | Self::WalFull
                | Self::Files
                | Self::Processes
                | Self::Memory
        )
    }

    /// Does it concern all daemons, by way of Postgres?
    pub const fn is_of_postgres(self) -> bool {
        let away = matches!(self, Self::PgFast | Self::PgImmediate | Self::Promote | Self::BackendKill);
        away || matches!(self, Self::Exhaust | Self::ReadOnly | Self::TableLock | Self::DiskFull | Self::WalFull)
    }

    /// May the others rightly take a worker to be dead while this lasts?
    pub const fn hides_a_worker(self) -> bool {
        matches!(self, Self::Sigstop | Self::Delay | Self::Isolate) || self.is_of_a_line()
    }

    /// Is it one of a network of the daemon's own?
    pub const fn is_of_a_line(self) -> bool {
        matches!(self, Self::LinkDown | Self::DropOut | Self::DropIn | Self::Reset | Self::Loss)
    }

    /// Does it last until it is ended?
    pub const fn lasts(self) -> bool {
        matches!(self, Self::Sigstop | Self::Delay | Self::Isolate | Self::Silence) || self.is_of_a_line()
    }
}

/// One thing to do, at a time since the start of the chaos.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub at: Duration,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    /// `lasts`: of what has no end of its own in the plan, Postgres' time away.
    Begin { fault: Fault, slot: usize, lasts: Duration, draw: u64 },
    /// The end of a fault that lasts.
    End { fault: Fault, slot: usize },
}

/// Faults until `span` is over, each with its end.
pub fn plan(seed: u64, span: Duration, workers: usize, faults: &[(Fault, u32)], pace: f64) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let total: u32 = faults.iter().map(|(_, weight)| weight).sum();
    let mut steps = Vec::new();
    let mut at = Duration::from_secs(2);
    loop {
        at += Duration::from_secs_f64(pace * (0.3 + 1.4 * random.f64()));
        if at >= span {
            break;
        }
        let mut ball = random.u32(..total.max(1));
        let drawn = faults.iter().find(|(_, weight)| {
            let hit = ball < *weight;
            ball = ball.saturating_sub(*weight);
            hit
        });
        let (slot, draw, share) = (random.usize(..workers), random.u64(..), random.f64());
        let Some((fault, _)) = drawn else { continue };
        let lasts = match fault {
            // Half of them short: what returns before anybody has noticed.
            Fault::Sigstop | Fault::Delay | Fault::Isolate if draw % 2 == 0 => 0.1 + 1.2 * share,
            fault if fault.is_of_a_line() && draw % 2 == 0 => 0.1 + 1.2 * share,
            Fault::Sigstop | Fault::Isolate => 2.0 + 6.0 * share,
            fault if fault.is_of_a_line() => 2.0 + 6.0 * share,
            Fault::Delay | Fault::Silence => 1.0 + 6.0 * share,
            Fault::PgFast | Fault::PgImmediate if draw % 4 == 0 => 6.0 * share,
            Fault::PgFast | Fault::PgImmediate => 0.3 * share,
            // Half of them longer than the lease of most plans.
            _ if fault.is_scarcity() && draw % 2 == 0 => 0.3 + share,
            _ if fault.is_scarcity() => 2.0 + 6.0 * share,
            _ => 0.0,
        };
        let lasts = Duration::from_secs_f64(lasts);
        steps.push(Step { at, what: What::Begin { fault: *fault, slot, lasts, draw } });
        if fault.lasts() {
            steps.push(Step { at: at + lasts, what: What::End { fault: *fault, slot } });
        }
    }
    steps.sort_by_key(|s| s.at);
    steps
}

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Cancel,
    Pause,
    Unpause,
    Retry,
    Signal,
    Emit,
    Approve,
    PauseQueue,
    UnpauseQueue,
    LimitQueue,
}

impl Action {
    const WEIGHTED: [Self; 14] = [
        Self::Cancel,
        Self::Cancel,
        Self::Pause,
        Self::Pause,
        Self::Unpause,
        Self::Retry,
        Self::Signal,
        Self::Signal,
        Self::Emit,
        Self::Emit,
        Self::Approve,
        Self::PauseQueue,
        Self::UnpauseQueue,
        Self::LimitQueue,
    ];
}

/// What operators do in the course of the chaos: when, what, and a number that says to whom.
pub fn operators(seed: u64, span: Duration) -> Vec<(Duration, Action, u64)> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x0009_e7a7);
    let mut at = Duration::from_secs(2);
    let mut actions = Vec::new();
    while at < span {
        let action = Action::WEIGHTED[random.usize(..Action::WEIGHTED.len())];
        actions.push((at, action, random.u64(..)));
        at += Duration::from_secs_f64(0.2 + 0.8 * random.f64());
    }
    actions
}

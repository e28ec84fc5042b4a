//! This worker's place among the workers: registration, session lock, marker, heartbeat, and the watch over the others.
//!
//! All of it on one connection and one thread of its own, so that neither a full pool nor a busy
//! runtime can make a living worker look dead. The same connection listens: it is read all the time, so that a lost session
//! (a terminated backend, a reset) is noticed at once and locked again before anyone has found the lock free twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::db::liveness::{self, Registered, Registration, Seen};
use crate::db::{Database, DbError, Line, Trouble, migrate, server, within};
use crate::engine::{GateKeeper, ServerClock};
use crate::model::WorkerId;
use crate::os::evidence::facts;
use crate::rules::sweep::{Plan, Sighting, Suspect, Watch};
use crate::telemetry::logs;

use super::acknowledged::Acknowledged;
use super::connectivity::Connectivity;
use super::progress::Pulse;
use super::shared::{Backoff, Hints};

/// Ping and look. One statement a second is half of what an idle worker may cost.
const TICK: Duration = Duration::from_secs(1);

/// Between the two looks that must both find a lock free. A terminated session is locked again in 10 ms on an idle machine, and was
/// seen to take 150 ms on a very busy one.
const CONFIRM: Duration = Duration::from_millis(250);

/// The heartbeat is written this often; more often under a short lease. By the time and not by the number of ticks: under a slow
/// server five ticks may take as long as the lease, and the first tick after a stop must tell those who have counted meanwhile.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Postgres itself ends the session of a worker that has not pinged for this long.
const SESSION_LEASE: &str = "3s";

/// No step starts when the last ping is older than this: the session may be gone by then.
const GATE_SPAN: Duration = Duration::from_millis(2_500);

/// A tick that has no answer after this long, but for its pauses: the session is given up, and another made. The gate shuts by then,
/// and the server has not ended the old session yet, which is silent since the tick before: the new one waits for its lock.
const TICK_ANSWERS: Duration = Duration::from_millis(1_500);

/// A registration, or its end, that takes longer is given up: silently cut off.
const REGISTRATION_ANSWERS: Duration = Duration::from_secs(5);

/// The session that keeps the lock: nothing on it may take long.
const SESSION: [(&str, &str); 6] = [
    ("idle_session_timeout", SESSION_LEASE),
    ("statement_timeout", "5s"),
    ("lock_timeout", "1s"),
    ("tcp_keepalives_idle", "1"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
];

/// The notification that concerns only the claimer; every other one, whatever it says, is for all.
const NEW_JOBS: &str = "job";

/// How this worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not registered yet, or registering anew.
    Absent,
    /// Registered; claims may be made.
    Present(WorkerId),
}

/// What the other services see of the presence.
#[derive(Clone, Debug)]
pub struct Presence {
    standing: watch::Receiver<Standing>,
    orders: watch::Sender<Order>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    Stopping,
    Leave,
}

impl Presence {
    /// The registration, if there is one.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        match *self.standing.borrow() {
            Standing::Present(worker) => Some(worker),
            Standing::Absent => None,
        }
    }

    /// Resolves with the registration when there is one.
    pub async fn present(&self) -> WorkerId {
        let mut standing = self.standing.clone();
        loop {
            if let Standing::Present(worker) = *standing.borrow_and_update() {
                return worker;
            }
            if standing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Says in the next heartbeat that this worker is stopping.
    pub fn stopping(&self) {
        self.orders.send_replace(Order::Stopping);
    }

    /// Ends the registration and the thread.
    pub fn leave(&self) {
        self.orders.send_replace(Order::Leave);
    }
}

/// What the thread is given.
pub struct Start {
    /// The database.
    pub db: Database,
    /// What to say of this worker.
    pub registration: Registration,
    /// Whom to wake.
    pub hints: Arc<Hints>,
    /// Where to say that Postgres is away.
    pub connectivity: Arc<Connectivity>,
    /// What was acknowledged last.
    pub acknowledged: Arc<Acknowledged>,
    /// The gate before every step.
    pub gate: GateKeeper,
    /// Proof that the thread turns.
    pub pulse: Arc<Pulse>,
    /// The server's clock.
    pub clock: Arc<ServerClock>,
    /// Where dead workers are reported.
    pub suspects: mpsc::Sender<Suspect>,
    /// Called when the registration is lost: every lease under it is gone.
    pub on_lost: Box<dyn Fn(WorkerId) + Send>,
}

/// Starts the thread.
///
/// # Errors
/// When no thread can be had.
pub fn start(start: Start) -> std::io::Result<(Presence, std::thread::JoinHandle<()>)> {
    let (standing_tx, standing) = watch::channel(Standing::Absent);
    let (orders, orders_rx) = watch::channel(Order::Serve);
    // Made on the thread: where no thread can be had, nothing is dropped here that may not be dropped on a runtime.
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("stepd-presence".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell.send(error)),
        };
        drop(tell);
        let keeper = Keeper {
            s: start,
            standing: standing_tx,
            orders: orders_rx,
            me: None,
            watch: Watch::default(),
            reported: HashMap::new(),
            beaten: None,
            birth: Instant::now(),
            established: None,
            unasked: true,
            silent: None,
        };
        runtime.block_on(keeper.run());
    })?;
    match told.recv() {
        Ok(error) => Err(error),
        Err(_) => Ok((Presence { standing, orders }, thread)),
    }
}

struct Keeper {
    s: Start,
    standing: watch::Sender<Standing>,
    orders: watch::Receiver<Order>,
    me: Option<Registered>,
    watch: Watch,
    /// Suspects already handed to the sweeper, and when: one report a second is enough.
    reported: HashMap<WorkerId, Instant>,
    /// When the last heartbeat was written.
    beaten: Option<Instant>,
    birth: Instant,
    /// Since when the present session stands.
    established: Option<Instant>,
    /// Whether what was acknowledged is there still has to be asked, since this session stands.
    unasked: bool,
    /// A session that does not answer any more. Perhaps it still holds the lock: it is dropped when there is another.
    silent: Option<Line>,
}

/// Why a session ended.
enum Ended {
    /// The connection is gone.
    Lost(Option<DbError>),
    /// This worker's row is gone: it was taken over.
    TakenOver,
    /// It was told to leave.
    Left,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            self.s.pulse.beat();
            match self.session(&mut backoff).await {
                Ended::Left => return,
                Ended::TakenOver => {
                    self.s.gate.shut();
                    self.standing.send_replace(Standing::Absent);
                    if let Some(old) = self.me.take() {
                        tracing::warn!(worker.id = %old.worker, "this worker was taken over; its runs are stopped, it registers anew");
                        (self.s.on_lost)(old.worker);
                    }
                }
                Ended::Lost(error) => {
                    // Until the row has been read back no step starts: the others may be about to take over.
                    self.s.gate.shut();
                    self.s.acknowledged.hold();
                    let lived = self.established.take().is_some_and(|at| at.elapsed() > TICK);
                    let error = error.unwrap_or_else(DbError::ended);
                    self.s.connectivity.failed("presence", &error, !lived);
                    if lived {
                        // Every millisecond counts: the others are about to find the lock free. Whether it is only
                        // this session that was lost, the next try shows.
                        tracing::debug!(%error, "the session was lost");
                        continue;
                    }
                    let pause = backoff.pause();
                    let mut orders = self.orders.clone();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = orders.wait_for(|o| *o == Order::Leave) => return,
                    }
                }
            }
        }
    }

    /// One connection's life.
    async fn session(&mut self, backoff: &mut Backoff) -> Ended {
        let connected = self.s.db.line("presence", &SESSION).await;
        self.silent = None;
        let mut line = match connected {
            Ok(line) => line,
            Err(e) => return Ended::Lost(Some(e)),
        };
        match within(REGISTRATION_ANSWERS, self.establish(&mut line, backoff)).await {
            Ok(true) => {}
            Ok(false) => return Ended::TakenOver,
            Err(e) => return Ended::Lost(Some(e)),
        }
        self.established = Some(Instant::now());
        backoff.reset();
        let mut orders = self.orders.clone();
        // Not at once: who has just found that commits were lost keeps the gate shut until then.
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => match self.tick(&mut line).await {
                    Ok(None) => {}
                    Ok(Some(ended)) => return ended,
                    Err(e) => {
                        self.silent = Some(line);
                        return Ended::Lost(Some(e));
                    }
                },
                changed = orders.changed() => {
                    if changed.is_err() || *orders.borrow_and_update() == Order::Leave {
                        self.leave(&mut line).await;
                        return Ended::Left;
                    }
                }
                heard = line.heard() => match heard {
                    // Any number of notifications is one reason to look.
                    Ok(Some(told)) => match told.iter().all(|payload| payload == NEW_JOBS) {
                        true => self.s.hints.claim.notify_one(),
                        false => self.s.hints.all(),
                    },
                    Ok(None) => return Ended::Lost(None),
                    Err(e) => return Ended::Lost(Some(e)),
                },
            }
        }
    }

    /// Registers, or finds the registration still standing; beats; locks; marks; looks once. False: the registration is gone.
    /// Beats before it locks: who sees the lock free before and after sees another heartbeat, however short this session's life.
    async fn establish(&mut self, line: &mut Line, backoff: &mut Backoff) -> Result<bool, DbError> {
        let asked = Instant::now();
        self.unasked = true;
        let me = match self.me {
            Some(me) => me,
            None => {
                migrate::whole(&mut *line).await?;
                let me = liveness::register(&mut *line, &self.s.registration).await?;
                tracing::info!(worker.id = %me.worker, host = %self.s.registration.host, pid = self.s.registration.pid, "registered");
                logs::set_worker(Some(me.worker));
                if !line.holds() {
                    tracing::warn!(
                        lease_ms = self.s.registration.lease_ms,
                        "behind a connection pooler: this worker's death is found by its lease alone, and new runs by looking every two \
                         seconds; database_direct_url, the address of Postgres itself, makes both quick"
                    );
                }
                self.s.clock.set(me.now);
                self.me = Some(me);
                me
            }
        };
        match self.look(line, true).await {
            Ok(seen) if is_there(me, &seen) => {}
            Ok(_) => return Ok(false),
            Err(error) if error.lack().is_some() => {
                self.holds_out(&error);
                if line.holds() {
                    liveness::lock(&mut *line, me.number).await?;
                }
                line.listen("stepd").await?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        // Restored with this registration in it, perhaps, and not to its end.
        migrate::whole(&mut *line).await?;
        if lock(line, me).await? {
            // From here on a lost session must be locked again before anyone has looked twice, however long Postgres was away before.
            backoff.reset();
        } else if line.holds() {
            tracing::warn!(
                number = me.number,
                "another session holds this worker's lock; until it lets go only the lease tells that this worker lives"
            );
        }
        line.listen("stepd").await?;
        let seen = self.look(line, false).await?;
        if !is_there(me, &seen) {
            return Ok(false);
        }
        // A worker that comes up finds the dead before its first claim: a second look, if the first found a free lock.
        let plan = self.digest(&seen);
        self.follow(line, plan).await?;
        self.stands(line, me, asked).await?;
        self.s.hints.all();
        Ok(true)
    }

    /// The row was there when it was asked for. No step starts before it is known whether what was acknowledged is there, too. Somebody may
    /// have locked the table that tells; that keeps nobody from holding his lock and beating, so it is asked last.
    async fn stands(&mut self, line: &mut Line, me: Registered, asked: Instant) -> Result<(), DbError> {
        if self.unasked {
            match within(TICK_ANSWERS, self.s.acknowledged.is_kept(&mut *line)).await {
                Ok(true) => self.unasked = false,
                Ok(false) => {
                    self.unasked = false;
                    self.s.connectivity.has_lost_commits();
                    // What runs here is being given back: the gate stays shut until the next tick.
                    return Ok(());
                }
                Err(error) if error.trouble == Trouble::Busy => {
                    self.s.connectivity.failed("presence", &error, true);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.s.connectivity.back("presence");
        self.s.gate.open(asked, GATE_SPAN);
        self.standing
            .send_if_modified(|s| std::mem::replace(s, Standing::Present(me.worker)) != Standing::Present(me.worker));
        Ok(())
    }

    /// The server answers, and cannot write: not even a heartbeat, nor anybody's take-over. The session stands and with it the lock, so
    /// that nobody finds it free in the moment in which the server can write again; and who cannot beat himself judges nobody, for
    /// the others cannot either.
    fn holds_out(&mut self, error: &DbError) {
        self.s.connectivity.failed("presence", error, true);
        self.watch = Watch::default();
    }

    async fn tick(&mut self, line: &mut Line) -> Result<Option<Ended>, DbError> {
        let Some(me) = self.me else { return Ok(Some(Ended::TakenOver)) };
        let asked = Instant::now();
        self.s.pulse.beat();
        let beat = self.beaten.is_none_or(|at| at.elapsed() >= self.beat_every());
        let seen = match within(TICK_ANSWERS, self.look(line, beat)).await {
            Err(error) if error.lack().is_some() => {
                self.holds_out(&error);
                within(TICK_ANSWERS, server::answers(&mut *line)).await?;
                return Ok(None);
            }
            seen => seen?,
        };
        let Some(own) = seen.iter().find(|s| s.worker == me.worker) else { return Ok(Some(Ended::TakenOver)) };
        self.stands(line, me, asked).await?;
        if line.holds() && !(own.locked_by_me && own.marked) {
            within(REGISTRATION_ANSWERS, lock(line, me)).await?;
        }
        let plan = self.digest(&seen);
        self.follow(line, plan).await?;
        Ok(None)
    }

    /// Three heartbeats fit into a lease. Less half a tick: a tick that comes a little early is not to wait for the next.
    fn beat_every(&self) -> Duration {
        let lease = Duration::from_millis(u64::try_from(self.s.registration.lease_ms).unwrap_or(0));
        (lease / 3).min(BEAT_EVERY).saturating_sub(TICK / 2)
    }

    async fn look(&mut self, line: &mut Line, beat: bool) -> Result<Vec<Seen>, DbError> {
        let Some(me) = self.me else { return Ok(Vec::new()) };
        let stopping = *self.orders.borrow() != Order::Serve;
        let asked = Instant::now();
        let facts = if beat { serde_json::json!(facts()) } else { serde_json::Value::Null };
        let seen = liveness::tick(&mut *line, me.worker, beat, &facts, stopping).await?;
        if let Some(first) = seen.first() {
            self.s.clock.set(first.now);
        }
        if beat {
            self.beaten = Some(asked);
        }
        Ok(seen)
    }

    fn digest(&mut self, seen: &[Seen]) -> Plan {
        let Some(me) = self.me else { return Plan::default() };
        let sightings: Vec<Sighting> = seen
            .iter()
            .map(|s| Sighting {
                worker: s.worker,
                beat: s.beat,
                lease: Duration::from_millis(u64::try_from(s.lease_ms).unwrap_or(0)),
                locked: s.locked,
                marked: s.marked,
            })
            .collect();
        self.watch.look(me.worker, &sightings, self.birth.elapsed())
    }

    /// Looks again where the plan says so, and reports who is dead.
    async fn follow(&mut self, line: &mut Line, mut plan: Plan) -> Result<(), DbError> {
        if plan.look_again {
            tokio::time::sleep(CONFIRM).await;
            let seen = within(TICK_ANSWERS, self.look(line, false)).await?;
            plan.suspects.extend(self.digest(&seen).suspects);
        }
        for suspect in plan.suspects {
            let now = Instant::now();
            let fresh = self.reported.get(&suspect.worker).is_none_or(|at| now - *at > TICK);
            if fresh && self.s.suspects.try_send(suspect).is_ok() {
                self.reported.insert(suspect.worker, now);
            }
        }
        self.reported.retain(|_, at| at.elapsed() < Duration::from_secs(60));
        Ok(())
    }

    async fn leave(&mut self, line: &mut Line) {
        self.s.gate.shut();
        self.standing.send_replace(Standing::Absent);
        if let Some(me) = self.me.take()
            && let Err(error) = within(REGISTRATION_ANSWERS, liveness::deregister(&mut *line, me.worker)).await
        {
            tracing::debug!(%error, "the registration could not be ended; the others will find it");
        }
    }
}

fn is_there(me: Registered, seen: &[Seen]) -> bool {
    seen.iter().any(|s| s.worker == me.worker)
}

/// Takes the lock, and marks that it is held. False when another session has it, and keeps it, or where no lock holds; then no
/// marker stands.
async fn lock(line: &mut Line, me: Registered) -> Result<bool, DbError> {
    // In line: when an earlier session of this worker ends meanwhile, nobody sees the lock free.
    let locked = line.holds()
        && (liveness::lock(&mut *line, me.number).await? || liveness::await_lock(&mut *line, me.number).await?);
    match locked {
        true => liveness::mark(&mut *line, me.worker).await?,
        false => liveness::unmark(&mut *line, me.worker).await?,
    }
    Ok(locked)
}

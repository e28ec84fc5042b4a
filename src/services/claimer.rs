//! Claims runs ahead of the free slots.
//!
//! The ready lane is read from a low watermark per (queue, priority), so that a claim never walks what is finished. A
//! look, twice a second at most while there is work, finds what was committed late below the watermark, and new pairs; it
//! leaves out what can hold nothing any more (`rules::horizon`). Hints wake the claimer early; the poll is the truth.

mod rate;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::db::claims::{self, ClaimRequest, ClaimedRow};
use crate::db::{Database, DbError, within};
use crate::engine::Gate;
use crate::model::WorkerId;
use crate::rules::horizon::{Horizon, Pair, Place};
use crate::telemetry::metrics::Metrics;
use crate::testing::Failpoints;

use super::catalog::Catalog;
use super::connectivity::Connectivity;
use super::presence::Presence;
use super::progress::Pulse;
use super::runs::Runs;
use super::shared::{Backoff, Hints, Stop, stopped};

use rate::Rate;

/// The poll that bounds every wake-up.
const POLL: Duration = Duration::from_secs(2);

/// Looks are at least this far apart while there is work …
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// … and take at most this share of the time.
const LOOK_SHARE: u32 = 20;

/// The buffer ahead of the slots holds what is started in this time: a worker of slow runs keeps none back from others.
const AHEAD: Duration = Duration::from_millis(50);

/// The buffer never holds more, and no claim asks for more.
const MAX_AHEAD: usize = 1_000;

/// What has not started after this long is given back.
const BUFFER_FOR: Duration = Duration::from_millis(500);

/// A look that made way for a pickup follows after this time.
const AFTER_PICKUP: Duration = Duration::from_millis(5);

/// A net under everything else: runs that the database gives to this worker, and that it does not have, are given back.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Pairs that one claim asks for: enough to fill it, however many there are.
const MAX_ASKED: usize = 256;

/// Empty pairs that a claim asks for, too. Each costs it about 10 µs; past some dozens a look is the faster way to a new job.
const MAX_EMPTY: usize = 64;

/// The claimer's session: one plan for every claim.
const SESSION: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    // A plan that is made while the tables are empty must serve when they are full: from place to place along an index, and never
    // all that an index holds, to be sorted (measured beside 10,000 queues: a look of 142 s).
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("lock_timeout", "2s"),
    ("statement_timeout", "10s"),
];

/// The server ends a statement of the claimer after 10 s, and says so. Who says nothing for longer is not there.
const ANSWERS: Duration = Duration::from_secs(12);

/// Below every row of the ready lane.
const BOTTOM: Place = (DateTime::<Utc>::UNIX_EPOCH, Uuid::nil());

/// The claimer.
pub struct Claimer {
    /// The database.
    pub db: Database,
    /// Under which registration.
    pub presence: Presence,
    /// The executor.
    pub runs: Arc<Runs>,
    /// What claims pin.
    pub catalog: Arc<Catalog>,
    /// Where wake-ups come from.
    pub hints: Arc<Hints>,
    /// Where to say that Postgres is away.
    pub connectivity: Arc<Connectivity>,
    /// Where claims are counted.
    pub metrics: Arc<Metrics>,
    /// Shut while the leases are in doubt.
    pub gate: Gate,
    /// The queues served; `None`: all that are not exclusive.
    pub serves: Option<Vec<String>>,
    /// Proof that it turns.
    pub pulse: Arc<Pulse>,
    /// For tests.
    pub failpoints: Failpoints,
}

/// What a claim has taken.
#[derive(Clone, Copy)]
struct Taken {
    all: usize,
    /// Those of them that came back.
    back: usize,
}

struct Position {
    /// What the last look has shown, and the looks before.
    horizon: Horizon,
    /// Pairs that have work, as far as is known; which one comes first is rotated from claim to claim.
    pairs: Vec<Pair>,
    /// Pairs that had work, the latest first: the next job is likely to come there.
    empty: Vec<Pair>,
    marks: HashMap<Pair, Place>,
    looked: Option<Instant>,
    look_cost: Duration,
    claimed_at: Option<Instant>,
    rotation: usize,
    rate: Rate,
    /// Something came back, or may have: the next claim is worth its statement.
    back: bool,
    /// A run must be run alone.
    solo: bool,
    emptying: bool,
    /// A claim had no answer: what it took is not known.
    unsure: bool,
    /// When the database was last asked what this worker holds.
    checked: Instant,
}

impl Claimer {
    /// Runs until the stop.
    pub async fn run(self, mut stop: Stop) {
        let mut backoff = Backoff::default();
        let mut conn: Option<PgConnection> = None;
        let mut p = Position::new();
        loop {
            // For a registration, and for the gate, it may wait as long as Postgres is away.
            self.pulse.rest();
            let worker = tokio::select! {
                () = stopped(&mut stop) => break,
                worker = self.presence.present() => worker,
            };
            tokio::select! {
                () = stopped(&mut stop) => break,
                () = self.gate.opened() => {}
            }
            self.pulse.beat();
            let pause = match self.turn(&mut conn, &mut p, worker).await {
                Ok(pause) => {
                    backoff.reset();
                    pause
                }
                Err(error) => {
                    self.connectivity.failed("claimer", &error, conn.is_none());
                    // The outcome is unknown: the next turn asks what the claim has taken.
                    conn = None;
                    p.looked = None;
                    p.horizon = Horizon::default();
                    p.unsure = true;
                    backoff.pause()
                }
            };
            if pause.is_zero() {
                if *stop.borrow() {
                    break;
                }
                continue;
            }
            tokio::select! {
                () = stopped(&mut stop) => break,
                () = self.hints.claim.notified() => p.back = true,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.connectivity.forget("claimer");
        if let Some(conn) = conn {
            let _ = conn.close().await;
        }
    }

    /// One turn: look if it is time, claim if there is room. Returns how long to wait for a hint.
    async fn turn(
        &self,
        conn: &mut Option<PgConnection>,
        p: &mut Position,
        worker: WorkerId,
    ) -> Result<Duration, DbError> {
        p.rate.update(self.runs.started(), self.runs.taken());
        let n = self.runs.give_back_waiting(BUFFER_FOR);
        if n > 0 {
            tracing::debug!(n, "gave back runs that waited for a slot");
        }
        let busy = p.claimed_at.is_some_and(|at| at.elapsed() < POLL);
        let overdue = p
            .looked
            .is_none_or(|at| at.elapsed() >= if busy { LOOK_EVERY.max(p.look_cost * LOOK_SHARE) } else { POLL });
        let eager = overdue && self.picks_up_first(p);
        let look_due = overdue && !eager;
        let conn = self.connected(conn).await?;
        if p.unsure || p.checked.elapsed() > CHECK_EVERY {
            // Known before the database is asked: what ends meanwhile is no longer known, and was not unknown.
            let known = self.runs.known();
            let held = within(ANSWERS, claims::held_by(conn, worker)).await?;
            let n = self.runs.give_back_unknown(worker, &held, &known);
            if n > 0 {
                tracing::info!(n, "gave back runs whose claim had no answer");
            }
            p.unsure = false;
            p.checked = Instant::now();
        }
        let mut found_by_look = false;
        if look_due {
            self.look(conn, p).await?;
            found_by_look = p.back || p.solo || !p.pairs.is_empty();
        }
        if p.solo && self.solo(conn, p, worker).await? {
            return Ok(Duration::from_millis(20));
        }
        if !p.solo && p.emptying {
            // Somebody else was empty first.
            p.emptying = false;
            self.runs.reopen();
        }
        let ahead = p.rate.ahead();
        let room = self.runs.room() + ahead.saturating_sub(self.runs.buffered());
        if room == 0 || (ahead > 0 && self.runs.buffered() > ahead / 2) {
            return Ok(BUFFER_FOR);
        }
        if look_due && !found_by_look {
            self.connectivity.back("claimer");
            return Ok(self.idle_pause(p));
        }
        let want = room.min(MAX_AHEAD);
        let taken = self.claim(conn, p, worker, want).await?;
        if p.has_more(taken, want) {
            return Ok(Duration::ZERO);
        }
        if taken.all == 0 && !look_due && p.back {
            // Hinted, and nothing where work was known: it is in a new place.
            if self.newest(conn, p).await? {
                p.back = false;
                return Ok(Duration::ZERO);
            }
            // A hint that comes too soon after a look is kept until the next look may be.
            let soon = (p.look_cost * LOOK_SHARE).saturating_sub(p.looked.map_or(POLL, |at| at.elapsed()));
            if !soon.is_zero() {
                return Ok(soon.min(POLL));
            }
            // Its transaction may have been open for long.
            p.back = false;
            self.look(conn, p).await?;
            if p.back || !p.pairs.is_empty() {
                let taken = self.claim(conn, p, worker, want).await?;
                p.back = false;
                return Ok(if p.has_more(taken, want) { Duration::ZERO } else { self.idle_pause(p) });
            }
        }
        p.back = false;
        Ok(if eager { AFTER_PICKUP } else { self.idle_pause(p) })
    }

    /// An idle worker that is hinted claims where work was known, and looks right after: the look does not delay the
    /// pickup. Never later than the poll.
    fn picks_up_first(&self, p: &Position) -> bool {
        p.back
            && !p.solo
            && !(p.pairs.is_empty() && p.empty.is_empty())
            && p.looked.is_some_and(|at| at.elapsed() < POLL)
            && self.runs.is_empty()
    }

    fn idle_pause(&self, p: &Position) -> Duration {
        if p.claimed_at.is_some_and(|at| at.elapsed() < POLL) { LOOK_EVERY } else { POLL }
    }

    async fn connected<'c>(&self, conn: &'c mut Option<PgConnection>) -> Result<&'c mut PgConnection, DbError> {
        match conn {
            Some(conn) => Ok(conn),
            None => {
                let fresh = self.db.connect("claimer", &SESSION).await?;
                Ok(conn.insert(fresh))
            }
        }
    }

    async fn look(&self, conn: &mut PgConnection, p: &mut Position) -> Result<(), DbError> {
        let began = Instant::now();
        let look = within(ANSWERS, claims::look(conn, self.serves.as_deref(), &p.horizon.floors())).await?;
        p.horizon.saw(look.at, look.writers, &look.pairs);
        // Smoothed: the first look on a new connection, with cold caches, is no measure.
        p.look_cost = (p.look_cost * 3 + began.elapsed()) / 4;
        p.looked = Some(Instant::now());
        p.back |= look.back;
        p.solo = look.solo;
        self.hints.set_held(look.held);
        if look.due || look.held {
            self.hints.stage.notify_one();
        }
        // A claim need not walk again what the look has walked. A pair without rows keeps its mark; what is committed below
        // a mark from now on is found by the next look.
        let seen: HashSet<Pair> = look.mine.iter().map(|(pair, _)| pair.clone()).collect();
        p.now_empty();
        p.empty.retain(|pair| !seen.contains(pair));
        p.empty.truncate(MAX_EMPTY);
        p.pairs = look.mine.iter().map(|(pair, _)| pair.clone()).collect();
        p.marks.extend(look.mine);
        let kept: HashSet<&Pair> = p.pairs.iter().chain(&p.empty).collect();
        p.marks.retain(|pair, _| kept.contains(pair));
        Ok(())
    }

    /// Are there newest jobs, which the last look has not seen?
    async fn newest(&self, conn: &mut PgConnection, p: &mut Position) -> Result<bool, DbError> {
        let Some(from) = p.horizon.looked_at() else { return Ok(false) };
        let found = within(ANSWERS, claims::newest(conn, from, self.serves.as_deref())).await?;
        let any = !found.is_empty();
        for (pair, place) in found {
            p.empty.retain(|known| *known != pair);
            if !p.pairs.contains(&pair) {
                p.pairs.push(pair.clone());
            }
            // What an admission has let go of has an older id than the newest, and may come before them in the index: but not before
            // the last look, which has found this pair empty.
            let place = place.min((from, BOTTOM.1));
            let mark = p.marks.entry(pair).or_insert(place);
            *mark = place.min(*mark);
        }
        Ok(any)
    }

    async fn claim(
        &self,
        conn: &mut PgConnection,
        p: &mut Position,
        worker: WorkerId,
        want: usize,
    ) -> Result<Taken, DbError> {
        let definitions = self.catalog.present();
        let pairs = p.in_turn();
        let req = ClaimRequest {
            worker,
            want: i64::try_from(want).unwrap_or(i64::MAX),
            definitions: &definitions,
            serves: self.serves.as_deref(),
            pairs: &pairs,
        };
        self.failpoints.hit("claimer.before_claim").await;
        let began = Instant::now();
        let rows = within(ANSWERS, claims::claim(conn, &req)).await?;
        self.connectivity.back("claimer");
        self.count(&rows, began.elapsed());
        let taken = Taken { all: rows.len(), back: rows.iter().filter(|r| r.place.is_none()).count() };
        if taken.all < want {
            p.drained(&pairs);
        }
        if taken.all > 0 {
            self.failpoints.hit("claimer.after_claim").await;
            p.claimed_at = Some(Instant::now());
            p.advance(&rows);
            self.runs.accept(rows.into_iter().map(|r| r.claimed), p.rate.ahead() / 2);
        }
        Ok(taken)
    }

    fn count(&self, rows: &[ClaimedRow], took: Duration) {
        let claims = &self.metrics.claims;
        claims.duration.took(took);
        for of_one in rows.chunk_by(|a, b| a.claimed.queue == b.claimed.queue) {
            let queue = claims.queue(&of_one[0].claimed.queue);
            queue.runs.inc_by(of_one.len() as u64);
            // A run that comes back has its first claim behind it.
            for (ready_at, claimed) in of_one.iter().filter_map(|r| Some((r.place.as_ref()?.1.0, &r.claimed))) {
                queue.waits.took((claimed.started_at - ready_at).to_std().unwrap_or_default());
            }
        }
    }

    /// A run that has killed several workers is run alone. True while this worker is emptying itself, or runs it.
    async fn solo(&self, conn: &mut PgConnection, p: &mut Position, worker: WorkerId) -> Result<bool, DbError> {
        if !self.runs.is_empty() {
            if !p.emptying {
                if !within(ANSWERS, claims::reserve_solo(conn, worker, self.serves.as_deref())).await? {
                    p.solo = false;
                    return Ok(false);
                }
                p.emptying = true;
                tracing::info!(
                    "a run that has killed several workers waits to be run alone: claiming nothing until this worker is empty"
                );
                self.runs.close();
            }
            return Ok(true);
        }
        let definitions = self.catalog.present();
        let req =
            ClaimRequest { worker, want: 1, definitions: &definitions, serves: self.serves.as_deref(), pairs: &[] };
        let row = within(ANSWERS, claims::claim_solo(conn, &req)).await?;
        p.emptying = false;
        self.runs.reopen();
        let Some(row) = row else {
            p.solo = false;
            return Ok(false);
        };
        tracing::warn!(run.id = %row.claimed.lease.run(), streak = row.claimed.streak, "running alone: this run has killed several workers");
        self.metrics.claims.queue(&row.claimed.queue).runs.inc();
        self.runs.accept([row.claimed], 0);
        // However long that run takes.
        self.pulse.rest();
        self.runs.emptied().await;
        p.looked = None;
        Ok(true)
    }
}

impl Position {
    fn new() -> Self {
        Self {
            horizon: Horizon::default(),
            pairs: Vec::new(),
            empty: Vec::new(),
            marks: HashMap::new(),
            looked: None,
            look_cost: Duration::ZERO,
            claimed_at: None,
            rotation: 0,
            rate: Rate::new(),
            back: true,
            solo: false,
            emptying: false,
            unsure: false,
            checked: Instant::now(),
        }
    }

    /// What a claim asks for, by priority; among equals another queue comes first each time, so that none starves the others.
    fn in_turn(&mut self) -> Vec<(Pair, Place)> {
        self.rotation = self.rotation.wrapping_add(1);
        let n = self.pairs.len().max(1);
        let mut turns: Vec<(i16, usize, &Pair)> =
            self.pairs.iter().enumerate().map(|(i, pair)| (pair.1, (i + self.rotation) % n, pair)).collect();
        if turns.len() > MAX_ASKED {
            turns.select_nth_unstable(MAX_ASKED);
            turns.truncate(MAX_ASKED);
        }
        turns.extend(self.empty.iter().take(MAX_EMPTY).map(|pair| (pair.1, n, pair)));
        turns.sort_unstable();
        let place = |pair| self.marks.get(pair).copied().unwrap_or(BOTTOM);
        turns.into_iter().map(|(.., pair)| (pair.clone(), place(pair))).collect()
    }

    /// Is there more to be claimed at once? A claim that is full says so, also where it is its share for what comes back that is full
    /// (`claim.sql`); and there may be more pairs than one claim asks for.
    fn has_more(&self, taken: Taken, want: usize) -> bool {
        taken.all == want || taken.back >= want - want / 4 || !self.pairs.is_empty()
    }

    /// A claim has taken all that these pairs had.
    fn drained(&mut self, asked: &[(Pair, Place)]) {
        let asked: HashSet<&Pair> = asked.iter().map(|(pair, _)| pair).collect();
        let (empty, rest) = self.pairs.drain(..).partition(|pair| asked.contains(pair));
        self.pairs = rest;
        self.forget_until_seen(empty);
    }

    /// The pairs that were known to have work are not any more.
    fn now_empty(&mut self) {
        let pairs = std::mem::take(&mut self.pairs);
        self.forget_until_seen(pairs);
    }

    fn forget_until_seen(&mut self, pairs: Vec<Pair>) {
        self.empty.splice(0..0, pairs);
    }

    fn advance(&mut self, rows: &[ClaimedRow]) {
        for (pair, place) in rows.iter().filter_map(|r| r.place.as_ref()) {
            let mark = self.marks.entry(pair.clone()).or_insert(BOTTOM);
            *mark = (*mark).max(*place);
        }
    }
}

//! Claims runs ahead of the free slots.
//!
//! The ready lane is read from a low watermark per (queue, priority), so that a claim never walks what is finished. A
//! look, twice a second at most while there is work, finds what was committed late below the watermark, and new pairs; it
//! leaves out what can hold nothing any more (`rules::horizon`). Hints wake the claimer early; the poll is the truth.

mod position;
mod rate;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::db::claims::{self, ClaimRequest, ClaimedRow};
use crate::db::{Database, DbError, Trouble, within};
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

use position::{Position, Taken};

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

/// … and take at most this share of the time: they walk past all that is queued.
const CHECK_SHARE: u32 = 200;

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
                    p.looked = None;
                    // Who was in the way, or out of time, has changed nothing, and what is known stays so: without it the next look
                    // would walk every dead row, and be out of time again.
                    if error.trouble != Trouble::Busy {
                        // The outcome is unknown: the next turn asks what the claim has taken.
                        conn = None;
                        p.horizon = Horizon::default();
                        p.unsure = true;
                    }
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
        let returned = self.runs.give_back_waiting(BUFFER_FOR);
        if returned > 0 {
            tracing::debug!(n = returned, "gave back runs that waited for a slot");
            p.rate.has_fallen();
        }
        let busy = p.claimed_at.is_some_and(|at| at.elapsed() < POLL);
        let overdue = p
            .looked
            .is_none_or(|at| at.elapsed() >= if busy { LOOK_EVERY.max(p.look_cost * LOOK_SHARE) } else { POLL });
        let eager = overdue && self.picks_up_first(p);
        let look_due = overdue && !eager;
        let conn = self.connected(conn).await?;
        if p.unsure && !p.dear || p.checked.elapsed() > CHECK_EVERY.max(p.check_cost * CHECK_SHARE) {
            self.check(conn, p, worker).await?;
        }
        let mut found_by_look = false;
        if look_due {
            self.look(conn, p).await?;
            found_by_look = p.back || p.solo || !p.pairs.is_empty();
        }
        // Who claims nothing for now, however long that takes, has the look alone to know by that Postgres is back.
        let claims_nothing = || {
            if look_due {
                self.connectivity.back("claimer");
            }
        };
        if p.solo && self.solo(conn, p, worker).await? {
            claims_nothing();
            return Ok(Duration::from_millis(20));
        }
        if !p.solo && p.emptying {
            // Somebody else was empty first.
            p.emptying = false;
            self.runs.reopen();
        }
        let ahead = if returned > 0 { 0 } else { p.rate.ahead() };
        let room = self.runs.room() + ahead.saturating_sub(self.runs.buffered());
        if room == 0 || (ahead > 0 && self.runs.buffered() > ahead / 2) {
            claims_nothing();
            return Ok(BUFFER_FOR);
        }
        if look_due && !found_by_look {
            claims_nothing();
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

    /// Gives back what the database says that this worker has, and it has not.
    async fn check(&self, conn: &mut PgConnection, p: &mut Position, worker: WorkerId) -> Result<(), DbError> {
        // Known before the database is asked: what ends meanwhile is no longer known, and was not unknown.
        let known = self.runs.known();
        let asked = Instant::now();
        let held = within(ANSWERS, claims::held_by(conn, worker)).await;
        p.checked = Instant::now();
        p.check_cost = asked.elapsed();
        match held {
            Ok(held) => {
                let n = self.runs.give_back_unknown(worker, &held, &known);
                if n > 0 {
                    tracing::info!(n, "gave back runs whose claim had no answer");
                }
                (p.unsure, p.dear) = (false, false);
                Ok(())
            }
            // It reads all that is ready or running, and the dead rows among them. Claims go on meanwhile.
            Err(error) if error.trouble == Trouble::Busy => {
                tracing::debug!(%error, "what this worker holds could not be read in time; asking again later");
                p.dear = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
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
        let new = p.places_for_new(want);
        let req = ClaimRequest {
            worker,
            want: i64::try_from(want).unwrap_or(i64::MAX),
            new: i64::try_from(new).unwrap_or(i64::MAX),
            definitions: &definitions,
            serves: self.serves.as_deref(),
            pairs: &pairs,
        };
        self.failpoints.hit("claimer.before_claim").await;
        let began = Instant::now();
        let rows = within(ANSWERS, claims::claim(conn, &req)).await?;
        self.connectivity.back("claimer");
        self.count(&rows, began.elapsed());
        let back = rows.iter().filter(|r| r.place.is_none()).count();
        let taken = Taken { all: rows.len(), full: back > 0 && back >= want - new };
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
        let req = ClaimRequest {
            worker,
            want: 1,
            new: 0,
            definitions: &definitions,
            serves: self.serves.as_deref(),
            pairs: &[],
        };
        let row = within(ANSWERS, claims::claim_solo(conn, &req)).await?;
        self.connectivity.back("claimer");
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

//! What must hold whatever the order: while the sessions play, and when all is over.

use sqlx::{PgConnection, Row as _};
use stepd::model::WorkerId;
use stepd::rules::state::Fence;
use uuid::Uuid;

use super::op::{LAST, Op, RUN, Said};
use super::scene::Scene;

/// How the run stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    rows: i64,
    ended: bool,
    state: String,
    epoch: i32,
    worker: Option<Uuid>,
    /// Is its worker registered?
    held: bool,
    asked: Option<String>,
    /// Finished steps with their outputs.
    checkpoints: Vec<String>,
    ask: String,
    hear: String,
    /// A step waits for what is kept already.
    missed: bool,
    effects: i64,
    take_overs: Vec<i32>,
    cancelled: i64,
    revived: i64,
    quarantined: bool,
    /// Rows that only keep its unique key.
    tombs: i64,
    /// Other jobs with its unique key.
    others: i64,
    /// How many hold a place of its concurrency key.
    active: i64,
}

const SNAPSHOT: &str = "
    WITH run AS (
        SELECT false AS ended, state::text, epoch, worker FROM stepd.jobs WHERE id = $1 AND state NOT IN ('completed', 'failed', 'cancelled')
        UNION ALL SELECT true, state::text, epoch, worker FROM stepd_engine.ended WHERE id = $1
    ), steps AS (SELECT * FROM stepd_engine.checkpoints WHERE run = $1), trail AS (SELECT * FROM stepd_engine.events WHERE run = $1)
    SELECT (SELECT count(*) FROM run) AS rows, bool_or(ended) AS ended, max(state) AS state, max(epoch) AS epoch, (array_agg(worker))[1] AS worker,
        EXISTS (SELECT FROM stepd_engine.workers w WHERE w.id IN (SELECT worker FROM run)) AS held,
        (SELECT min(kind) FROM stepd_engine.signals WHERE run = $1 AND kind IN ('cancel', 'pause')) AS asked,
        ARRAY(SELECT format('%s %s %s', key, epoch, output) FROM steps WHERE checkpoint ORDER BY key) AS checkpoints,
        coalesce((SELECT state::text FROM steps WHERE key = 'ask'), '') AS ask,
        coalesce((SELECT state::text FROM steps WHERE key = 'hear'), '') AS hear,
        EXISTS (SELECT FROM steps WHERE key = 'hear' AND state = 'waiting')
            AND EXISTS (SELECT FROM stepd_engine.signals WHERE kind IN ('signal', 'event') AND taken_by IS NULL) AS missed,
        (SELECT count(*) FROM public.effects) AS effects,
        ARRAY(SELECT epoch FROM trail WHERE kind IN ('crashed', 'taken_over')) AS take_overs,
        (SELECT count(*) FROM trail WHERE kind = 'cancelled') AS cancelled,
        (SELECT count(*) FROM trail WHERE kind = 'retried' AND data::jsonb ->> 'from' = 'failed') AS revived,
        EXISTS (SELECT FROM stepd_engine.ended WHERE id = $1 AND error LIKE '%crash_loop%') AS quarantined,
        (SELECT count(*) FROM stepd.jobs WHERE id = $1 AND state IN ('completed', 'failed', 'cancelled')) AS tombs,
        (SELECT count(*) FROM stepd.jobs WHERE id <> $1 AND unique_key = 'k') AS others,
        (SELECT count(*) FROM stepd.jobs WHERE concurrency_key = '*' AND state IN ('queued', 'running', 'resuming')) AS active
    FROM run";

impl Snapshot {
    pub async fn take(conn: &mut PgConnection) -> Self {
        let r = sqlx::query(SNAPSHOT).bind(RUN).fetch_one(conn).await.unwrap();
        Self {
            rows: r.get("rows"),
            ended: r.get::<Option<bool>, _>("ended").unwrap_or(false),
            state: r.get::<Option<String>, _>("state").unwrap_or_default(),
            epoch: r.get::<Option<i32>, _>("epoch").unwrap_or(0),
            worker: r.get("worker"),
            held: r.get("held"),
            asked: r.get("asked"),
            checkpoints: r.get("checkpoints"),
            ask: r.get("ask"),
            hear: r.get("hear"),
            missed: r.get("missed"),
            effects: r.get("effects"),
            take_overs: r.get("take_overs"),
            cancelled: r.get("cancelled"),
            revived: r.get("revived"),
            quarantined: r.get("quarantined"),
            tombs: r.get("tombs"),
            others: r.get("others"),
            active: r.get("active"),
        }
    }

    fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// Watches one order.
pub struct Judge {
    scene: Scene,
    first: Snapshot,
    last: Snapshot,
    news: bool,
    /// What has been committed, each with the lease of its session.
    ledger: Vec<(Op, Said, Fence)>,
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Judge {
    pub fn new(scene: Scene, first: Snapshot) -> Self {
        Self { scene, last: first.clone(), first, news: false, ledger: Vec::new() }
    }

    pub fn has_news(&self) -> bool {
        self.news
    }

    pub fn committed(&mut self, said: Vec<(Op, Said)>, lease: Fence) {
        self.news = true;
        self.ledger.extend(said.into_iter().map(|(op, said)| (op, said, lease)));
    }

    /// The engine never waits for an open transaction of somebody outside.
    pub fn waits(&self, op: Op, by: &[Op]) -> Result<(), String> {
        let outside = by.iter().find(|other| other.is_outside());
        match outside {
            Some(other) if op.is_engine() => Err(format!("{op:?} waits for an open {other:?}")),
            _ => Ok(()),
        }
    }

    fn done(&self, which: impl Fn(Op) -> bool) -> usize {
        self.ledger.iter().filter(|(op, said, _)| which(*op) && said.is_done()).count()
    }

    /// What is seen when every session has come as far as it can.
    pub fn look(&mut self, now: Snapshot) -> Result<(), String> {
        self.news = false;
        let was = std::mem::replace(&mut self.last, now.clone());
        must(now.rows == 1, || format!("the run is in {} tables", now.rows))?;
        must(now.epoch >= was.epoch, || format!("the epoch fell from {} to {}", was.epoch, now.epoch))?;
        let changed_hands = now.is_running() && now.worker != was.worker;
        must(!changed_hands || now.epoch > was.epoch, || "the run changed hands under one epoch".to_owned())?;
        let same = (&now.state, now.epoch) == (&was.state, was.epoch);
        must(!was.ended || same || now.revived > was.revived, || format!("{} became {}", was.state, now.state))?;
        let kept = was.checkpoints.iter().all(|c| now.checkpoints.contains(c));
        must(kept, || format!("checkpoints {:?} became {:?}", was.checkpoints, now.checkpoints))?;
        must(now.active <= 1, || format!("{} hold the one place of the key", now.active))?;
        self.key_is_kept(&now)?;
        let by_sql = now.checkpoints.iter().any(|c| c.contains("\"sql\""));
        must(now.effects == i64::from(by_sql), || format!("{} effects, checkpoints {:?}", now.effects, now.checkpoints))
    }

    /// Of a unique key that outlives its run there is one row at any time: the run's, or its tombstone's until that one's time is over.
    fn key_is_kept(&self, now: &Snapshot) -> Result<(), String> {
        let wanted = i64::from(self.scene.keeps() && now.ended);
        let may_be_over = self.scene == Scene::Stale && now.revived == 0;
        must(now.tombs == wanted || may_be_over && now.tombs == 0, || {
            format!("{} tombstones, ended: {}", now.tombs, now.ended)
        })?;
        let free = now.ended && now.tombs == 0;
        must(!self.scene.keeps() || now.others == 0 || free, || format!("{} others have its key", now.others))
    }

    /// All sessions have ended: what they were told is true, and the run can be brought to its end.
    pub async fn end(mut self, conn: &mut PgConnection) -> Result<(), String> {
        self.told_the_truth().map_err(|what| format!("{what}; {:?} after {:?}", self.last, self.ledger))?;
        // Who held the place before it has ended.
        sqlx::query("DELETE FROM stepd.jobs WHERE concurrency_key = '*' AND id <> $1")
            .bind(RUN)
            .execute(&mut *conn)
            .await
            .unwrap();
        let known = format!("{:?}", self.ledger);
        self.close(conn).await.map_err(|what| format!("{what}; {:?} after {known}", self.last))
    }

    fn told_the_truth(&self) -> Result<(), String> {
        let now = &self.last;
        let claims = self.done(|op| matches!(op, Op::Claim(_) | Op::ClaimSolo(_)));
        let raised = usize::try_from(now.epoch - self.first.epoch).unwrap();
        must(raised == claims + now.take_overs.len(), || format!("{claims} claims, and the epoch rose by {raised}"))?;

        let others =
            usize::try_from(now.cancelled).unwrap() + usize::from(now.quarantined) + usize::from(self.first.ended);
        let ends = self.done(Op::ends) + others;
        let lives = usize::try_from(now.revived).unwrap() + usize::from(now.ended);
        must(ends == lives, || format!("{ends} ends were acknowledged, and {lives} are there"))?;

        for epoch in self.first.epoch..=now.epoch {
            let left = self
                .ledger
                .iter()
                .filter(|(op, said, by)| op.leaves() && *said == Said::Held(true) && by.epoch == epoch);
            let left = left.count() + now.take_overs.iter().filter(|e| **e == epoch).count();
            must(left <= 1, || format!("the lease of epoch {epoch} ended {left} times"))?;
        }
        let recorded = self.done(|op| matches!(op, Op::Checkpoint | Op::Record | Op::SqlStep));
        let there = now.checkpoints.iter().any(|c| c.starts_with("s "));
        must((recorded > 0) == there, || format!("{recorded} checkpoints were acknowledged: {:?}", now.checkpoints))?;

        let taken = self.ledger.iter().filter_map(|(op, said, _)| match (op, said) {
            (Op::TakeOver(victim), Said::Taken(Some(locked))) => Some((*victim, *locked)),
            _ => None,
        });
        let taken: Vec<(WorkerId, i32)> = taken.collect();
        must(taken.len() <= 1, || "a worker was taken over twice".to_owned())?;
        let stranded = now.is_running() && !now.held;
        let may = self.scene == Scene::Stranded
            || taken.iter().any(|(_, locked)| *locked > 0)
            || self.done(|op| matches!(op, Op::Deregister(_))) > 0;
        must(!stranded || may, || "a run of a worker that is gone: nobody sweeps it".to_owned())?;

        let approved = self.done(|op| op == Op::Approve);
        let denied = self.done(|op| matches!(op, Op::Reject | Op::Expire));
        must(approved + denied <= 1, || format!("{approved} approvals and {denied} refusals of one question"))?;
        must(approved == 0 || now.ask == "completed", || format!("approved, and the step is {}", now.ask))?;
        must(denied == 0 || now.revived > 0 || now.ask == "failed", || {
            format!("refused, and the step is {}", now.ask)
        })?;
        let delivered = |s: &Said| *s == Said::Word("delivered".to_owned());
        let delivered = self.ledger.iter().filter(|(op, said, _)| *op == Op::Signal && delivered(said)).count();
        must(delivered <= 1, || format!("{delivered} signals answered one step"))?;
        must(delivered == 0 || now.hear == "completed", || {
            format!("a signal was delivered, and the step is {}", now.hear)
        })
    }

    /// A sweep, then everything that is still missing, until the run has ended.
    async fn close(&mut self, conn: &mut PgConnection) -> Result<(), String> {
        self.step(conn, Op::Repair, None).await?;
        self.nothing_is_lost()?;
        let held = |now: &Snapshot| Fence { worker: WorkerId(now.worker.unwrap_or_default()), epoch: now.epoch };
        for _ in 0..12 {
            let now = self.last.clone();
            if now.ended {
                let ended = self.done(|op| matches!(op, Op::Complete | Op::Fail)) > 0 || now.quarantined;
                let cancelled = self.done(|op| op == Op::Cancel) > 0 && now.revived == 0 && !ended;
                return must(!cancelled || now.state == "cancelled", || "a cancel was lost".to_owned());
            }
            match now.state.as_str() {
                "running" => {
                    let (op, by) = (self.wish(), Some(held(&now)));
                    let said = self.step(conn, op, by).await?;
                    must(said == Said::Held(true), || format!("the holder's {op:?} was refused"))?;
                }
                "paused" => drop(self.step(conn, Op::Unpause, None).await?),
                "resuming" => drop(self.step(conn, Op::Retry, None).await?),
                "scheduled" => drop(self.step(conn, Op::Stage, None).await?),
                "waiting" => {
                    self.step(conn, Op::Stage, None).await?;
                    let op = match (self.last.state.as_str(), self.last.ask.as_str(), self.last.hear.as_str()) {
                        ("waiting", "waiting", _) => Op::Approve,
                        ("waiting", _, "waiting") => Op::Signal,
                        ("waiting", ..) => return Err("the run waits for nothing".to_owned()),
                        _ => continue,
                    };
                    self.step(conn, op, None).await?;
                    must(self.last.state != "waiting", || "an answer did not wake the run".to_owned())?;
                }
                _ => self.claim(conn).await?,
            }
        }
        Err("the run does not end".to_owned())
    }

    /// A queued or held run is claimed; where its queue is closed or limited, as soon as that is over.
    async fn claim(&mut self, conn: &mut PgConnection) -> Result<(), String> {
        let claims = [Op::Claim(LAST), Op::ClaimSolo(LAST)];
        for op in claims.into_iter().chain([Op::UnpauseQueue, Op::Admit, Op::Admit, Op::Admit]).chain(claims) {
            // To hold what is queued, to open the queue, to admit: a pass each, where a limit is new.
            if self.last.state == "queued" || op == Op::Admit || op == Op::UnpauseQueue {
                self.step(conn, op, None).await?;
            }
            if self.last.is_running() {
                return Ok(());
            }
        }
        Err("the run cannot be claimed".to_owned())
    }

    /// What the holder does when it has looked at the requests.
    fn wish(&self) -> Op {
        match self.last.asked.as_deref() {
            Some("cancel") => Op::Cancelled,
            Some(_) => Op::Paused,
            None => Op::Complete,
        }
    }

    fn nothing_is_lost(&self) -> Result<(), String> {
        let now = &self.last;
        must(now.ended || !now.is_running() || now.held, || {
            "the sweep left a run with a worker that is gone".to_owned()
        })?;
        must(now.ended || !now.missed, || "a step waits for what is kept already".to_owned())?;
        let paused = self.done(|op| op == Op::Pause) > 0 && self.done(|op| matches!(op, Op::Unpause | Op::Cancel)) == 0;
        let stands = now.state == "paused" || now.is_running() && now.asked.is_some();
        must(!paused || now.ended || now.revived > 0 || stands, || format!("a pause was lost: {}", now.state))
    }

    /// One more statement, alone.
    async fn step(&mut self, conn: &mut PgConnection, op: Op, by: Option<Fence>) -> Result<Said, String> {
        let mut lease = by.unwrap_or(Fence { worker: LAST, epoch: 0 });
        let said = op.run(conn, &mut lease).await;
        must(!matches!(said, Said::Error(_) | Said::Refused(_)), || format!("{op:?} afterwards: {said:?}"))?;
        let now = Snapshot::take(conn).await;
        self.look(now)?;
        Ok(said)
    }
}

//! What the checker knows: the witness files, the effects, and the public views, read once after the end.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use sqlx::Row as _;

use crate::arguments::Options;
use crate::cluster::{Cluster, Hit, Instance};
use crate::plan::Fault;
use crate::sampler::Samples;

pub struct Run {
    pub workflow: String,
    pub state: String,
    /// The number of the job that it was inserted by, or that of the parent's; none of a schedule's.
    pub n: Option<u64>,
    /// Of a child: is it waited for, or not?
    pub role: Option<String>,
    /// Is it made to fail?
    pub bad: bool,
    pub key: Option<String>,
    pub output: Option<String>,
    pub epoch: i32,
    pub created: f64,
    pub ended: Option<f64>,
    pub ended_text: Option<String>,
    pub unique_key: Option<String>,
    pub error: Option<String>,
    pub items: usize,
    /// For when it was asked, and since when it may be claimed.
    pub run_at: f64,
    pub ready: f64,
    pub started: bool,
}

pub struct Step {
    pub kind: String,
    pub state: String,
    pub checkpoint: bool,
    pub attempts: i32,
    pub epoch: i32,
    /// The order in which the run's steps began.
    pub seq: i32,
    /// What the step's own program said of itself: under which claim it ran, and when it had done its work.
    pub said: Option<(i32, f64)>,
}

/// A line of the audit trail that says that a claim ended before the run did.
pub struct Loss {
    pub run: String,
    pub at: f64,
    pub event: String,
    pub epoch: i32,
    /// Of a take-over: whose run it was, and how it was found out.
    pub worker: Option<String>,
    pub pid: Option<i32>,
    pub found_by: Option<String>,
}

impl Loss {
    pub fn is_take_over(&self) -> bool {
        matches!(self.event.as_str(), "crashed" | "taken over")
    }
}

/// One start of a step outside of Postgres.
pub struct Start {
    pub run: String,
    pub key: String,
    pub epoch: i32,
    pub attempt: i32,
    pub at: f64,
    /// When it had done its work, if it came to that.
    pub done: Option<f64>,
}

#[derive(Default)]
pub struct Record {
    pub tried: u64,
    pub acknowledged: BTreeMap<u64, String>,
    pub conflicts: Vec<u64>,
    pub runs: BTreeMap<String, Run>,
    pub steps: BTreeMap<(String, String), Vec<Step>>,
    /// The number of each, and why. (A step that was at work when its run was quarantined has no why.)
    pub failed_attempts: HashMap<(String, String), Vec<(i32, String)>>,
    pub losses: Vec<Loss>,
    /// Runs that an operator has taken up again after they had failed.
    pub retried: HashMap<String, usize>,
    pub effects: BTreeMap<(String, String), Vec<f64>>,
    pub starts: Vec<Start>,
    pub hits: Vec<Hit>,
    pub instances: Vec<Instance>,
    pub panics: Vec<String>,
    pub orphans: Vec<String>,
    pub surprises: Vec<String>,
    pub samples: Samples,
    pub lease: f64,
    /// No lock held: the daemons were behind a pooler.
    pub pooler: bool,
    pub workers: usize,
    /// Runs that had not ended when the wait for them was over, each with what `stepd.why` says.
    pub stuck: Vec<(String, String)>,
}

impl Record {
    /// Reads everything. The daemons are stopped.
    pub async fn read(cluster: &Cluster, samples: Samples, options: &Options) -> Self {
        let (lease, pooler) = (f64::from(options.lease), options.pooler);
        let mut record = Self { samples, lease, pooler, workers: cluster.workers(), ..Self::default() };
        {
            let notes = cluster.notes.lock().unwrap();
            record.hits.clone_from(&notes.hits);
            record.instances.clone_from(&notes.instances);
            record.panics.clone_from(&notes.panics);
            record.orphans.clone_from(&notes.orphans);
            record.surprises.clone_from(&notes.surprises);
        }
        record.enqueued(cluster);
        record.starts(cluster);
        record.runs(cluster).await;
        record.steps(cluster).await;
        record.trail(cluster).await;
        record
    }

    fn enqueued(&mut self, cluster: &Cluster) {
        for line in cluster.files.lines("enqueued") {
            let words: Vec<&str> = line.split(' ').collect();
            let n = words[1].parse().unwrap();
            match words[0] {
                "T" => self.tried += 1,
                "A" => drop(self.acknowledged.insert(n, words[2].to_owned())),
                _ => self.conflicts.push(n),
            }
        }
    }

    fn starts(&mut self, cluster: &Cluster) {
        let mut open: HashMap<(String, String, i32, i32), usize> = HashMap::new();
        for line in cluster.files.lines("witness") {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, run, key, epoch, attempt, at] = words[..] else { continue };
            let (epoch, attempt, at) = (epoch.parse().unwrap(), attempt.parse().unwrap(), at.parse().unwrap());
            let who = (run.to_owned(), key.to_owned(), epoch, attempt);
            if what == "S" {
                open.insert(who, self.starts.len());
                self.starts.push(Start { run: run.into(), key: key.into(), epoch, attempt, at, done: None });
            } else if let Some(start) = open.remove(&who) {
                self.starts[start].done = Some(at);
            }
        }
    }

    async fn runs(&mut self, cluster: &Cluster) {
        let rows = sqlx::query(
            "SELECT id::text, workflow, state::text, (input ->> 'n')::bigint, output::text, epoch, extract(epoch FROM created_at)::float8,
                extract(epoch FROM ended_at)::float8, ended_at::text, unique_key, concat_ws(': ', error_code, error_message),
                coalesce(jsonb_array_length(input -> 'items'), 0), CASE WHEN ended_at IS NULL THEN stepd.why(id) END, input ->> 'role',
                coalesce((input ->> 'bad')::boolean, false), input ->> 'key', extract(epoch FROM run_at)::float8, 
                (SELECT extract(epoch FROM e.ready_at)::float8 FROM stepd_engine.ended e WHERE e.id = r.id), started_at IS NOT NULL FROM stepd.runs r",
        );
        for r in rows.fetch_all(&cluster.db.pool).await.unwrap() {
            let id: String = r.get(0);
            if let Some(why) = r.get::<Option<String>, _>(12) {
                self.stuck.push((id.clone(), format!("{}: {why}", r.get::<String, _>(1))));
            }
            let run = Run {
                workflow: r.get(1),
                state: r.get(2),
                n: r.get::<Option<i64>, _>(3).map(|n| u64::try_from(n).unwrap()),
                role: r.get(13),
                bad: r.get(14),
                key: r.get(15),
                output: r.get(4),
                epoch: r.get(5),
                created: r.get(6),
                ended: r.get(7),
                ended_text: r.get(8),
                unique_key: r.get(9),
                error: r.get(10),
                items: usize::try_from(r.get::<i32, _>(11)).unwrap(),
                run_at: r.get::<Option<f64>, _>(16).unwrap_or_default(),
                ready: r.get::<Option<f64>, _>(17).unwrap_or_default(),
                started: r.get(18),
            };
            assert!(self.runs.insert(id.clone(), run).is_none(), "stepd.runs shows {id} twice");
        }
    }

    async fn steps(&mut self, cluster: &Cluster) {
        let rows = sqlx::query(
            "SELECT run::text, key, kind, state::text, checkpoint, attempts, epoch, output::text, seq FROM stepd.steps",
        );
        for r in rows.fetch_all(&cluster.db.pool).await.unwrap() {
            let output: Option<String> = r.get(7);
            let output: Option<Value> = output.and_then(|o| serde_json::from_str(&o).ok());
            let said = output.as_ref().and_then(|o| {
                let epoch = i32::try_from(o.get("epoch")?.as_i64()?).ok()?;
                Some((epoch, o.get("at")?.as_f64()?))
            });
            let step = Step {
                kind: r.get(2),
                state: r.get(3),
                checkpoint: r.get(4),
                attempts: r.get(5),
                epoch: r.get(6),
                seq: r.get(8),
                said,
            };
            self.steps.entry((r.get(0), r.get(1))).or_default().push(step);
        }
        let rows = sqlx::query(
            "SELECT run::text, key, attempt, concat_ws(': ', error_code, error_message) FROM stepd.attempts WHERE state = 'failed' AND error_code IS NOT NULL",
        );
        for r in rows.fetch_all(&cluster.db.pool).await.unwrap() {
            self.failed_attempts.entry((r.get(0), r.get(1))).or_default().push((r.get(2), r.get(3)));
        }
        let rows = sqlx::query("SELECT run, step, extract(epoch FROM at)::float8 FROM effects");
        for r in rows.fetch_all(&cluster.db.pool).await.unwrap() {
            self.effects.entry((r.get(0), r.get(1))).or_default().push(r.get(2));
        }
    }

    async fn trail(&mut self, cluster: &Cluster) {
        let rows = sqlx::query(
            "SELECT run::text, extract(epoch FROM at)::float8, event, coalesce(epoch, 0), data ->> 'worker', (data ->> 'pid')::integer,
                data ->> 'found_by', data ->> 'from'
             FROM stepd.history WHERE event IN ('crashed', 'taken over', 'released', 'retried') ORDER BY run, seq",
        );
        for r in rows.fetch_all(&cluster.db.pool).await.unwrap() {
            let (run, event): (String, String) = (r.get(0), r.get(2));
            if event == "retried" {
                *self.retried.entry(run).or_default() +=
                    usize::from(r.get::<Option<String>, _>(7).as_deref() == Some("failed"));
                continue;
            }
            let (worker, pid, found_by) = (r.get(4), r.get(5), r.get(6));
            self.losses.push(Loss { run, at: r.get(1), event, epoch: r.get(3), worker, pid, found_by });
        }
    }

    /// The daemon's process that a take-over speaks of.
    pub fn instance(&self, loss: &Loss) -> Option<&Instance> {
        let pid = loss.pid.or_else(|| self.samples.processes.get(loss.worker.as_ref()?).copied())?;
        self.instances.iter().rfind(|i| i.pid == pid && i.from <= loss.at)
    }

    /// Were sessions ended so often while the run lived that one of its statements may have lost six? Such a statement is taken to be
    /// to blame itself.
    pub fn storm(&self, run: &Run) -> bool {
        const SESSIONS: usize = 6;
        let ends = |h: &&Hit| {
            h.fault.is_of_postgres()
                || h.fault.is_of_a_line()
                || matches!(h.fault, Fault::Terminate | Fault::Cut | Fault::Silence | Fault::Delay)
        };
        let met = |h: &&Hit| h.to >= run.created && run.ended.is_none_or(|ended| h.from <= ended);
        self.hits.iter().filter(ends).filter(met).count() >= SESSIONS
    }

    /// Was an end seen that a lost host took along? A session that is ended while its commit waits for the standby has committed, and
    /// nobody was told; others see it, and the standby may not have it. (What a daemon was told it does not lose: it says so, which is a
    /// surprise here.)
    pub fn was_forgotten(&self, run: &str) -> bool {
        const UNTIL_THEN: f64 = 6.0;
        let Some((state, text)) = self.samples.ends.get(run) else { return false };
        let Some(now) = self.runs.get(run).filter(|now| now.state != *state || now.ended_text.as_ref() != Some(text))
        else {
            return false;
        };
        let Ok(at) = chrono::DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z") else { return false };
        #[allow(clippy::cast_precision_loss)]
        let at = at.timestamp_micros() as f64 / 1e6;
        let lost = |h: &&Hit| h.fault == Fault::Promote && h.from >= at - 0.1 && h.from <= at + UNTIL_THEN;
        now.ended.is_none_or(|again| again > at) && self.hits.iter().any(|h| lost(&h))
    }

    /// Was a fault of this kind under way while the run lived?
    pub fn met(&self, run: &Run, fault: Fault) -> bool {
        let met = |h: &&Hit| h.fault == fault && h.to >= run.created && run.ended.is_none_or(|ended| h.from <= ended);
        self.hits.iter().any(|h| met(&h))
    }

    /// Was its worker alive when it was taken over, with nothing between it and Postgres but that its session had to be made anew?
    pub fn is_of_a_living_worker(&self, loss: &Loss) -> bool {
        let lived = self.instance(loss).is_some_and(|instance| instance.to > loss.at);
        lived && self.cause(loss).is_none_or(Hit::is_end_of_presence)
    }

    /// What explains that a worker was taken to be dead: its end, or something that hid it from the others for long enough.
    pub fn cause(&self, loss: &Loss) -> Option<&Hit> {
        /// The server ends a silent session after 3 s, and the last tick may have been a second before the silence.
        const HIDDEN: f64 = 1.9;
        /// Between the end of the silence and the take-over: the others look each second, and then once more.
        const LATE: f64 = 2.0;
        /// After a line passes again: TCP sends again after pauses that have grown, and what is given up meanwhile is begun anew.
        const SENT_AGAIN: f64 = 4.0;
        /// From the beginning of a silence to the session that replaces the silent one: up to a second until the next tick, 1.5 s
        /// without its answer, and a moment for the new session.
        const MADE_ANEW: f64 = 2.8;
        let instance = self.instance(loss)?;
        let of_it = |h: &&Hit| h.slot == Some(instance.slot);
        if instance.to <= loss.at {
            return self
                .hits
                .iter()
                .filter(of_it)
                .rfind(|h| Some(h.fault) == instance.ended_by && (h.from - instance.to).abs() < 0.5);
        }
        let hides = |h: &&Hit| {
            let hides = h.fault.hides_a_worker() || matches!(h.fault, Fault::Silence | Fault::Files);
            let late = if h.fault.is_of_a_line() { LATE + SENT_AGAIN } else { LATE };
            hides && h.from <= loss.at && h.to >= loss.at - late - self.outage_before(loss.at)
        };
        let hits: Vec<&Hit> = self.hits.iter().filter(of_it).filter(hides).collect();
        // A session that is ended while its worker is hidden is not made again: its lock is free at once.
        let ends = |h: &&Hit| {
            h.fault.is_of_postgres()
                || matches!(h.fault, Fault::Terminate | Fault::Cut | Fault::Reset) && h.slot == Some(instance.slot)
        };
        // Where a silence ends, the silent sessions are ended: a packet of the new one may be lost then.
        let silence_ends =
            |h: &Hit, of: &Hit| h.fault == Fault::Silence && h.slot == of.slot && of.fault != Fault::Silence;
        let ended = |of: &Hit| {
            let within = |at: f64| at >= of.from - 0.5 && at <= of.to.min(loss.at);
            self.hits.iter().any(|h| ends(&h) && within(h.from) || silence_ends(h, of) && within(h.to))
        };
        if let Some(hit) = hits.iter().find(|h| ended(h)) {
            return Some(hit);
        }
        // Silence alone hides nobody: another session waits for the lock when the silent one is ended. But a worker that is hidden
        // before it has made that session has been hidden since the silence; and so has one that may open no file then, and no session.
        let (silences, mut hits): (Vec<&Hit>, Vec<&Hit>) = hits.into_iter().partition(|h| h.fault == Fault::Silence);
        let begin = |h: &Hit| {
            let before = silences.iter().filter(|s| s.from <= h.from && h.from - s.from <= MADE_ANEW);
            before.map(|s| s.from).fold(h.from, f64::min)
        };
        hits.retain(|h| h.fault != Fault::Files || begin(h) < h.from);
        let from = hits.iter().map(|h| begin(h)).fold(f64::INFINITY, f64::min);
        let to = hits.iter().map(|h| h.to.min(loss.at)).fold(0.0, f64::max);
        let longest = hits.into_iter().max_by(|a, b| (a.to - a.from).total_cmp(&(b.to - b.from)));
        longest.filter(|_| to - from >= HIDDEN).or_else(|| self.ended_session(instance.slot, loss.at))
    }

    /// Its session may have been ended: it is locked again within a quarter of a second, but on a machine that is busy enough.
    fn ended_session(&self, slot: usize, at: f64) -> Option<&Hit> {
        let of_it = |h: &&Hit| h.is_end_of_presence() && h.slot == Some(slot);
        self.hits.iter().filter(of_it).rfind(|h| h.from <= at && h.from >= at - 1.5)
    }

    /// How long Postgres was away just before: nobody could look then.
    fn outage_before(&self, at: f64) -> f64 {
        let before = |h: &&Hit| h.fault.is_of_postgres() && h.from <= at && h.to >= at - 3.0;
        self.hits.iter().filter(before).map(|h| h.to.min(at) - h.from).sum()
    }
}

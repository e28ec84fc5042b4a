//! The load: runs enqueued at a steady rate, and what operators do to them. What was acknowledged is written down, outside of Postgres.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Row as _};

use crate::arguments::Options;
use crate::cluster::Cluster;
use crate::plan::Action;

/// The acknowledged runs so far, for the operators to choose from.
type Known = Mutex<Vec<String>>;

/// The load and the operators.
pub struct Load {
    cluster: Arc<Cluster>,
    options: Options,
    known: Known,
    /// What operators asked for, and what came of it.
    pub actions: Mutex<BTreeMap<(&'static str, String), usize>>,
    /// Answers that no operator should get.
    pub surprises: Mutex<Vec<String>>,
    healing: AtomicBool,
    over: AtomicBool,
}

impl Load {
    pub fn new(cluster: &Arc<Cluster>, options: &Options) -> Arc<Self> {
        Arc::new(Self {
            cluster: cluster.clone(),
            options: options.clone(),
            known: Mutex::default(),
            actions: Mutex::default(),
            surprises: Mutex::default(),
            healing: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// From now on every wait is answered and every pause ended at once.
    pub fn heal(&self) {
        self.healing.store(true, Ordering::SeqCst);
    }

    /// Nobody answers any more.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Enqueues until the time is over; how many were tried. Lines of the witness file: `T n` tried, `A n id` acknowledged,
    /// `C n` refused because the unique key was taken.
    pub async fn enqueue(self: Arc<Self>) -> u64 {
        let mut witness = File::create(self.cluster.files.path("enqueued")).unwrap();
        let mut random = fastrand::Rng::with_seed(self.options.seed ^ 0x10ad);
        let began = Instant::now();
        let mut n = 0;
        while began.elapsed() < self.options.span {
            n += 1;
            let statement = self.job(n, &mut random);
            writeln!(witness, "T {n}").unwrap();
            match sqlx::query(AssertSqlSafe(statement)).fetch_optional(&self.cluster.db.pool).await {
                Ok(Some(row)) => {
                    let id: String = row.get(0);
                    writeln!(witness, "A {n} {id}").unwrap();
                    self.known.lock().unwrap().push(id);
                }
                Ok(None) => writeln!(witness, "C {n}").unwrap(),
                Err(error) => self.judge("enqueue", &error),
            }
            let due = Duration::from_secs_f64(f64::from(u32::try_from(n).unwrap()) / self.options.rate);
            // After an outage what was missed is not made up for at once.
            let wait = due.saturating_sub(began.elapsed()).min(Duration::from_secs(1));
            tokio::time::sleep(wait.max(Duration::from_millis(5))).await;
        }
        n
    }

    fn job(&self, n: u64, random: &mut fastrand::Rng) -> String {
        let total: u32 = self.options.work.iter().map(|(_, weight)| weight).sum();
        let mut ball = random.u32(..total.max(1));
        let drawn = self.options.work.iter().find(|(_, weight)| {
            let hit = ball < *weight;
            ball = ball.saturating_sub(*weight);
            hit
        });
        let work = drawn.map_or("mixed", |(name, _)| name.as_str());
        let (draw, share) = (random.u32(..), random.f64());
        let more = match work {
            "slow" => format!(r#", "seconds": {:.1}"#, 0.3 + 3.0 * share),
            "answers" => format!(r#", "topic": {}"#, draw % 8),
            "saga" => format!(r#", "bad": {}"#, draw % 3 == 0),
            "keyed" => format!(r#", "key": {}"#, draw % 2),
            "awhile" => format!(r#", "key": {}"#, draw % 3),
            "spread" => format!(r#", "items": {:?}"#, (0..=draw % 5).collect::<Vec<_>>()),
            _ => String::new(),
        };
        let priority = if draw.is_multiple_of(10) { "0" } else { "NULL" };
        let run_at = if draw % 16 == 1 { "clock_timestamp() + interval '1500 ms'" } else { "NULL" };
        let unique = match work {
            "quick" if draw.is_multiple_of(3) => format!("'key {}'", draw % 5),
            _ => "NULL".to_owned(),
        };
        format!(
            "INSERT INTO stepd.jobs (workflow, input, priority, run_at, unique_key)
             VALUES ('{work}', '{{\"n\": {n}{more}}}', {priority}, {run_at}, {unique}) ON CONFLICT DO NOTHING RETURNING id::text"
        )
    }

    /// One schedule after the other is made to have missed the last five minutes, in the midst of the chaos. Once each: when it has
    /// fired, there is nothing more to miss.
    pub async fn miss_minutes(self: Arc<Self>) {
        let began = Instant::now();
        for (n, name) in (1..).zip(["tick_a", "tick_b", "tick_c"]) {
            tokio::time::sleep((self.options.span / 4 * n).saturating_sub(began.elapsed())).await;
            let statement = format!(
                "UPDATE stepd_engine.schedules SET seen_at = date_trunc('minute', clock_timestamp()) - interval '5 minutes', next_at = NULL
                 WHERE workflow = '{name}' AND fired_at IS NULL"
            );
            while began.elapsed() < self.options.span {
                match sqlx::query(AssertSqlSafe(statement.clone())).execute(&self.cluster.db.pool).await {
                    Ok(_) => break,
                    Err(error) => self.judge("miss", &error),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// What operators do, as planned.
    pub async fn operate(self: Arc<Self>, plan: Vec<(Duration, Action, u64)>) {
        let began = Instant::now();
        for (at, action, draw) in plan {
            tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
            if began.elapsed() > self.options.span {
                break;
            }
            let run = {
                let known = self.known.lock().unwrap();
                // A cancel and a pause are for what is at work.
                let many = if matches!(action, Action::Cancel | Action::Pause) { 8 } else { 60 };
                let recent = &known[known.len().saturating_sub(many)..];
                if recent.is_empty() {
                    continue;
                }
                recent[usize::try_from(draw % 60).unwrap() % recent.len()].clone()
            };
            let (name, statement) = match action {
                Action::Cancel => ("cancel", format!("SELECT stepd.cancel('{run}', 'chaos')")),
                Action::Pause => ("pause", format!("SELECT stepd.pause('{run}', 'chaos')")),
                Action::Unpause => ("unpause", format!("SELECT stepd.unpause('{run}')")),
                Action::Retry => ("retry", format!("SELECT stepd.retry('{run}')")),
                Action::Signal => ("signal", format!("SELECT stepd.signal('{run}', 'go')")),
                Action::Emit => ("emit", format!("SELECT stepd.emit('news', '{{\"topic\": {}}}')::text", draw % 8)),
                Action::Approve => ("approve", format!("SELECT stepd.approve('{run}')")),
                Action::PauseQueue => ("pause_queue", "SELECT stepd.pause_queue('narrow')::text".to_owned()),
                Action::UnpauseQueue => ("unpause_queue", "SELECT stepd.unpause_queue('narrow')::text".to_owned()),
                Action::LimitQueue => {
                    ("limit_queue", format!("SELECT stepd.limit_queue('narrow', {})::text", 1 + draw % 6))
                }
            };
            self.act(name, statement).await;
        }
    }

    async fn act(&self, name: &'static str, statement: String) {
        let said = match sqlx::query(AssertSqlSafe(statement)).fetch_one(&self.cluster.db.pool).await {
            Ok(row) => match name {
                "cancel" | "pause" => row.get(0),
                _ => "done".to_owned(),
            },
            Err(error) => {
                self.judge(name, &error);
                error
                    .as_database_error()
                    .and_then(sqlx::error::DatabaseError::code)
                    .map_or("connection lost".into(), Into::into)
            }
        };
        *self.actions.lock().unwrap().entry((name, said)).or_default() += 1;
    }

    /// Lost connections are the chaos' doing, and stepd's own codes are answers; anything else is a fault.
    fn judge(&self, name: &str, error: &sqlx::Error) {
        let Some(code) = error.as_database_error().and_then(|e| e.code().map(|c| c.into_owned())) else { return };
        let expected = ["SD0", "57P", "08", "53", "58"].iter().any(|class| code.starts_with(class))
            || ["25006", "55P03"].contains(&&*code);
        if !expected {
            self.surprises.lock().unwrap().push(format!("{name}: {code} {error}"));
        }
    }

    /// Sees to it that nothing waits for people for ever: answers what waits, ends pauses, retries what failed for good. While the
    /// chaos lasts only what has waited for a while, so that the operators have their chance.
    pub async fn tend(self: Arc<Self>) {
        let mut paused: BTreeMap<String, usize> = BTreeMap::new();
        while !self.over.load(Ordering::SeqCst) {
            let healing = self.healing.load(Ordering::SeqCst);
            let since = if healing { "0 s" } else { "1 s" };
            for statement in self.answers(since).await {
                self.act("tend", statement).await;
            }
            let now = self.column("SELECT id::text FROM stepd.runs WHERE state = 'paused'").await;
            let queue = "SELECT name FROM stepd.queues WHERE paused OR max_running IS NOT NULL AND ";
            let queues = self.column(&format!("{queue} {healing}")).await;
            paused.retain(|id, _| now.contains(id) || queues.contains(id));
            for id in now.iter().chain(&queues) {
                let seen = paused.entry(id.clone()).or_default();
                *seen += 1;
                if (healing || *seen > 5) && now.contains(id) {
                    self.act("tend", format!("SELECT stepd.unpause('{id}')")).await;
                } else if healing || *seen > 5 {
                    self.act("tend", format!("SELECT stepd.unpause_queue('{id}')::text")).await;
                    if healing {
                        self.act("tend", format!("SELECT stepd.limit_queue('{id}', NULL)::text")).await;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    async fn answers(&self, since: &str) -> Vec<String> {
        let waits = format!(
            "SELECT CASE waits_for
                    WHEN 'approval' THEN format('SELECT stepd.approve(%L, %L)', run, key)
                    ELSE CASE event WHEN 'go' THEN format('SELECT stepd.signal(%L, %L)', run, event)
                         ELSE format('SELECT stepd.emit(%L, %L)::text', event, match) END END
             FROM stepd.waiting WHERE waits_for IN ('approval', 'event') AND waited > interval '{since}' LIMIT 100"
        );
        let failed = "SELECT format('SELECT stepd.retry(%L)', id) FROM stepd.runs WHERE state = 'failed'
                AND (workflow = 'doomed' AND error_code = 'exit_64' OR error_code = 'crash_loop' AND workflow NOT IN ('saga', 'keyed')) LIMIT 50";
        let mut statements = self.column(&waits).await;
        statements.extend(self.column(failed).await);
        statements.sort();
        statements.dedup();
        statements
    }

    async fn column(&self, statement: &str) -> Vec<String> {
        let rows = sqlx::query_scalar(AssertSqlSafe(statement.to_owned())).fetch_all(&self.cluster.db.pool).await;
        rows.unwrap_or_default()
    }
}

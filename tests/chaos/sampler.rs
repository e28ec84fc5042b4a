//! Looks at the views while the chaos goes on: what stands where it must not, what changes that must not, and what the daemons cost.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};

use crate::cluster::Cluster;

const EVERY: Duration = Duration::from_millis(300);

/// What the samples came to.
#[derive(Default)]
pub struct Samples {
    /// Each registration's process.
    pub processes: HashMap<String, i32>,
    /// The first final state and end that a run was seen in.
    pub ends: HashMap<String, (String, String)>,
    /// How long a run stood as running under a worker that is not there, in seconds: the longest time of each.
    pub deserted: BTreeMap<String, f64>,
    pub most_memory: u64,
    pub most_sessions: i64,
    /// The most runs that held a place of one concurrency key at one time, which has one.
    pub most_of_a_key: i64,
    pub samples: usize,
}

pub struct Sampler {
    cluster: Arc<Cluster>,
    pub samples: Mutex<Samples>,
    over: AtomicBool,
}

impl Sampler {
    pub fn new(cluster: &Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self { cluster: cluster.clone(), samples: Mutex::default(), over: AtomicBool::new(false) })
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub async fn run(self: Arc<Self>) {
        let mut deserted: HashMap<String, f64> = HashMap::new();
        let mut ended_after = "1970-01-01".to_owned();
        while !self.over.load(Ordering::SeqCst) {
            tokio::time::sleep(EVERY).await;
            let memory = self.cluster.pids().into_iter().filter_map(resident).max().unwrap_or(0);
            {
                let mut samples = self.samples.lock().unwrap();
                samples.most_memory = samples.most_memory.max(memory);
            }
            // Postgres may be away.
            let _ = self.look(&mut deserted, &mut ended_after).await;
        }
    }

    async fn look(&self, deserted: &mut HashMap<String, f64>, ended_after: &mut String) -> sqlx::Result<()> {
        let pool = &self.cluster.db.pool;
        let rows = sqlx::query("SELECT id::text, pid FROM stepd.workers").fetch_all(pool).await?;
        let workers: Vec<(String, i32)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        let sessions: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'stepd %'")
                .fetch_one(pool)
                .await?;
        let alone: Vec<String> = sqlx::query_scalar(
            "SELECT r.id::text FROM stepd.runs r WHERE r.state = 'running' AND NOT EXISTS (SELECT FROM stepd.workers w WHERE w.id = r.worker)",
        )
        .fetch_all(pool)
        .await?;
        let of_a_key: i64 = sqlx::query_scalar(
            "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM stepd.runs WHERE workflow = 'keyed'
                AND state IN ('queued', 'running', 'resuming') GROUP BY concurrency_key) x",
        )
        .fetch_one(pool)
        .await?;
        let ends = format!(
            "SELECT id::text, state::text, ended_at::text FROM stepd.runs
             WHERE ended_at > '{ended_after}'::timestamptz - interval '5 s' ORDER BY ended_at"
        );
        let ends = sqlx::query(AssertSqlSafe(ends)).fetch_all(pool).await?;
        deserted.retain(|run, _| alone.contains(run));
        let mut samples = self.samples.lock().unwrap();
        samples.samples += 1;
        samples.processes.extend(workers);
        samples.most_of_a_key = samples.most_of_a_key.max(of_a_key);
        samples.most_sessions = samples.most_sessions.max(sessions);
        for run in alone {
            // Counted in looks: the time in which Postgres was away is nobody's.
            let since = deserted.entry(run.clone()).or_default();
            *since += EVERY.as_secs_f64();
            let longest = samples.deserted.entry(run).or_default();
            *longest = longest.max(*since);
        }
        for row in &ends {
            *ended_after = row.get(2);
            samples.ends.entry(row.get(0)).or_insert_with(|| (row.get(1), row.get(2)));
        }
        Ok(())
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

//! The graphile_worker crate as a peer: `prepare` makes its schema, `work` runs jobs. Its jobs come from `graphile.mjs`.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use graphile_worker::{IntoTaskHandlerResult, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions};
use serde::{Deserialize, Serialize};

static FIRST: OnceLock<u128> = OnceLock::new();
static COUNT: AtomicU64 = AtomicU64::new(0);
static EXPECTED: OnceLock<u64> = OnceLock::new();

/// `noop` counts; `stamp` says when it started; `hold` says so and then stays for a minute.
#[derive(Deserialize, Serialize)]
struct Job {
    kind: String,
    key: String,
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros())
}

impl TaskHandler for Job {
    const IDENTIFIER: &'static str = "job";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        if self.kind == "noop" {
            let first = FIRST.get_or_init(micros);
            if COUNT.fetch_add(1, Ordering::Relaxed) + 1 == *EXPECTED.get_or_init(|| 0) {
                println!("done {first} {}", micros());
            }
        } else {
            println!("start {} {}", self.key, micros());
            if self.kind == "hold" {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let expected = env::var("PEER_EXPECT").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    EXPECTED.get_or_init(|| expected);
    // Making the worker migrates.
    let worker = WorkerOptions::default()
        .database_url(&env::var("DATABASE_URL")?)
        .max_pg_conn(20)
        .concurrency(50)
        .local_queue(LocalQueueConfig::default().with_size(500).with_queue_count(2))
        .complete_job_batch_delay(Duration::from_millis(1))
        .fail_job_batch_delay(Duration::from_millis(1))
        .define_job::<Job>()
        .init()
        .await?;
    if env::args().nth(1).as_deref() == Some("work") {
        println!("ready");
        worker.run().await?;
    }
    Ok(())
}

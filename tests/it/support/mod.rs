//! What every test stands on: a Postgres, a database of its own, workflow files, and daemons that can be hurt.

// Each test uses its part of it.
#![allow(dead_code)]

mod booted;
mod browser;
pub mod collector;
mod db;
mod files;
pub mod hostile;
pub mod limits;
mod manager;
pub mod names;
pub mod outside;
mod pair;
mod pooler;
pub mod prometheus;
mod proxy;
mod saboteur;
pub mod tools;
mod worker;
pub mod writes;

#[allow(unused_imports)]
pub use booted::Booted;
#[allow(unused_imports)]
pub use browser::Browser;
#[allow(unused_imports)]
pub use db::{Db, Server};
#[allow(unused_imports)]
pub use files::Files;
#[allow(unused_imports)]
pub use manager::Manager;
#[allow(unused_imports)]
pub use pair::Pair;
#[allow(unused_imports)]
pub use pooler::{PgBouncer, TRANSACTION};
#[allow(unused_imports)]
pub use proxy::Proxy;
#[allow(unused_imports)]
pub use saboteur::{Plan, Saboteur, Side, Strike};
#[allow(unused_imports)]
pub use worker::{Spec, Worker};

use std::time::{Duration, Instant};

/// What would switch traces on, in the environment of whoever runs the tests.
pub fn is_of_traces(variable: &std::ffi::OsStr) -> bool {
    ["OTEL_", "LANGCHAIN_", "LANGSMITH_", "LANGFUSE_"].iter().any(|p| variable.to_string_lossy().starts_with(p))
}

/// Long enough for anything that should happen at all, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits until the condition holds; panics after the limit. Polls: the condition is asked again a few milliseconds later.
pub async fn wait_until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    loop {
        if holds().await {
            return began.elapsed();
        }
        assert!(began.elapsed() < limit, "after {limit:?} still not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asserts that the condition holds all the time for a while: what must never happen does not happen.
pub async fn holds_for(what: &str, span: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < span {
        assert!(holds().await, "after {:?} no longer: {what}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

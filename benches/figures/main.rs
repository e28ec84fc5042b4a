//! Figures against every target: `cargo bench`. See `benches/README.md`.
//!
//! Each figure has a file; all share one private Postgres and give every measurement a database of its own.

mod alone;
mod drain;
mod floor;
mod idle;
mod insert;
mod memory;
mod overhead;
mod pickup;
mod report;
mod resume;
mod server;
mod start;
mod steps;
mod worker;

use anyhow::{Context, Result, bail};

use report::Report;
use server::Server;

/// What a measurement is given.
pub struct Bench {
    /// The private Postgres.
    pub server: Server,
    /// Longer and more often.
    pub full: bool,
}

/// Name and purpose, in the order of the default run.
const FIGURES: [(&str, &str); 10] = [
    ("drain", "drain, its cost, flatness, queues and priorities, against the SQL floor"),
    ("steps", "10-step runs, 1,000 in flight, as Rust code and as a file"),
    ("alone", "one run of 1,000 steps against single-row commits"),
    ("pickup", "from an INSERT's commit to the step's start, on an idle daemon"),
    ("resume", "from SIGKILL to the first step that another worker starts"),
    ("idle", "memory, CPU and statements of a daemon without work"),
    ("overhead", "a step `run: \"true\"` against the bare process"),
    ("insert", "what the insert trigger costs"),
    ("memory", "memory with 10,000 runs in flight"),
    ("start", "from exec to ready, with 200 definitions"),
];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.first().is_some_and(|a| a == worker::MODE) {
        return runtime.block_on(worker::serve(&args[1..]));
    }
    // What `cargo bench` itself adds.
    let mut args = args.into_iter().filter(|a| a != "--bench");
    let (mut full, mut only) = (false, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--full" => full = true,
            "--only" => only.extend(args.next().context("--only needs a name")?.split(',').map(str::to_owned)),
            _ => bail!("unknown argument {arg}; known: --full, --only NAME[,NAME], of {}", names()),
        }
    }
    if let Some(unknown) = only.iter().find(|o| FIGURES.iter().all(|(name, _)| name != o)) {
        bail!("there is no figure `{unknown}`; there are {}", names());
    }
    runtime.block_on(measure(full, &only))
}

fn names() -> String {
    FIGURES.map(|(name, _)| name).join(", ")
}

async fn measure(full: bool, only: &[String]) -> Result<()> {
    let bench = Bench { server: Server::start().await?, full };
    let mut report = Report::default();
    for (name, purpose) in FIGURES.iter().filter(|(n, _)| only.is_empty() || only.iter().any(|o| o == n)) {
        eprintln!("{name}: {purpose} (load {})", report::load());
        let done = match *name {
            "drain" => drain::measure(&bench, &mut report).await,
            "steps" => steps::measure(&bench, &mut report).await,
            "alone" => alone::measure(&bench, &mut report).await,
            "pickup" => pickup::measure(&bench, &mut report).await,
            "resume" => resume::measure(&bench, &mut report).await,
            "idle" => idle::measure(&bench, &mut report).await,
            "overhead" => overhead::measure(&bench, &mut report).await,
            "insert" => insert::measure(&bench, &mut report).await,
            "memory" => memory::measure(&bench, &mut report).await,
            _ => start::measure(&bench, &mut report).await,
        };
        done.with_context(|| format!("figure {name}"))?;
    }
    report.print();
    Ok(())
}

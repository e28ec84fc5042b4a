//! Figures against every target: `cargo bench`. See `benches/README.md`.
//!
//! Each figure has a file; all share one private Postgres and give every measurement a database of its own.

mod alone;
mod daemon;
mod drain;
mod flat;
mod fleet;
mod floor;
mod idle;
mod insert;
mod large;
mod limit;
mod memory;
mod overhead;
mod peers;
mod pickup;
mod report;
mod resume;
mod retention;
mod round;
mod server;
mod shapes;
mod site;
mod start;
mod steps;
mod traces;
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
    /// How long a transaction is held open under load.
    pub held_minutes: u64,
}

/// Name and purpose, in the order of the default run.
const FIGURES: [(&str, &str); 12] = [
    ("drain", "drain, its cost, flatness, queues and priorities, against the SQL floor"),
    ("steps", "10-step runs, 1,000 in flight, as Rust code and as a file"),
    ("alone", "one run of 1,000 steps against single-row commits"),
    ("pickup", "from an INSERT's commit to the step's start, on an idle daemon"),
    ("resume", "from SIGKILL to the first step that another worker starts"),
    ("idle", "memory, CPU and statements of a daemon without work"),
    ("overhead", "a step `run: \"true\"` against the bare process"),
    ("limit", "runs of 20 and 200 ms under a limit of ten, against the ideal"),
    ("insert", "what the insert trigger costs"),
    ("memory", "memory with 10,000 runs in flight"),
    ("start", "from exec to ready, with 200 definitions"),
    ("shapes", "runs of 1,000 steps, 10,000 items and 1,000 children: time and memory against smaller ones"),
];

/// Those that take minutes each: with `--full`, or by name.
const LONG: [(&str, &str); 14] = [
    ("churn", "drain and pickup after 5 million jobs"),
    ("history", "drain and pickup with 10 million ended runs"),
    ("scheduled", "drain and pickup with 1 million jobs for tomorrow"),
    ("waiting", "drain and pickup with 1 million runs that wait; 100,000 of them due in one second"),
    ("queues", "drain and pickup over 10,000 queues"),
    ("retention", "drain and pickup while 1 million ended runs are removed"),
    ("traces", "10-step runs with and without traces, and with a collector that hangs"),
    ("held", "drain and pickup beside a transaction that has been open under load"),
    ("pages", "the API's pages with 1 million ended runs, 100,000 live ones, and runs of 10,000 steps"),
    ("streams", "what 1, 10 and 100 open streams cost: statements, CPU, and the drain beside them"),
    ("scrapes", "the drain beside a scrape of the metrics every second"),
    ("fleet", "fifty worker processes on one database: connections, idle cost, drain, and one of them killed"),
    ("large", "inputs and outputs of 10 MB: time and memory against smaller ones, and a hundred of them at once"),
    ("huge", "runs of 10,000 steps, 100,000 items and 10,000 children: time and memory against smaller ones"),
];

/// What `--only scale` stands for.
const SCALE: [&str; 4] = ["queues", "fleet", "large", "huge"];

/// What the command line says.
#[derive(Default)]
struct Args {
    full: bool,
    peers: bool,
    only: Vec<String>,
    of: Vec<String>,
    held_minutes: Option<u64>,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.first().is_some_and(|a| a == worker::MODE) {
        return runtime.block_on(worker::serve(&args[1..]));
    }
    let mut args = parsed(args)?;
    if let Some(scale) = args.only.iter().position(|only| only == "scale") {
        args.only.splice(scale..=scale, SCALE.map(str::to_owned));
    }
    let names: Vec<&str> = match args.peers {
        true => peers::FIGURES.to_vec(),
        false => FIGURES.iter().chain(&LONG).map(|(name, _)| *name).collect(),
    };
    if let Some(unknown) = args.only.iter().find(|o| !names.contains(&o.as_str())) {
        bail!("there is no figure `{unknown}`; there are {}", names.join(", "));
    }
    runtime.block_on(measure(args))
}

fn parsed(args: Vec<String>) -> Result<Args> {
    let mut parsed = Args::default();
    // What `cargo bench` itself adds.
    let mut args = args.into_iter().filter(|a| a != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--full" => parsed.full = true,
            "--peers" => parsed.peers = true,
            "--only" => parsed.only.extend(value()?.split(',').map(str::to_owned)),
            "--of" => parsed.of.extend(value()?.split(',').map(str::to_owned)),
            "--held-minutes" => parsed.held_minutes = Some(value()?.parse().context("--held-minutes needs a number")?),
            _ => bail!(
                "unknown argument {arg}; known: --full, --only NAME[,NAME], --held-minutes N, --peers [--of PEER[,PEER]]"
            ),
        }
    }
    Ok(parsed)
}

async fn measure(args: Args) -> Result<()> {
    let bench =
        Bench { server: Server::start().await?, full: args.full, held_minutes: args.held_minutes.unwrap_or(10) };
    let mut report = Report::default();
    let done = match args.peers {
        true => peers::measure(&bench, &args.only, &args.of, &mut report).await,
        false => figures(&bench, &args.only, &mut report).await,
    };
    // What was measured before a failure stands.
    report.print();
    report.keep(if args.peers { "peers" } else { "figures" })?;
    done
}

async fn figures(bench: &Bench, only: &[String], report: &mut Report) -> Result<()> {
    let long = if bench.full || !only.is_empty() { &LONG[..] } else { &[] };
    for (name, purpose) in FIGURES.iter().chain(long).filter(|(n, _)| only.is_empty() || only.iter().any(|o| o == n)) {
        eprintln!("{name}: {purpose} (load {})", report::load());
        let done = match *name {
            "drain" => drain::measure(bench, report).await,
            "steps" => steps::measure(bench, report).await,
            "alone" => alone::measure(bench, report).await,
            "pickup" => pickup::measure(bench, report).await,
            "resume" => resume::measure(bench, report).await,
            "idle" => idle::measure(bench, report).await,
            "overhead" => overhead::measure(bench, report).await,
            "limit" => limit::measure(bench, report).await,
            "insert" => insert::measure(bench, report).await,
            "memory" => memory::measure(bench, report).await,
            "start" => start::measure(bench, report).await,
            "shapes" => shapes::measure(bench, report).await,
            "churn" => flat::churn(bench, report).await,
            "history" => flat::history(bench, report).await,
            "scheduled" => flat::scheduled(bench, report).await,
            "waiting" => flat::waiting(bench, report).await,
            "queues" => flat::queues(bench, report).await,
            "pages" => site::pages(bench, report).await,
            "streams" => site::streams(bench, report).await,
            "scrapes" => site::scrapes(bench, report).await,
            "traces" => traces::measure(bench, report).await,
            "retention" => retention::measure(bench, report).await,
            "fleet" => fleet::measure(bench, report).await,
            "large" => large::measure(bench, report).await,
            "huge" => shapes::huge(bench, report).await,
            _ => flat::held(bench, report).await,
        };
        done.with_context(|| format!("figure {name}"))?;
    }
    Ok(())
}

//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::plan::Fault;

pub const USAGE: &str = "\
The chaos runner: real daemons on a real Postgres, faults, load, and a checker that knows only what was promised.

    cargo test --all-features --test chaos -- [options]

Without options: a short form of less than two minutes, always of the same plan. Options of the long one:
    --seed N         the plan of faults and load (default: drawn, and printed first)
    --minutes N      how long the faults go on (fractions are allowed)
    --seconds N      the same in seconds
    --workers N      daemons (default 4)
    --rate N         runs enqueued a second (default 8)
    --lease N        seconds without a heartbeat after which a worker may be taken over (default 5)
    --latency N      milliseconds that each message is on its way to Postgres (default 0)
    --pace N         seconds between two faults on average (default 0.9)
    --faults A,B     which faults; one of them may be given as NAME=WEIGHT. All by default:
                     sigkill sigstop sigterm pg-fast pg-immediate promote backend-kill terminate cut delay silence isolate
                     exhaust read-only table-lock files, clock (with libfaketime), and as root, with ip and nft: link-down
                     drop-out drop-in reset loss; and, where they are named, as root, those that need a small disk or a
                     control group: disk-full wal-full (both without promote), processes memory
    --pooler         the daemons reach Postgres through a PgBouncer in transaction mode (no promote then)
    --work A,B       which workflows, NAME or NAME=WEIGHT: mixed quick slow nap answers flaky resumed doomed spread
                     shapes family saga keyed paced awhile asks agents; the schedules tick_a, tick_b, tick_c are always there
    --binary PATH    another build of the daemon
    --other-binary PATH   every second daemon runs this one: a release beside the one before it
    --migrate        in the middle a migration is applied, and how long an insert waited meanwhile is told
    --json FILE      the report as JSON lines, appended
    --keep DIR       keep the witness files and the daemons' logs there
    --mutants [A,B]  build each mutant of tests/chaos/mutants and see that chaos catches it, within a minute of chaos for each
";

/// The short form's plan. A test among the others has to say the same of the same build, as far as a machine's timing lets it; what nobody
/// has tried yet is for the long form. This plan once found requests that failed for want of a file.
const SHORT_SEED: u64 = 370_749;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub span: Duration,
    pub workers: usize,
    pub rate: f64,
    pub lease: u32,
    pub latency: u64,
    pub pace: f64,
    pub faults: Vec<(Fault, u32)>,
    pub pooler: bool,
    pub work: Vec<(String, u32)>,
    pub binary: PathBuf,
    pub other_binary: Option<PathBuf>,
    pub migrate: bool,
    pub json: Option<PathBuf>,
    pub keep: Option<PathBuf>,
}

impl Options {
    /// Is this fault to come?
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(f, weight)| *f == fault && *weight > 0)
    }
}

impl Default for Options {
    /// The short form.
    fn default() -> Self {
        Self {
            seed: fastrand::u64(..1_000_000),
            span: Duration::from_secs(30),
            workers: 3,
            rate: 6.0,
            lease: 5,
            latency: 0,
            pace: 0.9,
            faults: Fault::ALL.iter().map(|f| (*f, f.usual_weight())).collect(),
            pooler: false,
            work: WORK.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
            binary: env!("CARGO_BIN_EXE_stepd").into(),
            other_binary: None,
            migrate: false,
            json: None,
            keep: None,
        }
    }
}

/// The workflows, and how often each is enqueued.
pub const WORK: [(&str, u32); 17] = [
    ("mixed", 6),
    ("quick", 6),
    ("slow", 2),
    ("nap", 2),
    ("answers", 2),
    ("flaky", 2),
    ("resumed", 2),
    ("doomed", 1),
    ("spread", 2),
    ("shapes", 3),
    ("family", 3),
    ("saga", 5),
    ("keyed", 4),
    ("paced", 3),
    ("awhile", 3),
    ("asks", 2),
    ("agents", 2),
];

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Chaos, once.
    Run(Box<Options>),
    /// Each of these mutants (none named: all).
    Mutants(Vec<String>, Box<Options>),
    /// Something that cargo's own harness would answer: the list of tests.
    List,
    /// A filter of another test target: nothing here is meant.
    Nothing,
    Help,
}

/// Reads the command line. What is no option of this runner is taken as one of libtest's, for `cargo test WORD -- --nocapture`
/// hands the same words to every test target.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options::default();
    let mut mutants: Option<Vec<String>> = None;
    let mut args = args.peekable();
    let mut filters = Vec::new();
    let mut long = false;
    while let Some(arg) = args.next() {
        let (name, given) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (arg.clone(), None),
        };
        let mut value = || given.clone().or_else(|| args.next()).ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--seed" => options.seed = number(&name, &value()?)?,
            "--minutes" => options.span = Duration::from_secs_f64(60.0 * number::<f64>(&name, &value()?)?),
            "--seconds" => options.span = Duration::from_secs_f64(number(&name, &value()?)?),
            "--workers" => options.workers = number(&name, &value()?)?,
            "--rate" => options.rate = number(&name, &value()?)?,
            "--lease" => options.lease = number(&name, &value()?)?,
            "--latency" => options.latency = number(&name, &value()?)?,
            "--pace" => options.pace = number(&name, &value()?)?,
            "--faults" => {
                let named = weights(&value()?)?;
                options.faults = named
                    .into_iter()
                    .map(|(name, weight)| {
                        let fault = Fault::named(&name).ok_or(format!("there is no fault `{name}`"))?;
                        Ok((fault, weight.unwrap_or_else(|| fault.usual_weight().max(1))))
                    })
                    .collect::<Result<_, String>>()?;
            }
            "--pooler" => options.pooler = true,
            "--work" => {
                let usual = |name: &str| WORK.iter().find(|(known, _)| *known == name).map(|(_, weight)| *weight);
                options.work = weights(&value()?)?
                    .into_iter()
                    .map(|(name, weight)| {
                        let usual = usual(&name).ok_or(format!("there is no workflow `{name}`"))?;
                        Ok((name, weight.unwrap_or(usual)))
                    })
                    .collect::<Result<_, String>>()?;
            }
            "--binary" => options.binary = value()?.into(),
            "--other-binary" => options.other_binary = Some(value()?.into()),
            "--migrate" => options.migrate = true,
            "--json" => options.json = Some(value()?.into()),
            "--keep" => options.keep = Some(value()?.into()),
            "--mutants" => {
                let named = given.clone().or_else(|| args.next_if(|next| !next.starts_with('-')));
                mutants = Some(named.map(|n| n.split(',').map(ToOwned::to_owned).collect()).unwrap_or_default());
            }
            "--list" => return Ok(Command::List),
            "--help" | "-h" => return Ok(Command::Help),
            "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => {
                value()?;
                continue;
            }
            word if word.starts_with('-') => continue,
            _ => {
                filters.push(arg);
                continue;
            }
        }
        long = true;
    }
    if !long {
        options.seed = SHORT_SEED;
    }
    if options.has(Fault::Promote) && (options.has(Fault::DiskFull) || options.has(Fault::WalFull)) {
        return Err("disk-full and wal-full are for one host: leave promote out, as with --faults disk-full,wal-full"
            .to_owned());
    }
    if options.workers == 0 || options.faults.is_empty() || options.work.is_empty() {
        return Err("there must be a worker, a fault and a workflow at least".to_owned());
    }
    Ok(match mutants {
        Some(named) => Command::Mutants(named, Box::new(options)),
        None if !long && !filters.is_empty() && !filters.iter().any(|f| "chaos".contains(f.as_str())) => {
            Command::Nothing
        }
        None => Command::Run(Box::new(options)),
    })
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: `{text}` is no number that fits"))
}

fn weights(text: &str) -> Result<Vec<(String, Option<u32>)>, String> {
    text.split(',')
        .map(|one| match one.split_once('=') {
            Some((name, weight)) => Ok((name.to_owned(), Some(number(name, weight)?))),
            None => Ok((one.to_owned(), None)),
        })
        .collect()
}

/// The arguments that give the same plan again.
pub fn replay(options: &Options) -> String {
    let faults: Vec<String> =
        options.faults.iter().map(|(fault, weight)| format!("{}={weight}", fault.name())).collect();
    let work: Vec<String> = options.work.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
    let mut more = if options.pooler { " --pooler".to_owned() } else { String::new() };
    if let Some(other) = &options.other_binary {
        more += &format!(" --other-binary {}", other.display());
    }
    if options.migrate {
        more += " --migrate";
    }
    format!(
        "--seed {} --seconds {} --workers {} --rate {} --lease {} --latency {} --pace {} --faults {} --work {}{more}",
        options.seed,
        options.span.as_secs_f64(),
        options.workers,
        options.rate,
        options.lease,
        options.latency,
        options.pace,
        faults.join(","),
        work.join(",")
    )
}

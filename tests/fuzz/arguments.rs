//! The command line.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::targets::{self, Target};

const USAGE: &str = "\
The fuzzer: hostile bytes into everything that stepd reads.

    cargo test --all-features --test fuzz -- [options]

Without options: what was found once (tests/fuzz/found), and a moment of inputs for every target, always the same. Options of the long form:
    --seed N          the inputs (default: drawn, and printed first; the same build makes the same inputs of it, where a target has one thread)
    --minutes N       how long, all targets together (fractions are allowed)
    --seconds N       the same in seconds
    --executions N    no more than so many for each target
    --targets A,B     which of them; all by default
    --corpus DIR      where inputs are kept that reach new code (default target/fuzz); what is there is taken up again
    --input FILE      this input alone, for the one target that --targets names
    --json FILE       the report as JSON lines, appended

Led by coverage, on a stable toolchain:
    RUSTFLAGS='-C instrument-coverage --cfg fuzzing' LLVM_PROFILE_FILE=/dev/null \\
        cargo test --profile fuzz --all-features --test fuzz -- --minutes 60

What fails is written to DIR/TARGET/faults. Move it to tests/fuzz/found/TARGET when it is mended: it is tried in every run from then on.

";

/// The short form's inputs: new ones are for the long form.
const SHORT_SEED: u64 = 1;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub span: Duration,
    pub executions: u64,
    pub targets: Vec<&'static Target>,
    pub corpus: PathBuf,
    pub input: Option<PathBuf>,
    pub json: Option<PathBuf>,
}

impl Default for Options {
    /// The short form.
    fn default() -> Self {
        Self {
            seed: fastrand::u64(..1_000_000),
            span: Duration::from_secs(4),
            executions: u64::MAX,
            targets: targets::ALL.iter().collect(),
            corpus: Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz"),
            input: None,
            json: None,
        }
    }
}

/// What a child is told.
#[derive(Clone, Debug)]
pub struct Order {
    pub target: &'static Target,
    pub seed: u64,
    pub span: Duration,
    pub executions: u64,
    pub corpus: PathBuf,
    pub input: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// The targets, one after the other.
    Run(Box<Options>),
    /// One target, here.
    Child(Box<Order>),
    /// Something that cargo's own harness would answer: the list of tests.
    List,
    /// A filter of another test target: nothing here is meant.
    Nothing,
    Help,
}

pub fn usage() -> String {
    let mut text = USAGE.to_owned();
    text.push_str("The targets:\n");
    for target in targets::ALL {
        let _ = writeln!(text, "    {:<12} {}", target.name, target.what);
    }
    text
}

/// Reads the command line. What is no option of this runner is taken as one of libtest's, for `cargo test WORD -- --nocapture`
/// hands the same words to every test target.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options::default();
    let (mut filters, mut long, mut child) = (Vec::new(), false, false);
    let mut args = args.peekable();
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
            "--executions" => options.executions = number(&name, &value()?)?,
            "--targets" => options.targets = named(&value()?)?,
            "--corpus" => options.corpus = value()?.into(),
            "--input" => options.input = Some(value()?.into()),
            "--json" => options.json = Some(value()?.into()),
            "--child" => child = true,
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
    if !long && !child {
        options.seed = SHORT_SEED;
    }
    if options.input.is_some() && options.targets.len() != 1 {
        return Err("--input needs the one target that it is for: --targets NAME".to_owned());
    }
    if child {
        let Options { seed, span, executions, targets, corpus, input, .. } = options;
        return Ok(Command::Child(Box::new(Order { target: targets[0], seed, span, executions, corpus, input })));
    }
    Ok(match !long && !filters.is_empty() && !filters.iter().any(|f| "fuzz".contains(f.as_str())) {
        true => Command::Nothing,
        false => Command::Run(Box::new(options)),
    })
}

fn named(text: &str) -> Result<Vec<&'static Target>, String> {
    let one = |name: &str| targets::ALL.iter().find(|t| t.name == name).ok_or(format!("there is no target `{name}`"));
    text.split(',').map(one).collect()
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: `{text}` is no number that fits"))
}

//! The command line: one file a subcommand.
//!
//! Data goes to stdout, talk to stderr. Exit codes stand in [`Exit`].

mod act;
mod approve;
mod check;
mod client;
mod config;
mod cost;
mod demo;
mod dev;
mod diff;
mod doctor;
mod emit;
mod enqueue;
mod errors;
mod eval;
mod explain;
mod follow;
mod fork;
mod history;
mod import;
mod in_flight;
mod kinds;
mod lock;
mod logs;
mod ls;
mod manual;
mod migrate;
mod online;
mod output;
mod prune;
mod queue;
mod run;
mod schedule;
mod schema;
mod serve;
mod serve_http;
mod show;
mod signal;
mod sizes;
mod stats;
mod text;
mod token;
mod trace;
mod uninstall;
mod values;
mod watch;
mod why;
mod worker;
mod workflow;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::Config;
use crate::app::config::{Flag, Sources};
use crate::telemetry;
use crate::telemetry::escape::is_dangerous;

use check::check_online;
use output::talk;

pub use check::check;
pub use output::Format;
pub use values::set;

/// How a command ended, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such run, workflow, queue.
    NotFound = 3,
    /// It is not allowed.
    NotAllowed = 4,
    /// The run failed.
    RunFailed = 5,
    /// The run was cancelled.
    Cancelled = 6,
    /// The wait timed out.
    TimedOut = 7,
    /// The database cannot be reached.
    Unreachable = 69,
    /// Ctrl-C.
    Interrupted = 130,
}

#[derive(Parser)]
#[command(
    name = "stepd",
    version,
    about = "The step daemon: insert a row into Postgres, and a workflow runs to its end, whatever crashes on the way.",
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Global {
    /// The database: postgres://user:password@host:port/database (else DATABASE_URL, PGHOST and the like, else the configuration)
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// The configuration file (else STEPD_CONFIG, else ./stepd.toml, else /etc/stepd/stepd.toml where there is one)
    #[arg(long, global = true, value_name = "FILE", env = "STEPD_CONFIG")]
    pub config: Option<PathBuf>,
    /// The form of the data on stdout: for people, for programs, or ids for the next command
    #[arg(long, short, global = true, value_name = "FORM", value_enum, default_value_t)]
    pub output: Format,
}

impl Global {
    fn configuration(&self) -> anyhow::Result<Config> {
        Ok(self.sources().load()?.config)
    }

    /// Where the configuration comes from.
    fn sources(&self) -> Sources {
        let url = self.database_url.iter();
        let flag = |url: &String| Flag { flag: "--database-url", key: "database_url", texts: vec![url.clone()] };
        Sources { file: self.config.clone(), flags: url.map(flag).collect(), ..Sources::default() }
    }
}

#[derive(Subcommand)]
enum Command {
    /// See it work in half a minute: two workers, a kill -9, a proof; needs nothing but Postgres on the machine
    Demo(demo::Args),
    /// A private Postgres and one worker with your own workflow files, reloaded when they change
    Dev(dev::Args),
    /// Run the daemon: claim jobs, run their steps, resume what was left behind
    Serve(serve::Args),
    /// Check workflow files: everything that is wrong with them, with line, column and a suggestion
    Check(CheckArgs),
    /// Show the configuration in force, and where each value came from
    Config(config::Args),
    /// Look for what is wrong around stepd: database, connections, workers; each finding says what to do
    Doctor(doctor::Args),
    /// Create or update stepd's two schemas in the database
    Migrate(migrate::Args),
    /// Run a workflow here and now, without a daemon; ends with the run's result
    Run(run::Args),
    /// Enqueue a run, as an INSERT into stepd.jobs does; prints its id
    Enqueue(enqueue::Args),
    /// List runs, newest first
    Ls(ls::Args),
    /// Show a run: state, steps, and a timeline
    Show(show::Args),
    /// Watch a run until its end, and end as it does; without a run, tell every change of every run
    Watch(watch::Args),
    /// Show a run's history as lines: steps, attempts with their errors, crashes, what operators did
    Logs(logs::Args),
    /// Say in one sentence where a run stands and what it waits for
    Why(why::Args),
    /// Cancel runs: by id, or all that a filter leaves
    Cancel(act::Cancel),
    /// Take up failed runs again, from their last checkpoints: by id, or all that a filter leaves
    Retry(act::Retry),
    /// Make a new run of a run, from a step on: what had ended before keeps its result; to replay a step is the same
    #[command(visible_alias = "replay")]
    Fork(fork::Args),
    /// Compare two runs: the first step that differs, the changed paths, durations and cost
    Diff(diff::Args),
    /// Pause runs until unpause: at once, or after the step that runs now; by id, or all that a filter leaves
    Pause(act::Pause),
    /// Let paused runs go on from where they stood: by id, or all that a filter leaves
    Unpause(act::Unpause),
    /// Send a signal to a run
    Signal(signal::Args),
    /// Emit an event: answers every step of every run that waits for it
    Emit(emit::Args),
    /// Answer yes to a step that waits for an approval; with --answer, what a tool asks for
    Approve(approve::Approve),
    /// Answer no to a step that waits for an approval: it fails
    Reject(approve::Args),
    /// Remove old history: runs that ended long ago, with their steps
    Prune(prune::Args),
    /// Queues: ls, pause, unpause, limit
    #[command(subcommand)]
    Queue(queue::Command),
    /// Schedules: ls, run, pause, unpause
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Workers: ls
    #[command(subcommand)]
    Worker(worker::Command),
    /// Locks: ls
    #[command(subcommand)]
    Lock(lock::Command),
    /// Show how the runs of each workflow went: success rate, durations, resumes, cost; also of runs that have been pruned
    Stats(stats::Args),
    /// Workflows: ls, show, retire
    #[command(subcommand)]
    Workflow(workflow::Command),
    /// Show how many runs there are in each state, how large the tables are, and what bloats
    Db {
        /// size, which may be left out
        #[arg(value_parser = ["size"], default_value = "size", hide_default_value = true)]
        what: String,
    },
    /// Show what models have cost: by workflow, day, key or label
    Cost(cost::Args),
    /// Try an expression out: print its value as JSON, or what is wrong with it
    Eval(eval::Args),
    /// List what a step can be, and the servers, models, connections and secrets that the configuration names
    Kinds,
    /// Print the JSON Schema of workflow files, for editors
    Schema,
    /// Write AFU-9 documents (JSON with `tool` steps) as native workflow files
    Import(import::Args),
    /// Explain an error: what it means, and what to do; without a code, list them all
    Explain(explain::Args),
    /// Traces: replay
    #[command(subcommand)]
    Trace(trace::Command),
    /// Make a token of the HTTP API: shown once, with the lines for the configuration
    Token(token::Args),
    /// Print completions for a shell: bash, elvish, fish, powershell, zsh
    Completions(manual::Completions),
    /// Print a manual page, or write them all
    Man(manual::Man),
}

#[derive(clap::Args)]
struct CheckArgs {
    /// Files, and folders whose *.yaml, *.yml and *.json are checked
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Then hold them against the unfinished runs of their workflows: list those that would break, and why
    #[arg(long)]
    in_flight: bool,
    /// Also ask the MCP servers of the configuration whether they have the tools, and whether the arguments fit
    #[arg(long)]
    online: bool,
}

/// Reads a command line and does nothing.
///
/// # Errors
/// What is wrong with it, or what it asks to be told.
pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<(), clap::Error> {
    Cli::try_parse_from(words).map(drop)
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Kills what a dead daemon has left running. The daemon starts it; no help, completion or manual page need know it.
    if std::env::args_os().nth(1).is_some_and(|word| word == "guard") {
        return crate::steps::guard_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    // A second call fails harmlessly: the provider is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::anyhow!("no runtime can be started: {error}")),
    };
    let done = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => failed(&error),
    }
}

/// What is wrong with the command line, or the help that was asked for. The words of the line are shown again, and may be anybody's.
fn misused(error: &clap::Error) -> ExitCode {
    let plays = |arg: std::ffi::OsString| arg.to_string_lossy().chars().any(is_dangerous);
    if std::env::args_os().any(plays) {
        let told = error.render().to_string();
        talk(&text::clean_lines(&told));
    } else {
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Dev(args) => dev::run(&cli.global, args).await,
        Command::Demo(args) => demo::run(&cli.global, &args).await,
        Command::Serve(args) => serve::run(&cli.global, args).await,
        Command::Check(args) if args.in_flight => in_flight::check(&cli.global, &args.files).await,
        Command::Check(args) if args.online => Ok(match check_online(&cli.global, &args.files).await? {
            0 => Exit::Ok,
            1 => Exit::Error,
            _ => Exit::Usage,
        }),
        Command::Check(args) => Ok(match check(&args.files) {
            0 => Exit::Ok,
            1 => Exit::Error,
            _ => Exit::Usage,
        }),
        Command::Config(args) => config::run(&cli.global, &args),
        Command::Migrate(args) => migrate::run(&cli.global, &args).await,
        Command::Run(args) => Box::pin(run::run(&cli.global, args)).await,
        Command::Enqueue(args) => enqueue::run(&cli.global, args).await,
        Command::Ls(args) => ls::run(&cli.global, &args).await,
        Command::Show(args) => show::run(&cli.global, &args).await,
        Command::Why(args) => why::run(&cli.global, &args).await,
        Command::Cancel(args) => act::cancel(&cli.global, &args).await,
        Command::Retry(args) => act::retry(&cli.global, &args).await,
        Command::Fork(args) => fork::run(&cli.global, &args).await,
        Command::Diff(args) => diff::run(&cli.global, &args).await,
        Command::Pause(args) => act::pause(&cli.global, &args).await,
        Command::Unpause(args) => act::unpause(&cli.global, &args).await,
        Command::Signal(args) => signal::run(&cli.global, &args).await,
        Command::Approve(args) => approve::approve(&cli.global, &args).await,
        Command::Reject(args) => approve::reject(&cli.global, &args).await,
        Command::Prune(args) => prune::run(&cli.global, &args).await,
        Command::Doctor(args) => doctor::run(&cli.global, &args).await,
        Command::Watch(args) => watch::run(&cli.global, &args).await,
        Command::Logs(args) => logs::run(&cli.global, &args).await,
        Command::Emit(args) => emit::run(&cli.global, &args).await,
        Command::Queue(command) => queue::run(&cli.global, &command).await,
        Command::Schedule(command) => schedule::run(&cli.global, &command).await,
        Command::Worker(command) => worker::run(&cli.global, &command).await,
        Command::Lock(command) => lock::run(&cli.global, &command).await,
        Command::Stats(args) => stats::run(&cli.global, &args).await,
        Command::Workflow(command) => workflow::run(&cli.global, &command).await,
        Command::Db { .. } => sizes::run(&cli.global).await,
        Command::Cost(args) => cost::run(&cli.global, &args).await,
        Command::Eval(args) => eval::run(&cli.global, &args),
        Command::Kinds => kinds::run(&cli.global),
        Command::Schema => schema::run(),
        Command::Import(args) => import::run(&args),
        Command::Trace(command) => trace::run(&cli.global, &command).await,
        Command::Token(args) => token::run(&cli.global, &args),
        Command::Explain(args) => explain::run(&cli.global, &args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let (text, exit) = errors::told(error);
    if !text.is_empty() {
        eprintln!("{text}");
    }
    ExitCode::from(exit as u8)
}

/// Logging as a configuration says.
fn start_logs(config: &Config) {
    config.hide_secrets();
    telemetry::logs::start(&config.log_format, &config.log_level);
}

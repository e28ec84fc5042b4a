//! Does the checker have teeth? Each mutant is a patch that takes one of the engine's safeguards away; chaos must catch it.
//!
//! The tree is copied into a folder of cargo's for tests, with the compiled dependencies; there the patch is applied, the daemon built, and
//! chaos let loose on it. The statements are checked against a Postgres with the mutant's schema, as `cargo build` does with DATABASE_URL.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use stepd::postgres::{Options as PostgresOptions, PrivatePostgres};

use crate::arguments::Options;
use crate::chaos;
use crate::plan::Fault;
use crate::report::Report;

/// A mutant, and the faults, work and lease under which it shows soonest.
struct Mutant {
    name: &'static str,
    faults: &'static [(Fault, u32)],
    work: &'static [(&'static str, u32)],
    lease: u32,
    /// Runs a second.
    rate: f64,
    /// Milliseconds that a message is on its way to Postgres: what is on its way can come late.
    latency: u64,
    workers: usize,
    /// Seconds between two faults.
    pace: f64,
}

const MUTANTS: [Mutant; 8] = [
    Mutant {
        name: "no_epoch",
        faults: &[(Fault::Isolate, 1)],
        work: &[("slow", 3), ("mixed", 2)],
        lease: 5,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
    Mutant {
        name: "no_claim_guard",
        faults: &[(Fault::Delay, 1)],
        // More than is worked off: a claim that comes late must find something. Eight daemons: a fault ends the one before it at the same
        // daemon, and has to last longer than the lease.
        work: &[("quick", 1), ("slow", 1)],
        lease: 3,
        rate: 60.0,
        latency: 60,
        workers: 8,
        pace: 0.8,
    },
    Mutant {
        name: "lock_only_take_over",
        faults: &[(Fault::BackendKill, 1), (Fault::PgFast, 1), (Fault::Terminate, 2)],
        work: &[("mixed", 1), ("spread", 1)],
        lease: 5,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
    Mutant {
        name: "id_only_sweep",
        faults: &[(Fault::Sigkill, 1)],
        work: &[("slow", 2), ("mixed", 2)],
        lease: 5,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
    Mutant {
        name: "workers_clock",
        faults: &[(Fault::PgFast, 1), (Fault::PgImmediate, 1)],
        work: &[("mixed", 1), ("spread", 1)],
        lease: 3,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
    Mutant {
        name: "reused_worker_number",
        faults: &[(Fault::Sigkill, 1)],
        work: &[("slow", 2), ("mixed", 2)],
        lease: 5,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
    Mutant {
        name: "checkpoint_without_fence",
        faults: &[(Fault::Isolate, 1)],
        work: &[("slow", 1)],
        lease: 5,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
    Mutant {
        name: "no_marker_row",
        faults: &[(Fault::BackendKill, 1), (Fault::PgImmediate, 1)],
        work: &[("mixed", 1), ("spread", 1)],
        lease: 5,
        rate: 8.0,
        latency: 0,
        workers: 4,
        pace: 0.45,
    },
];

/// One after the other, a longer one only where the shorter one has shown nothing: a minute in all.
const ROUNDS: [u64; 3] = [10, 20, 30];

/// Builds each mutant and lets chaos loose on it; fails when one is not caught.
pub async fn all(named: &[String], options: &Options) -> ExitCode {
    if let Some(unknown) = named.iter().find(|n| !MUTANTS.iter().any(|m| m.name == n.as_str())) {
        eprintln!("chaos: there is no mutant `{unknown}`; there are: {}", MUTANTS.map(|m| m.name).join(", "));
        return ExitCode::from(2);
    }
    let tree = Tree::copy();
    let mut failed = 0;
    for mutant in MUTANTS.iter().filter(|m| named.is_empty() || named.iter().any(|n| n == m.name)) {
        let verdict = match tree.build(mutant.name) {
            Ok(binary) => hunt(mutant, &binary, options).await,
            Err(why) => Err(why),
        };
        match verdict {
            Ok(how) => println!("caught   {:<26} {how}", mutant.name),
            Err(why) => {
                failed += 1;
                println!("ESCAPED  {:<26} {why}", mutant.name);
            }
        }
    }
    println!("{failed} mutants escaped");
    ExitCode::from(u8::from(failed > 0))
}

async fn hunt(mutant: &Mutant, binary: &Path, options: &Options) -> Result<String, String> {
    let mut spent = 0;
    for seconds in ROUNDS {
        let round = Options {
            span: Duration::from_secs(seconds),
            faults: mutant.faults.to_vec(),
            work: mutant.work.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
            lease: mutant.lease,
            latency: mutant.latency,
            workers: mutant.workers,
            pace: mutant.pace,
            rate: mutant.rate,
            binary: binary.to_owned(),
            ..options.clone()
        };
        let report = chaos::run(&round).await;
        spent += seconds;
        if let Some(file) = &options.json {
            report.append(file).unwrap();
        }
        if !report.is_good() {
            return Ok(told(&report, spent));
        }
    }
    Err(format!("{spent} s of chaos broke no promise"))
}

fn told(report: &Report, spent: u64) -> String {
    let broken = report.broken.iter().filter(|(_, found)| !found.is_empty());
    let broken: Vec<String> =
        broken.map(|(name, found)| format!("{name} ({} times: {})", found.len(), found[0])).collect();
    format!("within {spent} s: {}", broken.join("; "))
}

/// A copy of the sources, and a target folder for it.
struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    fn copy() -> Self {
        let (from, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_TARGET_TMPDIR")));
        let (root, target) = (folder.join("mutants").join("tree"), folder.join("mutants").join("target"));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        for entry in std::fs::read_dir(from)
            .unwrap()
            .flatten()
            .filter(|e| !["target", ".git"].iter().any(|n| e.file_name() == *n))
        {
            run(Command::new("cp").arg("-a").arg(entry.path()).arg(&root)).unwrap();
        }
        let tree = Self { root, target };
        if !tree.target.exists() {
            tree.seed(&folder.with_file_name("debug"));
        }
        tree
    }

    /// Takes the dependencies over as they have been compiled, by links.
    fn seed(&self, compiled: &Path) {
        for part in ["deps", "build", ".fingerprint"] {
            let to = self.target.join("debug").join(part);
            std::fs::create_dir_all(&to).unwrap();
            for entry in std::fs::read_dir(compiled.join(part)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !["stepd", "libstepd", "it-", "chaos-", "figures-"].iter().any(|own| name.starts_with(own)) {
                    run(Command::new("cp").arg("-al").arg(entry.path()).arg(&to)).unwrap();
                }
            }
        }
    }

    /// The daemon with the patch; the tree is as before afterwards.
    fn build(&self, name: &str) -> Result<PathBuf, String> {
        let patch = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/chaos/mutants/{name}.patch"));
        self.apply(&patch, &[]).map_err(|why| format!("its patch does not apply any more: {why}"))?;
        let began = Instant::now();
        let built = self.compile();
        self.apply(&patch, &["--reverse"])?;
        built?;
        let binary = self.target.join(name);
        std::fs::copy(self.target.join("debug/stepd"), &binary).map_err(|e| e.to_string())?;
        println!("built    {name:<26} in {:.0} s", began.elapsed().as_secs_f64());
        Ok(binary)
    }

    fn apply(&self, patch: &Path, more: &[&str]) -> Result<(), String> {
        let mut git = Command::new("git");
        // The copy lies inside of a repository that ignores it.
        git.args(["apply", "--whitespace=nowarn"]).args(more).arg(patch).current_dir(&self.root);
        git.env("GIT_CEILING_DIRECTORIES", self.root.parent().unwrap());
        run(&mut git)
    }

    fn compile(&self) -> Result<(), String> {
        let settings = PostgresOptions { durable: false, ..PostgresOptions::default() };
        let postgres = PrivatePostgres::start(&settings).map_err(|e| e.to_string())?;
        let mut migrations: Vec<PathBuf> =
            std::fs::read_dir(self.root.join("migrations")).unwrap().map(|e| e.unwrap().path()).collect();
        migrations.retain(|path| path.extension().is_some_and(|e| e == "sql"));
        migrations.sort();
        for file in migrations {
            let mut psql = Command::new("psql");
            psql.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
            run(psql.arg(postgres.folder()).arg("-f").arg(file).stdout(Stdio::null()))?;
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut build = Command::new(cargo);
        build.args(["build", "--offline", "--quiet", "--all-features", "--bin", "stepd"]).current_dir(&self.root);
        build.env("CARGO_TARGET_DIR", &self.target).env("SQLX_OFFLINE", "false");
        build.env(
            "DATABASE_URL",
            format!("postgres://postgres@localhost/postgres?host={}", postgres.folder().display()),
        );
        run(&mut build)
    }
}

/// Runs a command; what it complained of, where it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

//! The chaos runner: several real daemons on a real Postgres, faults of all kinds, mixed load and operators; then a checker that
//! knows only effects, public views, and promises.
//!
//! `cargo test --all-features --test chaos -- --help` tells what can be said. Without arguments it is one test among the others,
//! of about a minute.
//!
//! Here alone tests sleep: the plan says at which moment a fault begins, how long it lasts and how long the load goes on, and that time has to
//! pass. Whatever is waited for is asked for in short steps, with a deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod arguments;
mod chaos;
mod checker;
mod cluster;
mod ground;
mod load;
mod mutants;
mod net;
mod plan;
mod record;
mod report;
mod sampler;
mod scarcity;
mod sessions;
#[path = "../it/support/mod.rs"]
mod support;
mod upgrade;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("chaos: {error}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match command {
        Command::Help => print!("{}", arguments::USAGE),
        Command::List => println!("chaos: test"),
        Command::Nothing => println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out"),
        Command::Mutants(named, options) => return runtime.block_on(mutants::all(&named, &options)),
        Command::Run(options) => {
            println!("chaos: seed {}", options.seed);
            let report = runtime.block_on(chaos::run(&options));
            println!("{}", report.text());
            if let Some(file) = &options.json {
                report.append(file).unwrap();
            }
            let (passed, failed) = if report.is_good() { (1, 0) } else { (0, 1) };
            let verdict = if failed == 0 { "ok" } else { "FAILED" };
            println!("test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
            if failed > 0 {
                println!("replay with: cargo test --all-features --test chaos -- {}", arguments::replay(&options));
            }
            return ExitCode::from(failed);
        }
    }
    ExitCode::SUCCESS
}

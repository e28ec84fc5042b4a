//! The fuzzer: hostile bytes into everything that stepd reads, and what must never come of it: a panic, a second without an answer, a
//! quarter of a gigabyte, an error of the server.
//!
//! `cargo test --all-features --test fuzz -- --help` tells what can be said. Without arguments it is one test among the others, of a few
//! seconds: what was found once, and a moment of new inputs for every target.
//!
//! Each target is a process of its own, a child of this one: what kills it, or keeps it for ever, is found by its parent, with the input
//! that did it. Inputs are mutated from the real ones of the repository (its examples, its tests' definitions, its handbook). Built with
//! coverage, an input that reaches new code is kept and mutated further.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod arguments;
mod child;
mod coverage;
mod judge;
mod mutate;
mod report;
mod seeds;
mod session;
#[path = "../it/support/mod.rs"]
mod support;
mod targets;
mod tree;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("fuzz: {error}\n\n{}", arguments::usage());
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Help => print!("{}", arguments::usage()),
        Command::List => println!("fuzz: test"),
        Command::Nothing => println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out"),
        Command::Child(order) => child::run(&order),
        Command::Run(options) => {
            println!("fuzz: seed {}{}", options.seed, if coverage::IS_ON { ", led by coverage" } else { "" });
            let report = session::run(&options);
            println!("{}", report.text());
            if let Some(file) = &options.json {
                report.append(file).unwrap();
            }
            let (passed, failed) = if report.is_good() { (1, 0) } else { (0, 1) };
            let verdict = if failed == 0 { "ok" } else { "FAILED" };
            println!("test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
            return ExitCode::from(failed);
        }
    }
    ExitCode::SUCCESS
}
